"""The server's processes, seen from outside while clients talk to it.

Law: read from /proc and from the kernel's table of sockets (Linux only); nothing here knows what the processes do, and
nothing is asked of them.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from launch import PATIENCE, wait_for

WORN = 0.5  # seconds that the dead may wait to be reaped while others want the machine
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, LISTEN = 4, 20, 0x301, 1 << 10


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, ...; none if there is no such process (proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def family(pid: int) -> list[int]:
    """All descendants, the dead that nobody has reaped included."""
    found, left = [], [pid]
    while left:
        each = left.pop()
        try:
            tasks = os.listdir(f"/proc/{each}/task")
            words = [Path(f"/proc/{each}/task/{task}/children").read_text() for task in tasks]
        except (FileNotFoundError, ProcessLookupError):
            continue
        below = [int(word) for text in words for word in text.split()]
        found += below
        left += below
    return found


def descriptors(pid: int) -> dict[int, str]:
    """What each open descriptor of a process is."""
    told = {}
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                told[int(number)] = os.readlink(f"/proc/{pid}/fd/{number}")
            except FileNotFoundError:
                continue
    except (FileNotFoundError, ProcessLookupError):
        pass
    return told


def status(pid: int, word: str) -> int:
    """One number of /proc/PID/status: Threads, VmRSS (KiB)."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text.partition(f"{word}:")[2].split()[0]) if f"{word}:" in text else 0


def withheld(pid: int) -> float:
    """Seconds for which a process, all in all, was ready to run and had no processor; 0 where the kernel does not tell
    (/proc/PID/schedstat; what it waits for now is not yet in it)."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def listening_inodes(port: int) -> set[int]:
    """The inodes of the sockets that listen on a TCP port (sock_diag(7)).

    /proc/net/tcp tells it too, but among all connections that are in TIME_WAIT: a load test leaves a hundred thousand.
    """
    found: set[int] = set()
    for kind in (socket.AF_INET, socket.AF_INET6):
        wish = struct.pack("BBBxI", kind, socket.IPPROTO_TCP, 0, LISTEN) + struct.pack("!H", port) + bytes(46)
        head = struct.pack("IHHII", 16 + len(wish), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, 0, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:
            sock.send(head + wish)
            data = sock.recv(65536)
        while len(data) >= 16:
            length, what = struct.unpack_from("IH", data)
            if what == SOCK_DIAG_BY_FAMILY:
                found |= set(struct.unpack_from("I", data, 16 + 68))
            data = data[(length + 3) & ~3 :]
    return found


class Measure:
    """The supervisor at one instant."""

    __slots__ = ("descriptors", "rss", "threads")

    def __init__(self, pid: int) -> None:
        self.descriptors = len(descriptors(pid))
        self.threads = status(pid, "Threads")
        self.rss = status(pid, "VmRSS")

    def __repr__(self) -> str:
        return f"<{self.descriptors} descriptors, {self.threads} threads, {self.rss} KiB>"


class Sampler:
    """Looks at a process and its family some twenty times a second, from a thread.

    `zombies`: pids that were dead and not reaped for longer than WORN, without the time for which their parent was
    ready to run and had no processor; `longest`: how long any of the dead waited in all, in seconds; `inodes`: every
    listener there has been on the port.
    """

    def __init__(self, pid: int, port: int, every: float = 0.05) -> None:
        self.pid, self.port = pid, port
        self.zombies: set[int] = set()
        self.longest = 0.0
        self.inodes: set[int] = set()
        self.first = Measure(pid)
        self._every = every
        self._dead: dict[tuple[int, int], tuple[float, float]] = {}
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def now(self) -> Measure:
        return Measure(self.pid)

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._every):
                self.look()
        except Exception as error:  # a sampler that has died sees nothing wrong
            self._error = error

    def look(self) -> None:
        now = time.monotonic()
        fields = {pid: stat(pid) for pid in family(self.pid)}
        dead = {(pid, int(each[1])) for pid, each in fields.items() if each[:1] == ["Z"]}
        for (pid, parent), (since, before) in self._dead.items():
            self.longest = max(self.longest, now - since)
            without = max(0.0, withheld(parent) - before)
            waits = (pid, parent) in dead and stat(parent)[:1] == ["R"]  # perhaps for a processor: not told before
            if not waits and now - since - without > WORN:
                self.zombies.add(pid)
        self._dead = {each: self._dead.get(each) or (now, withheld(each[1])) for each in dead}
        self.inodes |= listening_inodes(self.port)


def gone(pids: Iterable[int], seconds: float = PATIENCE) -> None:
    """Waits until none of these processes runs."""
    left = set(pids)
    wait_for(lambda: not {pid for pid in left if stat(pid)[:1] not in ([], ["Z"])}, f"the end of {left}", seconds)
