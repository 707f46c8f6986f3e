"""The supervisor's only poll(2): descriptors, and what is called when they are ready.

Law: one thread, and callbacks that never wait. A callback may add and remove descriptors, its own included, while the
batch that it belongs to is still in hand; one that was removed meanwhile is not called, even if its number has become
another's. One whose callback fails rests for a second: level-triggered readiness would call it again at once, for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from select import POLLIN, poll
from typing import Any, Protocol

from pronghorn.errors import PronghornError
from pronghorn.supervisor.exception_guard import Guard

REST = 1.0  # seconds


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Poller:
    """Descriptors, and what to call when they are ready, by way of `guard`."""

    def __init__(self) -> None:
        self.guard = Guard()
        self._poll = poll()
        self._calls: dict[int, Callable[[], None]] = {}
        self._events: dict[int, int] = {}
        self._resting: dict[int, float] = {}  # until when (monotonic)

    def add(self, fd: int | HasFileno, on_ready: Callable[[], None], events: int = POLLIN) -> None:
        """From now on `on_ready` is called whenever one of `events` is there, or an error or hang-up; a descriptor that
        is watched already is watched anew."""
        number = fd if isinstance(fd, int) else fd.fileno()
        self._poll.register(number, events)
        self._calls[number], self._events[number] = on_ready, events
        self._resting.pop(number, None)

    def remove(self, fd: int | HasFileno) -> None:
        """Forget a descriptor, before it is closed; one that is not watched is no error."""
        number = fd if isinstance(fd, int) else fd.fileno()
        if self._calls.pop(number, None) is not None and self._resting.pop(number, None) is None:
            self._poll.unregister(number)

    def descriptors(self) -> list[int]:
        """What is watched."""
        return list(self._calls)

    def wait(self, seconds: float) -> None:
        """Wait until something is ready, `seconds` at most, and call what was added for it."""
        if self._resting:
            seconds = min(seconds, self._wake())
        ready = [(number, self._calls[number]) for number, _ in self._poll.poll(max(0.0, seconds) * 1000)]
        for number, on_ready in ready:
            if self._calls.get(number) is not on_ready or self.guard("answer a descriptor", on_ready):
                continue
            if self._calls.get(number) is on_ready and number not in self._resting:
                self._poll.unregister(number)
                self._resting[number] = time.monotonic() + REST

    def _wake(self) -> float:
        """Polls again for descriptors that have rested; the seconds until the next of them has."""
        now = time.monotonic()
        for number in [number for number, until in self._resting.items() if until <= now]:
            del self._resting[number]
            self._poll.register(number, self._events[number])
        return min(self._resting.values(), default=now + REST) - now


Done = Callable[[dict[str, Any] | PronghornError], None]
