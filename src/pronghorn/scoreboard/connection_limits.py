"""Limits on connections: how many in all, per source and per second, and which peers not at all.

Law: how many are open is kept without a lock between the workers: each publishes its own count on the scoreboard
first, then sums what all have published, and backs out if that is too much. So there are never more than the limit, and
for moments fewer. How many come in a second takes a lock, with --accept-rate only: without one each worker had to read
what all had ever taken (12 to 20 us a connection; with the lock 4). Memory is bounded however many sources there are
(see sources.py).

At the limit of connections nobody is accepted, and the kernel's queue waits. Who is beyond another limit would hold up
that queue, and is refused.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from pronghorn.peers import Access, Networks, Peer
from pronghorn.scoreboard.counts import OPEN
from pronghorn.scoreboard.map import H_FILLING, H_RATES, H_REFUSED, RATE_LOCK, Lock, Map
from pronghorn.scoreboard.row import Row
from pronghorn.scoreboard.shared_limits import ALONE, WHOLE, Elsewhere, part
from pronghorn.scoreboard.sources import buckets, count_everywhere
from pronghorn.scoreboard.suspects import REFUSED_WORDS, Refused, key, key_of
from pronghorn.settings import Settings
from pronghorn.settings.admission import OFF
from pronghorn.system.descriptors import descriptors_for_connections

ALL, DESCRIPTORS = "--max-connections", "the descriptors of a worker, ulimit -n"
DENIED, TOO_MANY, TOO_FAST = "--allow or --deny", "--max-connections-per-source", "--accept-rate"
CRASHED, SOURCE_TOO_FAST = "--crash-penalty", "--accept-rate-per-source"
TOO_MANY_IN_ALL, TOO_FAST_IN_ALL = f"{TOO_MANY}, over all hosts", f"{TOO_FAST}, over all hosts"
"""A host alone would have let this peer in (--shared-limits)."""
POLICY = frozenset({DENIED, TOO_MANY, TOO_FAST, CRASHED, SOURCE_TOO_FAST, TOO_MANY_IN_ALL, TOO_FAST_IN_ALL})
"""Limits by which a peer is refused that somebody has set; others are what there was too little of."""
SECOND = 10**9  # nanoseconds
PATIENCE = 0.25  # seconds for a lock that is held for microseconds, unless its holder waits for a processor


class Bucket:
    """At most `rate` in a second, and as many at once after a second of rest, over all workers: one word of the
    scoreboard says since when the bucket has been filling, and each that is taken moves it on (GCRA, ITU-T I.371). A
    word that cannot be true is an empty bucket, which fills from now on. Instants are nanoseconds, of the monotonic
    clock.

    A lock is held meanwhile. Where its holder is stopped, or hostile, the bucket is changed without: two that come at
    the same moment may take the same one then.
    """

    __slots__ = ("_clock", "_lock", "_step", "_word", "_words", "limit")

    def __init__(
        self, rate: int, map: Map, clock: Callable[[], int] = time.monotonic_ns, word: int = H_FILLING
    ) -> None:
        self._step, self._words, self._word, self._clock = SECOND // rate, map.words, word, clock
        self.limit = TOO_FAST
        """What the last one was refused by that was."""
        self._lock = Lock(map.fileno(), RATE_LOCK, PATIENCE, getattr(os, "sched_yield", lambda: time.sleep(0)))

    def take(self) -> bool:
        """Whether there was one more."""
        return self._move(self._step)

    def give_back(self) -> None:
        """One that was taken was not needed."""
        self._move(-self._step)

    def _move(self, step: int, most: int = SECOND) -> bool:
        held = self._lock.take()
        now = self._clock()
        since = min(max(self._words[self._word], now - most), now)
        fits = since + step <= now
        self._words[self._word] = since + step if fits else since
        if held:
            self._lock.give_back()
        return fits


class SharedBucket(Bucket):
    """The same of a rate that is shared with other hosts: filled by this host's part of it, which changes, and with
    room for one at least. Beside it a word tells what a bucket of the whole rate would hold: whoever that had let in is
    refused for the sake of other hosts."""

    __slots__ = ()

    def take(self) -> bool:
        now = self._clock()
        step = self._step * WHOLE // part(self._words, now)
        taken = self._move(step, max(SECOND, step))
        alone = min(max(self._words[ALONE], now - SECOND), now) + self._step
        if taken and alone <= now:
            self._words[ALONE] = alone
        self.limit = TOO_FAST_IN_ALL if alone <= now and step > self._step else TOO_FAST
        return taken

    def give_back(self) -> None:
        step = self._step * WHOLE // part(self._words, self._clock())
        self._move(-step, max(SECOND, step))


class SourceBuckets:
    """The same for each source, in a table of fixed size: a source has one bucket in each of two lines, which it shares
    with others by chance. It takes from both, and is refused only where both are empty; one that is takes on a debt
    meanwhile, of a second at most. So no source gets more than `rate` in a second, and one that comes seldom is hardly
    ever refused for others' sake. `at` is a listener that counts for itself."""

    __slots__ = ("_at", "_clock", "_lock", "_map", "_step")

    def __init__(self, rate: int, map: Map, at: str = "", clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._step, self._map, self._at, self._clock = SECOND // rate, map, at, clock
        self._lock = Lock(map.fileno(), RATE_LOCK, PATIENCE, getattr(os, "sched_yield", lambda: time.sleep(0)))

    def take(self, peer: Peer) -> bool:
        """Whether the source of a peer had one more; always for unix sockets, which have no source."""
        if isinstance(peer, str):
            return True
        words, step, both = self._map.source_rates, self._step, buckets(self._map.key, peer[0], self._at)
        held, now = self._lock.take(), self._clock()
        since = [min(max(words[each], now - SECOND), now + SECOND) for each in both]
        fits = min(since) + step <= now
        if fits:
            for each, instant in zip(both, since, strict=True):
                words[each] = instant + step
        if held:
            self._lock.give_back()
        return fits


class Own(NamedTuple):
    """The service of a listener, for the limits that it has for itself and not with the whole server."""

    whole: Settings
    """The server's."""
    name: str
    numbers: tuple[int, ...]
    """Of its listeners, on the scoreboard."""


class Limits:
    """What one worker holds its connections to. `most` is what it can hold itself; None: what its descriptors allow.
    With `own` they are those of one service: what differs from the server's settings is counted for it alone."""

    __slots__ = tuple(
        "_access _all _at _bucket _by_peer _by_source _connected _elsewhere _everybody _here _numbers _per_source "
        "_proxies _refused _row most proxied".split()
    )

    def __init__(self, settings: Settings, row: Row, most: float | None = None, own: Own | None = None) -> None:
        self._row = row
        at = ""
        self._here: int | None = None
        self._at, word = "", H_FILLING
        self._numbers: tuple[int, ...] = own.numbers if own is not None else ()
        if own is not None:
            if settings.max_connections != own.whole.max_connections:
                self._here = settings.max_connections
            if settings.max_connections_per_source != own.whole.max_connections_per_source:
                self._at = own.name
            if settings.accept_rate_per_source != own.whole.accept_rate_per_source:
                at = own.name
            if settings.accept_rate != own.whole.accept_rate:
                word = H_RATES + own.numbers[0]
        self._access = Access(settings.allow, settings.deny)
        self._everybody = self._access.everybody
        self._proxies = Networks(settings.proxy_from)
        self._all = settings.max_connections
        self._per_source = settings.max_connections_per_source
        rate = settings.accept_rate
        shared = settings.shared_limits != OFF
        kind = SharedBucket if shared and word == H_FILLING else Bucket
        self._bucket = kind(rate, row.map, word=word) if rate else None
        per_source = self._per_source if shared and not self._at else 0
        self._elsewhere = Elsewhere(row.map, per_source) if per_source else None
        by_source = settings.accept_rate_per_source
        self._by_source = SourceBuckets(by_source, row.map, at) if by_source else None
        self._by_peer = bool(by_source or self._per_source)
        self._connected = row.connected()
        self._refused = Refused(row.map.words[H_REFUSED : H_REFUSED + REFUSED_WORDS])
        self.most = descriptors_for_connections() if most is None else most
        self.proxied = bool(self._proxies)

    def is_proxy(self, peer: Peer) -> bool:
        """Whether a peer's connection has to begin with a PROXY header, which then says whose it is."""
        return self.proxied and self._proxies.holds(peer)

    @property
    def unbounded(self) -> bool:
        """Whether nothing but `most` limits how many connections are open."""
        return self._all is None and self._here is None

    def reserve(self) -> bool:
        """Count one more open connection, unless that is too many."""
        row = self._row
        row.add(OPEN)
        if row.own[OPEN] <= self.most and (self._all is None or row.everywhere(OPEN) <= self._all):
            return True
        row.add(OPEN, -1)
        return False

    def has_room(self) -> bool:
        """Whether the service has room for one more connection, which is counted already."""
        return self._here is None or self._row.everywhere_at(self._numbers, OPEN) <= self._here

    def reached_here(self) -> tuple[int, str]:
        """How many connections the service has, when there is no room for more, and what limit that is."""
        return self._row.everywhere_at(self._numbers, OPEN), ALL

    def reached(self) -> tuple[int, str]:
        """How many are open, when nobody can be let in, and what limit that is."""
        here = self._row.own[OPEN]
        if self._all is None or here >= self.most:
            return here, DESCRIPTORS
        return self._row.everywhere(OPEN), ALL

    def refusal(self, peer: Peer) -> str:
        """The limit that a peer is beyond who was just accepted; "" if there is none. One that is not refused is
        counted among those of its source, unless it is a proxy, who speaks for others: they are counted later."""
        if not (self._everybody or self._access.permits(peer)):
            return DENIED
        if self.proxied and self.is_proxy(peer):
            return self._bucket.limit if self._bucket is not None and not self._bucket.take() else ""
        source = 0 if isinstance(peer, str) else key_of(peer[0])
        if source and self._refused.holds(source):
            return CRASHED
        if self._by_peer and (limit := self._too_many(peer)):
            return limit
        if self._bucket is not None and not self._bucket.take():
            if self._per_source:
                self._row.sources.remove(peer, self._at)
            return self._bucket.limit
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

    def took_over(self, peer: Peer) -> None:
        """A connection came from another worker, which counts it no more: no limit refuses it."""
        if self._per_source:
            self._row.sources.add(peer)
        source = key(peer)
        if source and not self.is_proxy(peer):
            self._connected.add(source)

    def left(self, peer: Peer) -> None:
        """A connection that no limit refused is over."""
        if self._per_source:
            self._row.sources.remove(peer, self._at)
        source = 0 if isinstance(peer, str) else key_of(peer[0])
        if source and not self.is_proxy(peer):
            self._connected.remove(source)

    def refused(self) -> None:
        """A connection that no limit refused when it came was refused later, and is none of this second's."""
        if self._bucket is not None:
            self._bucket.give_back()

    def _too_many(self, peer: Peer) -> str:
        if self._by_source is not None and not self._by_source.take(peer):
            return SOURCE_TOO_FAST
        if self._per_source:
            at, map = self._at, self._row.map
            self._row.sources.add(peer, at)
            here = count_everywhere(map.source_tables(), map.key, peer, at)
            if here > self._per_source:
                self._row.sources.remove(peer, at)
                return TOO_MANY
            if self._elsewhere is not None and not isinstance(peer, str):
                source = 0 if self.is_proxy(peer) else key_of(peer[0])
                if source and self._elsewhere.refuses(source, peer[0], here):
                    self._row.sources.remove(peer, at)
                    return TOO_MANY_IN_ALL
        return ""
