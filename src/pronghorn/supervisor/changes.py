"""What changes the server while it serves: one reload or upgrade at a time.

Law: a change is a transaction (reload.py, upgrade.py); here stands what is done when one is over, and who waits. Many
requests for a reload become two at most: the one under way, and one that waits for its end. An upgrade waits for a
reload that is under way, and goes before one that waits: it reads everything anew. To stop wins over all.
A change is told of when the workers before it accept no more: who connects after that meets the new ones.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pronghorn import events
from pronghorn.errors import PronghornError, told
from pronghorn.listening.binding import renew
from pronghorn.listening.listener import Listener
from pronghorn.supervisor.generation import NEVER, Generation, Worker
from pronghorn.supervisor.poller import Done
from pronghorn.supervisor.reload import Reload
from pronghorn.supervisor.upgrade import Upgrade
from pronghorn.supervisor.workers import Workers
from pronghorn.system.processes import kill
from pronghorn.worker.plan import Plan

if TYPE_CHECKING:
    from pronghorn.supervisor.supervisor import Supervisor

StartUpgrade = Callable[[Plan, int], Upgrade]
MOST_DEFERRED = 64  # signals: as often as anybody may mean it
HANDOVER = 1.0  # seconds that old workers get to let go of their listeners; a conversation may hold one for longer
STOPPING = PronghornError("The server is stopping.")
BUSY = PronghornError("An upgrade is under way.", "", "Try again when it is over.")
AS_PROCESS_1 = PronghornError(
    "An upgrade is not possible as process 1.", "When the old program ended, so would the container.",
    "Start a new container, or reload.",
)  # fmt: skip
AFTER_THE_START = PronghornError("The server has only just been started.", "", "Try again when it serves.")
IN_A_SCRIPT = PronghornError("This server cannot be upgraded.", "A script holds its handler.", "Restart the script.")


class Handover:
    """The workers before a change, on their way out; `then` hears at the end how many of them may still accept. `what`
    the change is: `reload` or `upgrade`."""

    def __init__(self, what: str, force: Workers, workers: list[Worker], then: Callable[[int], None]) -> None:
        self.what = what
        self._until = time.monotonic() + HANDOVER
        self.then = then
        self._force = force
        self._workers = workers

    @property
    def accepting(self) -> int:
        return self._force.accepting(self._workers)

    @property
    def due(self) -> float:
        """The instant (monotonic) at which it is over; 0.0 if it is now."""
        return self._until if self.accepting else 0.0


class Changes:
    """The reload or upgrade under way, and those that wait. `start_upgrade` starts a new program from the serving plan
    and the number of its first generation; `handed_over` is called when it has taken over."""

    def __init__(
        self, supervisor: Supervisor, start_upgrade: StartUpgrade | None, handed_over: Callable[[], None]
    ) -> None:
        self.last_reload: dict[str, Any] | None = None
        self._supervisor = supervisor
        self._start_upgrade = start_upgrade
        self._handed_over = handed_over
        self._reload: Reload | None = None
        self._pending: list[tuple[str, Done]] = []  # reloads that wait for the change under way
        self._upgrade: Upgrade | None = None
        self._upgrades: list[Done] = []  # who asked for one during a reload
        self._deferred: list[int] = []  # signals that came during an upgrade
        self.successor = 0  # the process that this one was upgraded to
        self._handover: Handover | None = None

    @property
    def under_way(self) -> str:
        """`reload` or `upgrade`, or nothing."""
        if self._handover is not None:
            return self._handover.what
        return "reload" if self._reload is not None else "upgrade" if self._upgrade is not None else ""

    def due(self) -> float:
        """The instant (monotonic) at which `advance` has something to do."""
        if self._handover is not None:
            return self._handover.due
        return self._reload.due() if self._reload is not None else NEVER

    def reload(self, why: str, done: Done, *, anew: bool = True) -> None:
        """Reads settings and handler anew; `done` hears how it ended. One is under way at most, and one waits. Without
        `anew` it is the same settings for new workers."""
        host = self._supervisor
        if host.leaving:
            done(self.refusal())
        elif self.under_way or not host.fleet.served:
            self._pending.append((why, done))
        else:
            self._reload = Reload(
                why, host.planner, host.poller, host.observe, host.force.helpers, host.kept, anew=anew
            )
            self._reload.done.append(done)
            self._reload.begin(host.serving, self._candidate)

    def upgrade(self, done: Done) -> None:
        """Has a new program take over, after a reload that is under way; `done` hears how it ended."""
        host = self._supervisor
        if host.leaving:
            return done(self.refusal())
        if self.under_way == "reload":
            return self._upgrades.append(done)
        refusal = AS_PROCESS_1 if os.getpid() == 1 else IN_A_SCRIPT if self._start_upgrade is None else None
        if self.under_way or not host.fleet.served:
            refusal = BUSY if self.under_way else AFTER_THE_START
        if refusal is None:
            try:
                assert self._start_upgrade is not None
                host.serving.plan.board.mend()  # the new program wants to find it as it should be
                self._upgrade = self._start_upgrade(host.serving.plan, host.serving.number + 1)
                self._upgrade.done.append(done)
                host.serving.plan.board.share(self._upgrade.pid)
                return None
            except Exception as error:  # whatever it is, it ends the upgrade and not the server
                refusal = PronghornError("The new program cannot be started.", f"{type(error).__name__}: {error}")
        host.observe(events.UpgradeFailed(refusal.what, told(refusal)))
        done(refusal)

    def advance(self, now: float) -> None:
        """Looks after the change under way, and begins the one that waits."""
        if self._handover is not None:
            if now >= self._handover.due:
                self._hand_over()
        elif self._reload is not None:
            self._reload.look(now)
            if self._reload.over:
                reload, self._reload = self._reload, None
                self._settle(reload)
        elif self._upgrade is not None:
            self._upgrade.look(now)
            if self._upgrade.over:
                upgrade, self._upgrade = self._upgrade, None
                self._settle_upgrade(upgrade)
        host = self._supervisor
        if self._upgrades and not self.under_way:
            asked, self._upgrades = self._upgrades, []
            self.upgrade(lambda result: _tell(asked, result))
        if self._pending and not self.under_way and host.fleet.served and not host.leaving:
            (why, _), waiting = self._pending[0], [done for _, done in self._pending]
            self._pending = []
            self.reload(why, waiting.pop(0))
            if self._reload is not None:
                self._reload.done += waiting

    def refusal(self) -> PronghornError:
        """Why nothing is changed any more."""
        if not self.successor:
            return STOPPING
        why = f"It was upgraded: process {self.successor} serves now, and has read settings and handler anew."
        return PronghornError("This program is on its way out.", why, "Ask again: the new program answers.")

    def no_resize(self) -> PronghornError | None:
        """Why the number of workers cannot be changed now; None if it can. The new program of an upgrade starts with as
        many as there were when it was asked for."""
        return self.refusal() if self._supervisor.leaving else BUSY if self._upgrade is not None else None

    def defers(self, number: int) -> bool:
        """Whether a signal is the new program's: kept until the upgrade under way is decided, or passed on at once."""
        if self.successor:
            kill(self.successor, signal.Signals(number))
            return True
        if self._upgrade is None or number == signal.SIGUSR2:  # one upgrade is enough: another is refused
            return False
        if len(self._deferred) < MOST_DEFERRED:
            self._deferred.append(number)
        return True

    def abandon(self, error: PronghornError) -> None:
        """Ends the change under way, without a record: there is something more important to tell. One that has been
        made is told of now."""
        self._hand_over()
        waiting, self._pending = [done for _, done in self._pending] + self._upgrades, []
        self._upgrades = []
        if self._reload is not None:
            self._reload.fail(error)
            self._drop(self._reload.candidate)
            waiting += self._reload.done
        if self._upgrade is not None:
            self._upgrade.fail(error)
            waiting += self._upgrade.done
        self._reload = self._upgrade = None
        _tell(waiting, error)

    # Inner workings.

    def _candidate(self, plan: Plan) -> Generation:
        """The new generation; a number of workers that somebody has set meanwhile stays, unless the setting changed."""
        serving = self._supervisor.serving
        resized = len(serving.slots) and plan.workers == serving.plan.workers
        count = len(serving.slots) if resized else plan.workers
        candidate = Generation(serving.number + 1, plan, count, candidate=True)
        self._supervisor.fleet.generations.append(candidate)
        return candidate

    def _settle(self, reload: Reload) -> None:
        host, error = self._supervisor, reload.error
        if error is None:
            assert reload.candidate is not None
            before = host.force.of(host.serving)
            self._promote(reload.candidate)
            self._handover = Handover("reload", host.force, before, lambda accepting: self._reloaded(reload, accepting))
            return
        self._note(reload, why=told(error))
        host.observe(events.ReloadFailed(error.what, told(error)))
        self._drop(reload.candidate)
        _tell(reload.done, error)

    def _reloaded(self, reload: Reload, accepting: int) -> None:
        host, seconds = self._supervisor, self._note(reload)
        number = host.serving.number
        host.observe(events.Reloaded(number, seconds, host.planner.rereads, reload.later, accepting))
        certificates = host.serving.plan.certificates
        for event in certificates.events(replaced=True) if certificates is not None else ():
            host.observe(event)
        for done in reload.done:
            done({"generation": number, "seconds": seconds, "later": reload.later, "accepting": accepting})

    def _note(self, reload: Reload, **why: str) -> float:
        seconds = round(time.monotonic() - reload.began, 3)
        self.last_reload = {"ok": not why, "seconds": seconds, "ended_at": time.time(), **why}
        return seconds

    def _hand_over(self) -> None:
        handover, self._handover = self._handover, None
        if handover is not None:
            handover.then(handover.accepting)

    def _promote(self, generation: Generation) -> None:
        host = self._supervisor
        before, host.serving = host.serving, generation
        if before.plan.certificates is not None and generation.plan.certificates is not None:
            before.plan.certificates.follow(generation.plan.certificates)
        host.fleet.generations = [generation]
        generation.candidate = False
        renew(generation.plan.listeners, generation.plan.settings)
        host.observe(events.LogLevelSet(generation.plan.settings.log_level))
        # First: then the old workers' queues come to an end.
        alone, wait = _close(before.plan.listeners, generation.plan.listeners)
        host.release(host.force.of(before), alone, wait)
        host.fleet.promoted()
        host.name()

    def _drop(self, candidate: Generation | None) -> None:
        """Ends a candidate; its workers that were ready may have clients, and go on with them."""
        host = self._supervisor
        if candidate is not None:
            host.fleet.generations.remove(candidate)
            alone, wait = _close(candidate.plan.listeners, host.serving.plan.listeners)
            host.release(host.force.of(candidate), alone, wait)

    def _settle_upgrade(self, upgrade: Upgrade) -> None:
        host = self._supervisor
        if upgrade.error is not None:
            host.observe(events.UpgradeFailed(upgrade.error.what, told(upgrade.error)))
            self._upgraded(upgrade, upgrade.error)
            deferred, self._deferred = self._deferred, []
            return host.obey(bytes(each for each in deferred if each != signal.SIGUSR1))  # which was obeyed at once
        self._handed_over()
        self.successor = upgrade.pid
        # Who asked by ctl is told to ask again; behind a signal and a changed file nobody waits for an answer.
        asked = [signal.SIGHUP] if any(not why.startswith("ctl ") for why, _ in self._pending) else []
        for number in (*self._deferred, *asked):
            kill(upgrade.pid, signal.Signals(number))
        host.observe(events.Upgraded(upgrade.pid))
        before = [*host.force.living.values()]
        host.step_aside()
        result = {"pid": upgrade.pid}
        self._handover = Handover(
            "upgrade", host.force, before, lambda accepting: self._upgraded(upgrade, result | {"accepting": accepting})
        )

    def _upgraded(self, upgrade: Upgrade, result: dict[str, Any] | PronghornError) -> None:
        for done in upgrade.done:
            done(result)


def _tell(waiting: list[Done], result: Any) -> None:
    for done in waiting:
        done(result)


def _close(listeners: list[Listener], keep: list[Listener]) -> tuple[list[str], float]:
    """Close what is not to be kept: the addresses, and the seconds until the last client has come there."""
    gone = [each for each in listeners if each not in keep]
    wait = max((each.turn_away() for each in gone), default=0.0)
    for each in gone:
        each.close()
    return [each.address for each in gone], wait
