"""Processes that a dead worker has left behind: children of the fork model, and programs, with a connection each.

Law: the supervisor takes the worker's place. Their connections stay counted on its row of the scoreboard, as open and
in every limit; they are told to keep their deadlines, drain when their worker would have, and are killed when they are
late. The kernel says which processes these are: they have become children of this one. What they have counted stands in
memory that they write themselves, so any word of it may be false.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable

from pronghorn.errors import End
from pronghorn.scoreboard.counts import BORN, CLOSED_WORD, PROGRAM, ChildCounts
from pronghorn.supervisor.generation import NEVER, Worker
from pronghorn.system.processes import end_reading, kill
from pronghorn.worker_process.worker import GRACE

REMINDERS = 3  # a child forgets a signal that comes while it is forked


class Orphans:
    """Those of one worker: `living`, by process id, each with the number of its entry."""

    __slots__ = ("_reminders", "_told", "children", "died_at", "drain_at", "generation", "kill_at", "living", "row")

    def __init__(self, worker: Worker, children: ChildCounts, living: dict[int, int], now: float) -> None:
        """`living` are as `found` says. The connections that died with the worker are counted here; see `lost`."""
        self.generation, self.row, self.children, self.living = worker.generation, worker.row, children, living
        self.died_at = now
        self.kill_at = worker.kill_at if worker.draining else NEVER
        self.drain_at = now if worker.draining else worker.drain_at
        self._told = False
        self._reminders = 0

    @property
    def programs(self) -> set[int]:
        return {pid for pid, entry in self.living.items() if self.children.program(entry) == pid}

    def lost(self) -> int:
        """Counts what died with the worker, and how many connections that has cost."""
        row, alive = self.row, set(self.living.values())
        row.inherit()
        for entry in self.children.used():
            if entry not in alive:
                self.children.settle(self.children.block(entry), row, None)
        lost = max(0, row.unaccounted - len(alive))
        row.add(CLOSED_WORD[End.KILLED], lost)
        self._write()
        return lost

    def ended(self, pid: int, status: int) -> None:
        """One of them has been reaped; `status` as in subprocess."""
        entry = self.living.pop(pid)
        if entry in self.living.values():  # a child of the fork model, and the program that it waited for
            return
        block = self.children.block(entry)
        program = self.children.program(entry) == pid
        if host := self.children.host(entry):
            self.row.sources.remove((host, 0))
        self.children.settle(block, self.row, End.DONE if program and status == 0 else End.KILLED)
        self._write()

    def care(self, now: float) -> None:
        """Once in a tick: has each keep its deadlines, and drain when its time has come."""
        settings = self.generation.plan.settings
        programs = self.programs
        if self._reminders < REMINDERS:
            self._reminders += 1
            for pid in self.living.keys() - programs:
                kill(pid, signal.SIGURG)
        if now >= self.drain_at and not self._told:
            self._told = True
            self.kill_at = min(self.kill_at, now + settings.drain_timeout + GRACE)
            self.hurry(programs)
        for pid in programs:  # what a program reads and sends cannot be seen from here
            age = settings.max_connection_age or NEVER
            quiet = min(each for each in (settings.idle_timeout, settings.write_timeout, NEVER) if each)
            if now >= min(self.children.born(self.living[pid]) + age, self.died_at + quiet):
                end(pid)
        if now >= self.kill_at:
            for pid in self.living:
                end(pid)

    def hurry(self, programs: Iterable[int]) -> None:
        """Has all of them drain."""
        for pid in self.living:
            if pid in programs:
                end_reading(pid)
            else:
                kill(pid, signal.SIGTERM)

    def retire(self, now: float) -> None:
        """Their generation serves no more: they have as long as its workers."""
        if self.drain_at == NEVER and not self._told:
            self.drain_at = now + self.generation.plan.settings.old_workers_timeout

    def _write(self) -> None:
        self.row.open = len(set(self.living.values()))
        if self.living:
            self.generation.plan.board.born(self.row, next(iter(self.living)))


def found(children: ChildCounts, adopted: Iterable[int]) -> dict[int, int]:
    """Which of the `adopted` processes stand in these entries, and in which."""
    adopted = set(adopted)
    living: dict[int, int] = {}
    for entry in children.used():
        for pid in (children.pid(entry), children.program(entry)):
            if pid in adopted:
                living.setdefault(pid, entry)
    return living


def enter(children: ChildCounts, adopted: Iterable[int]) -> None:
    """Writes down those programs that their worker had started and not yet written down when it died: a program has a
    session of its own, and a socket for its standard input."""
    free = sorted(set(range(children.most)) - set(children.used()))
    for pid in adopted:
        try:
            program = os.getsid(pid) == pid and os.readlink(f"/proc/{pid}/fd/0").startswith("socket:")
        except OSError:
            continue
        if program and free:
            words = children.block(free.pop()).words
            words[PROGRAM], words[BORN] = pid, time.monotonic_ns()


def end(pid: int) -> None:
    """SIGKILL to an adopted process, and to its session if it has one of its own, as a program has."""
    kill(pid, signal.SIGKILL)
    try:
        if os.getpgid(pid) == pid != os.getpgid(0):
            os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass
