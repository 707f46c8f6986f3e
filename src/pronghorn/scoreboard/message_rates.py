"""`--message-rate-per-source`: how many messages of one source are handled in a second, over all workers.

Law: as --accept-rate-per-source (limits.py), in a table of its own. Nothing is dropped: a message that is too many
waits for its turn. Where the map is not there, as in a handler's test without a server, no message waits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from pronghorn.peers import Peer
from pronghorn.scoreboard.connection_limits import PATIENCE, SECOND
from pronghorn.scoreboard.map import MESSAGE_LOCK, Lock, Map
from pronghorn.scoreboard.sources import buckets

_map: Map | None = None


def keep_in(map: Map) -> None:
    """In a worker: this is the map of its server."""
    global _map
    _map = map


class MessageRate:
    """At most `rate` messages of a source in a second, and as many at once after a second of rest."""

    __slots__ = ("_clock", "_lock", "_step")

    def __init__(self, rate: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._step, self._clock = SECOND // rate, clock
        self._lock: Lock | None = None

    def take(self, peer: Peer, wanted: int) -> tuple[int, float]:
        """How many of the `wanted` messages of a peer may be handled now, and in how many seconds the next one."""
        if _map is None or isinstance(peer, str) or not wanted:
            return wanted, 0.0
        if self._lock is None:
            rest = getattr(os, "sched_yield", lambda: time.sleep(0))
            self._lock = Lock(_map.fileno(), MESSAGE_LOCK, PATIENCE, rest)
        words, step, both = _map.message_rates, self._step, buckets(_map.key, peer[0])
        held, now = self._lock.take(), self._clock()
        since = [min(max(words[each], now - SECOND), now + SECOND) for each in both]
        count = max(0, min(wanted, (now - min(since)) // step))
        if count:
            for each, instant in zip(both, since, strict=True):
                words[each] = instant + count * step
        if held:
            self._lock.give_back()
        return count, max(0, min(since) + (count + 1) * step - now) / SECOND
