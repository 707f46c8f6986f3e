"""`TimerQueue`: callables in the order in which they fall due, for a loop, or for one connection's flow of control."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

FEW = 64  # cancelled entries that are not worth taking out


class Entry:
    """One callable that waits for its time; `cancel()` takes it back."""

    __slots__ = ("_deadlines", "call")

    def __init__(self, deadlines: TimerQueue, call: Callable[[], object]) -> None:
        self._deadlines: TimerQueue | None = deadlines  # as long as these hold it
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Have it not called; nothing happens if it was called, or cancelled, before."""
        if self.call is not None:
            self.call = None
            if self._deadlines is not None:
                self._deadlines.note_cancelled()

    def take(self) -> Callable[[], object] | None:
        """What is to be called now, once."""
        call, self.call = self.call, None
        return call


class TimerQueue:
    """Callables in the order in which they fall due; those due at the same instant keep their order."""

    __slots__ = ("_cancelled", "_count", "_heap", "next")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Entry]] = []
        self._count = self._cancelled = 0
        self.next = math.inf
        """The earliest deadline in monotonic seconds, or infinity."""

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def add(self, when: float, call: Callable[[], object]) -> Entry:
        """Have `call` called at the first `run` at or after `when` (monotonic seconds)."""
        self._count += 1
        entry = Entry(self, call)
        heapq.heappush(self._heap, (when, self._count, entry))
        self.next = self._heap[0][0]
        return entry

    def run(self, now: float, guarded: Callable[[Callable[[], object]], object] = lambda call: call()) -> None:
        """Call all that is due at `now`, each through `guarded`; what they add is not called before the next run."""
        if now < self.next:
            return
        due: list[Entry] = []
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)[2]
            entry._deadlines = None
            if entry.call is not None:
                due.append(entry)
            else:
                self._cancelled -= 1
        self._take_out()
        for entry in due:
            if (call := entry.take()) is not None:  # one before it may have cancelled it
                guarded(call)

    def note_cancelled(self) -> None:
        """An entry was cancelled: those are taken out now and then, so that they fill no memory."""
        self._cancelled += 1
        self._take_out()

    def _take_out(self) -> None:
        heap = self._heap
        while heap and heap[0][2].call is None:  # so that `next` tells of none
            heapq.heappop(heap)
            self._cancelled -= 1
        if self._cancelled > FEW and self._cancelled > len(heap) // 2:
            self._heap = [each for each in heap if each[2].call is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0
        self.next = self._heap[0][0] if self._heap else math.inf
