"""The last five minutes of a server: a value a second for each series that the status page draws.

Law: numbers in, numbers out; nothing here knows where the counts come from. A counter that has gone back, as after a
fault, counts nothing for that second. Memory is bounded: so many series, so many seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping

SECONDS = 300
MOST_SERIES = 64
MOST_KEYS = 2048  # workers and listeners whose rates are known at once
HOLE = 5.0  # seconds without a sample after which a rate would say nothing

Sample = dict[str, float | None]


class Rates:
    """Counters of many owners (a worker, a listener, the server), and how fast each has grown since the time before."""

    __slots__ = ("_at", "_before", "rates")

    def __init__(self) -> None:
        self._at = -math.inf
        self._before: dict[str, Mapping[str, float]] = {}
        self.rates: dict[str, dict[str, float]] = {}
        """By owner and counter: a second. An owner that is new has none yet."""

    def see(self, now: float, counters: Iterable[tuple[str, Mapping[str, float]]]) -> None:
        """What each owner has counted, at the instant `now` (monotonic)."""
        past = now - self._at
        seen = dict(counter for counter, _ in zip(counters, range(MOST_KEYS), strict=False))
        self.rates = {}
        if 0.0 < past <= HOLE:
            for owner, counts in seen.items():
                if (before := self._before.get(owner)) is not None:
                    self.rates[owner] = {
                        name: max(0.0, value - before.get(name, value)) / past for name, value in counts.items()
                    }
        self._at, self._before = now, seen


class History:
    """The columns of a chart: for each series the values of the last seconds, the newest last."""

    __slots__ = ("_columns", "length")

    def __init__(self) -> None:
        self._columns: dict[str, deque[float | None]] = {}
        self.length = 0

    def add(self, sample: Sample) -> None:
        """The values of another second. A series that is new has none before it."""
        for name in sample:
            if name not in self._columns and len(self._columns) < MOST_SERIES:
                self._columns[name] = deque([None] * self.length, SECONDS + 1)
        for name, column in self._columns.items():
            column.append(sample.get(name))
        self.length = min(self.length + 1, SECONDS + 1)

    def columns(self) -> dict[str, list[float | None]]:
        """Every series."""
        return {name: list(column) for name, column in self._columns.items()}

    def lately(self, name: str, seconds: int = 60) -> float:
        """The sum of one series over the last seconds: of a rate, how many there were."""
        column = self._columns.get(name)
        if column is None:
            return 0.0
        values = list(column)[-seconds:]
        return sum(value for value in values if value is not None)

    def names(self, group: str) -> list[str]:
        """The series of a group, `ended.` for one, as they were first seen."""
        return [name for name in self._columns if name.startswith(group)]
