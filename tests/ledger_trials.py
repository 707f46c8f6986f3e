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
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from launch import Launched, launched, wait_for
from ledger import BEFORE_ANY_BYTE, Book, Row, Sampler, gone, ledger_server, load, stat, summary
from ledger_client import Clients
from pronghorn.settings import settle

# Clients that a model holds at once, beyond which they wait in the queue; the others hold what the trial asks for.
PLACES = {"iterative": 1, "prefork": 8}
# Who is in the middle of something when the server is told to stop, by style: half a request, or one being worked on.
IN_FLIGHT = {"message": "hold", "protocol": "hold", "asyncio": "work", "blocking": "work"}
FULL_STRENGTH = 1.0  # seconds after the last kill
SLOWEST_RELOAD = 2.0
FLAT_KIB = 1024
# To tell who holds a port, the supervisor reads the table of all connections: tens of thousands in TIME_WAIT here.
FLAT_BUT_FOR_A_TABLE_KIB = 12 * 1024


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

    def __repr__(self) -> str:
        skipped = [f"  skipped: {self.skipped}"] if self.skipped else []
        return "\n".join([self.name, *skipped, *(f"  {key}: {value}" for key, value in self.figures.items()),
                          *(f"  FAULT: {each}" for each in self.faults)])  # fmt: skip


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
        book = Book.of(clients.finish(60), folder)
    finally:
        clients.close()
    status = server.exit(40)
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


# R3: reload and upgrade.


class Reports:
    """What a server has said in its log about its workers; each look reads only what is new."""

    def __init__(self, server: Launched) -> None:
        self._file = open(server.errors)
        self._tail = ""
        self.ready: set[int] = set()
        self.upgraded: list[int] = []

    def look(self) -> Reports:
        whole, _, self._tail = (self._tail + self._file.read()).rpartition("\n")
        self.ready |= {int(pid) for pid in re.findall(r"is ready, process id (\d+)", whole)}
        self.upgraded += [int(pid) for pid in re.findall(r"Upgraded: process (\d+) serves", whole)]
        return self

    def close(self) -> None:
        self._file.close()


def reloads(folder: Path, times: int, rate: float = 500, **settings: Any) -> Result:
    """Reloads one after the other under load: no client notices, and nothing of the old generation stays."""
    settings.setdefault("workers", 2)
    with ledger_server(folder, **settings) as server:
        server.ready(settings["workers"])
        return reloads_of(server, folder, settings["workers"], times, rate)


def reloads_of(server: Launched, folder: Path, workers: int, times: int, rate: float) -> Result:
    """The same for a server that runs and reloads by HUP."""
    result, seconds, reports = Result("R3 reload"), [], Reports(server)
    with Sampler(server.pid, server.address[1]) as sampler, load(server, rate) as clients:
        before = sampler.now()
        for number in range(1, times + 1):
            (folder / "version").write_text(str(number))
            old, since = living(server.pid), time.monotonic()
            server.send(signal.SIGHUP)
            over = _until(lambda old=old: _renewed(server, reports, old, workers), 10)  # type: ignore[misc]
            seconds.append(time.monotonic() - since)
            if not over or server.process.poll() is not None:
                result.expect(False, f"reload {number} was not over after 10 s: {server.log[-300:]}")
                break
        book = clients.stop()
        _until(lambda: sampler.now().descriptors <= before.descriptors, 3)  # the last ones are on their way out
        after = sampler.now()
    reports.close()
    result.figures |= {"reloads": str(len(seconds)), "each took": _spread(seconds)}
    result.expect(max(seconds) <= SLOWEST_RELOAD, f"the slowest reload took {max(seconds):.2f} s")
    unnoticed(result, book)
    versions = {each for row in book.rows for each in row.versions}
    result.expect(len(versions) > times * 0.9, f"only {len(versions)} of {times + 1} versions of the code were seen")
    _flat(result, sampler, before, after)
    return result


def unnoticed(result: Result, book: Book) -> None:
    """No client lost anything, nor had to wait long."""
    result.books(book)
    slowest = max((each.ended - each.began for each in book.rows), default=0.0)
    result.figures["slowest client"] = f"{slowest:.2f} s"
    result.figures["spoke across a goodbye"] = str(len(book.crossed()))
    result.expect_none(set(book.lost()) - set(book.crossed()), "clients lost")
    result.expect(slowest <= SLOWEST_RELOAD, f"a client waited {slowest:.2f} s")


