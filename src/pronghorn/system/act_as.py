"""One act as another user, in a process of its own: to open a file, or to bind a path, where that user may change it.

Law: the process that asks never changes who it is, not even for a moment: it forks, the child becomes the user for
good (setuid(2) of root leaves no way back), acts, sends a descriptor over a socket pair (unix(7), SCM_RIGHTS), and
ends. So the kernel itself refuses what the user may not do, whatever the user makes of the path meanwhile. Nobody waits
for longer than a few seconds: a file system that hangs holds up the child, which is killed.
"""

from __future__ import annotations

import errno
import os
import pwd
import signal
import socket
import time
from collections.abc import Callable
from typing import NoReturn

PATIENCE = 5.0  # seconds that an act may take
LONGEST = 4096


def act_as(uid: int, gid: int, groups: tuple[int, ...], act: Callable[[], int]) -> int:
    """What `act` returns when that user does it: a descriptor, which is this process's own now, or -1.

    Only for root. Raises the OSError that `act` raised, and TimeoutError when it took too long.
    """
    ours, theirs = socket.socketpair()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # the child shares our wake-up pipe
    try:
        pid = os.fork()
        if pid == 0:
            _act(uid, gid, groups, act, theirs)
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    with ours:
        try:
            ours.settimeout(PATIENCE)
            said, fds, _, _ = socket.recv_fds(ours, LONGEST, 1, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, f"It took longer than {PATIENCE:g} s") from None
        finally:
            _bury(pid)
    for fd in fds:
        os.set_inheritable(fd, False)
    if said == b"done":
        return fds[0] if fds else -1
    number, _, words = said.partition(b" ")
    code = int(number) if number.isdigit() else errno.EIO
    raise OSError(code, words.decode(errors="replace") or "The process that should do it was killed")


def groups_of(uid: int, gid: int) -> tuple[int, tuple[int, ...]]:
    """A user's group and all of them, as the system's tables have it; `gid` alone for who stands in none."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return gid, (gid,)
    return entry.pw_gid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))


def _act(uid: int, gid: int, groups: tuple[int, ...], act: Callable[[], int], line: socket.socket) -> NoReturn:
    try:
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            fd = act()
            socket.send_fds(line, [b"done"], [fd] if fd >= 0 else [])
        except OSError as error:
            line.send(f"{error.errno or errno.EIO} {error.strerror or error}".encode(errors="replace")[:LONGEST])
    finally:
        os._exit(0)


def _bury(pid: int) -> None:
    """Ends the child. One that the kernel does not let go of is left to whoever reaps later."""
    deadline = time.monotonic() + 1.0
    try:
        os.kill(pid, signal.SIGKILL)
        while not os.waitpid(pid, os.WNOHANG)[0] and time.monotonic() < deadline:
            time.sleep(0.001)
    except (ProcessLookupError, ChildProcessError):
        pass
