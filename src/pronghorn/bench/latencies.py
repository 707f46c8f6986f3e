"""A histogram of latencies in nanoseconds: buckets of integers, none wider than a 128th of where it begins.

Law: a value is counted by a few integer operations, so that a load process can count each message, and counts of
several processes and rounds can be added up (HdrHistogram, by G. Tene, has the same buckets). A quantile that is read
off is never less than the true one, and 0.8 % more at most. The histograms of the scoreboard are another thing: their
few buckets stand in shared memory, by bounds in seconds that Prometheus asks for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

BITS = 7
EXACT = 1 << BITS


def place_of(nanoseconds: int) -> int:
    """The bucket in which a value counts; a value below zero counts as zero."""
    shift = nanoseconds.bit_length() - BITS - 1
    if shift <= 0:
        return nanoseconds if nanoseconds > 0 else 0
    return (shift << BITS) + (nanoseconds >> shift)


def bound_of(place: int) -> int:
    """The greatest value that counts in that bucket."""
    shift = max(0, (place >> BITS) - 1)
    return ((place - (shift << BITS) + 1) << shift) - 1


class Latencies:
    """Counts of latencies by bucket, and the greatest latency."""

    __slots__ = ("counts", "greatest")

    def __init__(self, counts: Iterable[tuple[int, int]] = (), greatest: int = 0) -> None:
        self.counts: dict[int, int] = dict(counts)
        self.greatest = greatest

    def note(self, nanoseconds: int) -> None:
        shift = nanoseconds.bit_length() - BITS - 1  # as place_of has it: this is done for each message
        place = (shift << BITS) + (nanoseconds >> shift) if shift > 0 else max(nanoseconds, 0)
        counts = self.counts
        counts[place] = counts.get(place, 0) + 1
        if nanoseconds > self.greatest:
            self.greatest = nanoseconds

    def add(self, other: Latencies) -> None:
        for place, count in other.counts.items():
            self.counts[place] = self.counts.get(place, 0) + count
        self.greatest = max(self.greatest, other.greatest)

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def quantile(self, part: float) -> float:
        """Seconds within which that part of all messages was answered; nan if there are none."""
        rank = max(1, math.ceil(part * self.count))
        passed = 0
        for place in sorted(self.counts):
            passed += self.counts[place]
            if passed >= rank:
                return min(bound_of(place), self.greatest) / 1e9
        return math.nan

    def steps(self) -> list[tuple[float, float]]:
        """The whole distribution: (part of all messages, seconds within which that part was answered), rising."""
        count, passed, found = self.count, 0, []
        for place in sorted(self.counts):
            passed += self.counts[place]
            found.append((passed / count, min(bound_of(place), self.greatest) / 1e9))
        return found

    def plain(self) -> dict[str, object]:
        """For JSON: `counts` are pairs of a bucket and its count."""
        return {"counts": sorted(self.counts.items()), "greatest": self.greatest}
