"""The ledger: both sides of a server write down every connection, and afterwards the two books are compared.

Law: clients are processes of their own, and so is the server; nothing here touches a connection. A `Load` runs them,
a `Book` holds what both sides wrote and says what does not agree, a `Sampler` looks at the server's processes all the
while. Which losses a test allows is the test's to say; that the books agree is not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch import PATIENCE, Launched, launched
from ledger_client import COLUMNS, MOST_OPEN, OUTCOMES, Attempt

HERE = Path(__file__).parent
HANDLER = str(HERE / "ledger_handler.py")
HANDLERS = {"message": "Message", "protocol": "Callbacks", "asyncio": "streams", "blocking": "blocking"}
EVERY_KIND = {"whole": 3, "split": 2, "late": 2, "talk": 1}
BEFORE_ANY_BYTE = {"refused", "reset-before-byte"}
SOURCES = 120


def source(style: str = "message") -> str:
    """The ledger's handler in one style, as `launched` takes it."""
    return f"{HANDLER}:{HANDLERS[style]}"


@contextmanager
def ledger_server(folder: Path, style: str = "message", **settings: Any) -> Iterator[Launched]:
    """A server of the ledger's handler; its working folder takes the books."""
    with launched(folder, source(style), **settings) as server:
        assert server.report.get("listening"), server.log
        yield server


class Row:
    """One attempt, as its client wrote it down."""

    __slots__ = COLUMNS

    def __init__(self, line: str) -> None:
        values = dict(zip(COLUMNS, line.rstrip("\n").split("\t"), strict=True))
        self.name, self.kind, self.outcome, self.local = (values[each] for each in COLUMNS[:4])
        self.began, self.ended = float(values["began"]), float(values["ended"])
        self.asked, self.replies = int(values["asked"]), int(values["replies"])
        self.pids = [int(each) for each in values["pids"].split(",") if each]
        self.versions = [each for each in values["versions"].split(",") if each]
        self.note = values["note"]
        assert self.outcome in OUTCOMES, line

    def __repr__(self) -> str:
        when = f"{self.began:.3f} to {self.ended:.3f}"
        said = f"{self.replies} of {self.asked} answered by {self.pids}"
        return f"<{self.name} {self.kind} {self.outcome} {self.note} from {self.local}, {when}, {said}>"


class Entry:
    """One connection, as the process that served it wrote it down."""

    __slots__ = ("count", "ended", "name", "opened", "peer", "pid", "rubbish")

    def __init__(self, pid: int, peer: str, opened: float) -> None:
        self.pid, self.peer, self.opened = pid, peer, opened
        self.name = self.rubbish = ""
        self.count = -1
        self.ended = 0.0

    def __repr__(self) -> str:
        return f"<{self.name or '?'} by {self.pid} for {self.peer} at {self.opened:.3f}, {self.count} answered>"


def entries(folder: Path) -> list[Entry]:
    """What every process of the server wrote."""
    found: dict[tuple[int, str], Entry] = {}
    for path in folder.glob("ledger.*"):
        pid = int(path.suffix[1:])
        for line in path.read_text().splitlines():
            word, serial, *rest = line.split()
            if word == "open":
                found[pid, serial] = Entry(pid, rest[0], float(rest[1]))
            elif word == "name":
                found[pid, serial].name = rest[0]
            elif word == "end":
                found[pid, serial].count, found[pid, serial].ended = int(rest[0]), float(rest[1])
            else:
                found[pid, serial].rubbish = rest[0]
    return list(found.values())


