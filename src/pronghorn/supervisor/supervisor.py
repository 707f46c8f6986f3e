"""Many processes: spawn, watch, replace, resize, reload, upgrade, drain.

Law: one thread, for ever. It never imports the user's handler and never touches a connection. A signal handler does
nothing: the kernel writes the signal's number into a pipe and the loop reads it there (CVE-2024-6387 is what work in
a handler can lead to).

A worker counts once it has said READY. If none can at the first start, its error is raised; after that nothing that a
handler or a setting does ends the supervisor: a death is followed by a new worker, with a growing pause if it came
early, and a reload or an upgrade that fails changes nothing. A fault of the supervisor's own does not end it either:
each step of a turn is guarded (guard.py), and so is each step of the way out. When draining starts, clients are turned
away and the listeners closed here at once; the workers are told a moment later, when handshakes that had begun are
over, and close theirs once the accept queue is empty: so that nobody whose connect(2) succeeded is reset.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

from pronghorn import events
from pronghorn.supervisor.changes import STOPPING, Changes, StartUpgrade
from pronghorn.supervisor.fleet import TICK, Fleet
from pronghorn.supervisor.generation import NEVER, Generation, Worker
from pronghorn.supervisor.guard import PAUSE, Guard
from pronghorn.supervisor.planning import Planner
from pronghorn.supervisor.poller import Done, Poller
from pronghorn.supervisor.predecessors import Predecessors, Record
from pronghorn.supervisor.renewal import Renewal
from pronghorn.system import memory
from pronghorn.system.processes import adopt_orphans, kill, leave_orphans, name_process, preload_libgcc
from pronghorn.system.signals import SignalPipe
from pronghorn.worker.plan import Plan
from pronghorn.worker.reports import CUT_AT_DEADLINE
from pronghorn.worker.worker import GRACE

CHANGING = {getattr(signal, f"SIG{name}") for name in "HUP USR2 TTIN TTOU WINCH".split()}
SOON = 0.05  # seconds between two looks at what nobody tells of
PASSED_ON = tuple(getattr(signal, f"SIG{name}") for name in "HUP USR2 TTIN TTOU WINCH".split())
MEND_PAUSE = 30.0  # seconds between two attempts to open a listener anew


class Supervisor:
    """Keeps the workers of a plan alive until it is told to stop.

    `announce` is called once, when the first worker is ready (`whole`: when all are), `started` as fleet.py has it;
    there are `count` of them, or as many as the plan says. `kept` are descriptors that workers shall not keep.
    `alone` says that no other code of this process starts children: it then takes a name and adopts orphans.
    `start_upgrade` starts a new program from the serving plan; `each_turn` is called with the clock at least once in
    a tick, and `signals` may have been taken already.
    """

    def __init__(
        self,
        planner: Planner,
        plan: Plan,
        announce: Callable[[], None],
        started: Callable[[int, int], None],
        *,
        poller: Poller | None = None,
        kept: Callable[[], Iterable[int]] = tuple,
        alone: bool = False,
        whole: bool = False,
        number: int = 1,
        predecessors: Iterable[Record] = (),
        count: int | None = None,
        start_upgrade: StartUpgrade | None = None,
        handed_over: Callable[[], None] = lambda: None,
        each_turn: Callable[[float], None] = lambda now: None,
        signals: SignalPipe | None = None,
    ) -> None:
        self.poller = poller if poller is not None else Poller()
        self.planner, self.observe = planner, plan.observe
        self.guard = self.poller.guard = Guard(self.observe)
        self.serving = Generation(number, plan, plan.workers if count is None else count, candidate=whole)
        self._announce = announce
        self.fleet = Fleet(self.poller, self.observe, self.kept, self._serves, started)
        self.fleet.generations = [self.serving]
        self.force = self.fleet.force
        self.started_at = time.monotonic()
        self._private, self._alone = kept, alone
        self._signals = signals if signals is not None else SignalPipe()
        self.predecessors = Predecessors(predecessors)
        self.changes = Changes(self, start_upgrade, handed_over)
        self._renewal = Renewal(self.poller, self.observe, self.force.helpers, self.kept)
        self._each_turn = each_turn
        self._deadline = self._workers_at = NEVER  # of the drain, with the grace; when workers are told of it
        self._stopped: list[Done] = []  # who wants to know when the server has stopped
        self._emptied: list[Done] = []  # who wants to know when no worker is left
        self._aside = False  # another program serves
        self._forced, self._look_at, self._mend_at = 0, 0.0, 0.0  # the exit status; when: listeners, scoreboard
        self._orphans = self._others = True  # whether there may be adopted processes; programs before this one

    @cached_property
    def _early(self) -> set[int]:
        """Signals that came before the server serves."""
        return set()

    @property
    def resized(self) -> int | None:
        """The number of workers, if it is another than the settings want."""
        count = len(self.serving.slots)
        return count if count and count != self.serving.plan.workers else None

    @property
    def draining(self) -> bool:
        return self._deadline < NEVER

    @property
    def leaving(self) -> bool:
        """It changes no more: it drains, or another program serves."""
        return self.draining or self._aside

    def run(self) -> int:
        """Serves until a signal or a command ends it, and returns the exit status: 0, 6 when the drain deadline cut
        connections, 128 + n when signal n ended it at once. Raises what kept the first workers from becoming ready;
        no process is left then either."""
        preload_libgcc()
        self.guard.pid = os.getpid()
        self.name()
        if self._alone:
            self.force.adopts = adopt_orphans()
            self.force.spares_sessions = not getattr(self.serving.plan.source, "command", ())  # a program's are ours
        with self._signals as signals:
            signals.listen()
            self.poller.add(self._signals, self._hear)
            try:
                self._loop()
            finally:
                self.guard.last_step("end the change under way", self.changes.abandon, STOPPING)
                self.guard.last_step("end a look at certificates", self._renewal.close)
                self.guard.last_step("end all workers", self.force.end_all)
                self.guard.last_step("end all helpers", self.force.helpers.finish)
                self.guard.last_step("let go of the signals", self.poller.remove, self._signals)
        self.observe(events.ServerStopped(self.force.cut, len(self.force.killed)))
        status = self._forced or (CUT_AT_DEADLINE if self.force.cut or self.force.killed else 0)
        for done in self._stopped:
            self.guard.last_step("answer ctl stop", done, {"status": status, "cut": self.force.cut})
        return status

    def _serves(self) -> None:
        self._announce()
        self.guard.armed = True
        self._signals.put(self._early)

    def _loop(self) -> None:
        guard = self.guard
        while not self._over:
            guard.turn()
            now = time.monotonic()
            for what, step in self._steps():
                guard(what, step, now)
            if not guard("wait", self._wait):
                time.sleep(PAUSE)

    @property
    def _over(self) -> bool:
        """Nobody is left, and nobody is wanted."""
        return self.leaving and not (self.force.living or self._orphans or (self.draining and self._others))

    def _steps(self) -> Iterator[tuple[str, Callable[[float], None]]]:
        """What a turn does, each with the words that tell of its failure; it is given the clock."""
        yield "obey signals", self._hear  # before deaths: whoever ends all of a group meant the workers too
        yield "look after its workers", self.fleet.turn
        yield "look after its control socket", self._each_turn
        yield "answer ctl drain", self._tell_emptied
        yield "open its log anew", self._renewal.turn_log
        yield "change over", self.changes.advance  # while it leaves: an upgrade that was made, and is not told of yet
        if self.draining:
            yield "tell of itself", self.fleet.pulse
            yield "have its workers drain", self._retire_all
            yield "end adopted processes", self._hurry_orphans
            yield "end programs before it", self._hurry_predecessors
        elif self._aside:
            yield "watch over its workers", self.fleet.watch_over
            yield "look at adopted processes", self._look_at_orphans
        else:
            yield "start workers", self.fleet.fill
            yield "mend the scoreboard", self._look_at_board
            yield "look at certificates", self._look_at_certificates
            yield "look at its listeners", self._look_at_listeners
        yield "kill who is late", self.force.kill_late

    def _retire_all(self, now: float) -> None:
        if now >= self._workers_at:
            self._workers_at = NEVER
            self.retire([*self.force.living.values()])

    def _hurry_orphans(self, now: float) -> None:
        late = now >= self._deadline
        self._orphans = not late  # should the next line fail
        self._orphans = self.force.hurry_orphans(late)

    def _look_at_orphans(self, now: float) -> None:
        self._orphans = False  # should the next line fail
        self._orphans = bool(self.force.owed())

    def _hurry_predecessors(self, now: float) -> None:
        """Programs before this one end by themselves at their drain deadline, or have to a moment later."""
        self._others = False  # should the next lines fail
        if now < self._deadline + 2 * TICK and self.predecessors.living():
            if now >= self._deadline + TICK:
                self.predecessors.tell(signal.SIGQUIT)
            self._others = True

    def _wait(self) -> None:
        # After a failure what is due may be due for ever.
        seconds = self._rest(time.monotonic())
        self.poller.wait(0.0 if self._over else max(seconds, PAUSE if self.guard.failed else 0.0))

    def _look_at_board(self, now: float) -> None:
        if now >= self._mend_at:
            self._mend_at = now + TICK
            self.serving.plan.board.mend()

    def _look_at_certificates(self, now: float) -> None:
        plan = self.serving.plan
        self._renewal.turn(now, plan.certificates, plan.folder)

    def _look_at_listeners(self, now: float) -> None:
        """New workers on a new socket, where one listens no more."""
        if now >= self._look_at and self.fleet.served and not self.changes.under_way:
            self._look_at = now + TICK
            if dead := [each.address for each in self.serving.plan.listeners if each.dead]:
                self._look_at = now + MEND_PAUSE
                self.changes.reload(f"nobody listens at {', '.join(dead)}", unheard, anew=False)

    def _rest(self, now: float) -> float:
        """Seconds until something falls due, at most a tick."""
        due = [now + TICK, self._deadline, self._workers_at]
        due += [self.changes.due()]
        due += [self.force.due()] if self.leaving else [self.fleet.due(), self._renewal.due()]
        if (self.draining or self._emptied) and not self.force.living:  # nobody tells of the end of another program
            due.append(now + SOON)
        return max(0.0, min(due) - now)

    # Signals

    def _hear(self, now: float = 0.0) -> None:
        self.obey(self._signals.take())

    def obey(self, numbers: bytes) -> None:
        """Does what signals ask for. During an upgrade, and after it, what is more than to end is the new program's."""
        ends = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
        for number in sorted(numbers, key=lambda each: each not in ends):  # to stop wins over all else
            if number == signal.SIGQUIT or (number == signal.SIGINT and self.draining):
                self._end_at_once(number)
            elif number in ends:
                if not self.draining:
                    self.drain(signal.Signals(number).name)
            elif number == signal.SIGUSR1 and not self.draining:
                if not self._aside:  # a new program may have opened the old file; one that serves is told by others
                    self.changes.defers(number)
                self.reopen_log()
            elif (number in PASSED_ON and self.changes.defers(number)) or self.draining:
                continue
            elif not self.fleet.served and number in CHANGING:
                self._early.add(number)
            elif number == signal.SIGHUP:
                self.changes.reload("SIGHUP", unheard)
            elif number == signal.SIGUSR2:
                self.changes.upgrade(unheard)
            elif number == signal.SIGTTIN:
                self.resize(len(self.serving.slots) + 1, "SIGTTIN")
            elif number == signal.SIGTTOU and len(self.serving.slots) > 1:
                self.resize(len(self.serving.slots) - 1, "SIGTTOU")
            elif number == signal.SIGWINCH and not _at_terminal():
                self.resize(0, "SIGWINCH")

    def _end_at_once(self, number: int) -> None:
        self._forced = self._forced or 128 + number
        self._tell_predecessors(signal.SIGQUIT)
        if not self.draining:
            self.drain(signal.Signals(number).name)
        self._deadline = 0.0
        for worker in self.force.living.values():
            worker.kill_at = 0.0

    def reopen_log(self) -> None:
        """Opens the log file anew, here and in every worker: it has been renamed."""
        self._renewal.reopen_log()
        self._tell_predecessors(signal.SIGUSR1)
        for worker in self.force.living.values():
            kill(worker.pid, signal.SIGUSR1)

    def drain(self, why: str) -> None:
        """Stops: nothing new is accepted, conversations finish, and then `run` returns."""
        timeout = self.serving.plan.settings.drain_timeout
        self.changes.abandon(self.changes.refusal())
        self._renewal.close()
        self.observe(events.DrainStarted(why, timeout, self.serving.plan.board.totals()["open"]))
        self.force.leaving = True
        self.force.cut = 0
        self.force.killed.clear()
        listeners = self.serving.plan.listeners
        self._workers_at = time.monotonic() + max((each.turn_away() for each in listeners), default=0.0)
        self._deadline = self._workers_at + timeout + GRACE
        for listener in listeners:  # workers empty the queue; when the last has, clients are refused
            listener.close()
        self._tell_predecessors(signal.SIGTERM)

    def _tell_predecessors(self, number: signal.Signals) -> None:
        if self.fleet.served:  # else the one before is the one that serves
            self.predecessors.tell(number)

    def step_aside(self) -> None:
        """Another program serves: this one looks after its workers, which go on with the connections that they have,
        and then `run` returns. Orphans are left to others: the programs that follow would be such when their parent
        has ended."""
        self._aside = True
        self.changes.abandon(self.changes.refusal())
        leave_orphans()
        for listener in self.serving.plan.listeners:
            listener.close()
        self.release(self.force.living.values())

    def stop(self, done: Done) -> None:
        """Drains; `done` hears of the end, just before `run` returns."""
        self._stopped.append(done)
        if not self.draining:
            self.drain("ctl stop")

    def when_empty(self, done: Done) -> None:
        """`done` is called once no worker is left."""
        self._emptied.append(done)

    def _tell_emptied(self, now: float) -> None:
        if not self._emptied or self.force.living or self.predecessors.living():
            return
        waiting, self._emptied = self._emptied, []
        for done in waiting:
            done({})

    def resize(self, count: int, why: str) -> None:
        """From now on there are `count` workers; those that are too many let go, and go on with the connections that
        they have. With 0 all drain, old ones too, and clients wait in the queue."""
        if self.leaving or (count and count == len(self.serving.slots)):
            return
        if count != len(self.serving.slots):
            self.observe(events.Resized(count, why))
        for generation in self.fleet.generations:
            taken = generation.resize(count)
            if count:
                self.release(worker for slot in taken for worker in (slot.worker, slot.successor) if worker is not None)
        if not count:
            self.retire([*self.force.living.values()])
            self._tell_predecessors(signal.SIGTERM)

    def release(self, workers: Iterable[Worker], alone: Iterable[str] = (), wait: float = 0.0) -> None:
        """Lets workers go on with the connections that they have, and accept no more: see Workers.release."""
        alone, timeout = tuple(alone), self.serving.plan.settings.old_workers_timeout
        for worker in workers:
            self.force.release(worker, timeout, alone, wait)

    def retire(self, workers: Iterable[Worker]) -> None:
        """Lets workers drain, within the drain timeout."""
        for worker in workers:
            self.force.retire(worker, self.serving.plan.settings.drain_timeout)

    # What the system sees

    def name(self) -> None:
        """Tells `ps` what this process is."""
        if self._alone:
            name_process(f"supervisor {' '.join(listener.address for listener in self.serving.plan.listeners)}")

    def kept(self) -> list[int]:
        """Descriptors beside those of the poller that workers and probes shall not keep: with a listener that is left
        out, or is a candidate's, its port would stay bound."""
        plans = [generation.plan for generation in self.fleet.generations]
        listeners = {fd for plan in plans for each in plan.listeners for fd in each.descriptors()}
        board = self.serving.plan.board.descriptors()
        return [
            *self._private(),
            *self.force.descriptors(),
            *self._signals.descriptors(),
            *board,
            *listeners,
            *memory.writers,
        ]


def unheard(result: object) -> None:
    """For those who asked by a signal or a changed file: nobody waits for an answer, and the log has it."""


def _at_terminal() -> bool:
    return any(os.isatty(fd) for fd in (0, 1, 2))
