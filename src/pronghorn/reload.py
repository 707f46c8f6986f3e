"""A reload: a new generation of workers, which takes over once it is ready as a whole, or changes nothing.

Law: a transaction. Settings are read anew, the handler is looked at by a probe, listeners that are new are opened, and
a candidate generation starts. Whatever fails on the way ends the candidate and closes what it opened; the generation
that serves is not touched before the candidate is complete. Nothing here waits: each step ends in the supervisor's
loop, which goes on with the next one.

Tried elsewhere and not done here: to tell the old workers to leave before the new ones are ready (clients wait as long
as the handler takes to import), and to let a failed import end the server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from pronghorn import events
from pronghorn.call import Done
from pronghorn.errors import PronghornError, WorkerFailedToStart
from pronghorn.events import Observer
from pronghorn.handlers import Facts
from pronghorn.planning import Planner
from pronghorn.probe import Probe
from pronghorn.settings import Settings
from pronghorn.slots import NEVER, Generation
from pronghorn.watch import Watch
from pronghorn.worker import Plan


class Reload:
    """One reload under way. `over` is true once it is decided: `error` says why nothing changes, and without one the
    `candidate` is complete. `later` are the settings that changed but wait for the next start; `done` are told how it
    ended. `helpers` are the processes that nobody else shall wait for, `left` what a probe must not keep. Without
    `anew` settings and handler are those that serve, and only workers and dead listeners are made again.
    """

    def __init__(
        self,
        why: str,
        planner: Planner,
        watch: Watch,
        observe: Observer,
        helpers: set[int],
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
        self._watch = watch
        self._observe = observe
        self._helpers = helpers
        self._left = left
        self._anew = anew
        self._probe: Probe | None = None
        self._source: Any = None
        self._settings = Settings()
        observe(events.ReloadStarted(why))

    def begin(self, serving: Generation, start: Callable[[Plan], Generation]) -> None:
        """Reads the settings and looks at the handler; `start` is called when a plan is made, now or later."""
        self._serving, self._start = serving, start
        with _Attempt(self):
            if not self._anew:
                self._source, self._settings = serving.plan.source, serving.plan.settings
                return self._draw_up(serving.plan.facts)
            self._source, self._settings, self.later = self._planner.settle()
            facts = self._planner.facts(self._source, self._settings)
            if facts is not None:
                return self._draw_up(facts)
            try:
                self._probe = Probe(self._source, self._settings, self._left())
            except OSError as error:
                why = f"fork: {error.strerror}."
                raise WorkerFailedToStart("The handler cannot be looked at.", why, "Try again.") from None
            self._helpers.add(self._probe.pid)
            self._watch.add(self._probe, self._listen)

    def look(self, now: float) -> None:
        """Goes on if something has fallen due or has changed."""
        if self._probe is not None and now >= self._probe.deadline:
            self._judge()
        elif self.candidate is not None and self.candidate.failure is not None:
            self.fail(self.candidate.failure)
        elif self.candidate is not None and self.candidate.complete:
            self.over = True

    def due(self) -> float:
        return self._probe.deadline if self._probe is not None else NEVER

    def fail(self, error: PronghornError) -> None:
        """It is decided: nothing changes."""
        if not self.over:
            self.over, self.error = True, error
            self._end_probe()

    def _listen(self) -> None:
        if self._probe is not None and self._probe.listen():
            self._judge()

    def _judge(self) -> None:
        probe, self._probe = self._probe, None
        assert probe is not None
        self._watch.remove(probe)
        with _Attempt(self):
            try:
                facts = probe.facts()
            finally:
                self._helpers.discard(probe.pid)
            self._draw_up(facts)

    def _draw_up(self, facts: Facts) -> None:
        keep = self._serving.plan.listeners
        plan = self._planner.plan(self._source, self._settings, facts, keep, [])
        self.candidate = self._start(plan)

    def _end_probe(self) -> None:
        if self._probe is not None:
            self._watch.remove(self._probe)
            self._probe.close()
            self._helpers.discard(self._probe.pid)
            self._probe = None


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
