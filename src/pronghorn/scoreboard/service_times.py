"""How long a handler takes for one message: one message in 64 is timed, where somebody reads the server's metrics.

Law: by count, so that the clock is read for no other message. A connection begins its count somewhere in these 64, each
elsewhere than the one before: of connections with one message each, one in 64 is timed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from pronghorn.scoreboard.details import SERVICE, Details

EVERY = 64
STRIDE = 27  # from one connection to the next: it comes by each of the 64

_sampler: Sampler | None = None


class Sampler:
    """Says which messages are timed, and times them."""

    __slots__ = ("_details", "_left", "_phase")

    def __init__(self, details: Details) -> None:
        self._details = details
        self._phase = 0
        self._left = 1

    def phase(self) -> int:
        """After how many messages of a new connection the first one is timed."""
        phase, self._phase = self._phase, (self._phase + STRIDE) % EVERY
        return phase

    def due(self) -> bool:
        """Whether the next message is timed, of all those of this process that ask here."""
        self._left -= 1
        if self._left > 0:
            return False
        self._left = EVERY
        return True

    def timed(self, reply: Callable[[Any], Any], message: Any) -> Any:
        """What the handler answers."""
        began = time.perf_counter()
        try:
            return reply(message)
        finally:
            self._details.observe(SERVICE, time.perf_counter() - began)

    async def awaited(self, answer: Awaitable[Any]) -> Any:
        """The same of a coroutine."""
        began = time.perf_counter()
        try:
            return await answer
        finally:
            self._details.observe(SERVICE, time.perf_counter() - began)

    def begin_at(self, number: int) -> None:
        """In a process of one connection, the one of this number."""
        self._phase = (number - 1) * STRIDE % EVERY
        self._left = self._phase + 1


def keep_in(details: Details | None) -> None:
    """In a worker, before handlers are made: this is where its details are counted, if they are."""
    global _sampler
    _sampler = Sampler(details) if details is not None else None


def begin_at(number: int) -> None:
    """In a process that was forked for the connection of this number."""
    if _sampler is not None:
        _sampler.begin_at(number)


def sampler() -> Sampler | None:
    """What times messages in this process; None where nothing does."""
    return _sampler
