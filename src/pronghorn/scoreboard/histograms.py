"""Histograms of seconds: log-linear buckets of counts, from a microsecond to eleven days, that can be added up.

Law: each decade has 32 buckets, none wider than an eighth of where it begins; a few bounds that people ask for (an
hour, four, a day) stand between. A value counts in the first bucket whose bound is not less, which is what `le` says
in Prometheus. So a bucket that is exported, whose bound is one of these, is a sum of counts and no estimate; and a
quantile that is read off is never less than the true one, and an eighth more at most.

A block of words has a word for each bucket, one for what is beyond all bounds, and the sum of all values in seconds,
as a float.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from pronghorn.scoreboard.counts import believed

STEPS = (*range(100, 200, 10), *range(200, 500, 25), *range(500, 1000, 50))  # hundredths: a decade
DECADES = range(-6, 6)  # powers of ten: seconds
BOUNDS = (
    *sorted(
        {
            *(float(f"{step}e{decade - 2}") for decade in DECADES for step in STEPS),
            *(1e6, 3600.0, 14400.0, 86400.0),
        }
    ),
)
BUCKETS = len(BOUNDS) + 1
SUM = BUCKETS  # the word behind the buckets
WORDS = BUCKETS + 1
WIDEST = 0.125  # of a bucket, as a part of where it begins
MOST_SECONDS = 2.0**63


def believed_sum(seconds: float) -> float:
    """A sum of seconds that another process wrote down, or 0 if it cannot be true."""
    return seconds if 0.0 <= seconds < MOST_SECONDS else 0.0


def place_of(seconds: float) -> int:
    """The bucket in which a value counts."""
    return bisect_left(BOUNDS, seconds)


class Histogram:
    """What stands in a block of words, or in several that were added up."""

    __slots__ = ("counts", "sum")

    def __init__(self, counts: Sequence[int] = (), total: float = 0.0) -> None:
        self.counts = [*map(believed, counts)] or [0] * BUCKETS
        self.sum = believed_sum(total)

    def add(self, other: Histogram) -> None:
        self.counts = [one + two for one, two in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, part: float) -> float:
        """The bound of the bucket in which that part of all values has been reached; nan if there are none, and inf
        beyond all bounds."""
        rank = max(1, math.ceil(part * self.count))
        if not self.count:
            return math.nan
        place = bisect_left([*accumulate(self.counts)], rank)
        return BOUNDS[place] if place < len(BOUNDS) else math.inf

    @property
    def each(self) -> tuple[tuple[float, int], ...]:
        """The bound of each bucket that has values, and how many."""
        return tuple((bound, count) for bound, count in zip((*BOUNDS, math.inf), self.counts, strict=True) if count)

    def up_to(self, bounds: Sequence[float]) -> list[tuple[float, int]]:
        """For each of these bounds, which are some of BOUNDS, and for inf: how many values are not beyond."""
        sums = [*accumulate(self.counts)]
        return [*((bound, sums[BOUNDS.index(bound)]) for bound in bounds), (math.inf, sums[-1])]


def _checked(*bounds: float) -> tuple[float, ...]:
    assert set(bounds) <= set(BOUNDS), set(bounds) - set(BOUNDS)
    return bounds


# What is exported, by purpose.
OF_CONNECTIONS = _checked(
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0),
    *(3600.0, 14400.0, 86400.0),
)
OF_FIRST_BYTES = _checked(
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
)
OF_MESSAGES = _checked(
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