def _renewed(server: Launched, reports: Reports, old: set[int], workers: int) -> bool:
    now = living(server.pid)
    return not now & old and len(reports.look().ready & now) == workers


def _spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"{ordered[len(ordered) // 2]:.2f} s (median), {ordered[-1]:.2f} s at most"


def upgrades(folder: Path, times: int, rate: float = 500, **settings: Any) -> Result:
    """Upgrades by USR2, one after the other, under load: no client notices, and each old program ends with 0."""
    workers = settings.setdefault("workers", 2)
    result, seconds = Result("R3b upgrade"), []
    with ledger_server(folder, **settings) as server:
        server.ready(workers)
        pid, reports = server.pid, Reports(server)
        with Sampler(pid, server.address[1]) as sampler, load(server, rate) as clients:
            before = sampler.now()
            for number in range(1, times + 1):
                (folder / "version").write_text(str(number))
                old, since = pid, time.monotonic()
                os.kill(pid, signal.SIGUSR2)
                if not _until(lambda: len(reports.look().upgraded) == number, 30):  # noqa: B023
                    result.expect(False, f"upgrade {number} was not over after 30 s: {server.log[-300:]}")
                    break
                seconds.append(time.monotonic() - since)
                pid = sampler.pid = reports.upgraded[-1]
                result.expect(_until(lambda: stat(old)[:1] in ([], ["Z"]), 10), f"program {old} stayed")  # noqa: B023
                whole = _until(lambda: len(reports.look().ready & living(pid)) == workers, 5)  # noqa: B023
                result.expect(whole, f"upgrade {number}: not all workers are ready")
                if number == 1:
                    before = sampler.now()  # of the first that was started with descriptors
            book = clients.stop()
            after = sampler.now()
        result.expect(server.exit(5) == 0, "the first program did not end with 0")
        os.kill(pid, signal.SIGTERM)
        gone([pid])
    reports.close()
    result.figures |= {"upgrades": str(len(seconds)), "each took": _spread(seconds)}
    unnoticed(result, book)
    _flat(result, sampler, before, after)
    return result


HANDLER_FILE, SETTINGS_FILE = "mine.py", "pronghorn.toml"
BROKEN: dict[str, tuple[str, str, str]] = {
    # what is wrong: which file says what then, and what the log must say of it
    "a port that is taken": (SETTINGS_FILE, "{taken}", "Cannot listen on"),
    "an import error": (HANDLER_FILE, "import nothing_of_that_name\n", "No module named 'nothing_of_that_name'"),
    "a syntax error": (HANDLER_FILE, "def reply(:\n", "SyntaxError"),
    "an exit": (HANDLER_FILE, "import sys\nsys.exit(3)\n", "SystemExit: 3"),
    "an end": (HANDLER_FILE, "import os\nos._exit(0)\n", "ended"),
    "a hang": (HANDLER_FILE, "import time\ntime.sleep(60)\n", "the import still runs"),
    "an unknown setting": (SETTINGS_FILE, "{good}wokers = 3\n", "wokers"),
    "a wrong value": (SETTINGS_FILE, '{good}drain_timeout = "soon"\n', "drain_timeout"),
}
MINE = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom ledger_handler import Message as reply\n"


