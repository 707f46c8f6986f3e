"""What this host has, read from the scoreboard for other hosts; and what they have, written there for the workers.

Law: one process writes, and whatever stands in the scoreboard may be false. Memory is bounded: so many sources are told
at most, and those of other hosts are added up in a table of fixed size, as each worker's own (scoreboard/sources.py).
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Callable, Sequence

from pronghorn.scoreboard.counts import ACCEPTED, believed
from pronghorn.scoreboard.map import FIRST, ROW_WORDS, Map
from pronghorn.scoreboard.shared_limits import (
    FAILURES,
    HOSTS,
    LEAST,
    PART,
    SOURCES,
    UNTIL,
    UP,
    WHOLE,
)
from pronghorn.scoreboard.sources import SOURCE_WORDS, buckets
from pronghorn.scoreboard.suspects import name
from pronghorn.shared_limits.parts import part
from pronghorn.shared_limits.records import MOST_CONNECTIONS, MOST_SOURCES, SERVER, Record, packed

SHARE = 8
"""Of a limit of connections per source an eighth at most is told to nobody, over all hosts."""
SLOWER = 0.5
"""How much of the demand of the last beat counts in this one, where fewer come."""
LARGEST = 2**32 - 1


class Counting:
    """The scoreboard's shared limits. `per_source` and `rate` are the settings, 0 where there is no limit."""

    def __init__(self, map: Map, per_source: int, rate: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._map, self._clock = map, clock
        self.per_source, self.rate = per_source, rate
        self.server = hashlib.blake2b(map.key, digest_size=SERVER // 2).hexdigest()
        self._places: dict[int, tuple[int, int]] = {}  # of the sources that are told
        self._theirs: dict[int, tuple[int, int]] = {}  # of those that others have told
        self._demand, self._came, self._counted_at = 0.0, -1, 0
        self._part = WHOLE
        self._least = 1
        self.alone()

    # What other hosts are told

    def record(self) -> bytes:
        """What this host has now."""
        sources = self._sources() if self.per_source else {}
        self._map.words[SOURCES] = len(sources)
        return packed(self.server, self._measured(), sources)

    def _sources(self) -> dict[int, int]:
        """The sources that have enough connections to be told, and how many each has."""
        map, places = self._map, self._places
        least = self._least
        map.look_again()
        tables = list(map.source_tables())

        def count(places: tuple[int, int]) -> int:
            first, second = places
            low, high = sum(table[first] for table in tables), sum(table[second] for table in tables)
            return min(low, high, MOST_CONNECTIONS)

        for source in {*map.noted.tolist()} - places.keys() - {0}:
            both = self._places_of(source)
            if count(both) >= least and len(places) < 2 * MOST_SOURCES:
                places[source] = both
                continue
            for place in both:
                if map.noted[place] == source:
                    map.noted[place] = 0
            if count(both) >= least and len(places) < 2 * MOST_SOURCES:  # one more came, and was noted before that
                places[source] = both
        found = {source: count(both) for source, both in places.items()}
        for source, connections in found.items():
            if connections < least:
                del places[source]
        return {source: connections for source, connections in found.items() if connections >= least}

    def _places_of(self, source: int) -> tuple[int, int]:
        return buckets(self._map.key, name(source).removesuffix("/64"))

    def _measured(self) -> float:
        """How many connections come in a second, those that are refused among them; the rate, where more do."""
        map, now = self._map, self._clock()
        map.look_again()
        came = sum(believed(map.words[FIRST + each * ROW_WORDS + ACCEPTED]) for each in (0, *map.taken()))
        passed = (now - self._counted_at) / 1e9
        if self._came >= 0 and passed > 0:
            self._demand = max(min(self.rate, max(0, came - self._came) / passed), self._demand * SLOWER)
        self._came, self._counted_at = came, now
        return self._demand

    # What other hosts have

    def write(self, records: Sequence[Record], seconds: float) -> None:
        """The other hosts have this, and it is true for so long."""
        words = self._map.words
        self._want_least(1 + len(records))
        sums: dict[int, int] = {}
        for record in records:
            for source, connections in record.sources.items():
                sums[source] = sums.get(source, 0) + connections
        if self.per_source:  # also where it is empty: a worker may have written there
            self._write_sources(sums)
        now = part(self.rate, self._demand, [each.demand for each in records]) if self.rate else 1.0
        parts = max(1, round(now * WHOLE))
        words[PART] = min(parts, self._part)  # more only when the others have had a beat to take less
        self._part = parts
        words[UNTIL], words[HOSTS], words[UP] = self._clock() + int(seconds * 1e9), 1 + len(records), 1

    def _write_sources(self, sums: dict[int, int]) -> None:
        table = array("I", bytes(SOURCE_WORDS * 4))
        self._theirs = {source: self._theirs.get(source) or self._places_of(source) for source in sums}
        for source, places in self._theirs.items():
            for place in places:
                table[place] = min(LARGEST, table[place] + sums[source])
        self._map.elsewhere[:] = table

    def alone(self) -> None:
        """Nothing is known of other hosts, or no more: the limits are this host's own."""
        words = self._map.words
        self._want_least(1)
        words[UNTIL] = words[PART] = words[UP] = words[HOSTS] = 0
        self._map.elsewhere[:] = array("I", bytes(SOURCE_WORDS * 4))
        self._part = WHOLE

    def failed(self) -> None:
        """The broker has not taken a record."""
        words = self._map.words
        words[FAILURES] = believed(words[FAILURES]) + 1

    def _want_least(self, hosts: int) -> None:
        """From how many connections on a source is told: so few that what nobody tells is a small part of the limit."""
        self._least = self._map.words[LEAST] = max(1, self.per_source // (SHARE * max(2, hosts)))
