"""A bind(2) that is tried and given back at once, and the options of a socket that another process has open.

Law: what is bound here never listens, so no client can come to it, and it is closed before anything else happens. For
that moment a program that binds without SO_REUSEADDR would find the address taken. Of another process's socket a copy
is asked (pidfd_getfd(2)), which takes the right to trace that process, and nothing is set on it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pronghorn.listening.addresses import Place

PIDFD_GETFD = 438  # the same number on every architecture, since Linux 5.6


def bind_errno(place: Place, *, reuse_address: bool = True, reuse_port: bool = False) -> int:
    """The errno of bind(2) there, 0 if it succeeds, with the options that a listener of Pronghorn would have. Nothing
    is left bound."""
    family, address = place
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            if reuse_address:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            tried.bind(address)
    except OSError as error:
        return error.errno or errno.EINVAL
    return 0


class SocketOptions(NamedTuple):
    """What another process has set on its socket."""

    reuse_address: bool
    reuse_port: bool


def options_of(pid: int, inode: int) -> SocketOptions | None:
    """The options of that process's socket; None where this user may not know."""
    for descriptor in _sockets_of(pid, {inode}):
        with _copied(pid, descriptor) as copy:
            if copy is not None:
                reuse_port = getattr(socket, "SO_REUSEPORT", None)
                shares = reuse_port is not None and bool(copy.getsockopt(socket.SOL_SOCKET, reuse_port))
                return SocketOptions(bool(copy.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)), shares)
    return None


def bound_to(port: int, pids: Iterable[int]) -> dict[int, list[str]]:
    """Those processes that have a TCP socket which is bound to that port, and neither listens nor is connected: each
    with the addresses. For kernels before 6.8, which show such sockets nowhere: every socket that this user may copy is
    asked."""
    found: dict[int, list[str]] = {}
    for pid in pids:
        for descriptor in _sockets_of(pid, None):
            with _copied(pid, descriptor) as copy, contextlib.suppress(OSError):
                address = copy.getsockname() if copy is not None and _is_idle(copy) else ("", 0)
                if address[1] == port:
                    found.setdefault(pid, []).append(address[0])
    return found


def _is_idle(copy: socket.socket) -> bool:
    if copy.family not in (socket.AF_INET, socket.AF_INET6) or copy.type != socket.SOCK_STREAM:
        return False
    if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    try:
        copy.getpeername()
    except OSError:
        return True
    return False


def _sockets_of(pid: int, inodes: set[int] | None) -> Iterator[int]:
    """The descriptors of a process that are sockets, or those very sockets."""
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                link = os.readlink(f"/proc/{pid}/fd/{name}")
                if link.startswith("socket:[") and (inodes is None or int(link[8:-1]) in inodes):
                    yield int(name)


@contextlib.contextmanager
def _copied(pid: int, descriptor: int) -> Iterator[socket.socket | None]:
    """A copy of another process's descriptor, for the length of a `with`; None where there can be none."""
    copy = _copy(pid, descriptor)
    try:
        sock = socket.socket(fileno=copy) if copy >= 0 else None
    except OSError:
        os.close(copy)
        sock = None
    try:
        yield sock
    finally:
        if sock is not None:
            sock.close()


def _copy(pid: int, descriptor: int) -> int:
    if not hasattr(os, "pidfd_open"):
        return -1
    import ctypes

    try:
        process = os.pidfd_open(pid)
    except OSError:
        return -1
    try:
        return int(ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, process, descriptor, 0))
    finally:
        os.close(process)
