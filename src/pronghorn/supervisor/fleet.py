"""The generations of workers: the one that serves, a candidate beside it, and when a worker is replaced.

Law: policy over the mechanism of workers.py, and nothing of signals, reloads or commands. A death before READY, or
within a second after it and before the first connection, is followed by a growing pause, so that a handler that cannot
live does not become a busy loop; one by SIGKILL says nothing about the handler and is followed by a short pause. A
worker that has served is replaced at once, since one message that crashes it says nothing about all others; how often
is bounded over the whole server. A worker that is worn out goes once its successor is ready. A worker is silent when
the loop that serves has not written its heartbeat, unless this process was itself stopped, as with the whole machine.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator

import msgspec

from pronghorn import events
from pronghorn.errors import WorkerFailedToStart
from pronghorn.events import Observer
from pronghorn.listening.binding import renew
from pronghorn.scoreboard.row import DRAINING, ORPHANED
from pronghorn.scoreboard.suspects import name
from pronghorn.serving.handover import Outcome
from pronghorn.settings import Settings
from pronghorn.settings.lifecycle import HANDOVER
from pronghorn.settings.logs import LOG_LEVELS
from pronghorn.supervisor.callbacks import Callbacks
from pronghorn.supervisor.crash_penalty import Suspicion
from pronghorn.supervisor.debuggers import Question
from pronghorn.supervisor.generation import Generation, Slot, Worker
from pronghorn.supervisor.old_workers import OldWorker, too_many
from pronghorn.supervisor.poller import Poller
from pronghorn.supervisor.replacement_rate import RATE
from pronghorn.supervisor.workers import Workers
from pronghorn.system import memory
from pronghorn.system.processes import leave_orphans, resident_memory
from pronghorn.worker_process.plan import Plan
from pronghorn.worker_process.reports import SetLogLevel

TICK = 1.0
HANDING_OVER = 10.0  # seconds that an old worker gets to hand its connections over, however many generations live
SPARE_PAGES = 8  # of the scoreboard, beside those of two generations that serve
JITTER = 0.1  # workers that were born together shall not all go together


class Fleet:
    """Fills the slots of the `serving` generation, and of the `candidate` of a reload; `callbacks.serves` is called
    when for the first time a worker is ready, or the whole generation if it begins as a candidate, and
    `callbacks.started` when it is known of each of the first workers whether it has started.
    """

    def __init__(self, poller: Poller, observe: Observer, serving: Generation, callbacks: Callbacks) -> None:
        self.workers = Workers(poller, observe, self._ready, self._died, self.kept)
        self.serving = serving
        self.candidate: Generation | None = None
        self.served = False
        self.poller = poller
        self.observe = observe
        self._callbacks = callbacks
        self._suspicion = Suspicion()
        self._all_started = False
        self._started_at = self._last_turn = time.monotonic()
        self._awake_since = 0.0
        self._next_care = 0.0

    @property
    def generations(self) -> list[Generation]:
        """The serving one, and the candidate if there is one."""
        return [self.serving] if self.candidate is None else [self.serving, self.candidate]

    @property
    def resized(self) -> int | None:
        """The number of workers, if it is another than the settings want."""
        count = len(self.serving.slots)
        return count if count and count != self.serving.plan.workers else None

    def kept(self) -> list[int]:
        """Descriptors beside those of the poller that workers and helpers shall not keep: with a listener that is left
        out, or is a candidate's, its port would stay bound."""
        plans = [generation.plan for generation in self.generations]
        listeners = {fd for plan in plans for each in plan.listeners for fd in each.descriptors()}
        ours = [*self.workers.descriptors(), *self.serving.plan.board.descriptors(), *memory.writers]
        ours += self.serving.plan.queue.descriptors() if self.serving.plan.queue is not None else ()
        return [*self._callbacks.kept(), *ours, *listeners]

    # Generations

    def start(self, plan: Plan) -> None:
        """Begins a candidate from a plan. A number of workers that was set meanwhile stays, unless the setting
        has changed."""
        serving = self.serving
        resized = len(serving.slots) and plan.workers == serving.plan.workers
        count = len(serving.slots) if resized else plan.workers
        self.observe(plan.access_log(planned=True))
        self.candidate = Generation(serving.number + 1, plan, count, candidate=True)

    def promote(self) -> None:
        """The candidate, which is complete, serves from now on; the workers before let go."""
        assert self.candidate is not None
        before, self.serving, self.candidate = self.serving, self.candidate, None
        plan = self.serving.plan
        follow(before.plan, plan)
        self.serving.candidate = False
        for listener in plan.listeners:
            renew([listener], plan.service_at(listener).settings)
        self.observe(events.LogLevelSet(plan.settings.log_level))
        self.observe(plan.access_log())
        self._take_over()
        for worker in self.workers.retiring():
            self.workers.hand_over(worker)
        self._part(before)
        self._next_care = 0.0  # there may be too many generations

    def drop(self) -> None:
        """Ends the candidate, if there is one; its workers that were ready may have clients, and go on with them."""
        if self.candidate is not None:
            candidate, self.candidate = self.candidate, None
            self._part(candidate)

    def _part(self, generation: Generation) -> None:
        """Closes the listeners that only this generation has, first, so that its workers' queues come to an end; then
        its workers let go."""
        gone = [each for each in generation.plan.listeners if each not in self.serving.plan.listeners]
        wait = max((each.turn_away() for each in gone), default=0.0)
        for each in gone:
            each.close()
        self.release(self.workers.of(generation), [each.address for each in gone], wait)

    def resize(self, count: int, why: str) -> None:
        """From now on there are `count` workers; those that are too many let go, and go on with the connections that
        they have. With 0 all drain, old ones too, and clients wait in the queue."""
        if count != len(self.serving.slots):
            self.observe(events.Resized(count, why))
        for generation in self.generations:
            taken = generation.resize(count)
            if count:
                self.release(worker for slot in taken for worker in (slot.worker, slot.successor) if worker is not None)
        if not count:
            self.drain()

    def set_log_level(self, level: str) -> None:
        """From now on this process and all its workers log records of this level and above, and so do later workers of
        the generations that there are: until a reload says otherwise."""
        asked = events.LogLevelAsked(level, before := self.serving.plan.settings.log_level)
        quieter = LOG_LEVELS.index(level) > LOG_LEVELS.index(before)
        if quieter:
            self.observe(asked)  # while it is still heard
        for each in self.generations:
            settings = msgspec.structs.replace(each.plan.settings, log_level=level)
            each.plan = msgspec.structs.replace(each.plan, settings=settings)
        for worker in self.workers.living.values():
            worker.reports.send(SetLogLevel(level))  # type: ignore[arg-type]  # the control socket has checked it
        self.observe(events.LogLevelSet(level))
        if not quieter:
            self.observe(asked)

    def _take_over(self) -> None:
        """The workers that serve take what old ones hand over, and no others do."""
        self.serving.plan.board.serving = self.serving.number
        for slot in self.serving.slots:
            if slot.worker is not None and slot.worker.ready:
                self.workers.take_over(slot.worker)

    def step_aside(self, takes: bool) -> None:
        """Another program serves: the workers go on with the connections that they have, or hand them over if it
        `takes` them. Orphans are left to others:
        the programs that follow would be such when their parent has ended."""
        leave_orphans()
        for listener in self.serving.plan.listeners:
            listener.close()
        self.release(self.workers.living.values(), stay_because="" if takes else "the new program takes none")

    def release(
        self,
        workers: Iterable[Worker],
        alone: Iterable[str] = (),
        wait: float = 0.0,
        *,
        stay_because: str | None = None,
    ) -> None:
        """Lets workers go on with the connections that they have, and accept no more: see Workers.release. They hand
        these over, if both they and those who serve can: `stay_because` is why the latter cannot."""
        alone, serving = tuple(alone), self.serving.plan
        for worker in workers:
            if not worker.retired:
                why = serving.stay_because if stay_because is None else stay_because
                self._have_hand_over(worker, worker.generation.plan.stay_because or why)
            self.workers.release(worker, serving.settings, alone, wait)

    def _have_hand_over(self, worker: Worker, stay_because: str) -> None:
        worker.hands_over = not stay_because
        wanted = self.serving.plan.settings.on_reload == worker.generation.plan.settings.on_reload == HANDOVER
        if stay_because and wanted and worker.row.open:
            self.workers.settle_outcome(worker, Outcome(stay={stay_because: worker.row.open}))

    def drain(self) -> None:
        """Lets all workers drain, within the drain timeout."""
        for worker in [*self.workers.living.values()]:
            self.workers.retire(worker, self.serving.plan.settings.drain_timeout)

    # In each turn

    def turn(self, now: float) -> None:
        """Once in every turn of the supervisor's loop, which are a tick apart at most."""
        if now - self._last_turn > 3 * TICK:
            self._awake_since = now
        self._last_turn = now
        self.workers.reap()

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
            self.workers.look_after_orphans(now, self.generations)

    def watch_over(self, now: float) -> None:
        """Once in a tick while another program serves, and the workers go on with what they have."""
        if now >= self._next_care:
            self._next_care = now + TICK
            self._listen(now)
            self._look_at_old_workers(serves=False)
            self.workers.look_after_orphans(now, self.generations)

    def pulse(self, now: float) -> None:
        """Once in a tick while the server drains: no slot is filled then, and no worker replaced."""
        if now >= self._next_care:
            self._next_care = now + TICK
            for generation in self.generations:
                self.observe(events.Pulse(generation.ready, 0, len(generation.slots)))
            self.workers.look_after_orphans(now, self.generations)

    def due(self) -> float:
        """The instant (monotonic) at which there is something to fill or to kill."""
        return min([self.workers.due(), *(slot.retry_at for _, slot in self._empty())])

    def _empty(self) -> Iterator[tuple[Generation, Slot]]:
        for generation in self.generations:
            for slot in generation.slots:
                may = slot.failure is None or (self.served and not generation.candidate)
                if may and slot.worker is None and slot.successor is None:
                    yield generation, slot

    def _spawn(self, generation: Generation, slot: Slot) -> None:
        born = self.workers.spawn(generation, slot)
        if isinstance(born, str):
            self._not_started(slot, born)
        elif slot.worker is None:
            slot.worker = born
        else:
            slot.successor = born

    def _not_started(self, slot: Slot, why: str, killed: bool = False) -> None:
        pause = slot.rest(time.monotonic(), killed)
        self.observe(events.WorkerNotStarted(slot.number, why, pause))

    # Ready, and dead

    def _ready(self, worker: Worker) -> None:
        slot = worker.slot
        slot.failure = None
        self.observe(events.WorkerReady(slot.number, worker.pid, self.workers.pace.recorded))
        if slot.successor is worker:
            before, slot.worker, slot.successor = slot.worker, worker, None
            if before is not None:
                self.workers.take_over(worker)
                self.release([before])
        if self.served and not worker.generation.candidate:
            self.workers.take_over(worker)
        if self.served or (worker.generation.candidate and not worker.generation.complete):
            return
        worker.generation.candidate = False
        self.served = True
        self._take_over()
        self._callbacks.serves()
        self.poller.guard.armed = True
        for slot in worker.generation.slots:
            if slot.failure is not None:
                self._not_started(slot, slot.failure.explanation)
        self._tell_when_started()

    def _tell_when_started(self) -> None:
        if self.served and not self._all_started and all(slot.began for slot in self.serving.slots):
            self._all_started = True
            self._callbacks.started(self.serving.ready, len(self.serving.slots))

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
                self._not_started(slot, slot.failure.explanation, worker.killed(status))

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
        self.observe(events.SourceSuspected(name(source), suspect.deaths, seconds, why if not seconds else ""))

    def _replaced_at(self, generation: Generation, now: float) -> float:
        pace = self.workers.pace
        at = pace.allows(now, len(generation.slots))
        if at > now and not pace.recorded:
            pace.recorded = True
            self.observe(events.ReplacementsWait(RATE))
        return at

    def _give_up(self, now: float) -> None:
        if self.served:
            return
        generation = self.serving
        if generation.failure is not None:
            raise generation.failure
        if self.workers.living:
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
        for worker in self.workers.living.values():
            settings = worker.generation.plan.settings
            if not worker.ready or worker.draining or worker.doom or not settings.worker_silence:
                continue
            beat = worker.row.beat
            seconds = now - max(beat if beat <= now + TICK else 0.0, worker.ready_at, self._awake_since)
            if seconds <= max(settings.worker_silence, 3 * TICK):
                worker.debugged = None
            elif not self._debugged(worker, now):
                silent += 1
                self.observe(events.WorkerSilent(worker.slot.number, worker.pid, seconds))
                self.workers.abort(worker, f"was silent for {seconds:.0f} s (--worker-silence)")
        return silent

    def _debugged(self, worker: Worker, now: float) -> bool:
        """Whether a worker is debugged, or may be."""
        if worker.debugged is None:
            worker.debugged = Question(worker.pid, worker.stacks)
        before = worker.debugged.spared
        how = worker.debugged.answer(now)
        if how and not before:
            self.observe(events.WorkerDebugged(worker.slot.number, worker.pid, how))
        return how != ""

    def _care(self, generation: Generation, now: float, silent: int) -> None:
        settings = generation.plan.settings
        for slot in generation.slots:
            worker = slot.worker
            if worker is None or not worker.ready or worker.retired or worker.doom:
                continue
            if slot.successor is None and now >= slot.retry_at and (why := worn_out(worker, settings, now)):
                self.observe(events.WorkerRetired(slot.number, worker.pid, why))
                self._spawn(generation, slot)
        if not generation.candidate:
            self.observe(events.Pulse(generation.ready, silent, len(generation.slots)))

    def _look_at_old_workers(self, serves: bool) -> None:
        """Tells those to drain that are too many. Of other programs' workers, which the scoreboard tells of, each
        supervisor takes note and lets them alone: what stands there may have been written by anybody."""
        if not self.served:
            return
        last, now = self.serving, time.monotonic()
        board, me = last.plan.board, os.getpid()
        if serves:
            board.serving = last.number
        serving = max(last.number, board.serving)
        ours = {
            OldWorker(each.generation.number, each.slot.number, each.started_at, each.pid): each
            for each in self.workers.living.values()
            if each.retired
            and not each.draining
            and each.generation.number <= serving
            and not (each.is_handing_over and now < each.retired_at + HANDING_OVER)
        }
        theirs = [
            OldWorker(row.generation, row.slot, row.started)
            for row in (board.rows() if ours else ())
            if row.supervisor != me and row.state not in (DRAINING, ORPHANED) and row.generation < serving
        ]
        room = board.room - 2 * len(last.slots) - SPARE_PAGES
        for old, why in too_many([*ours, *theirs], serving, last.plan.settings.max_generations, room).items():
            if worker := ours.get(old):
                self.workers.hurry(worker, why)


