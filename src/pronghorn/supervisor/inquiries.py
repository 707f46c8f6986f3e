"""Questions to all workers about their open connections: asked at once, answered within a bound, put together here.

Law: the supervisor never waits, and believes no worker. A worker that has not told everything in PATIENCE seconds is
named as silent, and what it has told counts. Which worker a row is of is written down here, from the supervisor's own
book-keeping. The workers of programs before an upgrade have another supervisor: they are counted, and not asked; nor
are processes that a dead worker has left.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from typing import Any

import msgspec

from pronghorn.events import ConnectionsKilled, Observer
from pronghorn.serving.connection_inquiry import Query
from pronghorn.serving.connection_rows import ConnectionRow
from pronghorn.supervisor.generation import NEVER, Worker
from pronghorn.supervisor.poller import Done
from pronghorn.supervisor.workers import Workers
from pronghorn.worker_process.reports import Answer, EndConnections, Ended, GoOn, ListConnections, Listed

TOLD = 10  # ids of connections in the log
PATIENCE = 0.8  # seconds
MOST_TEXT = 8 * 1024 * 1024  # characters of handlers' fields in one answer: what is beyond is left out


class Asked:
    """One caller's question, and what has come of it."""

    def __init__(self, done: Done, query: Query | None = None) -> None:
        self.done, self.query = done, query
        self.until = time.monotonic() + PATIENCE
        self.waiting: dict[int, Worker] = {}  # by process id: those that have not told everything
        self.silent: list[Worker] = []
        self.found: list[tuple[Any, Worker, ConnectionRow]] = []
        self.matched: dict[int, int] = {}
        self._text = 0
        self.wanted: set[str] = set()  # ids that shall end
        self.ended: set[str] = set()

    def take(self, worker: Worker, rows: list[ConnectionRow]) -> None:
        assert self.query is not None
        limit = self.query.limit
        self._text += sum(len(name) + len(value) for row in rows for name, value in row.fields.items())
        if self._text > MOST_TEXT:
            rows = [msgspec.structs.replace(row, fields={}) for row in rows]
        self.found += [((*self.query.order(row)[:2], worker.pid, row.number), worker, row) for row in rows]
        if len(self.found) > 2 * limit:
            self.found = self._first(limit)

    def _first(self, limit: int) -> list[tuple[Any, Worker, ConnectionRow]]:
        return heapq.nsmallest(limit, self.found, key=lambda each: each[0])

    def result(self) -> dict[str, Any]:
        """What the caller is told: see docs/control.md."""
        silent = [_named(worker) for worker in (*self.silent, *self.waiting.values())]
        if self.query is None:
            held_up = {f"{worker['pid']}" for worker in silent}
            missing = self.wanted - self.ended
            late = sorted(each for each in missing if each.partition("-")[0] in held_up)
            gone = sorted(missing.difference(late))
            return {"ended": sorted(self.ended), "gone": gone, "late": late, "silent": silent}
        rows = [_row(worker, row) for _, worker, row in self._first(self.query.limit)]
        return {"connections": rows, "matched": sum(self.matched.values()), "silent": silent}


def _named(worker: Worker) -> dict[str, int]:
    return {
        "worker": worker.slot.number,
        "pid": worker.pid,
        "generation": worker.generation.number,
        "open": worker.row.open,
    }


def _row(worker: Worker, row: ConnectionRow) -> dict[str, Any]:
    told = msgspec.structs.asdict(row)
    told["tls"] = row.tls and msgspec.structs.asdict(row.tls)
    del told["number"]
    return {
        "id": f"{worker.pid}-{row.number}",
        "worker": worker.slot.number,
        "pid": worker.pid,
        "generation": worker.generation.number,
        **told,
    }


class Inquiries:
    """The questions that are under way."""

    def __init__(self, workers: Workers, elsewhere: Callable[[], dict[str, int]], observe: Observer) -> None:
        """`elsewhere` counts the programs before an upgrade, and the connections of those that are not asked."""
        self._observe = observe
        self._workers, self._elsewhere = workers, elsewhere
        self._asked: dict[int, Asked] = {}
        self._last = 0
        workers.answered = self.take

    def connections(self, query: Query, done: Done) -> None:
        """Rows of the open connections that `query` means: `{"connections", "matched", "silent", "elsewhere"}`."""
        mine = [each for each in self._workers.living.values() if each.ready]
        if query.worker:
            mine = [each for each in mine if query.worker in (each.slot.number, each.pid)]
        self._ask(Asked(done, query), [(worker, query) for worker in mine])

    def end(self, ids: list[str], done: Done) -> None:
        """End connections, each known as `PID-NUMBER`: `{"ended", "gone", "late", "silent"}`, lists of ids."""
        asked = Asked(done)
        asked.wanted.update(ids)
        numbers: dict[int, list[int]] = {}
        for each in asked.wanted:
            pid, _, number = each.partition("-")
            numbers.setdefault(int(pid), []).append(int(number))
        living = self._workers.living
        self._ask(
            asked, [(living[pid], those) for pid, those in numbers.items() if pid in living and living[pid].ready]
        )

    def _ask(self, asked: Asked, questions: list[tuple[Worker, Query | list[int]]]) -> None:
        self._last += 1
        self._asked[self._last] = asked
        now = time.monotonic()
        for worker, what in questions:
            if isinstance(what, Query):
                question: ListConnections | EndConnections = ListConnections(self._last, what, now)
            else:
                question = EndConnections(self._last, what)
            if worker.reports.ask(question):
                asked.waiting[worker.pid] = worker
            else:
                asked.silent.append(worker)
        if not asked.waiting:
            self._tell(self._last)

    def take(self, worker: Worker, answer: Answer) -> None:
        """A worker has answered; one that nobody waits for is too late."""
        asked = self._asked.get(answer.ask)
        if asked is None or asked.waiting.get(worker.pid) is not worker:
            return
        if isinstance(answer, Ended):
            asked.ended.update(asked.wanted.intersection(f"{worker.pid}-{number}" for number in answer.numbers))
            del asked.waiting[worker.pid]
        elif isinstance(answer, Listed) and asked.query is not None:
            asked.take(worker, answer.rows)
            asked.matched[worker.pid] = answer.matched
            if answer.over:
                del asked.waiting[worker.pid]
            elif not worker.reports.ask(GoOn(answer.ask)):
                asked.silent.append(asked.waiting.pop(worker.pid))
        if not asked.waiting:
            self._tell(answer.ask)

    def turn(self, now: float) -> None:
        """Answers those whose time is over, and forgets workers that are gone."""
        for number, asked in list(self._asked.items()):
            for pid, worker in list(asked.waiting.items()):
                if self._workers.living.get(pid) is not worker or worker.line.fileno() < 0:
                    del asked.waiting[pid]
            if now >= asked.until or not asked.waiting:
                self._tell(number)

    def due(self) -> float:
        """The instant (monotonic) at which `turn` has something to do."""
        return min((asked.until for asked in self._asked.values()), default=NEVER)

    def _tell(self, number: int) -> None:
        asked = self._asked.pop(number)
        result = asked.result()
        if asked.ended:
            self._observe(ConnectionsKilled(len(asked.ended), tuple(result["ended"][:TOLD])))
        if asked.query is not None:
            result["elsewhere"] = self._elsewhere()
        asked.done(result)
