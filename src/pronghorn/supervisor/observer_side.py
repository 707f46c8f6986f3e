"""The supervisor's events for the user's observers, sent to a side process that imports them (observer_process.py).

Law: the supervisor imports no observer, and never waits for one: what the process does not read is dropped and counted.
With each reload that succeeds the process is replaced, and imports the observers anew; one that fails changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from pronghorn.events import OF_SUPERVISOR, Event, Observer
from pronghorn.handlers.observer_process import FAILED, told
from pronghorn.supervisor.side_process import SideProcess, SideProcesses
from pronghorn.worker_process.plan import Plan

PATIENCE = 5.0  # seconds at the end, for what an observer still has to send


class ObserverSide:
    """An observer that passes events on, in the process that made it and not in its forks."""

    title = "the process of observers"

    def __init__(self, sides: SideProcesses) -> None:
        self._sides = sides
        self._owner = os.getpid()
        self._side: SideProcess | None = None
        self._plan: Plan | None = None

    def __call__(self, event: Event) -> None:
        if self._side is not None and type(event) in OF_SUPERVISOR and os.getpid() == self._owner:
            self._side.send(told(event))

    def hears(self, kind: type[Event]) -> bool:
        return self._side is not None and kind in OF_SUPERVISOR

    def follow(self, plan: Plan) -> None:
        """From now on events go to the observers of this plan, imported anew if it is another plan than before."""
        if plan is self._plan:
            return
        self._plan = plan
        before, self._side = self._side, None
        if before is not None:
            self._sides.remove(before)
        settings = plan.settings
        if settings.observer:
            hearing = {
                "names": settings.observer,
                "folder": plan.folder,
                "environment": plan.environment,
                "new_privileges": settings.new_privileges,
            }
            module = "pronghorn.handlers.observer_process"

            def hear(message: dict[str, Any]) -> None:
                if FAILED in message:
                    plan.board.count("observer_failures")

            self._side = SideProcess("observers", module, settings=hearing, hear=hear, holds=True, patience=PATIENCE)
            self._sides.add(self._side)


def follow(
    before: ObserverSide | None, plan: Plan, sides: SideProcesses, add: Callable[[Observer], None]
) -> ObserverSide:
    """The one that there was `before`, or a new one, passes events on to the observers of the plan that serves."""
    side = before
    if side is None:
        side = ObserverSide(sides)
        add(side)
    side.follow(plan)
    return side
