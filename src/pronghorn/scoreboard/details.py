"""Details: what is counted beside the scoreboard's rows where somebody reads metrics, in a region for each row.

Law: a region has one writer, as its row; region 0 has the counts of those that are gone, and of the supervisors. It is
in the file behind the map, and only who counts there maps it: no process that counts no details has any of this. Under
the fork model a worker and its children share one region, under a lock of the file (`Shared`), which the kernel frees
when its holder is killed.

As everywhere in that file any word may be false: what cannot be true counts as nothing.
"""

from __future__ import annotations

import os
import time
from _thread import RLock
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

from pronghorn.errors import End
from pronghorn.scoreboard import histograms
from pronghorn.scoreboard.counts import MOST, believed
from pronghorn.scoreboard.histograms import BOUNDS, Histogram, believed_sum, place_of
from pronghorn.scoreboard.map import MOST_LISTENERS, REGION, REGION_LOCKS, REGIONS, Lock
from pronghorn.system.memory import mapped

# The words of a region. New counters are added at the end of COUNTED: a word keeps its meaning over upgrades.
USED = 0
COUNTED = (
    *("handshake_done", "handshake_timeout", "handshake_untrusted", "handshake_unfinished", "handshake_failed"),
    *("refused_access", "refused_source_count", "refused_rate", "refused_source_rate", "refused_crash_penalty"),
    *("refused_proxy_header", "refused_proxy", "refused_descriptors", "refused_resources"),
    *("log_dropped", "access_dropped"),
    *("loop_failures", "handshake_no_tls"),
    # By supervisors, in region 0.
    *("reload_done", "reload_failed", "upgrade_done", "upgrade_failed", "worker_started", "worker_not_started"),
    *("exit_wanted", "exit_unwanted", "exit_signal", "worker_silent", "worker_doomed", "worker_retired"),
    *("faults", "sources_suspected", "resized", "certificate_refused", "observer_failures"),
    # By workers, once more, of those above.
    *("refused_source_count_in_all", "refused_rate_in_all"),
    "bus_dropped",
)
WORD = {name: 8 + index for index, name in enumerate(COUNTED)}
ENDS_AT = 256  # and what follows: MOST_REASONS words for each listener, by its number
MOST_REASONS = 16
HISTOGRAMS = ENDS_AT + MOST_LISTENERS * MOST_REASONS
DURATION, FIRST_BYTE, SERVICE = (HISTOGRAMS + index * histograms.WORDS for index in range(3))
END = SERVICE + histograms.WORDS
OWN = 4096  # and what follows: the handler's own metrics (own_metrics.py)
REGION_WORDS = REGION // 8
REASONS = {end.value: index for index, end in enumerate(End)}
AT_ONCE = 256  # ended connections: to count many together takes half as long as one by one
PATIENCE = 0.25  # seconds for a lock that is held for microseconds
DURATION_SUM, FIRST_BYTE_SUM = DURATION + histograms.SUM, FIRST_BYTE + histograms.SUM
SUMS = tuple(start + histograms.SUM for start in (DURATION, FIRST_BYTE, SERVICE))

assert END <= OWN and len(COUNTED) + 8 <= ENDS_AT and len(End) <= MOST_REASONS


def region(fd: int, index: int) -> tuple[memoryview[int], int]:
    """The words of the region of a row, mapped, and a copy of `fd` or -1, as system.memory.mapped. OSError where there
    is no memory for that."""
    memory, copy = mapped(fd, REGION, REGIONS + index * REGION)
    return memoryview(memory).cast("q"), copy


def lock_of(fd: int, index: int) -> Lock:
    """The lock of a region, between processes."""
    rest = getattr(os, "sched_yield", lambda: time.sleep(0))
    return Lock(fd, REGION_LOCKS + index, PATIENCE, rest)


