"""The supervisor's loop, its signals and its way out: the process that starts, watches, replaces and drains workers.

Law: one thread, for ever. The supervisor never imports the user's handler and never touches a connection. A signal
handler does nothing: the kernel writes the signal's number into a pipe and the loop reads it there (CVE-2024-6387 is
what work in a handler can lead to).

A worker counts once it has reported that it is ready. If no worker is ready at the first start, an error is raised.
After that nothing that a handler or a setting does ends the supervisor: a worker that dies is replaced, after a growing
pause if it died early, and a reload or an upgrade that fails changes nothing. A fault of the supervisor's own does not
end it either: each step of a turn is guarded (guard.py), and so is each step of the way out. When draining starts,
clients are turned away and the supervisor closes its listeners at once. The workers begin to drain a moment later, when
handshakes that had begun are over, and close their listeners once the accept queue is empty: no client whose connect(2)
succeeded is reset.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

from pronghorn import events
from pronghorn.boot import Handed
from pronghorn.listening.listener import Listener
from pronghorn.supervisor.callbacks import Callbacks
from pronghorn.supervisor.changes import Changes
from pronghorn.supervisor.exception_guard import PAUSE, Guard
from pronghorn.supervisor.fleet import TICK, Fleet
from pronghorn.supervisor.generation import NEVER, Generation
from pronghorn.supervisor.inquiries import Inquiries
from pronghorn.supervisor.old_workers import Predecessors
from pronghorn.supervisor.planning import Planner
from pronghorn.supervisor.poller import Done, Poller
from pronghorn.supervisor.rereading import Rereading
from pronghorn.supervisor.side_process import SideProcesses
from pronghorn.system.processes import kill, name_process, preload_libgcc
from pronghorn.system.signals import SignalPipe
from pronghorn.worker_process.plan import Plan
from pronghorn.worker_process.reports import CUT_AT_DEADLINE
from pronghorn.worker_process.worker import GRACE

CHANGING = tuple(getattr(signal, f"SIG{name}") for name in "HUP USR2 TTIN TTOU WINCH".split())
SOON = 0.05  # seconds between two looks at processes whose end no descriptor shows
MEND_PAUSE = 30.0  # seconds between two attempts to open a listener anew


class Supervisor:
    """Keeps the workers of a plan alive until it is told to stop.

    `signals` are taken already. `alone` says that no other code of this process starts children: the process then gets
    a name and adopts orphans. `handed` is what the program before an upgrade hands over: then the first generation has
    to be ready as a whole before it serves.
    """

    def __init__(
        self,
        planner: Planner,
        plan: Plan,
        callbacks: Callbacks,
        signals: SignalPipe,
        *,
        alone: bool = False,
        handed: Handed | None = None,
    ) -> None:
        self.poller = Poller()
        self.observe = plan.observe
        self.guard = self.poller.guard = Guard(self.observe)
        number, count = (handed.generation, handed.workers) if handed is not None else (1, None)
        first = Generation(number, plan, plan.workers if count is None else count, candidate=handed is not None)
        self.fleet = Fleet(self.poller, self.observe, first, callbacks)
        self.workers = self.fleet.workers
        self.sides = SideProcesses(self.poller, self.workers.helpers, self.observe)
        self._sides_wait = handed is not None  # for the moment when this program serves, and no longer the one before
        self.changes = Changes(planner, self.fleet, callbacks)
        self.predecessors = Predecessors(handed.predecessors if handed is not None else ())
        self.inquiries = Inquiries(self.workers, self.elsewhere, self.observe)
        self.started_at = time.monotonic()
        self._callbacks = callbacks
        self._alone = alone
        self._signals = signals
        self._early: set[int] = set()  # signals that came before the server serves
        self._rereading = Rereading(self.fleet)
        self._deadline = self._workers_at = NEVER  # of the drain, with the grace; when workers begin it
        self.delay = DrainDelay()
        self._stopped: list[Done] = []  # to be called when the server has stopped
        self._emptied: list[Done] = []  # to be called when no worker is left
        self._forced, self._look_at, self._mend_at = 0, 0.0, 0.0  # the exit status; when: listeners, scoreboard
        self._orphans = self._others = True  # whether there may be adopted processes; programs before this one

    @property
    def draining(self) -> bool:
        return self._deadline < NEVER

    @property
    def leaving(self) -> bool:
        """It changes no more: it drains, or another program serves."""
        return self.draining or self._aside

    @property
    def _aside(self) -> bool:
        """Another program serves."""
        return self.changes.successor != 0

    def run(self) -> int:
        """Serves until a signal or a command ends it, and returns the exit status: 0, 6 when the drain deadline cut
        connections, 128 + n when signal n ended it at once. Raises what kept the first workers from becoming ready;
        no process is left then either."""
        preload_libgcc()
        self.guard.pid = os.getpid()
        self.name()
        if self._alone:
            programs = self.fleet.serving.plan.runs_programs  # their sessions are ours
            self.workers.adopt(spare_sessions=not programs)
        self._signals.listen()
        try:
            return self._run()
        finally:  # last, so that side processes can tell the end
            self.guard.last_step("end all side processes", self.sides.close)

    def _run(self) -> int:
        self.poller.add(self._signals, self._hear)
        try:
            self._loop()
        finally:
            self.guard.last_step("end the change under way", self.changes.close)
            self.guard.last_step("end a look at certificates", self._rereading.close)
            self.guard.last_step("end all workers", self.workers.end_all)
            self.guard.last_step("end all helpers", self.workers.helpers.finish)
            self.guard.last_step("let go of the signals", self.poller.remove, self._signals)
        self.observe(events.ServerStopped(self.workers.cut, len(self.workers.killed)))
        status = self._forced or (CUT_AT_DEADLINE if self.workers.cut or self.workers.killed else 0)
        for done in self._stopped:
            self.guard.last_step("answer ctl stop", done, {"status": status, "cut": self.workers.cut})
        return status

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
        """No process is left, and none is wanted."""
        return self.leaving and not (self.workers.living or self._orphans or (self.draining and self._others))

    def _steps(self) -> Iterator[tuple[str, Callable[[float], None]]]:
        """What a turn does: steps that take the clock, each with the words that complete "failed to" in the log."""
        yield "obey signals", self._hear  # before deaths: a signal to the group is meant for the workers too
        yield "look after its workers", self.fleet.turn
        yield "look after its control socket", self._callbacks.turn
        if self.fleet.served or not self._sides_wait:
            yield "look after its side processes", self.sides.turn
        yield "answer ctl drain", self._tell_emptied
        yield "end its delay", self._end_delay
        yield "answer those who ask of connections", self.inquiries.turn
        yield "open its log anew", self._rereading.turn_log
        yield "change over", self._change  # while it leaves, too: an upgrade is not over before the handover
        if self.draining:
            yield "report its state", self.fleet.pulse
            yield "have its workers drain", self._drain_workers
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
        yield "kill who is late", self.workers.kill_late

    def _change(self, now: float) -> None:
        before = self.fleet.serving
        self.changes.advance(now)
        if self.fleet.serving is not before:
            self.name()
        self.obey(self.changes.take_deferred())

    def _drain_workers(self, now: float) -> None:
        if now >= self._workers_at:
            self._workers_at = NEVER
            self.fleet.drain()

    def _hurry_orphans(self, now: float) -> None:
        late = now >= self._deadline
        self._orphans = not late  # should the next line fail
        self._orphans = self.workers.hurry_orphans(late)

    def _look_at_orphans(self, now: float) -> None:
        self._orphans = False  # should the next line fail
        self._orphans = bool(self.workers.owed())

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
            self.fleet.serving.plan.board.mend()

    def _look_at_certificates(self, now: float) -> None:
        plan = self.fleet.serving.plan
        self._rereading.turn(now, plan.certificates, plan.folder)

    def _look_at_listeners(self, now: float) -> None:
        """New workers on a new socket, where one listens no more."""
        if now >= self._look_at and self.fleet.served and not self.changes.under_way:
            self._look_at = now + TICK
            if dead := [each.address for each in self.fleet.serving.plan.listeners if each.dead]:
                self._look_at = now + MEND_PAUSE
                self.changes.reload(f"nobody listens at {', '.join(dead)}", anew=False)

    def _rest(self, now: float) -> float:
        """Seconds until something falls due, at most a tick."""
        due = [now + TICK, self._deadline, self._workers_at, self.delay.until]
        due += [self.changes.due(), self.sides.due() if self.fleet.served or not self._sides_wait else NEVER]
        due += [self.inquiries.due()]
        due += [self.workers.due()] if self.leaving else [self.fleet.due(), self._rereading.due()]
        if (self.draining or self._emptied) and not self.workers.living:  # the end of another program wakes no poll(2)
            due.append(now + SOON)
        return max(0.0, min(due) - now)

    # Signals

    def _hear(self, now: float = 0.0) -> None:
        numbers = self._signals.take()
        if self.fleet.served and self._early:
            numbers += bytes(self._early)
            self._early.clear()
        self.obey(numbers)

    def obey(self, numbers: bytes) -> None:
        """Does what signals ask for. During an upgrade, and after it, what is more than to end is the new program's."""
        ends = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
        for number in sorted(numbers, key=lambda each: each not in ends):  # to stop wins over all else
            if number == signal.SIGQUIT or (number == signal.SIGINT and self.draining):
                self._end_at_once(number)
            elif number in ends:
                if not self.draining:
                    name = signal.Signals(number).name
                    self.stop_later(name) if number == signal.SIGTERM else self.drain(name)
            elif number == signal.SIGUSR1 and not self.draining:
                if not self._aside:  # a new program may have opened the old file; one that serves gets its own signal
                    self.changes.defers(number)
                self.reopen_log()
            elif (number in CHANGING and self.changes.defers(number)) or self.draining:
                continue
            elif not self.fleet.served and number in CHANGING:
                self._early.add(number)
            elif number == signal.SIGHUP:
                self.changes.reload("SIGHUP")
            elif number == signal.SIGUSR2:
                self.changes.upgrade()
            elif number == signal.SIGTTIN:
                self.resize(len(self.fleet.serving.slots) + 1, "SIGTTIN")
            elif number == signal.SIGTTOU and len(self.fleet.serving.slots) > 1:
                self.resize(len(self.fleet.serving.slots) - 1, "SIGTTOU")
            elif number == signal.SIGWINCH and not _at_terminal():
                self.resize(0, "SIGWINCH")

    def _end_at_once(self, number: int) -> None:
        self._forced = self._forced or 128 + number
        self._tell_predecessors(signal.SIGQUIT)
        if not self.draining:
            self.drain(signal.Signals(number).name)
        self._deadline = 0.0
        for worker in self.workers.living.values():
            worker.kill_at = 0.0

    def reopen_log(self) -> None:
        """Opens the log file anew, here and in every worker: it has been renamed."""
        self._rereading.reopen_log()
        self._callbacks.reopen()
        self._tell_predecessors(signal.SIGUSR1)
        for worker in self.workers.living.values():
            kill(worker.pid, signal.SIGUSR1)

    def stop_later(self, why: str) -> None:
        """Stops when `--drain-delay` is over: until then the server says that it is not ready, and accepts. At once
        where there is no delay, or nothing is accepted, or a delay is under way: this is the second wish to stop."""
        seconds = self.fleet.serving.plan.settings.drain_delay
        accepts = self.fleet.served and not self._aside and self.fleet.serving.slots
        if not seconds or not accepts or self.delay.stops:
            return self.drain(why)
        self.changes.close()
        self.delay.begin(why, seconds, stops=True)
        self.workers.begin_delay()
        self.observe(events.DrainDelayed(why, seconds))
        self._callbacks.readiness_changed()

    def empty(self, why: str) -> None:
        """Has all workers drain, and none take their places until `resize` or a reload; after `--drain-delay`, too."""
        seconds = self.fleet.serving.plan.settings.drain_delay
        if not seconds or self.delay.under_way or not self.fleet.served or not self.fleet.serving.slots:
            return self.resize(0, why)
        self.delay.begin(why, seconds, stops=False)
        self.observe(events.DrainDelayed(why, seconds, False))
        self._callbacks.readiness_changed()

    def _end_delay(self, now: float) -> None:
        if now >= self.delay.until:
            self.drain(self.delay.why) if self.delay.stops else self.resize(0, self.delay.why)

    def drain(self, why: str) -> None:
        """Stops: nothing new is accepted, conversations finish, and then `run` returns."""
        timeout = self.fleet.serving.plan.settings.drain_timeout
        self.delay.end()
        self.changes.close()
        self._rereading.close()
        whole, own = self.fleet.serving.plan.board.totals()["open"], self.workers.left_open()
        self.observe(events.DrainStarted(why, timeout, own if self.changes.successor else whole))
        self.workers.begin_drain()
        listeners = self.fleet.serving.plan.listeners
        self._workers_at = time.monotonic() + max((each.turn_away() for each in listeners), default=0.0)
        self._deadline = self._workers_at + timeout + GRACE
        for listener in listeners:  # workers empty the queue; when the last has, clients are refused
            if not self.workers.living:
                _turn_away_waiting(listener)
            listener.close()
        self._tell_predecessors(signal.SIGTERM)
        self._callbacks.readiness_changed()

    def _tell_predecessors(self, number: signal.Signals) -> None:
        if self.fleet.served:  # else the one before is the one that serves
            self.predecessors.tell(number)

    def stop(self, done: Done) -> None:
        """Drains; `done` hears of the end, just before `run` returns."""
        self._stopped.append(done)
        if not self.draining:
            self.stop_later("ctl stop")

    def when_empty(self, done: Done) -> None:
        """`done` is called once no worker is left."""
        self._emptied.append(done)

    def _tell_emptied(self, now: float) -> None:
        if not self._emptied or self.workers.living or self.predecessors.living():
            return
        waiting, self._emptied = self._emptied, []
        for done in waiting:
            done({})

    def elsewhere(self) -> dict[str, int]:
        """The programs before this one in upgrades: how many there are, and the connections of their workers; and
        the connections of processes that dead workers have left."""
        rows = self.fleet.serving.plan.board.rows()
        count = sum(row.open for row in rows if row.supervisor != os.getpid())
        orphans = sum(len(set(each.living.values())) for each in self.workers.left)
        return {"programs": len(self.predecessors.living()), "open": count, "orphans": orphans}

    def resize(self, count: int, why: str) -> None:
        """From now on there are `count` workers; with 0 clients wait in the queue: see Fleet.resize."""
        if self.leaving or (count and count == len(self.fleet.serving.slots) and not self.delay.under_way):
            return
        if not self.delay.stops:
            self.delay.end()
        self.fleet.resize(count, why)
        self._callbacks.readiness_changed()
        if not count:
            self._tell_predecessors(signal.SIGTERM)

    def name(self) -> None:
        """Sets the name of this process that `ps` shows."""
        if self._alone:
            name_process(f"supervisor {' '.join(listener.address for listener in self.fleet.serving.plan.listeners)}")


class DrainDelay:
    """The time in which the server says that it is not ready, and goes on accepting: `until` an instant (monotonic),
    and `why`. It `stops` after that, or else only its workers leave."""

    __slots__ = ("stops", "until", "why")

    def __init__(self) -> None:
        self.end()

    def begin(self, why: str, seconds: float, *, stops: bool) -> None:
        self.why, self.until, self.stops = why, time.monotonic() + seconds, stops

    def end(self) -> None:
        """It is over, or nobody wants it any more."""
        self.why, self.until, self.stops = "", NEVER, False

    @property
    def under_way(self) -> bool:
        return self.until < NEVER

    @property
    def left(self) -> float:
        """Seconds; 0 if none is under way."""
        return max(0.0, self.until - time.monotonic()) if self.under_way else 0.0


def _at_terminal() -> bool:
    return any(os.isatty(fd) for fd in (0, 1, 2))


def _turn_away_waiting(listener: Listener) -> None:
    """Ends who waits in the queue, in order: there is no worker that could, and close(2) would reset them."""
    from pronghorn.connection.closing import turn_away  # here: workers turn clients away, and seldom their supervisor

    for fd in listener.waiting():
        turn_away(fd)
