"""One purpose for which the supervisor starts helpers, one after the other; their descriptors are polled here.

Law: as of system/helper.py. Nothing here waits: a step is looked at in each turn, and is over when its helper has said
all, has ended, or is late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from pronghorn.supervisor.generation import NEVER
from pronghorn.supervisor.poller import Poller


class Step(Protocol):
    """A helper as it is polled: a Helper, or a Probe."""

    pid: int

    def fileno(self) -> int: ...
    def listen(self) -> bool: ...
    def over(self, now: float) -> bool: ...
    def due(self) -> float: ...
    def close(self) -> None: ...


S = TypeVar("S", bound=Step)


class HelperTask:
    """At rest, or with a helper at work; `last` is the process of the last one, which may still live."""

    def __init__(self, poller: Poller) -> None:
        self.last = 0
        self._poller = poller
        self._helper: Step | None = None
        self._then: Callable[[], None] = lambda: None

    @property
    def busy(self) -> bool:
        return self._helper is not None

    def begin(self, start: Callable[[], S], then: Callable[[S], None]) -> None:
        """Starts a helper; `then` is called with it in a later `turn`, when it is over. Raises OSError if none can be
        started."""
        helper = start()
        self._helper, self._then, self.last = helper, lambda: then(helper), helper.pid
        self._poller.add(helper, lambda: self._listen(helper))

    def turn(self, now: float) -> None:
        """To be called in each turn."""
        if self._helper is not None and self._helper.over(now):
            self._forget(self._helper)
            self._then()

    def due(self) -> float:
        """The instant (monotonic) at which the helper is late."""
        return self._helper.due() if self._helper is not None else NEVER

    def close(self) -> None:
        """Ends what is under way; `then` is not called."""
        if self._helper is not None:
            helper = self._helper
            self._forget(helper)
            helper.close()

    def _forget(self, helper: Step) -> None:
        self._helper = None
        self._poller.remove(helper)

    def _listen(self, helper: Step) -> None:
        if helper.listen():
            self._poller.remove(helper)  # its end stays readable