class Details:
    """What one process counts in a region of its own: in memory of its own, which it copies there once or twice a
    second, as bytes and messages, and at its end. A process that is killed takes that much with it."""

    __slots__ = ("_ended", "dropped", "floats", "guard", "own", "sums", "words")

    def __init__(self, words: memoryview[int]) -> None:
        self.words = words[:END]
        self.floats: memoryview[float] = self.words.cast("B").cast("d")
        self.own: array[int] = array("q", bytes(END * 8))
        self.sums = dict.fromkeys(SUMS, 0.0)
        self.guard = RLock()  # flows of control count at the same time
        self.own[USED] = words[USED] = 1
        self.dropped: dict[str, int] = {}
        # Three members for each ended connection that is not counted yet: a tuple for each would wake the collector.
        self._ended: list[Any] = []

    def aside(self) -> Details:
        """One that counts for nobody, for a rehearsal."""
        return Details(memoryview(bytearray(END * 8)).cast("q"))

    def add(self, word: int, count: int = 1) -> None:
        """Count."""
        with self.guard:
            self.own[word] += count

    def observe(self, start: int, seconds: float) -> None:
        """A value of the histogram that begins at this word."""
        with self.guard:
            self.own[start + place_of(seconds)] += 1
            self.sums[start + histograms.SUM] += seconds

    def connection(self, number: int, reason: int, seconds: float, first: float | None) -> None:
        """A connection of the listener of this number has ended, and for the `first` byte it took so long."""
        ended = self._ended
        ended += (ENDS_AT + number * MOST_REASONS + reason if number >= 0 else 0, seconds, first)
        if len(ended) >= 3 * AT_ONCE:
            self._count_ended()

    def _count_ended(self) -> None:
        with self.guard:
            ended = self._ended[:]  # others may add to it meanwhile
            del self._ended[: len(ended)]
            if not ended:
                return
            words, durations = ended[::3], ended[1::3]
            firsts = [max(first, 0.0) for first in ended[2::3] if first is not None]
            own, sums = self.own, self.sums
            for start, values in ((DURATION, durations), (FIRST_BYTE, firsts)):
                for place, count in Counter(map(bisect_left, repeat(BOUNDS), values)).items():
                    own[start + place] += count
                sums[start + histograms.SUM] += sum(values)
            for word, count in Counter(words).items():
                if word:
                    own[word] += count

    def drops(self, dropped: Mapping[str, int]) -> None:
        """So many records has each log of this process not taken so far; from a flow of control that stays the same."""
        for log, count in dropped.items():
            if count != self.dropped.get(log, 0):
                self.add(WORD[f"{log}_dropped"], count - self.dropped.get(log, 0))
                self.dropped[log] = count

    def copy(self) -> None:
        """Write all, also what somebody else may have written there."""
        with self.guard:
            self._count_ended()
            self.words[:] = self.own
            for word, total in self.sums.items():
                self.floats[word] = total

    def take(self, other: Counted) -> None:
        """Add what another has counted."""
        for word, value in enumerate(other.words):
            if value and word != USED and word not in other.floats:
                self.add(word, min(value, MOST - self.own[word]))
        for word, total in other.floats.items():
            self.sums[word] += total

    def inherit(self) -> None:
        """Go on with what stands there, as far as it can be true: of each word with the greater one."""
        there = Counted(self.words.tobytes())
        for word, value in enumerate(there.words):
            if word not in there.floats:
                self.own[word] = max(self.own[word], value)
        for word, total in there.floats.items():
            self.sums[word] = max(self.sums[word], total)


class Shared(Details):
    """The same of several processes: what counts is what stands in the region, at once."""

    __slots__ = ("_lock",)

    def __init__(self, words: memoryview[int], lock: Lock) -> None:
        super().__init__(words)
        self._lock = lock

    def aside(self) -> Details:
        return Shared(memoryview(bytearray(END * 8)).cast("q"), self._lock)

    def add(self, word: int, count: int = 1) -> None:
        self._write({word: count}, {})

    def observe(self, start: int, seconds: float) -> None:
        self._write({start + place_of(seconds): 1}, {start + histograms.SUM: seconds})

    def connection(self, number: int, reason: int, seconds: float, first: float | None) -> None:
        counts, sums = {DURATION + place_of(seconds): 1}, {DURATION_SUM: seconds}
        if first is not None:
            counts[FIRST_BYTE + place_of(first)] = 1
            sums[FIRST_BYTE_SUM] = first
        if number >= 0:
            counts[ENDS_AT + number * MOST_REASONS + reason] = 1
        self._write(counts, sums)

    def _write(self, counts: Mapping[int, int], sums: Mapping[int, float]) -> None:
        with self.guard:
            held = self._lock.take()
            for word, count in counts.items():
                self.words[word] = min(believed(self.words[word]) + count, MOST)
            for word, total in sums.items():
                self.floats[word] = believed_sum(self.floats[word]) + total
            if held:
                self._lock.give_back()

    def copy(self) -> None:
        """Nothing: there is nothing else that is true."""


class Counted:
    """What stands in one region, or in several that were added up."""

    __slots__ = ("floats", "words")

    def __init__(self, raw: bytes = b"") -> None:
        words = array("q", raw or bytes(END * 8))
        self.floats = {word: believed_sum(memoryview(words).cast("B").cast("d")[word]) for word in SUMS}
        self.words: Sequence[int] = [*map(believed, words)]

    def add(self, other: Counted) -> None:
        self.words = [one + two for one, two in zip(self.words, other.words, strict=True)]
        self.floats = {word: total + other.floats[word] for word, total in self.floats.items()}

    def __getitem__(self, name: str) -> int:
        return self.words[WORD[name]]

    def histogram(self, start: int) -> Histogram:
        return Histogram(self.words[start : start + histograms.BUCKETS], self.floats[start + histograms.SUM])

    def ends_at(self, number: int) -> dict[str, int]:
        """How the connections of the listener of this number have ended."""
        start = ENDS_AT + number * MOST_REASONS
        return {reason: self.words[start + index] for reason, index in REASONS.items()}


def read(fd: int, index: int) -> Counted | None:
    """What stands in the region of a row; None if nobody has counted there."""
    where = REGIONS + index * REGION
    if not any(os.pread(fd, 8, where)):
        return None
    raw = os.pread(fd, END * 8, where)
    return Counted(raw) if len(raw) == END * 8 else None


def total(fd: int, indexes: Iterable[int]) -> Counted | None:
    """What stands in the regions of these rows, summed; None if nobody has counted there."""
    parts = [part for index in indexes if (part := read(fd, index)) is not None]
    if not parts:
        return None
    whole = Counted()
    for part in parts:
        whole.add(part)
    return whole


def service_times(fd: int, index: int) -> Histogram | None:
    """How long messages have taken in the worker of a row, of those that are timed; None if it counts no details."""
    where, size = REGIONS + index * REGION, histograms.BUCKETS * 8
    raw = os.pread(fd, size, where + SERVICE * 8) if any(os.pread(fd, 8, where)) else b""
    return Histogram(array("q", raw)) if len(raw) == size else None
