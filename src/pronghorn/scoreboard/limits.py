"""How many connections: in all, per source, per second; and whom not to take at all.

Law: a limit of the whole server is kept without a lock between its workers: each publishes its own count on the
scoreboard first, then sums what all have published, and backs out if that is too much. So there are never more than
the limit, and for moments fewer. Memory is bounded however many sources there are (see sources.py).

At the limit of connections nobody is accepted, and the kernel's queue waits. Who is beyond another limit would hold up
that queue, and is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pronghorn.peers import Access, Networks, Peer
from pronghorn.scoreboard.counts import OPEN, believed
from pronghorn.scoreboard.map import H_REFUSED, SEEN, SINCE, TAKEN
from pronghorn.scoreboard.row import Row, highest
from pronghorn.scoreboard.suspects import REFUSED_WORDS, Refused, key
from pronghorn.settings import Settings
from pronghorn.system.descriptors import free_descriptors

SPARE_DESCRIPTORS = 16  # of those that are free when serving begins, for what is no connection
ALL, DESCRIPTORS = "--max-connections", "the descriptors of a worker, ulimit -n"
DENIED, TOO_MANY, TOO_FAST = "--allow or --deny", "--max-connections-per-source", "--accept-rate"
CRASHED = "--crash-penalty"
SECOND = 10**9  # nanoseconds
MOST_TAKEN, MOST_SINCE = 2**50, 2**62  # what all rows can have taken fits in a word


class Bucket:
    """At most `rate` in a second, and as many at once after a second of rest: one bucket for all workers that ever
    were, so that it is as full for one that has just started as for the others.

    Nobody keeps it. Whoever takes from it counts that first, and writes down a view: since when it would be filling,
    had nobody taken any since so many were taken in all. Whoever has taken any since is held to have come last, so no
    view has more in the bucket than there is, and that which has most is the best. What a worker has written there
    stays when it is gone, and no count ever falls. Instants are nanoseconds, of the monotonic clock.
    """

    __slots__ = ("_clock", "_index", "_rate", "_taken", "_words")

    def __init__(self, rate: int, row: Row, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._rate, self._index, self._words, self._clock = rate, row.index, row.head(), clock
        self._taken = believed(self._words[TAKEN + self._index], MOST_TAKEN)

    def take(self) -> bool:
        """Whether there was one more. When two take the last at the same moment, neither may have it."""
        since, taken, now = self._best()
        if since + SECOND // self._rate > now:
            self._write(since, taken)  # it fills from now on, also where no view could be believed
            return False
        self._taken = min(self._taken + 1, MOST_TAKEN)
        self._words[TAKEN + self._index] = self._taken
        total = self._total(self._places())
        since += (total - taken) * SECOND // self._rate
        fits = since <= now
        self._write(since if fits else since - SECOND // self._rate, total)
        return fits

    def give_back(self) -> None:
        """One that was taken was not needed."""
        since, taken, _ = self._best()
        self._write(since - SECOND // self._rate, taken)

    def _best(self) -> tuple[int, int, int]:
        """The best view, brought up to now, how many have been taken, and now. None is worse than an empty bucket.
        No view is of more than have been taken: whoever wrote that down lied."""
        places = self._places()
        at, since, same = (self._each(each, places) for each in (SEEN, SINCE, SEEN))
        taken = self._total(places)
        now = self._clock()  # and not before: who was held up since would take a bucket for full that others emptied
        full = now - SECOND
        views = (
            max(start, full) + (taken - seen) * SECOND // self._rate
            for seen, start, again in zip(at, since, same, strict=True)
            if taken >= seen == again >= 0
        )
        return min([now, *views]), taken, now

    def _write(self, since: int, taken: int) -> None:
        words, index = self._words, self._index
        words[SEEN + index] = -1  # who reads it meanwhile shall not believe it
        words[SINCE + index] = min(max(since, 0), MOST_SINCE)
        words[SEEN + index] = taken

    def _places(self) -> int:
        return max(self._index, highest(self._words)) + 1

    def _total(self, places: int) -> int:
        return sum(believed(each, MOST_TAKEN) for each in self._each(TAKEN, places))

    def _each(self, start: int, places: int) -> list[int]:
        return self._words[start : start + places].tolist()


class Limits:
    """What one worker holds its connections to. `most` is what it can hold itself; None: what its descriptors allow."""

    __slots__ = (
        "_access",
        "_all",
        "_bucket",
        "_connected",
        "_per_source",
        "_proxies",
        "_refused",
        "_row",
        "most",
        "proxied",
    )  # fmt: skip

    def __init__(self, settings: Settings, row: Row, most: float | None = None) -> None:
        self._row = row
        self._access = Access(settings.allow, settings.deny)
        self._proxies = Networks(settings.proxy_from)
        self._all = settings.max_connections
        self._per_source = settings.max_connections_per_source
        rate = settings.accept_rate
        self._bucket = Bucket(rate, row) if rate else None
        self._connected = row.connected()
        self._refused = Refused(row.head()[H_REFUSED : H_REFUSED + REFUSED_WORDS])
        self.most = max(1, free_descriptors() - SPARE_DESCRIPTORS) if most is None else most
        self.proxied = bool(self._proxies)

    def is_proxy(self, peer: Peer) -> bool:
        """Whether a peer's connection has to begin with a PROXY header, which then says whose it is."""
        return self.proxied and self._proxies.holds(peer)

    def reserve(self) -> bool:
        """Count one more open connection, unless that is too many."""
        row = self._row
        row.add(OPEN)
        if row.own[OPEN] <= self.most and (self._all is None or row.everywhere(OPEN) <= self._all):
            return True
        row.add(OPEN, -1)
        return False

    def reached(self) -> tuple[int, str]:
        """How many are open, when nobody can be let in, and what limit that is."""
        here = self._row.own[OPEN]
        if self._all is None or here >= self.most:
            return here, DESCRIPTORS
        return self._row.everywhere(OPEN), ALL

    def refusal(self, peer: Peer) -> str:
        """The limit that a peer is beyond who was just accepted; "" if there is none. One that is not refused is
        counted among those of its source, unless it is a proxy, who speaks for others: they are counted later."""
        if not self._access.permits(peer):
            return DENIED
        if self.is_proxy(peer):
            return TOO_FAST if self._bucket is not None and not self._bucket.take() else ""
        source = key(peer)
        if self._refused.holds(source):
            return CRASHED
        if self._too_many(peer):
            return TOO_MANY
        if self._bucket is not None and not self._bucket.take():
            self._uncount(peer)
            return TOO_FAST
        if source:
            self._connected.add(source)
        return ""

    def refusal_of_client(self, client: Peer) -> str:
        """The same of a client for whom a proxy speaks. How fast the proxy comes has been looked at."""
        if not self._access.permits(client):
            return DENIED
        source = 0 if self.is_proxy(client) else key(client)
        if self._refused.holds(source):
            return CRASHED
        limit = self._too_many(client)
        if source and not limit:
            self._connected.add(source)
        return limit

    def left(self, peer: Peer) -> None:
        """A connection that no limit refused is over."""
        self._uncount(peer)
        source = key(peer)
        if source and not self.is_proxy(peer):
            self._connected.remove(source)

    def _uncount(self, peer: Peer) -> None:
        if self._per_source:
            self._row.source_remove(peer)

    def refused(self) -> None:
        """A connection that no limit refused when it came was refused later, and is none of this second's."""
        if self._bucket is not None:
            self._bucket.give_back()

    def _too_many(self, peer: Peer) -> str:
        if self._per_source:
            self._row.source_add(peer)
            if self._row.source_everywhere(peer) > self._per_source:
                self._row.source_remove(peer)
                return TOO_MANY
        return ""
