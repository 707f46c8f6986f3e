"""The trials: what is done to a server while clients write their ledger, and what must be true afterwards.

Law: a trial takes a number and gives a Result; it asserts nothing itself, so that `make test` can run it with small
numbers, `make proof` with large ones, and a known-bad server can be shown to fail it. Every fault that is found is one
sentence in `Result.faults`. Every wait is bounded.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from brokers import free_port
from launch import Launched, wait_for
from ledger import BEFORE_ANY_BYTE, Book, Row, ledger_server, load, summary
from ledger_client import Clients
from ledger_sampler import Sampler, gone, stat
from pauses import Heartbeat
from pronghorn.settings import settle

# Clients that a model holds at once, beyond which they wait in the queue; the others hold what the trial asks for.
PLACES = {"iterative": 1, "prefork": 8}
# Who is in the middle of something when the server is told to stop, by style: half a request, or one being worked on.
IN_FLIGHT = {"message": "hold", "protocol": "hold", "asyncio": "work", "blocking": "work"}
FULL_STRENGTH = 1.0  # seconds after the last kill
FLAT_KIB = 1024


OF_TIME = re.compile(
    r"cut after another time|were not cut|of processor time|of a processor|came back after|the slowest reload took|"
    r"a client waited|versions of the code were seen|was not over after|in one, an even share|full strength after|"
    r"not all workers are ready|was not reported within|left to wait|^sslscan: protocol tls 1\.[23]$"
)
"""What is told of a trial whose server, or whose client, was slow, which a busy machine makes them now and then."""


class Result:
    """What one trial found; none of `faults` is the only good outcome. `skipped` is why it could not be made here."""

    def __init__(self, name: str, skipped: str = "") -> None:
        self.name, self.skipped = name, skipped
        self.faults: list[str] = []
        self.figures: dict[str, str] = {}
        self.counts: Counter[str] = Counter()

    def expect(self, holds: object, fault: str) -> None:
        if not holds:
            self.faults.append(fault)

    def expect_none(self, these: Iterable[object], what: str) -> None:
        """Each of them is a fault; the first few are told."""
        these = list(these)
        if these:
            self.faults.append(f"{len(these)} {what}: " + "; ".join(map(str, these[:3])))

    def books(self, book: Book) -> None:
        """May be called for several books, which are added up."""
        self.counts += book.counts
        self.figures["clients"] = summary(self.counts)
        self.expect_none(book.faults(), "disagreements of the books")

    @property
    def is_late(self) -> bool:
        """Whether it has faults, and each is one of time."""
        return bool(self.faults) and all(OF_TIME.search(each) for each in self.faults)

    def __repr__(self) -> str:
        skipped = [f"  skipped: {self.skipped}"] if self.skipped else []
        figures = [f"  {key}: {value}" for key, value in self.figures.items()]
        return "\n".join([self.name, *skipped, *figures, *(f"  FAULT: {each}" for each in self.faults)])


def tried(trial: Callable[..., Result], folder: Path, *arguments: Any, **settings: Any) -> Result:
    """The result of a trial that is made in a folder of this one. A late one is made anew, twice at most, if the
    machine was busy meanwhile."""
    for number in range(3):
        own = folder / str(number)
        own.mkdir()
        with Heartbeat() as heartbeat:
            result = trial(own, *arguments, **settings)
        if not result.is_late or heartbeat.was_quiet:
            break
        print(f"made anew, since the machine was busy (a beat {heartbeat.latest * 1000:.0f} ms late): {result}")
    return result


def in_session(server: Launched) -> list[int]:
    """The processes of the server that still run, whoever their parent is now."""
    pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]
    return [pid for pid in pids if (fields := stat(pid)) and fields[3] == str(server.pid) and fields[0] != "Z"]


def lost_while_stopping(book: Book) -> set[Row]:
    """The clients that a server which stops must not lose: all but those that it refused before any byte, and those
    that spoke again while it said goodbye."""
    return set(book.lost(BEFORE_ANY_BYTE)) - set(book.turned_away()) - set(book.crossed())


def living(pid: int) -> set[int]:
    """The children of a process that live."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return {int(each) for each in found.read_text().split() if stat(int(each))[:1] not in ([], ["Z"])}
    except (FileNotFoundError, ProcessLookupError):
        return set()


