"""The supervisor's only poll(2): who waits on which descriptor.

Law: one thread, and callbacks that never wait. A callback may add and remove descriptors, its own included, while the
batch that it belongs to is still in hand; one that was removed meanwhile is not called, even if its number has become
another's.
"""

from __future__ import annotations

from collections.abc import Callable
from select import POLLIN, poll
from typing import Protocol


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Watch:
    """Descriptors, and what to call when they are ready."""

    def __init__(self) -> None:
        self._poll = poll()
        self._calls: dict[int, Callable[[], None]] = {}

    def add(self, fd: int | HasFileno, on_ready: Callable[[], None], events: int = POLLIN) -> None:
        """From now on `on_ready` is called whenever one of `events` is there, or an error or hang-up; a descriptor that
        is watched already is watched anew."""
        number = fd if isinstance(fd, int) else fd.fileno()
        self._poll.register(number, events)
        self._calls[number] = on_ready

    def remove(self, fd: int | HasFileno) -> None:
        """Forget a descriptor, before it is closed; one that is not watched is no error."""
        number = fd if isinstance(fd, int) else fd.fileno()
        if self._calls.pop(number, None) is not None:
            self._poll.unregister(number)

    def descriptors(self) -> list[int]:
        """What is watched."""
        return list(self._calls)

    def wait(self, seconds: float) -> None:
        """Wait until something is ready, `seconds` at most, and call whoever waits for it."""
        ready = [(number, self._calls[number]) for number, _ in self._poll.poll(max(0.0, seconds) * 1000)]
        for number, on_ready in ready:
            if self._calls.get(number) is on_ready:
                on_ready()
