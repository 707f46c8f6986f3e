"""Keeps generations at full strength: fills their slots, and replaces workers that died, hang or are worn out.

Law: policy over the workforce's mechanism, and nothing of signals, reloads or commands. A death before READY, or within
a second after it and before the first connection, is followed by a growing pause, so that a handler that cannot live
does not become a busy loop; one by SIGKILL says nothing about the handler and is followed by a short one. A worker that
has served is replaced at once: one message that crashes it says nothing about all others. How often that may be is
bounded over the whole server. A worker that is worn out goes once its
successor is ready. A worker is silent when the loop that serves has not written its heartbeat; but whoever was stopped
himself, as with the whole machine, has no right to complain of silence.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator

from pronghorn import events
from pronghorn.errors import WorkerFailedToStart, told
from pronghorn.events import Observer
from pronghorn.scoreboard.row import DRAINING, ORPHANED
from pronghorn.scoreboard.suspects import name
from pronghorn.settings import Settings
from pronghorn.supervisor.crash_penalty import Suspicion
from pronghorn.supervisor.debuggers import Question
from pronghorn.supervisor.generation import RATE, Generation, Slot, Worker
from pronghorn.supervisor.poller import Poller
from pronghorn.supervisor.predecessors import OldWorker, too_many
from pronghorn.supervisor.workers import Workers
from pronghorn.system.processes import resident_memory

TICK = 1.0
SPARE_PAGES = 8  # of the scoreboard, beside those of two generations that serve
JITTER = 0.1  # workers that were born together shall not all go together


class Fleet:
    """The slots of `generations`: the serving one, and a candidate beside it. `serves` is called once, when for the
    first time a worker is ready, or the whole generation if it is a candidate; `started` once, when of each worker
    it is known whether it has started, with how many have and how many shall.
    """

    def __init__(
        self,
        poller: Poller,
        observe: Observer,
        kept: Callable[[], Iterable[int]],
        serves: Callable[[], None],
        started: Callable[[int, int], None],
    ) -> None:
        self.force = Workers(poller, observe, self._ready, self._died, kept)
        self.generations: list[Generation] = []
        self.served = False
        self._observe = observe
        self._suspicion = Suspicion()
        self._serves = serves
        self._started: Callable[[int, int], None] | None = started
        self._started_at = self._last_turn = time.monotonic()
        self._awake_since = 0.0
        self._next_care = 0.0

    def turn(self, now: float) -> None:
        """Once in every turn of the supervisor's loop, which are a tick apart at most."""
        if now - self._last_turn > 3 * TICK:
            self._awake_since = now
        self._last_turn = now
        self.force.reap()

    def fill(self, now: float) -> None:
        """Fills the empty slots whose time has come. Raises, if nothing has ever been ready, why nothing will be."""
        self._give_up(now)
        self._tell_when_started()
        for generation, slot in self._empty():
            if now >= slot.retry_at:
                self._spawn(generation, slot)
        if now >= self._next_care:
            self._next_care = now + TICK
            silent = self._listen(now)
            for generation in self.generations:
                self._care(generation, now, silent)
            self._look_at_old_workers(serves=True)
            self.force.look_after_orphans(now, self.generations)

    def watch_over(self, now: float) -> None:
        """Once in a tick while another program serves, and the workers go on with what they have."""
        if now >= self._next_care:
            self._next_care = now + TICK
            self._listen(now)
            self._look_at_old_workers(serves=False)
            self.force.look_after_orphans(now, self.generations)

    def promoted(self) -> None:
        """Another generation serves: there may be too many."""
        self._next_care = 0.0

    def pulse(self, now: float) -> None:
        """Once in a tick while the server drains: nothing is filled then, and nobody is replaced."""
        if now >= self._next_care:
            self._next_care = now + TICK
            for generation in self.generations:
                self._observe(events.Pulse(generation.ready, 0, len(generation.slots)))
            self.force.look_after_orphans(now, self.generations)

    def due(self) -> float:
        """The instant (monotonic) at which there is something to fill or to kill."""
        return min([self.force.due(), *(slot.retry_at for _, slot in self._empty())])

    def _empty(self) -> Iterator[tuple[Generation, Slot]]:
        for generation in self.generations:
            for slot in generation.slots:
                may = slot.failure is None or (self.served and not generation.candidate)
                if may and slot.worker is None and slot.successor is None:
                    yield generation, slot

    def _spawn(self, generation: Generation, slot: Slot) -> None:
        born = self.force.spawn(generation, slot)
        if isinstance(born, str):
            self._not_started(slot, born)
        elif slot.worker is None:
            slot.worker = born
        else:
            slot.successor = born

    def _not_started(self, slot: Slot, why: str, killed: bool = False) -> None:
        pause = slot.rest(time.monotonic(), killed)
        self._observe(events.WorkerNotStarted(slot.number, why, pause))

    # Ready, and dead

    def _ready(self, worker: Worker) -> None:
        slot = worker.slot
        slot.failure = None
        self._observe(events.WorkerReady(slot.number, worker.pid, self.force.pace.told))
        if slot.successor is worker:
            before, slot.worker, slot.successor = slot.worker, worker, None
            if before is not None:
                self.force.release(before, worker.generation.plan.settings.old_workers_timeout)
        if self.served or (worker.generation.candidate and not worker.generation.complete):
            return
        worker.generation.candidate = False
        self.served = True
        self._serves()
        for slot in worker.generation.slots:
            if slot.failure is not None:
                self._not_started(slot, told(slot.failure))
        self._tell_when_started()

    def _tell_when_started(self) -> None:
        if self._started is None or not self.served:
            return
        serving = self.generations[0]
        if all(slot.began for slot in serving.slots):
            started, self._started = self._started, None
            started(serving.ready, len(serving.slots))

    def _died(self, worker: Worker, status: int) -> None:
        """Says when the slot of a dead worker is filled again."""
        slot, now = worker.slot, time.monotonic()
        if worker.retired:
            return
        if worker.generation.candidate:
            worker.generation.failure = slot.failure = worker.start_failure(status)
        elif worker.ready and (worker.served or worker.steady(now)):
            slot.forgive(self._replaced_at(worker.generation, now))
            if not worker.killed(status) and status != -signal.SIGTERM:
                self._blame(worker, now)
        elif worker.ready:
            slot.rest(now, worker.killed(status))
        else:
            slot.failure = worker.start_failure(status)
            if self.served:
                self._not_started(slot, told(slot.failure), worker.killed(status))

    def _blame(self, worker: Worker, now: float) -> None:
        """Refuses the source that workers die of, if that is clear and others are there who gain by it: one that is
        alone may be a proxy of everybody's."""
        suspicion = self._suspicion
        suspicion.see([*worker.seen, *worker.generation.plan.board.connected()], now)
        found = suspicion.death(worker.connected, now)
        if found is None:
            return
        source, suspect = found
        plan = worker.generation.plan
        seconds, why = plan.settings.crash_penalty, "by --crash-penalty 0"
        if seconds and suspicion.alone(source, now):
            seconds, why = 0.0, "since nobody else was there who would gain by it"
        if seconds:
            seconds = suspect.refuse(now, seconds)
            plan.board.refused().refuse(source, int((now + seconds) * 10**9))
        self._observe(events.SourceSuspected(name(source), suspect.deaths, seconds, why if not seconds else ""))

    def _replaced_at(self, generation: Generation, now: float) -> float:
        pace = self.force.pace
        at = pace.allows(now, len(generation.slots))
        if at > now and not pace.told:
            pace.told = True
            self._observe(events.ReplacementsWait(RATE))
        return at

    def _give_up(self, now: float) -> None:
        if self.served:
            return
        (generation,) = self.generations
        if generation.failure is not None:
            raise generation.failure
        if self.force.living:
            return
        failures = [slot.failure for slot in generation.slots if slot.failure is not None]
        if len(failures) == len(generation.slots):
            raise failures[0]
        if now >= self._started_at + generation.plan.settings.start_timeout:
            raise WorkerFailedToStart("No worker could be started.", "fork(2) failed each time.", "See the log above.")

    # Hangs, and wear

    def _listen(self, now: float) -> int:
        """Kills workers that are silent, those that have let go too; how many."""
        silent = 0
        for worker in self.force.living.values():
            settings = worker.generation.plan.settings
            if not worker.ready or worker.draining or worker.doom or not settings.worker_silence:
                continue
            beat = worker.page.beat
            seconds = now - max(beat if beat <= now + TICK else 0.0, worker.ready_at, self._awake_since)
            if seconds <= max(settings.worker_silence, 3 * TICK):
                worker.debugged = None
            elif not self._debugged(worker, now):
                silent += 1
                self._observe(events.WorkerSilent(worker.slot.number, worker.pid, seconds))
                self.force.abort(worker, f"was silent for {seconds:.0f} s (--worker-silence)")
        return silent

    def _debugged(self, worker: Worker, now: float) -> bool:
        """Whether somebody debugs a worker, or may do so."""
        if worker.debugged is None:
            worker.debugged = Question(worker.pid, worker.stacks)
        before = worker.debugged.spared
        how = worker.debugged.answer(now)
        if how and not before:
            self._observe(events.WorkerDebugged(worker.slot.number, worker.pid, how))
        return how != ""

    def _care(self, generation: Generation, now: float, silent: int) -> None:
        settings = generation.plan.settings
        for slot in generation.slots:
            worker = slot.worker
            if worker is None or not worker.ready or worker.retired or worker.doom:
                continue
            if slot.successor is None and now >= slot.retry_at and (why := worn_out(worker, settings, now)):
                self._observe(events.WorkerRetired(slot.number, worker.pid, why))
                self._spawn(generation, slot)
        if not generation.candidate:
            self._observe(events.Pulse(generation.ready, silent, len(generation.slots)))

    def _look_at_old_workers(self, serves: bool) -> None:
        """Tells those to drain that are too many. Of other programs' workers, which the scoreboard tells of, each
        supervisor takes note and lets them alone: what stands there may have been written by anybody."""
        if not self.served:
            return
        last = self.generations[0]
        board, me = last.plan.board, os.getpid()
        if serves:
            board.serving = last.number
        serving = max(last.number, board.serving)
        ours = {
            OldWorker(each.generation.number, each.slot.number, each.started_at, each.pid): each
            for each in self.force.living.values()
            if each.retired and not each.draining and each.generation.number <= serving
        }
        theirs = [
            OldWorker(page.generation, page.slot, page.started)
            for page in (board.pages() if ours else ())
            if page.supervisor != me and page.state not in (DRAINING, ORPHANED) and page.generation < serving
        ]
        room = board.room - 2 * len(last.slots) - SPARE_PAGES
        for old, why in too_many([*ours, *theirs], serving, last.plan.settings.max_generations, room).items():
            if worker := ours.get(old):
                self.force.hurry(worker, why)


def worn_out(worker: Worker, settings: Settings, now: float) -> str:
    """Why a worker shall have a successor; empty if it need not. The limits of each worker differ by up to a tenth."""
    spread = worker.pid * 40503 % 65536 / 65536  # neighbouring process ids come to lie far apart
    more = 1.0 + JITTER * spread
    if settings.max_connections_per_worker and worker.page.accepted >= settings.max_connections_per_worker * more:
        return f"it has accepted {worker.page.accepted:,} connections (--max-connections-per-worker)"
    if settings.max_worker_age and now - worker.ready_at >= settings.max_worker_age * more:
        return f"it is {now - worker.ready_at:.0f} s old (--max-worker-age)"
    if settings.max_worker_memory and (size := resident_memory(worker.pid)) > settings.max_worker_memory:
        return f"it uses {size / 1024**2:,.0f} MiB of memory (--max-worker-memory)"
    return ""
