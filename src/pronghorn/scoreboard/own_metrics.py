"""Where a handler's own metrics stand in a region of the scoreboard: a directory of series, and their values.

Law: a region is written by its worker alone, or by a worker and its forked children under a lock; the supervisor adds
that of a dead worker to region 0, gauges left out. The directory only grows: an entry is there before the word that
says so. A region has room for a thousand series, and nothing is ever taken away from it while its worker lives.

Any byte may be false. What cannot be an entry ends the directory, and what cannot be true counts as nothing.
"""

from __future__ import annotations

import os
import struct
from _thread import RLock
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from pronghorn.metrics import GAUGE, LONGEST_VALUE, Description
from pronghorn.scoreboard.counts import believed
from pronghorn.scoreboard.details import OWN, REGION_WORDS, USED
from pronghorn.scoreboard.map import REGION, REGIONS, Lock

# Words of this part of a region: those of its head; behind them the values, as floats, from place 8 on.
WRITTEN, PLACED, DROPPED, SERIES = range(4)  # bytes of the directory, places, updates without room, series
FIRST_PLACE, PLACES = 8, 4096
DIRECTORY = (OWN + PLACES) * 8  # bytes, in the region
ROOM = REGION - DIRECTORY  # bytes
MOST_SERIES = 1000
LENGTH = struct.Struct("=H")
MOST_VALUE = 1e300

assert OWN + PLACES < REGION_WORDS


class Series(msgspec.Struct, frozen=True, array_like=True):
    """One series: which metric of the directory, the values of its labels, and where its own values begin."""

    metric: int
    labels: tuple[str, ...]
    place: int


class Entries:
    """What stands in a directory, as far as it has been read."""

    __slots__ = ("metrics", "numbers", "places", "read", "series")

    def __init__(self) -> None:
        self.read = 0
        self.metrics: list[Description] = []
        self.series: list[Series] = []
        self.numbers: dict[Description, int] = {}
        self.places: dict[tuple[Description, tuple[str, ...]], int] = {}

    def go_on(self, directory: bytes | memoryview) -> None:
        """Read on; `directory` ends where it is written."""
        while len(directory) - self.read > LENGTH.size and len(self.series) < MOST_SERIES:
            (length,) = LENGTH.unpack_from(directory, self.read)
            entry = bytes(directory[self.read + LENGTH.size : self.read + LENGTH.size + length])
            if len(entry) < length or not self._take(entry):
                return
            self.read += LENGTH.size + length

    def _take(self, entry: bytes) -> bool:
        try:
            if entry[:1] == b"M":
                metric = msgspec.json.decode(entry[1:], type=Description)
                if metric.fault():
                    return False
                self.numbers.setdefault(metric, len(self.metrics))
                self.metrics.append(metric)
                return True
            series = msgspec.json.decode(entry[1:], type=Series)
            metric = self.metrics[series.metric]
        except (msgspec.MsgspecError, IndexError, ValueError, TypeError):
            return False
        fits = FIRST_PLACE <= series.place <= PLACES - metric.width and len(series.labels) == len(metric.labels)
        if not fits or any(len(each) > LONGEST_VALUE for each in series.labels):
            return False
        self.places.setdefault((metric, series.labels), series.place)
        self.series.append(series)
        return True


