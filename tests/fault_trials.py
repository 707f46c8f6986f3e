"""System calls that fail: strace(1) makes a worker's next ones return an error, while clients come and go.

`trial` makes one fault and returns what was broken, in words; `faults` makes many under one model and gives a Result,
as in ledger_trials.py; `make test` makes a few, `make proof` all. The worker is traced for the length of one fault
only: it is the same that has lived through all the faults before. Tried and dropped: strace's --seccomp-bpf, which is
of no use for a process that runs already; a server started anew for each fault would take an hour.
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

from launch import Launched, launched, wait_for
from ledger_trials import Result
from pronghorn.models import registry
from pronghorn.testing.talk import exchange

PATIENCE = 3.0
CLIENTS = 8
HOLDS_ONE = ("iterative", "prefork")
MOST_LINES = 10  # in the log, for one fault in ten seconds
RECOVERY = 1.0  # seconds
SHARE = 0.05  # of a processor, while no descriptor is left
CALLS = 100  # in a second, of accept(2) where it fails: whoever rests makes a dozen, whoever spins makes thousands


class Fault(msgspec.Struct, frozen=True):
    """`error` for the calls of this kind, from the `first` on that a thread makes, so many times; 0 is for ever."""

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
        last = f"..{self.first + self.times - 1}" if self.times else "+"
        return f"inject={self.call}:error={self.error}:when={self.first}{last}"


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
OF_ACCEPT = {f"accept4 {each}" for each in ("EMFILE", "ENOBUFS", "ECONNABORTED", "EPERM")}
FIRST = {*OF_ACCEPT, "recvfrom ECONNRESET", "sendto EPIPE", "sendto EAGAIN", "clone EAGAIN", "clone3 EAGAIN"}
FEW = [each for each in FAULTS if each.name.split(" 1+")[0] in FIRST]


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
        command = ["strace", "-f", "-o", str(folder / "calls"), "-p", str(pid)]
        command += ["-e", f"trace={fault.call}", "-e", fault.injection]
        strace = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
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
    return fault.blocks or not registry.page(model).own_flow or model == "gevent"


def injected(folder: Path) -> int:
    """How many calls failed by our doing."""
    return (folder / "calls").read_text().count("(INJECTED)")


class Cost:
    """What a fault took of the server: seconds of its worker's processor, of real time, and lines in the log."""

    def __init__(self, server: Launched, pid: int) -> None:
        self._server, self._process = server, psutil.Process(pid)
        self._known, self._worked, self._began = len(server.log), self._work(), time.monotonic()
        self.log, self.worked, self.took, self.back = "", 0.0, 0.0, 0.0

    def _work(self) -> float:
        return sum(self._process.cpu_times()[:2])

    def over(self) -> None:
        self.worked, self.took = self._work() - self._worked, time.monotonic() - self._began
        self.log = self._server.log[self._known :]

    @property
    def lines(self) -> int:
        return self.log.count("\n")


def trial(server: Launched, model: str, fault: Fault, folder: Path) -> tuple[list[str], Cost]:
    """What was broken: nothing, for a server that lives up to it; and what it cost. Its only worker is the one that is
    meant. A client who was there before, and says nothing meanwhile, is none of those that the fault hits."""
    broken: list[str] = []
    (worker,) = server.workers()
    own_flow = registry.page(model).own_flow
    with contextlib.ExitStack() as stack:
        before = stack.enter_context(server.connect()) if model not in HOLDS_ONE else None
        if before:
            exchange(before, b"a", expect=1, patience=PATIENCE)
        cost = Cost(server, worker)
        with _traced(worker, fault, folder):
            lost = sum(not _answered(server) for _ in range(CLIENTS))
        if lost > (CLIENTS if fault.may_lose and own_flow else fault.may_lose):
            broken.append(f"{lost} of {CLIENTS} clients were not served")
        broken += _recovers(server, cost)
        if before and not (fault.may_lose and own_flow) and not _goes_on(before):
            broken.append("a client who was there before was cut")
    cost.over()
    if server.workers() != [worker]:
        broken.append("the worker did not live through it")
    elif cost.worked > 0.25 + SHARE * cost.took:
        broken.append(f"it took {cost.worked:.2f} s of processor time in {cost.took:.1f} s")
    return broken + _talks(cost), cost


def _recovers(server: Launched, cost: Cost) -> list[str]:
    since = time.monotonic()
    served, cost.back = _answered(server), time.monotonic() - since
    if not served:
        return ["no service after the fault"]
    return [f"service came back after {cost.back:.1f} s"] if cost.back > RECOVERY else []


def _talks(cost: Cost) -> list[str]:
    broken = [f"{cost.lines} lines in the log"] if cost.lines > MOST_LINES else []
    return broken + (["a traceback in the log"] if "Traceback" in cost.log else [])


def _goes_on(client: socket.socket) -> bool:
    try:
        return exchange(client, b"hello", end=True, patience=PATIENCE) == b"HELLO"
    except OSError:
        return False


def _answered(server: Launched) -> bool:
    try:
        with socket.create_connection(server.address, timeout=PATIENCE) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _goes_on(client)
    except OSError:
        return False


# Many at once.


def faults(folder: Path, model: str, which: list[Fault], least: int, seconds: float) -> Result:
    """R7: each of these faults, one after the other, of which so many at least have to happen; and no descriptor for so
    many seconds."""
    result, costs, failed = Result(f"R7 failing calls, {model}", why_not()), list[Cost](), list[str]()
    if result.skipped:
        return result
    few = {"pool_size": 2} if model == "pool" else {}  # strace counts by thread: each has its own first calls
    with launched(folder, "upper", model=model, workers=1, **few) as server:
        (pid,) = server.ready(1)
        for fault in (each for each in which if fits(each, model)):
            broken, cost = trial(server, model, fault, folder)
            for each in broken:
                result.expect(False, f"{fault.name}: {each}")
            costs.append(cost)
            failed += [fault.name] * bool(injected(folder))
        result.figures["faults"] = f"{len(failed)} that this model can meet, of {len(costs)}"
        result.expect(len(failed) >= least, f"{len(failed)} faults happened, and {least} had to")
        result.figures["lines of log"] = f"{max(each.lines for each in costs)} at most"
        result.figures["back after"] = f"{max(each.back for each in costs):.2f} s at most"
        starved(result, server, pid, folder, seconds)
        result.expect(server.stop() == 0, "the exit status is not 0")
    return result


def starved(result: Result, server: Launched, pid: int, folder: Path, seconds: float) -> None:
    """The same for a server that runs, whose only worker this is: every accept4(2) says EMFILE for so long."""
    cost = Cost(server, pid)
    with _traced(pid, Fault("accept4", "EMFILE", times=0), folder), contextlib.ExitStack() as stack:
        for _ in range(CLIENTS):
            stack.enter_context(server.connect())
        time.sleep(seconds)
        cost.over()
    result.figures["without a descriptor"] = (
        f"processor {cost.worked:.2f} s in {cost.took:.1f} s, {cost.lines} lines of log for {injected(folder)} failures"
    )
    result.expect(injected(folder) >= seconds, "accept4(2) did not fail")
    result.expect(injected(folder) <= CALLS * cost.took, f"accept4(2) was tried {injected(folder)} times")
    result.expect(cost.worked <= SHARE * cost.took + 0.1, f"it took {cost.worked:.2f} s of processor time")
    for each in _talks(cost) + _recovers(server, cost):
        result.faults.append(f"no descriptor: {each}")
    result.figures["then back after"] = f"{cost.back:.2f} s"
