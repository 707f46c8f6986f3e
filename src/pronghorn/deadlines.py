"""What falls due, and when.

Law: the clock is an argument. Nothing here knows connections; a deadline is an instant on the monotonic clock and
something to call. A deadline that has lost its meaning is not removed: its callable finds nothing left to do.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable


class Deadlines:
    """Callables in the order in which they fall due; those due at the same instant keep their order."""

    __slots__ = ("_count", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, when: float, call: Callable[[], None]) -> None:
        """Have `call` called at the first `run` at or after `when` (monotonic seconds)."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, call))

    @property
    def next(self) -> float:
        """The earliest deadline in monotonic seconds, or infinity."""
        return self._heap[0][0] if self._heap else math.inf

    def run(self, now: float, guarded: Callable[[Callable[[], None]], None] = lambda call: call()) -> None:
        """Call all that is due at `now`, each through `guarded`; what they add is not called before the next run."""
        due: list[Callable[[], None]] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        for call in due:
            guarded(call)
