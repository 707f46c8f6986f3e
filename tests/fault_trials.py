"""System calls that fail: strace(1) makes a worker's next ones return an error, while clients come and go.

A trial takes a model and a fault, and returns what was broken, in words; `make test` runs a few, `make proof` all. The
worker is traced for the length of one trial only: it is the same that has lived through all the trials before.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil

from launch import wait_for
from pronghorn import models
from pronghorn.testing import Served, exchange

PATIENCE = 3.0
CLIENTS = 8


class Fault(msgspec.Struct, frozen=True):
    """`error` for the calls of this kind, from the `first` on that a thread makes, so many times."""

    call: str
    error: str
    first: int = 1
    times: int = 1
    may_lose: int = 0
    """Clients that may be cut: those whose own connection has failed. strace counts the calls of each thread anew: of
    those that hold one conversation only, all may be cut."""
    blocks: bool = True
    """Whether it can happen to a socket that blocks."""

    @property
    def name(self) -> str:
        return f"{self.call} {self.error} {self.first}+{self.times}"

    @property
    def injection(self) -> str:
        return f"inject={self.call}:error={self.error}:when={self.first}..{self.first + self.times - 1}"


ACCEPTING = [
    Fault("accept4", each, times=3)
    for each in "EMFILE ENFILE ENOBUFS ENOMEM ECONNABORTED EPROTO EPERM ENETDOWN ENETUNREACH EHOSTUNREACH EOPNOTSUPP "
    "ETIMEDOUT EINTR EAGAIN".split()
]
READING = [
    *(
        Fault("recvfrom", each, times=2, may_lose=2)
        for each in "ECONNRESET ETIMEDOUT EHOSTUNREACH ECONNABORTED".split()
    ),
    Fault("recvfrom", "EINTR", times=2),
    Fault("recvfrom", "EAGAIN", times=2, blocks=False),
]
WRITING = [
    *(Fault("sendto", each, times=2, may_lose=2) for each in "EPIPE ECONNRESET ETIMEDOUT EHOSTUNREACH".split()),
    Fault("sendto", "EINTR", times=2),
    Fault("sendto", "EAGAIN", times=2, blocks=False),
]
ENDING = [
    Fault("shutdown", "ENOTCONN", times=2, may_lose=2),
    Fault("close", "EINTR", times=2, may_lose=2),  # strace leaves it open, and the client waits for the end
    Fault("close", "EIO", times=2, may_lose=2),
    Fault("ioctl", "ENOTTY", times=3, may_lose=3),
    Fault("getsockopt", "ENOTCONN", times=3, may_lose=3),
    Fault("setsockopt", "EINVAL", times=3, may_lose=3),
]
WATCHING = [Fault("epoll_ctl", each, times=2, may_lose=2) for each in ("ENOSPC", "ENOMEM")]
WAITING = [Fault(each, "EINTR", times=3) for each in ("epoll_wait", "epoll_pwait", "poll", "select", "pselect6")]
STARTING = [Fault(each, "EAGAIN", times=2, may_lose=2) for each in ("clone", "clone3")]
TELLING = [Fault("write", each, times=2) for each in ("ENOSPC", "EPIPE", "EIO")]
FAULTS = [*ACCEPTING, *READING, *WRITING, *ENDING, *WATCHING, *WAITING, *STARTING, *TELLING]
FEW = [each for each in FAULTS if each.name.split(" 1+")[0] in {
    "accept4 EMFILE", "accept4 ENOBUFS", "accept4 ECONNABORTED", "accept4 EPERM", "recvfrom ECONNRESET",
    "sendto EPIPE", "sendto EAGAIN", "clone EAGAIN", "clone3 EAGAIN",
}]  # fmt: skip


def why_not() -> str:
    """Why strace cannot trace here; empty if it can."""
    if sys.platform != "linux":
        return "strace is a program of Linux"
    if shutil.which("strace") is None:
        return "strace is not installed"
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        with tempfile.TemporaryDirectory() as folder, _traced(sleeper.pid, Fault("accept4", "EMFILE"), Path(folder)):
            return ""
    except AssertionError as error:
        return f"strace cannot trace here: {error}"
    finally:
        sleeper.kill()
        sleeper.wait()


@contextlib.contextmanager
def _traced(pid: int, fault: Fault, folder: Path) -> Iterator[None]:
    """The process and those that it forks, with the fault, until the end of the block."""
    with open(folder / "strace", "w+b") as said:
        strace = subprocess.Popen(
            ["strace", "-f", "-o", str(folder / "calls"), "-e", f"trace={fault.call}", "-e", fault.injection,
             "-p", str(pid)],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said,
        )  # fmt: skip
        try:

            def attached() -> bool:
                text = (folder / "strace").read_text()
                assert strace.poll() is None, text.strip()
                return "attached" in text

            wait_for(attached, "strace's grip")
            yield
        finally:
            strace.terminate()
            strace.wait()


def fits(fault: Fault, model: str) -> bool:
    """Whether the fault can happen under this model."""
    return fault.blocks or not models.page(model).own_flow or model == "gevent"


def injected(folder: Path) -> int:
    """How many calls failed by our doing."""
    return (folder / "calls").read_text().count("(INJECTED)")


def trial(server: Served, fault: Fault, folder: Path) -> list[str]:
    """What was broken: nothing, for a server that lives up to it. Its only worker is the one that is meant."""
    broken: list[str] = []
    (worker,) = server.worker_pids()
    process, known = psutil.Process(worker), len(server.log())
    worked, begun = sum(process.cpu_times()[:2]), time.monotonic()
    with _traced(worker, fault, folder):
        lost = sum(not _answered(server) for _ in range(CLIENTS))
    took = time.monotonic() - begun
    if lost > (CLIENTS if fault.may_lose and models.page(server.model).own_flow else fault.may_lose):
        broken.append(f"{lost} of {CLIENTS} clients were not served")
    since = time.monotonic()
    if not _answered(server):
        broken.append("no service after the fault")
    elif time.monotonic() - since > 1:
        broken.append(f"service came back after {time.monotonic() - since:.1f} s")
    if server.worker_pids() != [worker]:
        broken.append("the worker did not live through it")
    elif sum(process.cpu_times()[:2]) - worked > 0.25 + 0.05 * took:
        broken.append(f"it took {sum(process.cpu_times()[:2]) - worked:.2f} s of processor time in {took:.1f} s")
    log = server.log()[known:]
    if log.count("\n") > 10:
        broken.append(f"{log.count(chr(10))} lines in the log")
    if "Traceback" in log:
        broken.append("a traceback in the log")
    return broken


def _answered(server: Served) -> bool:
    try:
        with server.connect(timeout=PATIENCE) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return exchange(client, b"hello", end=True, patience=PATIENCE) == b"HELLO"
    except OSError:
        return False
