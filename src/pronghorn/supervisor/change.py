"""What a reload and an upgrade have in common: each is a transaction, which takes over or changes nothing."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from pronghorn import events
from pronghorn.errors import PronghornError
from pronghorn.serving.handover import Outcome
from pronghorn.supervisor.fleet import Fleet
from pronghorn.supervisor.generation import NEVER, Worker
from pronghorn.supervisor.poller import Done


class Change:
    """One change under way. `over` is true once it is decided: `error` says why nothing changes, and without one the
    new workers are ready to `take_over`. `done` is called at the very end, when the workers before accept no more."""

    kind: ClassVar[str]
    failure: ClassVar[type[events.ReloadFailed] | type[events.UpgradeFailed]]
    successor = 0
    """The process of the new program, if it is another."""

    def __init__(self, fleet: Fleet, done: Done) -> None:
        self.over = False
        self.error: PronghornError | None = None
        self.fleet = fleet
        self.done = done
        self.began = time.monotonic()

    def look(self, now: float) -> None:
        """Goes on if something has fallen due or has changed."""
        raise NotImplementedError

    def due(self) -> float:
        """The instant (monotonic) at which `look` has something to do that no descriptor tells of."""
        return NEVER

    def fail(self, error: PronghornError) -> None:
        """It is decided: nothing changes, and what was begun is undone."""
        if not self.over:
            self.over, self.error = True, error
            self.undo()

    def undo(self) -> None:
        raise NotImplementedError

    def replaced(self) -> list[Worker]:
        """The workers that will be on their way out."""
        raise NotImplementedError

    def take_over(self) -> None:
        """The new workers serve from now on, and those before let go."""
        raise NotImplementedError

    def succeeded(self, seconds: float, accepting: int, outcome: Outcome) -> dict[str, Any]:
        """Records the success; the answer for `done`. `accepting` old workers may still accept; `outcome` is what is
        known of the connections that they have handed over."""
        raise NotImplementedError
