"""One purpose for which the supervisor starts helpers, one after the other; their descriptors are polled here.

Law: as of system/helper.py. Nothing here waits: a step is looked at in each turn, and is over when its helper has said
all, has ended, or is late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pronghorn.supervisor.generation import NEVER
from pronghorn.supervisor.poller import Poller


class HelperTask:
    """At rest, or with a helper at work: a Helper, or a Probe."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._helper: Any = None
        self._then: Callable[[Any], None] = lambda helper: None
        self.last = 0
        """The process of the last helper; it may still live."""

    @property
    def busy(self) -> bool:
        return self._helper is not None

    def begin(self, start: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Starts a helper; `then` is called with it in a later `turn`, when it is over. Raises OSError if none can be
        started."""
        self._helper = helper = start()
        self._then, self.last = then, helper.pid
        self._poller.add(helper, lambda: self._listen(helper))

    def turn(self, now: float) -> None:
        """To be called in each turn."""
        if self._helper is not None and self._helper.over(now):
            self._then(self._taken())

    def due(self) -> float:
        """The instant (monotonic) at which the helper is late."""
        return float(self._helper.due()) if self._helper is not None else NEVER

    def close(self) -> None:
        """Ends what is under way; `then` is not called."""
        if self._helper is not None:
            self._taken().close()

    def _taken(self) -> Any:
        helper, self._helper = self._helper, None
        self._poller.remove(helper)
        return helper

    def _listen(self, helper: Any) -> None:
        if helper.listen():
            self._poller.remove(helper)  # its end stays readable