def ready_workers(server: Launched) -> set[int]:
    """The workers that live and have said that they are ready, by the log."""
    said = {int(pid) for pid in re.findall(r"is ready, process id (\d+)", server.log)}
    return said & living(server.pid)


# R9: TERM.


def term(folder: Path, model: str, style: str = "message", count: int = 200) -> Result:
    """TERM with `count` conversations in flight and as many clients in the accept queue: all are answered."""
    held = min(count, PLACES.get(model, count))
    path = folder / "socket"
    settings = {"model": model, "pool_size": count, "max_children": count, "bind": ("127.0.0.1:0", f"unix:{path}")}
    settings["drain_timeout"] = 10.0
    with ledger_server(folder, style, **settings) as server:
        server.ready(settle(settings).effective_workers(model))
        result = term_of(server, folder, held, count, IN_FLIGHT[style], f"R9 TERM {model}, {style}")
        result.expect(not path.exists(), "the socket file is left")
        return result


def term_of(server: Launched, folder: Path, held: int, queued: int, kind: str, name: str) -> Result:
    """The same for a server that runs: its workers are stopped while the queue fills, and go on after TERM."""
    result, clients = Result(name), Clients(server.address)
    try:
        for _ in range(held):
            clients.open(kind, 2, work=400)
        clients.run(lambda: clients.held() == held or clients.done, 30)
        workers = server.workers()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        for _ in range(queued):
            clients.open("whole", 2)
        clients.run(lambda: all(each.connected and not each.unsent for each in clients.live.values()), 10)
        since = time.monotonic()
        server.send(signal.SIGTERM)
        wait_for(lambda: "Draining" in server.log)
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        clients.release()
        attempts = clients.finish(60)
    finally:
        clients.close()
    status = server.exit(40)
    book = Book.of(attempts, folder)  # not before: a process writes down an end after its client has seen it
    result.figures["in flight, in the queue"] = f"{held}, {queued}"
    result.figures["exit"] = f"status {status} after {time.monotonic() - since:.2f} s"
    result.books(book)
    refused = [each for each in book.rows if each.kind == "whole" and each.outcome in BEFORE_ANY_BYTE]
    result.expect_none(set(book.lost()) - set(refused), "clients lost")
    result.expect(status == 0, f"exit status {status}: {server.log[-300:]}")
    result.expect_none(in_session(server), "processes left")
    with socket.socket() as sock:
        result.expect(sock.connect_ex(server.address), "somebody still listens")
    return result


def term_under_load(folder: Path, model: str, rate: float, seconds: float) -> Result:
    """TERM while clients come at a steady rate: each is served, or refused before it had a byte."""
    result = Result(f"R9 TERM {model}, under load")
    with ledger_server(folder, model=model, workers=2) as server, load(server, rate) as clients:
        time.sleep(seconds)
        server.send(signal.SIGTERM)
        status = server.exit(40)
        book = clients.stop()
    result.books(book)
    result.expect_none(lost_while_stopping(book), "clients lost")
    result.expect(status == 0, f"exit status {status}")
    result.expect(book.counts["ok"], "no client was served")
    return result


# R4: kill -9.


def kills(folder: Path, seconds: float, rate: float = 500, **settings: Any) -> Result:
    """kill -9 of a random worker every 100 ms: only connections of the killed are lost."""
    workers = settings.setdefault("workers", 4)
    with ledger_server(folder, **settings) as server:
        server.ready(workers)
        return kills_of(server, workers, seconds, rate)