class Book:
    """Both sides' books; `killed` are the processes that were killed, with the instant (monotonic)."""

    def __init__(self, rows: Iterable[Row], folder: Path, killed: dict[int, float] | None = None) -> None:
        self.rows = list(rows)
        self.entries = entries(folder)
        self.killed = killed or {}
        self.counts = Counter(each.outcome for each in self.rows)
        self._entries = {each.name: each for each in self.entries if each.name}

    @classmethod
    def of(cls, attempts: Iterable[Attempt], folder: Path, killed: dict[int, float] | None = None) -> Book:
        """The same for clients that ran in this process."""
        return cls([Row(each.row()) for each in attempts], folder, killed)

    def lost(self, allowed: Iterable[str] = ()) -> list[Row]:
        """The attempts that did not end well, nor in a way that is allowed."""
        return [each for each in self.rows if each.outcome not in {"ok", *allowed}]

    def rate(self) -> float:
        """Connections a second, from the first client's beginning to the last one's."""
        began = [each.began for each in self.rows]
        return (len(began) - 1) / max(0.001, max(began) - min(began)) if began else 0.0

    def crossed(self) -> list[Row]:
        """Clients that said something while the server, draining, said goodbye to them between two requests: an input
        that arrives after draining began may go unanswered (docs/handlers.md). They had every earlier answer."""
        talked = [each for each in self.rows if each.kind == "talk" and each.replies]
        return [each for each in talked if each.outcome in ("eof-early", "reset-mid")]

    def turned_away(self) -> list[Row]:
        """Clients that read an orderly end before any byte, and of whom the server read no request: nothing was done
        for them, and they may try elsewhere."""
        unread = [each for each in self.rows if each.name not in self._entries]
        return [each for each in unread if each.outcome == "eof-early" and not each.replies]

    def entry(self, row: Row) -> Entry | None:
        """The server's side of an attempt, found by its name, or by its address if no request was ever read."""
        if row.name in self._entries:
            return self._entries[row.name]
        from_there = [each for each in self.entries if not each.name and each.peer == row.local]
        return next((each for each in from_there if row.began <= each.opened <= row.ended + PATIENCE), None)

    def faults(self) -> list[str]:
        """Where the books do not agree."""
        rows = {each.name: each for each in self.rows}
        names = Counter(each.name for each in self.entries if each.name)
        unasked = [each for each in self.entries if each.name and each.name not in rows]
        unended = [each for each in self.entries if not each.ended and each.pid not in self.killed]
        return [
            *(f"twice on the server's side: {name}" for name, count in names.items() if count > 1),
            *(f"the server served what no client asked for: {each}" for each in unasked),
            *(f"rubbish reached the handler: {each}" for each in self.entries if each.rubbish),
            *(f"accepted and never ended: {each}" for each in unended),
            *(fault for each in self.rows if (fault := self._disagreement(each))),
        ]

    def _disagreement(self, row: Row) -> str:
        entry = self._entries.get(row.name)
        if row.replies and entry is None:
            return f"answered, and in no server's book: {row}"
        if row.replies and row.pids != [entry.pid]:  # type: ignore[union-attr]
            return f"answered by another than wrote it down: {row}, {entry}"
        if row.outcome == "ok" and entry is not None and entry.ended and entry.count != row.replies:
            return f"the counts differ: {row}, {entry}"
        return ""

    def not_by_a_kill(self, slack: float = 0.25) -> list[Row]:
        """Of the lost, those that no killed process owned. Where no process had written the connection down, between
        accept(2) and the handler's first word, the loss must follow a kill within `slack` seconds."""
        return [each for each in self.lost() if not self._is_by_a_kill(each, slack)]

    def _is_by_a_kill(self, row: Row, slack: float) -> bool:
        entry = self.entry(row)
        if entry is not None:
            return entry.pid in self.killed
        return any(when - 0.01 <= row.ended <= when + slack for when in self.killed.values())


def summary(counts: Counter[str]) -> str:
    """The outcomes that occurred, in the order of the ledger."""
    return ", ".join(f"{counts[each]:,} {each}" for each in OUTCOMES if counts[each])


class Load:
    """Client processes that open connections at a steady rate until `stop`, as long as fewer than `most` are under
    way in each."""

    def __init__(
        self, address: Any, folder: Path, rate: float, kinds: dict[str, int], processes: int, seed: int, most: int
    ) -> None:
        self.folder = folder
        self._outs = [folder / f"clients.{seed}.{number}" for number in range(processes)]
        share = SOURCES // processes
        self._processes = []
        for number, out in enumerate(self._outs):
            first = 2 + number * share
            options = {"address": address, "seed": seed * 100 + number, "rate": rate / processes, "kinds": kinds}
            options |= {"sources": list(range(first, first + share)), "patience": 8.0, "out": str(out), "most": most}
            command = [sys.executable, str(HERE / "ledger_client.py"), json.dumps(options)]
            self._processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    def going(self) -> None:
        """Returns once each process has had its first client through."""
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"going\n", "the clients could not begin"

    def stop(self, killed: dict[int, float] | None = None) -> Book:
        """No new clients; waits until every one is over, and until the server's side has written its ends."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            assert process.wait(60) == 0, "the clients broke down; see their standard error"
        rows = [Row(line) for out in self._outs for line in out.read_text().splitlines()]
        return settled(lambda: Book(rows, self.folder, killed))

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


def settled(make: Callable[[], Book], seconds: float = 5.0) -> Book:
    """The book, once every connection that no killed process held has its end; or as it is when the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        book = make()
        if all(each.ended or each.pid in book.killed for each in book.entries) or time.monotonic() > deadline:
            return book
        time.sleep(0.1)


@contextmanager
def load(
    server: Launched,
    rate: float,
    kinds: dict[str, int] | None = None,
    processes: int = 2,
    seed: int = 1,
    most: int = MOST_OPEN,
) -> Iterator[Load]:
    """Clients at the server, going; whatever happens, none is left behind."""
    clients = Load(server.address, server.errors.parent, rate, kinds or EVERY_KIND, processes, seed, most)
    try:
        clients.going()
        yield clients
    finally:
        clients.end()
