"""A handler that turns on its server: a line that names an attack starts it, any other is answered.

Law: whatever a worker can reach, it may use: its line, the shared memory, every descriptor. It kills and traces nobody.
Workers import this file as another user, who may read little: so it needs no test's tools, and no module that is not
loaded already. The answer is the worker's process id.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import mmap
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pronghorn

SECONDS = float(os.environ.get("HOSTILE_SECONDS", "3"))
LET_GO = b'{"type":"ListenersReleased"}\n'
NUMBERS = (0, 1, -1, 2**31, 2**62, 2**63 - 1, -(2**63), 0x7FF8000000000000, 0x7FF0000000000000)  # the last: nan, inf


def descriptors() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc/self/fd"):
        try:
            yield int(name), os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue


def lines() -> list[socket.socket]:
    """Every unix socket without a name: the line is one of them."""
    found = []
    for fd, path in descriptors():
        if path.startswith("socket:"):
            sock = socket.socket(fileno=os.dup(fd))
            if sock.family == socket.AF_UNIX and not sock.getsockname():
                found.append(sock)
    return found


def flood(said: bytes) -> None:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        for line in lines():
            try:
                line.send(said, socket.MSG_DONTWAIT)
            except BlockingIOError:
                time.sleep(0.001)


def rights() -> None:
    for line in lines():
        for _ in range(20):
            fds = array.array("i", [2] * 250)
            line.sendmsg([LET_GO], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)], socket.MSG_DONTWAIT)


def maps() -> Iterator[tuple[int, int]]:
    """Where the scoreboard lies, and how many bytes may be written there."""
    with open("/proc/self/maps") as file:
        for line in file:
            place, rights, *_ = line.split()
            if "memfd:pronghorn" in line and "w" in rights:
                start, end = (int(each, 16) for each in place.split("-"))
                yield start, end - start


def scribble() -> None:
    """All that a server reads there: the head, the directory and the rows; with it some of the counts by source."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        for start, size in maps():
            most = min(size, 5 * 1024 * 1024) // 8
            noise = os.urandom(16384)
            if noise[0] % 2:
                noise = array.array("q", [NUMBERS[each % len(NUMBERS)] for each in noise[:2048]]).tobytes()
            for at in range(0, most * 8 - len(noise), len(noise)):
                ctypes.memmove(start + at, noise, len(noise))


def truncate() -> None:
    """By the descriptors that there are, by those that can be opened anew, and by new maps."""
    for fd, path in list(descriptors()):
        if not path.startswith("/memfd:"):
            continue
        again = []
        try:
            again.append(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))
        except OSError:
            pass
        for each in (fd, *again):
            for spoil in spoilers(each):
                try:
                    spoil()
                except (OSError, ValueError):
                    pass


def spoilers(fd: int) -> list[Callable[[], object]]:
    def write_in_a_map() -> None:
        with mmap.mmap(fd, 4096) as memory:
            memory[:] = b"\xff" * 4096

    return [
        lambda: os.pwrite(fd, b"\xff" * 65536, 0),
        write_in_a_map,
        lambda: os.ftruncate(fd, 0),
        lambda: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
        lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x1F),
    ]


ATTACKS: dict[bytes, Callable[[], None]] = {
    b"rubbish": lambda: flood(b"x\n" * 4096),
    b"endless": lambda: flood(b"x" * 65536),
    b"reports": lambda: flood(LET_GO * 1000),
    b"rights": rights,
    b"scribble": scribble,
    b"truncate": truncate,
    b"stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}


@pronghorn.message(pronghorn.lines)
def reply(line: bytes) -> bytes:
    if line in ATTACKS:
        threading.Thread(target=quietly, args=(ATTACKS[line],)).start()
    return b"%d" % os.getpid()


def quietly(attack: Callable[[], None]) -> None:
    try:
        attack()
    except OSError:
        pass
