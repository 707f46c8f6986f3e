"""How long a handler takes for one message: one message in 64 is timed, where somebody reads the server's metrics.

Law: by count, over all connections of a process, so that the clock is read for no other message. Where no details are
counted a reply function is called as it is.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from pronghorn.scoreboard.details import SERVICE, Details

EVERY = 64

_sampler: Sampler | None = None


class Sampler:
    """Counts down to the next message that is timed."""

    __slots__ = ("_details", "left")

    def __init__(self, details: Details) -> None:
        self._details = details
        self.left = 1

    def timed(self, reply: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A reply function that is timed now and then."""

        def call(message: Any) -> Any:
            self.left -= 1
            return reply(message) if self.left > 0 else self._call(reply, message)

        return call

    def _call(self, reply: Callable[[Any], Any], message: Any) -> Any:
        self.left, began = EVERY, time.perf_counter()
        try:
            return reply(message)
        finally:
            self._details.observe(SERVICE, time.perf_counter() - began)

    async def awaited(self, answer: Awaitable[Any]) -> Any:
        """The same of what a coroutine answers."""
        self.left -= 1
        if self.left > 0:
            return await answer
        self.left, began = EVERY, time.perf_counter()
        try:
            return await answer
        finally:
            self._details.observe(SERVICE, time.perf_counter() - began)


def keep_in(details: Details | None) -> None:
    """In a worker: this is where its details are counted, if they are."""
    global _sampler
    _sampler = Sampler(details) if details is not None else None


def sampler() -> Sampler | None:
    """What times messages in this process; None where nothing does."""
    return _sampler