class OwnStore:
    """The values of one process in a region, or of several that share a `lock`: see metrics.Store."""

    __slots__ = ("_directory", "_entries", "_head", "_lock", "_own", "_values", "_written", "guard")

    def __init__(self, words: memoryview[int], lock: Lock | None = None) -> None:
        words[USED] = 1
        self._head = words[OWN : OWN + FIRST_PLACE]
        self._values = words[OWN : OWN + PLACES].cast("B").cast("d")
        self._directory = words.cast("B")[DIRECTORY:]
        self._own = array("d", bytes(PLACES * 8))
        self._lock = lock
        self._entries = Entries()
        self._written = b""  # of the directory
        self.guard = RLock()

    def inherit(self) -> None:
        """Go on with what stands there, as far as it can be true: of each value with the greater one."""
        self._read()
        if self._entries.series:
            for place, value in enumerate(self._values.tolist()):
                if place >= FIRST_PLACE and believed_value(value) > self._own[place]:
                    self._own[place] = value

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self.guard:
            held = self._lock is not None and self._lock.take()
            try:
                yield
            finally:
                if held and self._lock is not None:
                    self._lock.give_back()

    def place(self, metric: Description, values: tuple[str, ...]) -> int:
        """Where a series has its values; -1 if there is no room."""
        entries = self._entries
        if (known := entries.places.get((metric, values))) is not None:
            return known
        with self._alone():
            self._read()  # others may have entered it
            if (known := entries.places.get((metric, values))) is None:
                known = self._enter(metric, values)
            return known

    def _read(self) -> None:
        written = min(believed(self._head[WRITTEN]), ROOM)
        if written > self._entries.read:
            self._entries.go_on(self._directory[:written])
            self._written = bytes(self._directory[: self._entries.read])

    def _enter(self, metric: Description, values: tuple[str, ...]) -> int:
        entries, number = self._entries, self._entries.numbers.get(metric)
        place = max(FIRST_PLACE, believed(self._head[PLACED]))
        new = [b"M" + msgspec.json.encode(metric)] if number is None else []
        number = len(entries.metrics) if number is None else number
        new.append(b"S" + msgspec.json.encode(Series(number, values, place)))
        raw = b"".join(LENGTH.pack(len(each)) + each for each in new)
        full = len(entries.series) >= MOST_SERIES or place + metric.width > PLACES or entries.read + len(raw) > ROOM
        if full:
            self._head[DROPPED] = believed(self._head[DROPPED]) + 1
            return -1
        self._directory[entries.read : entries.read + len(raw)] = raw
        self._head[PLACED] = place + metric.width
        self._head[WRITTEN] = entries.read + len(raw)
        self._head[SERIES] = len(entries.series) + 1
        self._read()
        return place

    def add(self, place: int, amount: float) -> None:
        if self._lock is not None:
            return self._add_shared((place, amount))
        with self.guard:
            self._own[place] = value = self._own[place] + amount
            self._values[place] = value

    def set(self, place: int, value: float) -> None:
        self._own[place] = self._values[place] = value

    def observe(self, place: int, bucket: int, total: int, value: float) -> None:
        if self._lock is not None:
            return self._add_shared((place + bucket, 1.0), (place + total, value))
        own, values = self._own, self._values
        with self.guard:
            own[place + bucket] = count = own[place + bucket] + 1.0
            values[place + bucket] = count
            own[place + total] = count = own[place + total] + value
            values[place + total] = count

    def _add_shared(self, *amounts: tuple[int, float]) -> None:
        with self._alone():
            for place, amount in amounts:
                self._values[place] = believed_value(self._values[place]) + amount

    def get(self, place: int) -> float:
        return self._values[place] if self._lock is not None else self._own[place]

    def copy(self) -> None:
        """Write all anew, should somebody else have written there."""
        if self._lock is None and self._entries.series:
            with self.guard:
                self._values[FIRST_PLACE:] = self._own[FIRST_PLACE:]
                self._directory[: len(self._written)] = self._written
                self._head[WRITTEN], self._head[SERIES] = len(self._written), len(self._entries.series)
                last = self._entries.series[-1]
                self._head[PLACED] = last.place + self._entries.metrics[last.metric].width

    @property
    def series(self) -> int:
        """How many there are."""
        return len(self._entries.series)

    def take(self, other: Own) -> None:
        """Add what a worker has counted that is gone. A gauge is gone with it."""
        for metric, labels, values in other.series:
            if metric.kind != GAUGE and (place := self.place(metric, labels)) > 0:
                for index, value in enumerate(values):
                    self.add(place + index, value)
        self._head[DROPPED] = believed(self._head[DROPPED]) + other.dropped


def believed_value(value: float) -> float:
    """A value that another process wrote down, or 0 if it is no finite number."""
    return value if -MOST_VALUE < value < MOST_VALUE else 0.0


class Own:
    """What stands in a region: each series with its metric, the values of its labels, and its values."""

    __slots__ = ("dropped", "series")

    def __init__(self, entries: Entries, values: array[float], dropped: int) -> None:
        self.dropped = dropped
        self.series = [*_series(entries, values)]


def _series(entries: Entries, values: array[float]) -> Iterator[tuple[Description, tuple[str, ...], list[float]]]:
    for each in entries.series:
        metric = entries.metrics[each.metric]
        found = [believed_value(value) for value in values[each.place : each.place + metric.width]]
        if metric.kind != GAUGE:
            found = [max(0.0, value) for value in found]
        yield metric, each.labels, found


class OwnReader:
    """Reads regions, one after the other, again and again: a directory is read once, as long as it does not change."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, tuple[bytes, Entries]] = {}

    def read(self, fd: int, index: int) -> Own | None:
        """What stands in the region of a row; None if nothing does."""
        start = REGIONS + index * REGION
        head = array("q", os.pread(fd, FIRST_PLACE * 8, start + OWN * 8))
        if len(head) < FIRST_PLACE or not (written := believed(head[WRITTEN], ROOM)):
            return None
        directory = os.pread(fd, written, start + DIRECTORY)
        if index not in self._known or self._known[index][0] != directory:
            entries = Entries()
            entries.go_on(directory)
            self._known[index] = directory, entries
        values = array("d", os.pread(fd, PLACES * 8, start + OWN * 8))
        return Own(self._known[index][1], values, believed(head[DROPPED]))
