"""Limits that are shared with other hosts, as workers read them from the scoreboard: `--shared-limits`.

Law: nothing here waits, and nothing knows of a network. A process beside the server writes how many connections each
source has at other hosts, and which part of --accept-rate is this host's (pronghorn/shared_limits); both are true until
an instant which that process moves on with each answer of the store. After it the limits are this host's alone, so
whatever dies, they fail open. Only a source of more than one host is shared: never loopback, a unix socket or a proxy.
"""

from __future__ import annotations

import time

from pronghorn.scoreboard.map import H_SHARED, SHARED_WORDS, Map
from pronghorn.scoreboard.sources import buckets

UNTIL, PART, LEAST, UP, HOSTS, SOURCES, FAILURES, ALONE = range(H_SHARED, H_SHARED + SHARED_WORDS)
"""Words of the head: until when the rest is true (monotonic nanoseconds); this host's part of --accept-rate, in units
of 1 / WHOLE; from how many connections on a source is told; whether the broker answers; hosts, this one included;
sources that this one has told; failures so far; and, by workers, since when a bucket of the whole rate would have been
filling."""
WHOLE = 2**30


class Elsewhere:
    """The limit of connections per source over all hosts. `most` is the setting."""

    __slots__ = ("_map", "_most")

    def __init__(self, map: Map, most: int) -> None:
        self._map, self._most = map, most

    def refuses(self, source: int, host: str, here: int) -> bool:
        """Whether a source, whose word this is (suspects.key_of), is beyond the limit with what it has at other hosts;
        `here` are its connections to this one. From a certain number on it is noted for other hosts."""
        map, (first, second) = self._map, buckets(self._map.key, host)
        if here >= map.words[LEAST]:
            map.noted[first] = map.noted[second] = source
        others = min(map.elsewhere[first], map.elsewhere[second])
        return others > 0 and here + others > self._most and map.words[UNTIL] > time.monotonic_ns()


def part(words: memoryview[int], now: int) -> int:
    """This host's part of --accept-rate, in units of 1 / WHOLE; WHOLE where nothing else can be true."""
    told = words[PART]
    return told if 0 < told < WHOLE and words[UNTIL] > now else WHOLE