def broken_reloads(folder: Path, times: int, rate: float = 300, start_timeout: str = "3s") -> Result:
    """Reloads that cannot succeed, with one that can behind each: no client notices, and the log says why. Each kind is
    asked for by HUP first, and by `pronghorn ctl reload` the next time, which has to say why."""
    result = Result("R3c broken reload")
    with socket.create_server(("127.0.0.1", 0)) as holder, socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{place.getsockname()[1]}"
        place.close()
        good = f'bind = ["{bind}"]\nworkers = 2\nstart_timeout = "{start_timeout}"\n'
        taken = good.replace("]", f', "127.0.0.1:{holder.getsockname()[1]}"]')
        put(folder, HANDLER_FILE, MINE)
        put(folder, SETTINGS_FILE, good)
        control = str(folder / "control")
        with launched(folder, "mine:reply", config=SETTINGS_FILE, bind=None, control_socket=control) as server:
            server.ready(2)
            with Sampler(server.pid, server.address[1]) as sampler, load(server, rate) as clients:
                before = sampler.now()
                for number in range(times):
                    what = list(BROKEN)[number % len(BROKEN)]
                    name, text, why = BROKEN[what]
                    put(folder, name, text.format(good=good, taken=taken))
                    _broken(result, server, what, why, (by_signal, by_command)[number // len(BROKEN) % 2])
                    put(folder, name, good if name == SETTINGS_FILE else MINE)
                    _mended(result, server, what)
                    if not number:
                        before = sampler.now()  # to tell who holds the port took a library
                book = clients.stop()
                _until(lambda: sampler.now().descriptors <= before.descriptors, 3)
                after = sampler.now()
    result.figures["broken reloads"] = f"{times}, of {len(BROKEN)} kinds"
    unnoticed(result, book)
    _flat(result, sampler, before, after, FLAT_BUT_FOR_A_TABLE_KIB)
    return result


FAILED, RELOADED = "Reload failed, and nothing has changed", "Reloaded in "


def _broken(result: Result, server: Launched, what: str, why: str, by: Callable[[Launched], str]) -> None:
    """One reload that must fail; `by` asks for it."""
    _until(lambda: len(living(server.pid)) == 2, 5)  # those of the generation before are gone
    log, workers = len(server.log), living(server.pid)
    fault = by(server)
    _until(lambda: FAILED in server.log[log:] or RELOADED in server.log[log:], 20)
    told = server.log[log:]
    result.expect(not fault, f"{what}: {fault}")
    result.expect(FAILED in told and RELOADED not in told, f"{what}: the reload did not fail: {told}")
    result.expect(why in told, f"{what}: the log does not say {why!r}: {told}")
    result.expect(workers <= living(server.pid), f"{what}: the workers are others")


def by_signal(server: Launched) -> str:
    server.send(signal.SIGHUP)
    return ""


def by_command(server: Launched) -> str:
    """`pronghorn ctl reload`; what is wrong with its answer to a reload that failed."""
    command = [sys.executable, "-m", "pronghorn", "ctl", "reload", "--socket", str(server.errors.parent / "control")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode in (2, 3, 4, 5) and done.stderr.startswith("Error: ") and not done.stdout:
        return ""
    return f"ctl reload ended with {done.returncode}: {done.stdout} {done.stderr}"


def _mended(result: Result, server: Launched, what: str) -> None:
    """One that must succeed."""
    log = len(server.log)
    server.send(signal.SIGHUP)
    over = _until(lambda: RELOADED in server.log[log:], 20)
    result.expect(over, f"mended after {what}: the reload did not succeed: {server.log[log:]}")


def put(folder: Path, name: str, text: str) -> None:
    """Writes a file as editors do: beside it, then over it."""
    (folder / "new").write_text(text)
    (folder / "new").rename(folder / name)


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
        until, due = time.monotonic() + seconds, time.monotonic()
        while due < until:
            if workers_now := sorted(living(server.pid)):
                pid = dice.choice(workers_now)
                killed[pid] = time.monotonic()
                os.kill(pid, signal.SIGKILL)
            due += 0.1
            time.sleep(max(0.0, due - time.monotonic()))
        since = time.monotonic()
        full = _until(lambda: len(ready_workers(server)) == workers, 5 * FULL_STRENGTH)
        took = time.monotonic() - since
        book = clients.stop(killed)
        after = sampler.now()
    result.figures |= {"kills": str(len(killed)), "full strength after": f"{took:.2f} s"}
    result.figures["longest a dead one waited"] = f"{sampler.longest:.2f} s"
    result.books(book)
    result.figures["lost"] = f"{len(book.lost())}, all of killed workers" if not book.not_by_a_kill() else "see faults"
    result.expect_none(book.not_by_a_kill(), "clients lost that no killed worker had")
    result.expect(not book.counts["refused"], f"{book.counts['refused']} refused")
    result.expect(full and took <= FULL_STRENGTH, f"full strength after {took:.2f} s")
    _flat(result, sampler, before, after)
    return result


def _until(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _flat(result: Result, sampler: Sampler, before: Any, after: Any, most: int = FLAT_KIB) -> None:
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
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{sock.getsockname()[1]}"
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
            refused = _until(lambda: _is_refused(server), drain_timeout)
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
