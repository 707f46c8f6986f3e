"""The worker processes of all generations: fork(2), their reports, signals and orders to them, waitpid(2).

Law: mechanism. When a worker is wanted, when one has to go and what follows from a death is decided in fleet.py.
Signals are blocked around fork(2). Twenty deaths can be one SIGCHLD, so every turn waits for each of our own children
by process id; waitpid(-1) would take the statuses of children that are not ours.

What a killed worker leaves behind (the children of the fork model), and what a container leaves to its first process,
is adopted by way of PR_SET_CHILD_SUBREAPER, may finish, and ends by the drain deadline; but what a handler put into a
session of its own lives on.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable

from pronghorn import events
from pronghorn.errors import from_parts, printable
from pronghorn.events import Observer
from pronghorn.scoreboard.counts import ChildCounts
from pronghorn.scoreboard.stacks import Remains, Stacks
from pronghorn.serving.handover import Outcome
from pronghorn.settings import Settings
from pronghorn.supervisor.generation import NEVER, Generation, Slot, Worker
from pronghorn.supervisor.orphans import Orphans, end, enter, found
from pronghorn.supervisor.poller import Poller
from pronghorn.supervisor.replacement_rate import Pace
from pronghorn.system.helper import Reaper
from pronghorn.system.processes import adopt_orphans, children, detached, end_reading, flush_streams, kill
from pronghorn.worker_process.plan import Plan
from pronghorn.worker_process.reports import (
    CUT_AT_DEADLINE,
    Answer,
    BeginDrain,
    Crashed,
    Drained,
    Ended,
    HandedOver,
    HandOver,
    Listed,
    ListenersReleased,
    Ready,
    ReleaseListeners,
    Report,
    StartFailed,
    Starting,
    TakeOver,
    TermReceived,
)
from pronghorn.worker_process.worker import GRACE, STACKS, work

LAST_PATIENCE = 10.0  # seconds that killed workers get to be gone; one that the kernel holds may stay
LONGEST_STAGE = 300  # characters
HEARD_BY_ALL = 0.2  # seconds within which a signal to a process group has reached the supervisor, too
LEFT_IN_ORDER = (0, CUT_AT_DEADLINE, -signal.SIGTERM)  # TERM ends a worker that is not ready yet


class Workers:
    """The workers that live. `ready` and `died` are told of those that became ready and of those that are gone, with
    the exit code or minus the signal; `kept` are the descriptors beside those of `poller` that a worker must not keep.
    """

    def __init__(
        self,
        poller: Poller,
        observe: Observer,
        ready: Callable[[Worker], None],
        died: Callable[[Worker, int], None],
        kept: Callable[[], Iterable[int]],
    ) -> None:
        self.living: dict[int, Worker] = {}
        self.helpers = Reaper()  # children that are no workers: a probe, an upgrade
        self.cut = 0
        self.pace = Pace()
        self.left: list[Orphans] = []  # of workers that died
        self.killed: set[int] = set()  # processes that did not end by the drain deadline
        self.answered: Callable[[Worker, Answer], None] = lambda worker, answer: None
        """Called with the answer to a question: see inquiries.py."""
        self._draining = False  # the server stops: the exit of a worker in order is expected
        self._delaying = False  # it will, when its delay is over
        self._adopts = False
        self._spares_sessions = False  # adopted processes with a session of their own were detached on purpose
        self._told: set[int] = set()  # adopted processes that have been told to drain
        self._poller = poller
        self._observe = observe
        self._on_ready = ready
        self._on_death = died
        self._kept = kept

    def of(self, generation: Generation) -> list[Worker]:
        return [worker for worker in self.living.values() if worker.generation is generation]

    def accepting(self, workers: Iterable[Worker]) -> int:
        """How many of them may still accept a connection."""
        return sum(not worker.let_go and self.living.get(worker.pid) is worker for worker in workers)

    def retiring(self) -> list[Worker]:
        return [worker for worker in self.living.values() if worker.retired]

    def left_open(self) -> int:
        """How many connections are open with workers that are on their way out."""
        return sum(each.row.open for each in self.retiring())

    def adopt(self, *, spare_sessions: bool) -> None:
        """From now on this process is the parent of what its workers leave behind; with `spare_sessions` what has a
        session of its own lives on when the server ends."""
        self._adopts, self._spares_sessions = adopt_orphans(), spare_sessions

    def begin_delay(self) -> None:
        """The server stops when a delay is over. A worker that has heard SIGTERM, as its process group may have, goes
        on until then."""
        self._delaying = True
        for worker in self.living.values():
            worker.answer_at = NEVER

    def begin_drain(self) -> None:
        """The server stops: what is cut or killed counts from now on."""
        self._draining = True
        self.cut = 0
        self.killed.clear()

    # Births

    def spawn(self, generation: Generation, slot: Slot) -> Worker | str:
        """A new worker for a slot, not ready yet; or why there is none."""
        plan = generation.plan
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            return f"socketpair: {error.strerror}"
        stacks = None
        try:
            stacks = Stacks()
            row = plan.board.take(slot.number, generation.number)
        except OSError as error:
            ours.close()
            theirs.close()
            if stacks is not None:
                stacks.close()
            return f"memory for the worker: {error.strerror}"
        flush_streams()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            # Nothing may fail in the child before it is at work, nor here between its birth and its entry.
            worker = Worker(0, generation, slot, ours, row, stacks, _child_counts(plan), time.monotonic())
            left = self._left(generation, ours)
            pid = os.fork()
            if pid == 0:
                remains = Remains(stacks, worker.children, self.pace.lately(worker.started_at))
                work(plan, row, theirs, remains, mask, left)
            worker.pid, self.living[pid] = pid, worker
            plan.board.born(row, pid)
        except (OSError, MemoryError) as error:
            ours.close()
            stacks.close()
            plan.board.release(row.index)
            return f"fork: {getattr(error, 'strerror', '') or 'no memory'}"
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._poller.add(ours, lambda: self.hear(worker))
        self._observe(events.WorkerStarted(slot.number, pid))
        return worker

    def _left(self, generation: Generation, ours: socket.socket) -> set[int]:
        """What a new worker has of ours and must let go of: a line that another process holds open never ends, and a
        listener that is not its own would stay bound."""
        plan = generation.plan
        own = {fd for listener in plan.listeners for fd in listener.descriptors()}
        if plan.queue is not None and not plan.stay_because:
            own.update(plan.queue.descriptors())
        if plan.bus is not None:
            own.add(plan.bus.descriptors()[0])
        names = ("accept_rate", "accept_rate_per_source", "message_rate_per_source")
        if plan.model.in_children or any(getattr(each.settings, name) for each in plan.services for name in names):
            own.add(plan.board.fileno())  # its lock
        return {*self._poller.descriptors(), *self._kept(), *self.descriptors(), ours.fileno()} - own

    def descriptors(self) -> list[int]:
        """Descriptors that belong to a worker each, beside its line: no other process shall have them."""
        return [worker.stacks.fileno() for worker in self.living.values()]

    # ReportReader

    def hear(self, worker: Worker) -> None:
        """Takes what a worker has said since; one that says what it should not is killed."""
        reports = worker.reports
        self._obey(worker, reports.take())
        if reports.fault:
            worker.doom = f"was killed: {reports.fault}"
            worker.kill_at = 0.0
            kill(worker.pid, signal.SIGKILL)
            self._observe(events.WorkerDoomed(worker.slot.number, worker.pid, reports.fault))
        if reports.ended or reports.fault:
            self._hang_up(worker)

    def _obey(self, worker: Worker, reports: list[Report]) -> None:
        for report in reports:
            match report:
                case Ready() if not worker.ready:
                    worker.ready_at = time.monotonic()
                    self._on_ready(worker)
                case Starting():
                    worker.stage = printable(report.what, LONGEST_STAGE)
                case ListenersReleased():
                    worker.let_go = True
                case TermReceived() if not self._delaying:
                    worker.answer_at = min(worker.answer_at, time.monotonic() + HEARD_BY_ALL)
                case StartFailed():
                    worker.failure = from_parts(report.parts)
                case Crashed():
                    worker.crash = report.trace
                case HandedOver() if worker.hands_over:
                    self.settle_outcome(worker, report.outcome)
                case Listed() | Ended():
                    self.answered(worker, report)
                case Drained():
                    worker.cut = report.cut
                    self._finished(worker)

    def settle_outcome(self, worker: Worker, outcome: Outcome) -> None:
        """What has become of a worker's connections is known. It is recorded if it is news: each reload asks again."""
        moved, told = outcome.moved - worker.told.moved, worker.told
        worker.outcome = worker.told = outcome
        if moved or any(count > told.stay.get(why, 0) for why, count in outcome.stay.items()):
            stay = tuple(outcome.stay.items())
            self._observe(events.WorkerHandedOver(worker.slot.number, worker.pid, moved, outcome.pause, stay))

    def _finished(self, worker: Worker) -> None:
        """Its end has the time of a drain from now on, also if it was not told to drain."""
        if not worker.draining:
            worker.draining = True
            worker.release_at = worker.drain_at = NEVER
            patience = worker.generation.plan.settings.drain_timeout + GRACE
            worker.kill_at = min(worker.kill_at, time.monotonic() + patience)

    def _hang_up(self, worker: Worker) -> None:
        if worker.line.fileno() >= 0:
            self._poller.remove(worker.line)
            worker.line.close()

    # The way out

    def release(self, worker: Worker, settings: Settings, alone: Iterable[str] = (), wait: float = 0.0) -> None:
        """Tells a worker, `wait` seconds from now, to let go of its listeners: it goes on with the connections that it
        has, as the `settings` say that serve now, until these end by themselves, or until its time is over and it is
        told to drain. Listeners whose addresses are `alone` are served by nobody else. One that is not ready has no
        connections, and ends at once."""
        if worker.retired:
            return
        now = time.monotonic()
        worker.retired, worker.retired_at = True, now
        worker.alone, worker.spread = tuple(alone), settings.old_workers_spread
        worker.release_at, worker.drain_at = now + wait, now + wait + settings.old_workers_timeout
        self.go_on(worker, now)

    def go_on(self, worker: Worker, now: float) -> None:
        """Tells a retired worker what has fallen due."""
        if worker.draining or not worker.retired:
            return
        if now >= worker.drain_at:
            self.hurry(worker, "its time is over (--reload-drain-timeout)")
        elif not worker.ready:
            self.retire(worker, worker.generation.plan.settings.drain_timeout)
        elif now >= worker.release_at:
            worker.release_at = NEVER
            worker.reports.send(ReleaseListeners(worker.alone, worker.spread))
            self.hand_over(worker)

    def hand_over(self, worker: Worker) -> None:
        """Tells a worker that has let go to offer its connections to those that serve, if it is one that can."""
        if worker.hands_over and worker.release_at == NEVER and not worker.draining:
            worker.outcome = None
            worker.reports.send(HandOver())

    def take_over(self, worker: Worker) -> None:
        """Tells a worker that serves to take what old workers offer."""
        if not (worker.retired or worker.generation.plan.stay_because):
            worker.reports.send(TakeOver())

    def hurry(self, worker: Worker, why: str) -> None:
        """Tells one that went on with its connections to drain."""
        self._observe(events.OldWorkerDrains(worker.pid, worker.generation.number, why))
        self.retire(worker, worker.generation.plan.settings.drain_timeout, why)

    def retire(self, worker: Worker, timeout: float, why: str = "the supervisor says so") -> None:
        """Tells a worker to drain, and gives it `timeout` seconds and a grace; one that is not ready ends at once."""
        if not worker.draining:
            now = time.monotonic()
            worker.retired = worker.draining = True
            worker.retired_at = min(worker.retired_at, now)
            worker.release_at = worker.drain_at = NEVER
            worker.kill_at = min(worker.kill_at, now + timeout + GRACE)
            worker.doom = worker.doom or "did not leave by the drain deadline"
            self._finish(worker, why)

    def _finish(self, worker: Worker, why: str) -> None:
        worker.answer_at = NEVER
        worker.reports.send(BeginDrain(why))
        kill(worker.pid, signal.SIGTERM)

    def abort(self, worker: Worker, why: str) -> None:
        """Has a worker write down its stacks and die; kills it if it cannot."""
        worker.doom = why
        worker.kill_at = time.monotonic() + STACKS
        kill(worker.pid, signal.SIGABRT)

    def kill_late(self, now: float) -> None:
        """SIGKILL to those whose time is over; and to those on their way out what they shall do next."""
        for worker in self.living.values():
            self.go_on(worker, now)
            if now >= worker.answer_at:
                worker.answer_at = NEVER
                if not self._draining:  # else all drain, once clients are kept out
                    self._finish(worker, "SIGTERM")
            limit = worker.generation.plan.settings.start_timeout
            if not worker.ready and now >= worker.started_at + limit:
                worker.doom = worker.doom or f"was not ready within {limit:g} s (--start-timeout)"
                kill(worker.pid, signal.SIGKILL)
            elif now >= worker.kill_at:
                kill(worker.pid, signal.SIGKILL)

    def due(self) -> float:
        """The instant (monotonic) at which `kill_late` has something to do."""
        return min(
            (
                min(worker.kill_at, worker.release_at, worker.drain_at, worker.answer_at)
                if worker.ready
                else min(worker.kill_at, worker.started_at + worker.generation.plan.settings.start_timeout)
                for worker in self.living.values()
            ),
            default=NEVER,
        )

    def hurry_orphans(self, late: bool) -> bool:
        """While the server drains: what was adopted learns of it, and is killed when it is `late`. False once there is
        none."""
        orphans, programs = self.owed(), {pid for each in self.left for pid in each.programs}
        for pid in orphans:
            if pid not in self._told:
                self._told.add(pid)
                end_reading(pid) if pid in programs else kill(pid, signal.SIGTERM)
            if late:
                self.killed.add(pid)
                end(pid)
        return bool(orphans)

    def end_all(self) -> None:
        """Leaves no process behind, whatever happened."""
        for pid in (*self.living, *self.owed()):
            kill(pid, signal.SIGKILL)
        guard, patience = self._poller.guard, time.monotonic() + LAST_PATIENCE
        while self.living and time.monotonic() < patience:
            guard.last_step("reap its workers", self.reap)
            if not guard.last_step("wait", self._poller.wait, 0.01):
                time.sleep(0.01)

    # Deaths

    def reap(self) -> None:
        """Waits for children that have ended: workers, adopted processes, helpers. Never blocks."""
        self.helpers.turn(time.monotonic())
        for pid in (*self.living, *self.orphans()):
            try:
                done, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                done, status = pid, 255 << 8  # its status was taken by other code; the process is gone all the same
            if done and pid in self.living:
                self._poller.guard(
                    "account for a dead worker", self._dead, self.living[pid], os.waitstatus_to_exitcode(status)
                )
            elif done:
                self._poller.guard("settle an orphan", self._settle, pid, os.waitstatus_to_exitcode(status))

    def _dead(self, worker: Worker, status: int) -> None:
        try:
            self._obey(worker, worker.reports.rest())
        finally:  # whatever is raised, its process id may be another's from now on
            del self.living[worker.pid]
            worker.slot.lost(worker)
            self._hang_up(worker)
        worker.served = worker.row.accepted + worker.row.taken_over > 0
        worker.connected, worker.seen = worker.row.connected().open(), worker.row.connected().seen()
        lost, left = self._leave(worker)
        if worker.crash and worker.ready:
            self._observe(events.WorkerCrashed(worker.slot.number, worker.pid, worker.crash))
        if worker.ready or worker.retired:
            in_order = status in LEFT_IN_ORDER or bool(worker.doom)
            wanted = in_order and (worker.retired or self._draining)
            stack, often = worker.stacks.take(), self.pace.recorded
            self._observe(events.WorkerExited(worker.slot.number, worker.pid, status, wanted, lost, stack, often, left))
        worker.stacks.close()
        if worker.cut is not None:
            self.cut += worker.cut
        elif worker.retired and worker.ready and status == -signal.SIGKILL:
            self.killed.add(worker.pid)
        self._on_death(worker, status)

    def _leave(self, worker: Worker) -> tuple[int, int]:
        """A worker has died: the connections that this has cost, and those that live on without it."""
        entries, living = worker.children, {}
        if entries is not None and (adopted := set(self.orphans()).difference(*(each.living for each in self.left))):
            living = found(entries, adopted)
            if worker.generation.plan.runs_programs:
                enter(entries, adopted - living.keys())
                living = found(entries, adopted)
        if not living or entries is None:
            return worker.generation.plan.board.release(worker.row.index), 0
        orphans = Orphans(worker, entries, living, time.monotonic())
        self.left.append(orphans)
        return orphans.lost(), len(set(living.values()))

    def _settle(self, pid: int, status: int) -> None:
        """An adopted process has been reaped."""
        for each in [each for each in self.left if pid in each.living]:
            each.ended(pid, status)
            if not each.living:
                self.left.remove(each)
                each.generation.plan.board.release(each.row.index)

    def look_after_orphans(self, now: float, generations: Iterable[Generation]) -> None:
        """Once in a tick: what dead workers of these generations, and of earlier ones, have left."""
        serving = list(generations)
        for each in self.left:
            if each.generation not in serving:
                each.retire(now)
            each.care(now)

    def orphans(self) -> list[int]:
        """Adopted processes, dead ones too."""
        if not self._adopts:
            return []
        return [pid for pid in children() if pid not in self.living and pid not in self.helpers]

    def owed(self) -> list[int]:
        """Adopted processes that end with the server."""
        return [pid for pid in self.orphans() if not (self._spares_sessions and detached(pid))]


def _child_counts(plan: Plan) -> ChildCounts | None:
    """What the children or the programs of a worker are written down in; None if there are none."""
    settings = plan.settings
    if plan.model.name == "fork":
        return ChildCounts(settings.max_children)
    if plan.runs_programs:
        return ChildCounts(max(settings.max_threads, settings.pool_size))
    return None
