"""What the supervisor notes of a slot, of the worker in it, and of the generation that both belong to.

Law: pure book-keeping. Nothing here forks, waits, kills or reads the clock: what happened, and when, is passed in.
"""

from __future__ import annotations

import signal
import socket

from pronghorn.errors import PronghornError, WorkerFailedToStart, printable
from pronghorn.scoreboard.counts import ChildCounts
from pronghorn.scoreboard.row import Row
from pronghorn.scoreboard.stacks import Stacks
from pronghorn.serving.handover import Outcome
from pronghorn.supervisor.debuggers import Question
from pronghorn.supervisor.report_reader import ReportReader
from pronghorn.worker_process.plan import Plan

STEADY = 1.0  # a worker that has been ready for so long did not die early
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
LONGEST_PAUSE_WHEN_KILLED = 0.5
NEVER = float("inf")


class Slot:
    """A place for one worker; it outlives the workers that fill it.

    `failure` is what kept its last worker from becoming ready, `retry_at` the earliest time for the next one.
    `successor` is a worker that starts while `worker` still serves, and takes its place once it is ready.
    """

    __slots__ = ("deaths", "failure", "kills", "number", "retry_at", "successor", "worker")

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.successor: Worker | None = None
        self.failure: PronghornError | None = None
        self.deaths = 0
        self.kills = 0
        self.retry_at = 0.0

    def rest(self, now: float, killed: bool = False) -> float:
        """Counts one more early death; the pause in seconds before the next attempt. A worker that was killed from
        outside is no sign of a fault in its handler and is replaced sooner."""
        if killed:
            self.kills += 1
            pause = min(FIRST_PAUSE * 2.0 ** min(self.kills - 1, 10), LONGEST_PAUSE_WHEN_KILLED)
        else:
            self.deaths += 1
            pause = min(FIRST_PAUSE * 2.0 ** min(self.deaths - 1, 10), LONGEST_PAUSE)
        self.retry_at = now + pause
        return pause

    def forgive(self, retry_at: float) -> None:
        """Its worker was ready for a while, or has served: earlier deaths count no more."""
        self.deaths = self.kills = 0
        self.retry_at = retry_at

    @property
    def began(self) -> bool:
        """Whether it is known if its worker has started: it is ready, or has failed to be."""
        worker = self.worker
        return self.failure is not None or bool(self.deaths or self.kills) or (worker is not None and worker.ready)

    def lost(self, worker: Worker) -> None:
        """The worker is gone; the slot does not know it any more."""
        if self.worker is worker:
            self.worker = None
        if self.successor is worker:
            self.successor = None


class Worker:
    """One worker process: when it started and became ready, and what it has said.

    `cut` is the number of connections that it cut at the drain deadline (None: it has not said so), `doom` the reason
    why the supervisor kills it, at `kill_at` (monotonic) at the latest. It has `served` if it had accepted a connection
    when it died; `connected` are the sources that were then, `seen` those before (scoreboard/suspects.py). One that is
    `retired` is on its way out: at `release_at` it is told to let go of its listeners, and at `drain_at` at the latest
    it is `draining`; goodbyes are said meanwhile over `spread` seconds, unless that is 0. It has `let_go` when it
    accepts no more; `alone` are the listeners that nobody else serves.
    `stage` is what it set about last before it was ready, `debugged` what is known of that while it is silent. One that
    has asked whether it shall finish is told so at `answer_at`. One that is retired `hands_over` its connections, and
    says what the `outcome` is; `told` is the one before.
    """

    __slots__ = tuple(
        "alone answer_at children connected crash cut debugged doom drain_at draining failure generation "
        "hands_over kill_at let_go line outcome pid ready_at release_at reports retired retired_at row seen served "
        "slot spread stacks stage started_at told".split()
    )

    def __init__(
        self,
        pid: int,
        generation: Generation,
        slot: Slot,
        line: socket.socket,
        row: Row,
        stacks: Stacks,
        children: ChildCounts | None,
        now: float,
    ) -> None:
        self.pid = pid
        self.generation = generation
        self.slot = slot
        self.line = line
        self.reports = ReportReader(line)
        self.row = row
        self.stacks = stacks
        self.debugged: Question | None = None
        self.children = children
        self.kill_at = NEVER
        self.retired = self.draining = False
        self.release_at = self.drain_at = self.retired_at = self.answer_at = NEVER
        self.alone: tuple[str, ...] = ()
        self.spread = 0.0
        self.served = False
        self.connected: dict[int, int] = {}
        self.seen: set[int] = set()
        self.started_at = now
        self.ready_at = NEVER
        self.let_go = False
        self.failure: PronghornError | None = None
        self.crash = ""
        self.cut: int | None = None
        self.hands_over = False
        self.outcome: Outcome | None = None
        self.told = Outcome()
        self.doom = ""
        self.stage = ""

    @property
    def ready(self) -> bool:
        return self.ready_at < NEVER

    @property
    def is_handing_over(self) -> bool:
        """It has not said yet what became of its connections."""
        return self.hands_over and self.outcome is None and not self.draining

    def steady(self, now: float) -> bool:
        return now - self.ready_at >= STEADY

    def killed(self, status: int) -> bool:
        """It was killed, and not by the supervisor."""
        return status == -signal.SIGKILL and not self.doom

    def start_failure(self, status: int) -> PronghornError:
        """Why it ended before it was ready: its own words, or what can be said without them."""
        if self.failure is not None:
            return self.failure
        if lines := self.crash.strip().splitlines():
            return WorkerFailedToStart("A worker failed before it was ready.", printable(lines[-1]))
        how = f"ended with exit status {status}" if status >= 0 else f"was killed by signal {-status}"
        stage = f", while {self.stage}" if self.stage else ""
        return WorkerFailedToStart("A worker did not become ready.", f"It {self.doom or how}{stage}.")


class Generation:
    """The workers that are made from one plan; each reload makes another generation.

    A `candidate` has to become ready as a whole before it may take over; `failure` is what keeps it from that.
    """

    __slots__ = ("candidate", "failure", "number", "plan", "slots")

    def __init__(self, number: int, plan: Plan, count: int, *, candidate: bool) -> None:
        self.number = number
        self.plan = plan
        self.slots = [Slot(number) for number in range(1, count + 1)]
        self.candidate = candidate
        self.failure: PronghornError | None = None

    @property
    def ready(self) -> int:
        """How many of its slots have a worker that is ready."""
        return sum(slot.worker is not None and slot.worker.ready for slot in self.slots)

    @property
    def complete(self) -> bool:
        return self.ready == len(self.slots)

    def resize(self, count: int) -> list[Slot]:
        """Adds slots, or takes some away and returns them: first those in which nobody serves, then the last ones. (If
        the handler is broken by now, the others may be the only workers that there are.)"""
        order = sorted(self.slots, key=lambda slot: (slot.worker is None or not slot.worker.ready, slot.number))
        taken, kept = order[count:], order[:count]
        numbers = {slot.number for slot in kept}
        free = [number for number in range(1, count + 1) if number not in numbers]
        kept += [Slot(number) for number in free[: count - len(kept)]]
        self.slots = sorted(kept, key=lambda slot: slot.number)
        return taken
