"""What stands at the path of a unix socket: a live server, what a dead one left, a file, or nothing.

Law: nothing at the path is changed. Only where the kernel's table does not have the path (it is spelled otherwise
there, or the socket is of another network namespace) is a connection made, and closed without a word.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pronghorn.listening.sock_diag import Sockets

CREDENTIALS = struct.Struct("=iII")  # struct ucred: process, user, group
ACCEPTS = 0x10000  # linux/net.h: __SO_ACCEPTCON
UNCONNECTED = b"01"  # linux/net.h: SS_UNCONNECTED


class Row(NamedTuple):
    """One socket; an abstract name begins with @. Accepted ones bear the path too, and are not `alone`."""

    inode: int
    path: bytes
    listens: bool
    alone: bool


class State(NamedTuple):
    """A verdict and a cause, by the words of why.py; what more there is to say; and the process, if it is known."""

    verdict: str
    cause: str
    note: str = ""
    pid: int = 0


def state_of(path: str | bytes, there: Sequence[Sockets]) -> State:
    """What is at that path, or has that abstract name; `there` are the sockets that the kernel knows by it."""
    if any(each.state == "LISTEN" for each in there):
        return State("taken", "listener")
    if isinstance(path, bytes):
        return State("taken", "bound") if there else State("free", "free")
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            status = os.stat(path)
    except FileNotFoundError:
        return _nothing_there(path)
    except OSError as error:
        return State("unknown", "failed", f"{error.strerror}.")
    if not stat.S_ISSOCK(status.st_mode):
        return State("taken", "file", "a folder" if stat.S_ISDIR(status.st_mode) else "a file")
    if there:
        return State("taken", "bound")
    return _asked(path)


def _nothing_there(path: str) -> State:
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        return State("taken", "folder", f"There is no folder {folder}.")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        return State("taken", "forbidden", f"This user may not make files in {folder}.")
    return _locked(path) or State("free", "free")


def _asked(path: str) -> State:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        answer = probe.connect_ex(path)
        if answer in (0, errno.EAGAIN):
            return State("taken", "listener", pid=_peer(probe) if answer == 0 else 0)
    if answer == errno.ECONNREFUSED:
        return _locked(path) or _removable(path)
    if answer == errno.EPROTOTYPE:
        return State("taken", "listener", "It is no stream socket.")
    if answer == errno.ENOENT:
        return _nothing_there(path)
    return State("unknown", "failed", f"A connection to it fails: {os.strerror(answer)}.")


def _removable(path: str) -> State:
    folder = os.path.dirname(os.path.abspath(path))
    if os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        return State("free", "stale")
    return State("taken", "forbidden", f"A dead server has left it, and this user may not remove files in {folder}.")


def _peer(probe: socket.socket) -> int:
    """The process that began to listen (SO_PEERCRED, unix(7)); 0 if it is of another PID namespace."""
    if not hasattr(socket, "SO_PEERCRED"):
        return 0
    pid: int = CREDENTIALS.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))[0]
    return pid


def _locked(path: str) -> State | None:
    """Whether another Pronghorn server has the lock beside the path, by the kernel's list (/proc/locks)."""
    try:
        status = os.stat(f"{path}.lock")
        number = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        with open("/proc/locks") as table:
            for line in table:
                words = line.split()
                if words[1:2] == ["FLOCK"] and number in words:
                    return State("taken", "locked", pid=max(0, int(words[4])))
    except (OSError, ValueError, IndexError):
        pass
    return None


def table() -> Iterator[Row]:
    """The unix sockets that have a path or an abstract name (/proc/net/unix, proc(5)). Raises OSError where the system
    has no such table."""
    with open("/proc/net/unix", "rb") as file:
        next(file)
        for line in file:
            words = line.rstrip(b"\n").split(maxsplit=7)
            if words[7:]:
                yield Row(int(words[6]), words[7], bool(int(words[3], 16) & ACCEPTS), words[5] == UNCONNECTED)
