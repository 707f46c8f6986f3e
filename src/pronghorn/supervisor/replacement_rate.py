"""How fast workers that have served are replaced, over the whole server.

Law: the clock is an argument.
"""

from __future__ import annotations

import math

RATE = 20.0  # workers that are replaced in a second
AT_ONCE = 20  # and so many more, beside as many as there are, before that bound is felt
LATELY = 1.0  # seconds


class Pace:
    """How fast workers are replaced that have served: some at once, and then RATE in a second, over the whole server.

    Without a bound, a client that makes workers crash would have the machine do nothing but start them.
    """

    __slots__ = ("_last", "_next", "recorded")

    def __init__(self) -> None:
        self._next = 0.0  # when the next would be due, had nothing been allowed at once
        self._last = -math.inf
        self.recorded = False  # that replacements wait: once for each time

    def allows(self, now: float, workers: int) -> float:
        """The instant at which one more worker may be replaced; of a server with so many, all may go at once."""
        self._last = now
        if now >= self._next:
            self.recorded = False
        at = max(now, self._next - (workers + AT_ONCE) / RATE)
        self._next = max(now, self._next) + 1 / RATE
        return at

    def lately(self, now: float) -> bool:
        """Whether a worker that had served has died in the last second."""
        return now - self._last < LATELY
