"""Many processes: spawn, watch, replace, drain.

Law: one thread, for ever. It never imports the user's handler and never touches a connection. A signal handler does
nothing: the kernel writes the signal's number into a pipe and the loop reads it there (CVE-2024-6387 is what work in
a handler can lead to). Signals are blocked around fork(2). Twenty deaths can be one SIGCHLD, so every turn of the loop
asks after each of its own children by name; waitpid(-1) would take the statuses of children that are not ours.

A worker counts once it has said READY. If none can at the first start, its error is raised; after that nothing that a
handler does ends the supervisor: a death is followed by a new worker, with a growing pause if it came early. What a
killed worker leaves behind (the children of the fork model) is adopted by way of PR_SET_CHILD_SUBREAPER, may finish,
and ends by the drain deadline.

When draining starts, the listeners are closed here at once, and by each worker once the accept queue is empty.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from select import POLLIN, poll

from pronghorn import events
from pronghorn.errors import PronghornError, WorkerFailedToStart
from pronghorn.processes import SignalPipe, adopt_orphans, children, flush_streams, kill, name_process, preload_libgcc
from pronghorn.slots import NEVER, Slot, Worker
from pronghorn.worker import CUT_AT_DEADLINE, Closable, Crashed, Failed, Finished, Plan, Ready, Stage, work

TICK = 1.0
GRACE = 2.0  # what a worker gets beyond the drain timeout, to cut, wait for its flows of control, and report
LEFT_IN_ORDER = (0, CUT_AT_DEADLINE, -signal.SIGTERM)  # TERM ends a worker that is not ready yet


class Supervisor:
    """Keeps the workers of one `plan` alive until it is told to stop.

    `announce` is called once, when the first worker is ready. `private` is what workers shall not inherit. `alone`
    says that no other code of this process starts children: it then takes a name and adopts orphans.
    """

    def __init__(
        self, plan: Plan, announce: Callable[[], None], private: Iterable[Closable] = (), *, alone: bool = False
    ) -> None:
        count = plan.settings.effective_workers(plan.model.name)
        self._plan = plan
        self._settings = plan.settings
        self._observe = plan.observe
        self._announce = announce
        self._private = tuple(private)
        self._alone = alone
        self._adopts = False
        self._served = False
        self._slots = [Slot(number) for number in range(1, count + 1)]
        self._workers: dict[int, Worker] = {}
        self._told: set[int] = set()  # adopted processes that know of the drain
        self._killed: set[int] = set()  # processes that did not end by the drain deadline
        self._signals = SignalPipe()
        self._poll = poll()
        self._started_at = time.monotonic()
        self._deadline = NEVER  # of the drain, with the grace
        self._cut = 0
        self._forced = 0

    @property
    def draining(self) -> bool:
        return self._deadline < NEVER

    def run(self) -> int:
        """Serves until a signal ends it, and returns the exit status: 0, 6 when the drain deadline cut connections,
        128 + n when signal n ended it at once. Raises what kept the first workers from becoming ready; no process is
        left then either."""
        preload_libgcc()
        if self._alone:
            name_process(f"supervisor {' '.join(listener.address for listener in self._plan.listeners)}")
            self._adopts = adopt_orphans()
        with self._signals:
            self._poll.register(self._signals, POLLIN)
            try:
                self._loop()
            finally:
                self._end_all()
        self._observe(events.ServerStopped(self._cut, len(self._killed)))
        return self._forced or (CUT_AT_DEADLINE if self._cut or self._killed else 0)

    def _loop(self) -> None:
        while True:
            self._reap()
            now = time.monotonic()
            if self.draining:
                if not self._workers and not self._orphans():
                    return
                self._hurry(now)
            else:
                self._give_up(now)
                self._kill_late(now)
                self._fill(now)
            for fd, _ in self._poll.poll(self._rest(time.monotonic()) * 1000):
                if fd == self._signals.fileno():
                    self._obey(self._signals.take())
            for worker in list(self._workers.values()):
                self._hear(worker)

    def _rest(self, now: float) -> float:
        """Seconds until something falls due, at most a tick."""
        due = [now + TICK, self._deadline]
        if not self.draining:
            due += [slot.retry_at for slot in self._slots if slot.worker is None and self._may_retry(slot)]
            due += [w.started_at + self._settings.start_timeout for w in self._workers.values() if not w.ready]
        return max(0.0, min(due) - now)

    # Signals

    def _obey(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGQUIT or (number == signal.SIGINT and self.draining):
                self._forced = self._forced or 128 + number
                self._deadline = 0.0
            elif number in (signal.SIGTERM, signal.SIGINT) and not self.draining:
                self._drain(signal.Signals(number).name)

    def _drain(self, why: str) -> None:
        self._deadline = time.monotonic() + self._settings.drain_timeout + GRACE
        self._observe(events.DrainStarted(why, self._settings.drain_timeout))
        for listener in self._plan.listeners:  # the workers empty the queue; when the last has, clients are refused
            listener.close()
        for pid in self._workers:
            kill(pid, signal.SIGTERM)

    def _hurry(self, now: float) -> None:
        """While draining: what was adopted learns of it, and at the deadline whatever still lives is killed."""
        late = now >= self._deadline
        for pid in self._orphans():
            if pid not in self._told:
                self._told.add(pid)
                kill(pid, signal.SIGTERM)
            if late:
                self._killed.add(pid)
                kill(pid, signal.SIGKILL)
        for worker in self._workers.values() if late else ():
            worker.doom = "did not leave by the drain deadline"
            kill(worker.pid, signal.SIGKILL)

    def _end_all(self) -> None:
        """Leaves no process behind, whatever happened."""
        self._deadline = min(self._deadline, 0.0)
        for pid in (*self._workers, *self._orphans()):
            kill(pid, signal.SIGKILL)
        while self._workers:
            self._reap()
            self._poll.poll(10)

    # Births

    def _may_retry(self, slot: Slot) -> bool:
        return self._served or slot.failure is None

    def _fill(self, now: float) -> None:
        for slot in self._slots:
            if slot.worker is None and now >= slot.retry_at and self._may_retry(slot):
                self._spawn(slot)

    def _spawn(self, slot: Slot) -> None:
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            return self._not_started(slot, f"socketpair: {error.strerror}")
        flush_streams()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                work(self._plan, slot.number, theirs, mask, self._inherited(ours))
        except OSError as error:
            ours.close()
            return self._not_started(slot, f"fork: {error.strerror}")
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        slot.worker = self._workers[pid] = Worker(pid, slot, ours, time.monotonic())
        self._poll.register(ours, POLLIN)
        self._observe(events.WorkerStarted(slot.number, pid))

    def _inherited(self, ours: socket.socket) -> list[Closable]:
        """What a new worker has of ours and must let go of: a line that another process holds open never ends."""
        return [*self._private, self._signals, ours, *(worker.line for worker in self._workers.values())]

    def _not_started(self, slot: Slot, why: str, killed: bool = False) -> None:
        pause = slot.rest(time.monotonic(), killed)
        self._observe(events.WorkerNotStarted(slot.number, why, pause))

    # Reports

    def _hear(self, worker: Worker) -> None:
        reports, ended = worker.reports()
        for report in reports:
            match report:
                case Ready():
                    self._ready(worker)
                case Stage():
                    worker.stage = report.what
                case Failed():
                    worker.failure = report.error()
                case Crashed():
                    worker.crash = report.trace
                case Finished():
                    worker.cut = report.cut
        if ended:
            self._hang_up(worker)

    def _hang_up(self, worker: Worker) -> None:
        if worker.line.fileno() >= 0:
            self._poll.unregister(worker.line)
            worker.line.close()

    def _ready(self, worker: Worker) -> None:
        worker.ready_at = time.monotonic()
        worker.slot.failure = None
        self._observe(events.WorkerReady(worker.slot.number, worker.pid))
        if self._served:
            return
        self._served = True
        self._announce()
        for slot in self._slots:
            if slot.failure is not None:
                self._not_started(slot, _told(slot.failure))

    # Deaths

    def _reap(self) -> None:
        for pid in (*self._workers, *self._orphans()):
            try:
                done, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                done, status = pid, 255 << 8  # somebody else took the status; the process is gone all the same
            if done and pid in self._workers:
                self._bury(self._workers[pid], os.waitstatus_to_exitcode(status))

    def _bury(self, worker: Worker, status: int) -> None:
        self._hear(worker)
        self._hang_up(worker)
        del self._workers[worker.pid]
        slot = worker.slot
        slot.worker = None
        if worker.crash and worker.ready:
            self._observe(events.WorkerCrashed(slot.number, worker.pid, worker.crash))
        if worker.ready or self.draining:
            wanted = self.draining and (status in LEFT_IN_ORDER or bool(worker.doom))
            self._observe(events.WorkerExited(slot.number, worker.pid, status, wanted))
        if not self.draining:
            self._succeed(worker, status)
        elif worker.cut is not None:
            self._cut += worker.cut
        elif worker.doom and worker.ready:
            self._killed.add(worker.pid)

    def _succeed(self, worker: Worker, status: int) -> None:
        """Says when the slot of a dead worker is filled again."""
        slot, now = worker.slot, time.monotonic()
        if worker.steady(now):
            slot.forgive()
        elif worker.ready:
            slot.rest(now, worker.killed(status))
        else:
            slot.failure = worker.start_failure(status)
            if self._served:
                self._not_started(slot, _told(slot.failure), worker.killed(status))

    def _give_up(self, now: float) -> None:
        """Raises if nothing has ever been ready and nothing will be."""
        if self._served or self._workers:
            return
        failures = [slot.failure for slot in self._slots if slot.failure is not None]
        if len(failures) == len(self._slots):
            raise failures[0]
        if now >= self._started_at + self._settings.start_timeout:
            raise WorkerFailedToStart("No worker could be started.", "fork(2) failed each time.", "See the log above.")

    def _kill_late(self, now: float) -> None:
        limit = self._settings.start_timeout
        for worker in self._workers.values():
            if not worker.ready and now >= worker.started_at + limit:
                worker.doom = f"was not ready within {limit:g} s (--start-timeout)"
                kill(worker.pid, signal.SIGKILL)

    def _orphans(self) -> list[int]:
        """Adopted processes, dead ones too."""
        return [pid for pid in children() if pid not in self._workers] if self._adopts else []


def _told(error: PronghornError) -> str:
    return "\n".join(part for part in (error.what, error.why) if part)