def kills_of(server: Launched, workers: int, seconds: float, rate: float) -> Result:
    """The same for a server that runs."""
    result, killed, dice = Result("R4 kill -9 of a random worker"), {}, random.Random(4)
    with Sampler(server.pid, server.address[1]) as sampler, load(server, rate) as clients:
        before = sampler.now()
        end, due = time.monotonic() + seconds, time.monotonic()
        while due < end:
            if workers_now := sorted(living(server.pid)):
                pid = dice.choice(workers_now)
                killed[pid] = time.monotonic()
                os.kill(pid, signal.SIGKILL)
            due += 0.1
            time.sleep(max(0.0, due - time.monotonic()))
        since = time.monotonic()
        full = until(lambda: len(ready_workers(server)) == workers, 5 * FULL_STRENGTH)
        took = time.monotonic() - since
        book = clients.stop(killed)
        until(lambda: sampler.now().descriptors <= before.descriptors, 3)  # the last ones are on their way out
        after = sampler.now()
    result.figures |= {"kills": str(len(killed)), "full strength after": f"{took:.2f} s"}
    result.figures["connections a second"] = f"{book.rate():.0f}"
    result.figures["longest a dead one waited"] = f"{sampler.longest:.2f} s"
    result.books(book)
    result.figures["lost"] = f"{len(book.lost())}, all of killed workers" if not book.not_by_a_kill() else "see faults"
    result.expect_none(book.not_by_a_kill(), "clients lost that no killed worker had")
    result.expect(not book.counts["refused"], f"{book.counts['refused']} refused")
    result.expect(full and took <= FULL_STRENGTH, f"full strength after {took:.2f} s")
    flat(result, sampler, before, after)
    return result


def until(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def flat(result: Result, sampler: Sampler, before: Any, after: Any, most: int = FLAT_KIB) -> None:
    """Nothing grew in the supervisor, no dead process was left lying, and the listener is the one that was."""
    result.figures["supervisor"] = (
        f"{before.descriptors} to {after.descriptors} descriptors, {before.threads} to {after.threads} threads, "
        f"{before.rss:,} to {after.rss:,} KiB"
    )
    result.expect(not sampler.zombies, f"{len(sampler.zombies)} dead processes were not reaped")
    result.expect(after.descriptors <= before.descriptors, f"descriptors grew: {before} to {after}")
    result.expect(after.threads <= before.threads, f"threads grew: {before} to {after}")
    result.expect(after.rss <= before.rss + most, f"memory grew: {before} to {after}")
    result.expect(len(sampler.inodes) == 1, f"listeners: {sampler.inodes}")


# R4b: the supervisor.


def orphans(folder: Path, times: int, rate: float = 300, drain_timeout: float = 5.0) -> Result:
    """kill -9 of the supervisor: the workers let go, finish and leave; a restart binds at once, each time."""
    result, bound, slowest = Result("R4b kill -9 of the supervisor"), 0, 0.0
    bind = f"127.0.0.1:{free_port()}"
    for number in range(times):
        here = folder / str(number)
        here.mkdir()
        with ledger_server(here, bind=bind, workers=2, drain_timeout=drain_timeout) as server:
            bound += 1
            server.ready(2)
            slowest = max(slowest, _orphaned(result, server, here, rate, drain_timeout))
    result.figures |= {"restarts that bound": f"{bound} of {times}", "workers gone after": f"{slowest:.2f} s at most"}
    return result


def _orphaned(result: Result, server: Launched, folder: Path, rate: float, drain_timeout: float) -> float:
    clients = Clients(server.address, seed=77)
    try:
        for _ in range(5):
            clients.open("hold", 2)
        clients.run(lambda: clients.held() == 5, 10)
        with load(server, rate, processes=1) as others:
            time.sleep(0.3)
            workers, since = living(server.pid), time.monotonic()
            os.kill(server.pid, signal.SIGKILL)
            refused = until(lambda: _is_refused(server), drain_timeout)
            clients.release()
            gone(workers, drain_timeout + 1)
            took = time.monotonic() - since
            book = others.stop()
        book = Book([*book.rows, *(Row(each.row()) for each in clients.finish())], folder)
    finally:
        clients.close()
    result.books(book)
    result.expect(refused, "the workers did not let go of the listener")
    result.expect_none(lost_while_stopping(book), "clients lost")
    return took


def _is_refused(server: Launched) -> bool:
    with socket.socket() as sock:
        return bool(sock.connect_ex(server.address))
