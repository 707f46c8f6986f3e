"""What changes the server while it serves: one reload or upgrade at a time, and who waits.

Law: a change is a transaction (change.py); here stands which one is begun, and what follows when it is over. Many
requests for a reload become two at most: the one under way, and one that waits for its end. An upgrade waits for a
reload that is under way, and goes before one that waits: it reads everything anew. To stop wins over all.
A change is over for those who asked when the workers before it accept no more: who connects after that meets the new
ones.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from typing import Any

from pronghorn import events
from pronghorn.errors import PronghornError
from pronghorn.serving.handover import Outcome
from pronghorn.supervisor.callbacks import Callbacks
from pronghorn.supervisor.change import Change
from pronghorn.supervisor.fleet import HANDING_OVER, Fleet
from pronghorn.supervisor.generation import NEVER, Worker
from pronghorn.supervisor.planning import Planner
from pronghorn.supervisor.poller import Done
from pronghorn.supervisor.reload import Reload
from pronghorn.supervisor.upgrade import Upgrade
from pronghorn.supervisor.workers import Workers
from pronghorn.system.processes import kill

MOST_DEFERRED = 64  # signals: as often as anybody may mean it
LETTING_GO = 3.0  # seconds that old workers get to let go of their listeners, also those that wait for a processor
BUSY = PronghornError("An upgrade is under way.", "", "Try again when it is over.")
AS_PROCESS_1 = PronghornError(
    "An upgrade is not possible as process 1.",
    "When the old program ended, so would the container.",
    "Start a new container, or reload.",
)
AFTER_THE_START = PronghornError("The server has only just been started.", "", "Try again when it serves.")


def unheard(result: object) -> None:
    """For a request by a signal or a changed file: no answer is expected, and the log has it."""


class LettingGo:
    """The workers before a change, which have been told to let go of their listeners. They may hand connections over,
    and so may those of earlier changes."""

    def __init__(self, workers: Workers, old: list[Worker]) -> None:
        now = time.monotonic()
        self._until, self._moved_by = now + LETTING_GO, now + HANDING_OVER
        self._workers = workers
        self._old = old
        self._moved = {each: each.told.moved for each in {*old, *workers.retiring()}}

    @property
    def accepting(self) -> int:
        """How many of them may still accept."""
        return self._workers.accepting(self._old)

    @property
    def due(self) -> float:
        """The instant (monotonic) at which it is over; 0.0 if it is now."""
        moving = any(each.is_handing_over and self._workers.living.get(each.pid) is each for each in self._moved)
        return max(self._until if self.accepting else 0.0, self._moved_by if moving else 0.0)

    @property
    def outcome(self) -> Outcome:
        """What became of their connections by this change."""
        known = [(each.outcome, before) for each, before in self._moved.items() if each.outcome is not None]
        return sum((outcome.since(before) for outcome, before in known), Outcome())


class Changes:
    """The change under way, and those that wait. `successor` is the process that this one was upgraded to."""

    def __init__(self, planner: Planner, fleet: Fleet, callbacks: Callbacks) -> None:
        self.last_reload: dict[str, Any] | None = None
        self.successor = 0
        self._planner = planner
        self._fleet = fleet
        self._callbacks = callbacks
        self._change: Change | None = None
        self._letting_go: LettingGo | None = None  # of the change, when it has taken over
        self._reloads: list[tuple[str, Done]] = []  # that wait for the change under way
        self._upgrades: list[Done] = []  # that were asked for during a reload
        self._deferred: list[int] = []  # signals that came during an upgrade
        self._closed = False

    @property
    def under_way(self) -> str:
        """`reload` or `upgrade`, or nothing."""
        return self._change.kind if self._change is not None else ""

    def due(self) -> float:
        """The instant (monotonic) at which `advance` has something to do."""
        if self._letting_go is not None:
            return self._letting_go.due
        return self._change.due() if self._change is not None else NEVER

    def reload(self, why: str, done: Done = unheard, *, anew: bool = True) -> None:
        """Reads settings and handler anew; `done` is called with how it ended. One is under way at most, and one waits.
        Without `anew` it is the same settings for new workers."""
        if self._leaving:
            done(self.refusal())
        elif self.under_way or not self._fleet.served:
            self._reloads.append((why, done))
        else:
            self._change = Reload(why, self._planner, self._fleet, done, anew=anew)

    def upgrade(self, done: Done = unheard) -> None:
        """Has a new program take over, after a reload that is under way; `done` is called with how it ended."""
        if self._leaving:
            return done(self.refusal())
        if self.under_way == "reload":
            return self._upgrades.append(done)
        refusal = self._no_upgrade()
        if refusal is None:
            try:
                serving = self._fleet.serving
                serving.plan.board.mend()  # the new program wants to find it as it should be
                program = self._callbacks.new_program(serving.number + 1)
                self._change = Upgrade(program, self._fleet, self._callbacks, done)
                return
            except PronghornError as error:
                refusal = error
            except Exception as error:  # whatever it is, it ends the upgrade and not the server
                refusal = PronghornError("The new program cannot be started.", f"{type(error).__name__}: {error}")
        self._fleet.observe(events.UpgradeFailed(refusal.what, refusal.explanation))
        done(refusal)

    def advance(self, now: float) -> None:
        """Looks after the change under way, and begins the one that waits."""
        if self._letting_go is not None:
            if now >= self._letting_go.due:
                self._hand_over()
        elif self._change is not None:
            self._change.look(now)
            if self._change.over:
                self._settle(self._change)
        if self._upgrades and not self.under_way:
            waiting, self._upgrades = self._upgrades, []
            self.upgrade(to_all(waiting))
        if self._reloads and not self.under_way and self._fleet.served and not self._leaving:
            (why, _), *_ = asked = self._reloads
            self._reloads = []
            self.reload(why, to_all(done for _, done in asked))

    def refusal(self) -> PronghornError:
        """Why nothing is changed any more."""
        if not self.successor:
            return PronghornError("The server is stopping.")
        why = f"It was upgraded: process {self.successor} serves now, and has read settings and handler anew."
        return PronghornError("This program is on its way out.", why, "Ask again: the new program answers.")

    def no_resize(self) -> PronghornError | None:
        """Why the number of workers cannot be changed now; None if it can. The new program of an upgrade starts with as
        many as there were when it was asked for."""
        return self.refusal() if self._leaving else BUSY if self.under_way == "upgrade" else None

    def defers(self, number: int) -> bool:
        """Whether a signal is the new program's: kept until the upgrade under way is decided, or passed on at once."""
        if self.successor:
            kill(self.successor, signal.Signals(number))
            return True
        if self.under_way != "upgrade" or number == signal.SIGUSR2:  # one upgrade is enough: another is refused
            return False
        if len(self._deferred) < MOST_DEFERRED:
            self._deferred.append(number)
        return True

    def take_deferred(self) -> bytes:
        """The signals that were kept for a new program which has failed; SIGUSR1 was obeyed at once."""
        if not self._deferred or self.under_way == "upgrade":
            return b""
        deferred, self._deferred = self._deferred, []
        return bytes(each for each in deferred if each != signal.SIGUSR1)

    def close(self) -> None:
        """Nothing is changed from now on. Ends the change under way, without a record: there is something more
        important to say. One that has taken over is over now."""
        self._closed = True
        self._hand_over()
        change, self._change = self._change, None
        error = self.refusal()
        if change is not None:
            change.fail(error)
            change.done(error)
        self._refuse_waiting(error)

    # Inner workings.

    @property
    def _leaving(self) -> bool:
        return self._closed or self.successor != 0

    def _no_upgrade(self) -> PronghornError | None:
        if self.under_way:
            return BUSY
        if not self._fleet.served:
            return AFTER_THE_START
        return AS_PROCESS_1 if os.getpid() == 1 else None

    def _settle(self, change: Change) -> None:
        self._change = None
        if change.error is not None:
            self._note(change)
            self._fleet.observe(change.failure(change.error.what, change.error.explanation))
            return change.done(change.error)
        old = change.replaced()
        self.successor = change.successor
        change.take_over()
        if self.successor:
            self._pass_on()
        self._change, self._letting_go = change, LettingGo(self._fleet.workers, old)

    def _hand_over(self) -> None:
        change, letting_go = self._change, self._letting_go
        if change is not None and letting_go is not None:
            self._change = self._letting_go = None
            change.done(change.succeeded(self._note(change), letting_go.accepting, letting_go.outcome))

    def _note(self, change: Change) -> float:
        seconds = round(time.monotonic() - change.began, 3)
        if change.kind == "reload":
            why = {"why": change.error.explanation} if change.error is not None else {}
            self.last_reload = {"ok": not why, "seconds": seconds, "ended_at": time.time(), **why}
        if isinstance(change, Reload):
            self._callbacks.reloaded(change.sources, change.files, change.since)
        return seconds

    def _pass_on(self) -> None:
        """What was asked for meanwhile goes to the new program. A request by ctl is refused with the advice to ask
        again; one by a signal or a changed file expects no answer."""
        asked = [signal.SIGHUP] if any(not why.startswith("ctl ") for why, _ in self._reloads) else []
        for number in (*self._deferred, *asked):
            kill(self.successor, signal.Signals(number))
        self._deferred = []
        self._refuse_waiting(self.refusal())

    def _refuse_waiting(self, error: PronghornError) -> None:
        waiting = [done for _, done in self._reloads] + self._upgrades
        self._reloads, self._upgrades = [], []
        to_all(waiting)(error)


def to_all(waiting: Iterable[Done]) -> Done:
    """One callback for all who wait."""
    each = list(waiting)

    def done(result: dict[str, Any] | PronghornError) -> None:
        for one in each:
            one(result)

    return done
