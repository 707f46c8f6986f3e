"""A reload: a new generation of workers, which takes over once it is ready as a whole, or changes nothing.

Law: a transaction. Settings are read anew, the handler is looked at by a probe, listeners that are new are opened, all
by helpers, and a candidate generation starts. Whatever fails on the way ends the candidate and closes what it opened;
the generation that serves is not touched before the candidate is complete. Nothing here waits: each step ends in the
supervisor's loop, which goes on with the next one.

Tried elsewhere and not done here: to tell the old workers to leave before the new ones are ready (clients wait as long
as the handler takes to import), and to let a failed import end the server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from pronghorn import events
from pronghorn.errors import PronghornError, WorkerFailedToStart
from pronghorn.handlers import loading
from pronghorn.handlers.handler import HandlerFacts
from pronghorn.serving.handover import Outcome
from pronghorn.settings.services import services
from pronghorn.settings.source import Source
from pronghorn.supervisor.change import Change
from pronghorn.supervisor.fleet import Fleet
from pronghorn.supervisor.generation import Worker
from pronghorn.supervisor.helper_task import HelperTask, S
from pronghorn.supervisor.planning import Planner, Read
from pronghorn.supervisor.poller import Done
from pronghorn.system.helper import Answer, Helper
from pronghorn.worker_process.plan import Plan
from pronghorn.worker_process.probe import Probe


class Reload(Change):
    """One reload under way: it is over without an error when the fleet's candidate is complete. `later` are the
    settings that changed but wait for the next start. `since` is when it began (ns of the wall clock); `sources` and
    `files` are the handlers and the files of environment variables that it asked for, as far as it has got. Without
    `anew` settings and handler are those that serve, and only workers and dead listeners are made again.
    """

    kind, failure = "reload", events.ReloadFailed

    def __init__(self, why: str, planner: Planner, fleet: Fleet, done: Done, *, anew: bool = True) -> None:
        super().__init__(fleet, done)
        self.later: tuple[str, ...] = ()
        self.since = time.time_ns()
        self.sources = [each.source for each in fleet.serving.plan.services]
        self._planner = planner
        self._serving = fleet.serving.plan
        self._step = HelperTask(fleet.poller)
        self._source, self._settings, self._folder = self._serving.source, self._serving.settings, self._serving.folder
        self._environment = self._serving.environment
        fleet.observe(events.ReloadStarted(why))
        with self._attempt():
            if anew:
                self._help("The settings", lambda: planner.settle().answer(), self._settled)
            else:
                self._look_at_services()
                self._prepare(self._serving.facts)

    @property
    def files(self) -> tuple[str, ...]:
        return self._settings.env_file

    def look(self, now: float) -> None:
        with self._attempt():
            self._step.turn(now)
        candidate = self.fleet.candidate
        if self._step.busy or candidate is None:
            return
        if candidate.failure is not None:
            self.fail(candidate.failure)
        elif candidate.complete:
            self.over = True

    def due(self) -> float:
        return self._step.due()

    def undo(self) -> None:
        self._step.close()
        self.fleet.drop()

    def replaced(self) -> list[Worker]:
        return self.fleet.workers.of(self.fleet.serving)

    def take_over(self) -> None:
        self.fleet.promote()

    def succeeded(self, seconds: float, accepting: int, outcome: Outcome) -> dict[str, Any]:
        serving, observe = self.fleet.serving, self.fleet.observe
        moves = outcome.moved, outcome.stayed, outcome.pause
        left, spread = self.fleet.workers.left_open(), serving.plan.settings.old_workers_spread
        observe(
            events.Reloaded(
                serving.number, seconds, self._planner.rereads, self.later, accepting, *moves, left=left, spread=spread
            )
        )
        told_too = changed_listeners(self._serving, serving.plan), serving.plan.told_of_certificates(self._serving)
        for event in chain(*told_too):
            observe(event)
        told = {"generation": serving.number, "seconds": seconds, "later": self.later, "accepting": accepting}
        return told | outcome.told() | {"left": left, "spread": spread}

    # The steps, each of which a process of its own takes: reading the settings, looking at the handler, and then
    # reading certificates, asking for names and opening listeners.

    def _settled(self, answer: Answer) -> None:
        read = Read.of(answer)
        self._source, self._settings, self.later = self._planner.source_of(read), read.settings, read.later
        self._folder, self._environment = read.folder, read.environment
        self._look_at_services()
        asked, settings, fleet = self._asked, self._settings, self.fleet
        if not any(isinstance(each.source, Source) or each.settings.observer for each in asked):
            return self._prepare([each.facts for each in loading.load_all(asked)])
        self._take(
            lambda: Probe(asked, settings, fleet.workers.helpers, fleet.kept(), read.folder, read.environment),
            lambda probe: self._prepare(probe.facts()),
        )

    def _look_at_services(self) -> None:
        self._served = services(self._settings)
        self._asked = self._planner.asked(self._source, self._served)
        self.sources = [each.source for each in self._asked]

    def _prepare(self, facts: Sequence[HandlerFacts]) -> None:
        planner, keep, served = self._planner, self._serving.listeners, self._served
        draft = planner.draft(self._source, self._settings, self._asked, facts, self._folder, self._environment)

        def draw_up(answer: Answer) -> None:
            self.fleet.start(planner.drawn_up(draft, served, keep, answer))

        self._help("Certificates and addresses", lambda: planner.prepare(draft, served, keep), draw_up)

    def _help(self, what: str, work: Callable[[], Answer], then: Callable[[Answer], None]) -> None:
        def answered(helper: Helper) -> None:
            if not helper.ended:
                helper.close()
                why = f"After {helper.limit:g} s a disk, a name server or a device has not answered."
                raise PronghornError(f"{what} cannot be read.", why, "If it needs that long, raise --start-timeout.")
            answer = helper.answer()
            if answer is None:
                why = "The process that read them ended."
                raise PronghornError(f"{what} cannot be read.", why, "The log says more.")
            then(answer)

        limit, helpers = self._serving.settings.start_timeout, self.fleet.workers.helpers
        left = {*self.fleet.kept()} - {fd for each in self._serving.listeners for fd in each.descriptors()}
        self._take(lambda: Helper(work, limit, helpers, left), answered)

    def _take(self, start: Callable[[], S], then: Callable[[S], None]) -> None:
        try:
            self._step.begin(start, then)
        except OSError as error:
            raise WorkerFailedToStart("No process can be started.", f"fork: {error.strerror}.", "Try again.") from None

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        """Whatever a step raises ends the reload, and nothing else."""
        try:
            yield
        except PronghornError as error:
            self.fail(error)
        except Exception as error:
            self.fail(PronghornError("The reload failed.", f"{type(error).__name__}: {error}"))


def changed_listeners(before: Plan, after: Plan) -> Iterator[events.Event]:
    """Of the listeners that both plans have, those whose connections speak TLS at another time."""
    for listener, offered in zip(after.listeners, after.offered, strict=True):
        if listener in before.listeners:
            now = after.service_at(listener).settings.tls_when
            if now != before.service_at(listener).settings.tls_when:
                name = offered.name if offered.name != listener.address else ""
                yield events.ListenerChanged(listener.address, now, name)
