"""Open connections per source, counted by each worker in a table of fixed size (a count-min sketch).

Law: a table has one writer, its worker, and anyone may sum. No memory grows with the number of sources. An address has
one bucket in each of two lines; the hash is keyed, so that nobody can choose addresses that collide. IPv4 counts by
address, also when it comes mapped into IPv6; IPv6 counts by /64, which is what one customer has (RFC 6177).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from functools import lru_cache

from pronghorn.peers import Peer, packed

WIDTH = 16384
SOURCE_WORDS = 2 * WIDTH


def network(host: str) -> bytes:
    """What of an address counts as one source: 4 bytes of IPv4, or the first 8 of IPv6. ValueError if it is neither."""
    return packed(host)[:8]


def prepare() -> None:
    """Before workers become a user who may not read what `buckets` imports."""
    import hashlib  # noqa: F401


@lru_cache(maxsize=1024)
def buckets(key: bytes, host: str, at: str = "") -> tuple[int, int]:
    """The places of an address in a table of two lines of WIDTH buckets, under this key; other ones for each `at`."""
    import hashlib  # here, since it brings OpenSSL, and most servers limit no source

    digest = hashlib.blake2b(network(host) + at.encode(), key=key, digest_size=4).digest()
    return int.from_bytes(digest[:2], "little") % WIDTH, WIDTH + int.from_bytes(digest[2:], "little") % WIDTH


def count_everywhere(tables: Iterable[memoryview[int]], key: bytes, peer: Peer, at: str = "") -> int:
    """Connections that the source of `peer` has open, by the tables of all workers: never less than the truth, seldom
    more (the minimum over the lines of the sum over the workers). 0 for unix sockets, which have no source. `at` is
    the listener, where it counts for itself."""
    if isinstance(peer, str):
        return 0
    first, second = buckets(key, peer[0], at)
    low = high = 0
    for table in tables:
        low += table[first]
        high += table[second]
    return min(low, high)


class SourceCounts:
    """The counts of one worker: in memory of its own, and copied to its table in the map, which `start` gives when the
    first connection is counted."""

    __slots__ = ("_key", "_own", "_start", "_table")

    def __init__(self, key: bytes, start: Callable[[], memoryview[int]]) -> None:
        self._key, self._start = key, start
        self._table: memoryview[int] | None = None
        self._own: array[int] = array("I")

    def add(self, peer: Peer, at: str = "") -> None:
        """Count one more connection of this source; `at` a listener that counts for itself."""
        self._count(peer, 1, at)

    def remove(self, peer: Peer, at: str = "") -> None:
        """Take back what `add` counted."""
        self._count(peer, -1, at)

    def copy(self) -> bool:
        """Write the whole table anew, should somebody else have written there; whether there is one."""
        if self._table is None:
            return False
        self._table[:] = self._own
        return True

    def inherit(self, table: memoryview[int]) -> None:
        """Go on with what stands in the table, as when the worker that has counted there is dead."""
        self._table, self._own = table, array("I", table.tolist())

    def _count(self, peer: Peer, count: int, at: str) -> None:
        if isinstance(peer, str):
            return
        if self._table is None:
            self.inherit(self._start())
        assert self._table is not None
        for bucket in buckets(self._key, peer[0], at):
            self._table[bucket] = self._own[bucket] = max(0, self._own[bucket] + count)
