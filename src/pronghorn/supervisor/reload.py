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
from collections.abc import Callable, Iterable
from typing import Any

from pronghorn import events
from pronghorn.errors import PronghornError, WorkerFailedToStart
from pronghorn.events import Observer
from pronghorn.handlers import loading
from pronghorn.handlers.handler import HandlerFacts
from pronghorn.settings import Settings
from pronghorn.settings.source import Source
from pronghorn.supervisor.generation import NEVER, Generation
from pronghorn.supervisor.planning import Planner, Read
from pronghorn.supervisor.poller import Done, Poller
from pronghorn.system.helper import Answer, Helper, Reaper
from pronghorn.worker.plan import Plan
from pronghorn.worker.probe import Probe


class Reload:
    """One reload under way. `over` is true once it is decided: `error` says why nothing changes, and without one the
    `candidate` is complete. `later` are the settings that changed but wait for the next start; `done` are told how it
    ended. `reaper` takes the processes of the steps, `left` is what these must not keep. Without
    `anew` settings and handler are those that serve, and only workers and dead listeners are made again.
    """

    def __init__(
        self,
        why: str,
        planner: Planner,
        poller: Poller,
        observe: Observer,
        reaper: Reaper,
        left: Callable[[], Iterable[int]],
        *,
        anew: bool = True,
    ) -> None:
        self.over = False
        self.error: PronghornError | None = None
        self.candidate: Generation | None = None
        self.later: tuple[str, ...] = ()
        self.began = time.monotonic()
        self.done: list[Done] = []
        self._planner = planner
        self._poller = poller
        self._observe = observe
        self._reaper = reaper
        self._left = left
        self._anew = anew
        self._step: Any = None  # the process at work for it: a Helper, or a Probe
        self._source: Any = None
        self._settings = Settings()
        self._folder = ""
        observe(events.ReloadStarted(why))

    def begin(self, serving: Generation, start: Callable[[Plan], Generation]) -> None:
        """Reads the settings and looks at the handler; `start` is called when a plan is made."""
        self._serving, self._start = serving, start
        with _Attempt(self):
            if self._anew:
                planner = self._planner
                return self._help("The settings", lambda: planner.settle().answer(), self._settled)
            self._source, self._settings = serving.plan.source, serving.plan.settings
            self._folder = serving.plan.folder
            self._prepare(serving.plan.facts)

    def look(self, now: float) -> None:
        """Goes on if something has fallen due or has changed."""
        if self._step is not None:
            if self._step.over(now):
                step, self._step = self._step, None
                self._poller.remove(step)
                with _Attempt(self):
                    self._then(step)
        elif self.candidate is not None and self.candidate.failure is not None:
            self.fail(self.candidate.failure)
        elif self.candidate is not None and self.candidate.complete:
            self.over = True

    def due(self) -> float:
        return self._step.due() if self._step is not None else NEVER

    def fail(self, error: PronghornError) -> None:
        """It is decided: nothing changes."""
        if not self.over:
            self.over, self.error = True, error
            if self._step is not None:
                self._poller.remove(self._step)
                self._step.close()
                self._step = None

    # The steps, each of which a process of its own takes: reading the settings, looking at the handler, and then
    # reading certificates, asking for names and opening listeners.

    def _settled(self, answer: Answer) -> None:
        read = Read.of(answer)
        self._source, self._settings, self.later = self._planner.source_of(read), read.settings, read.later
        self._folder = read.folder
        if not isinstance(self._source, Source):
            return self._prepare(loading.load_handler(self._source, self._settings).facts)
        source, settings, folder = self._source, self._settings, self._folder
        self._take(
            lambda: Probe(source, settings, self._reaper, self._left(), folder),
            lambda probe: self._prepare(probe.facts()),
        )

    def _prepare(self, facts: HandlerFacts) -> None:
        planner, settings, keep = self._planner, self._settings, self._serving.plan.listeners
        model, _ = planner.model(facts, settings)
        folder = self._folder

        def draw_up(answer: Answer) -> None:
            plan = planner.drawn_up(self._source, settings, facts, keep, model, folder, answer)
            self.candidate = self._start(plan)

        self._help("Certificates and addresses", lambda: planner.prepare(settings, facts, keep, folder), draw_up)

    def _help(self, what: str, work: Callable[[], Answer], then: Callable[[Answer], None]) -> None:
        def answered(helper: Any) -> None:
            if not helper.ended:
                helper.close()
                why = f"After {helper.limit:g} s a disk, a name server or a device has not answered."
                raise PronghornError(f"{what} cannot be read.", why, "If it needs that long, raise --start-timeout.")
            answer = helper.answer()
            if answer is None:
                raise PronghornError(
                    f"{what} cannot be read.", "The process that read them ended.", "The log says more."
                )
            then(answer)

        plan = self._serving.plan
        left = {*self._left()} - {fd for each in plan.listeners for fd in each.descriptors()}
        self._take(lambda: Helper(work, plan.settings.start_timeout, self._reaper, left), answered)

    def _take(self, start: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Begins a step; `then` is called with it when it is over."""
        try:
            step = start()
        except OSError as error:
            raise WorkerFailedToStart("No process can be started.", f"fork: {error.strerror}.", "Try again.") from None
        self._step, self._then = step, then
        self._poller.add(step, lambda: self._listen(step))

    def _listen(self, step: Any) -> None:
        if step.listen():
            self._poller.remove(step)  # its end stays readable


class _Attempt:
    """Whatever a step raises is the reload's failure and nobody else's."""

    def __init__(self, reload: Reload) -> None:
        self._reload = reload

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, at: Any) -> bool:
        if isinstance(error, PronghornError):
            self._reload.fail(error)
        elif isinstance(error, Exception):
            self._reload.fail(PronghornError("The reload failed.", f"{type(error).__name__}: {error}"))
        return isinstance(error, Exception)