def follow(before: Plan, after: Plan) -> None:
    """Workers of the plan before have, for handshakes that are to come, the certificates of now at each listener."""
    done: list[object] = []
    for listener in filter(after.listeners.__contains__, before.listeners):
        old, new = before.service_at(listener).certificates, after.service_at(listener).certificates
        if old is not None and new is not None and not any(old is each for each in done):
            old.follow(new)
            done.append(old)


def worn_out(worker: Worker, settings: Settings, now: float) -> str:
    """Why a worker shall have a successor; empty if it need not. The limits of each worker differ by up to a tenth."""
    spread = worker.pid * 40503 % 65536 / 65536  # neighbouring process ids come to lie far apart
    more = 1.0 + JITTER * spread
    if settings.max_connections_per_worker and worker.row.accepted >= settings.max_connections_per_worker * more:
        return f"it has accepted {worker.row.accepted:,} connections (--max-connections-per-worker)"
    if settings.max_worker_age and now - worker.ready_at >= settings.max_worker_age * more:
        return f"it is {now - worker.ready_at:.0f} s old (--max-worker-age)"
    if settings.max_worker_memory and (size := resident_memory(worker.pid)) > settings.max_worker_memory:
        return f"it uses {size / 1024**2:,.0f} MiB of memory (--max-worker-memory)"
    return ""
