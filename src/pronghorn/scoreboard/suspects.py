"""Sources that are connected when a worker dies, and sources that are refused because workers died of them.

Law: two tables in the scoreboard, of fixed size. Each worker writes down in its row whose connections are open, so
that its supervisor finds them there when the worker is dead; a full table forgets some. The supervisor writes in the
head which sources are refused until when, and never reads that back. A source is one word (`key`); 0 stands for those
that cannot be told from others: loopback, unix sockets, and proxies, behind which there may be any client.
"""

from __future__ import annotations

import time
from functools import lru_cache

from pronghorn.peers import Peer, packed
from pronghorn.scoreboard.counts import believed

PLACES, NEAR = 96, 4
WORDS_EACH = 3  # the source; its connections that are open; those that have ended in order
TABLE_WORDS = PLACES * WORDS_EACH
REFUSED = 64  # sources at once
REFUSED_WORDS = 1 + 2 * REFUSED  # until when anybody is refused; then each source, and until when
MOST = 2**31  # connections of one source in one worker: what is more, or less than none, was not counted here


def key(peer: Peer) -> int:
    """The word of a peer's source; 0 if nothing can be said of it alone."""
    return 0 if isinstance(peer, str) else key_of(peer[0])


@lru_cache(maxsize=4096)
def key_of(host: str) -> int:
    """The same of a host in figures."""
    try:
        raw = packed(host)
    except ValueError:
        return 0
    if len(raw) == 4:
        return 0 if raw[0] == 127 else int.from_bytes(raw, "big")
    return int.from_bytes(raw[:8], "big", signed=True)  # ::1 is in ::/64, as no other is


def name(source: int) -> str:
    """The source as people write it: an address of IPv4, or a /64 of IPv6."""
    import socket

    if 0 < source < 2**32:
        return socket.inet_ntop(socket.AF_INET, source.to_bytes(4, "big"))
    return socket.inet_ntop(socket.AF_INET6, source.to_bytes(8, "big", signed=True) + bytes(8)) + "/64"


class OpenSources:
    """The table of one worker."""

    __slots__ = ("_words",)

    def __init__(self, words: memoryview[int]) -> None:
        self._words = words

    def add(self, source: int) -> None:
        """One more connection of this source is open."""
        words, place = self._words, source % PLACES * WORDS_EACH
        if words[place] != source:
            place = self._place(source)
            if words[place] != source:
                words[place], words[place + 1], words[place + 2] = source, 0, 0
        words[place + 1] = believed(words[place + 1], MOST) + 1

    def remove(self, source: int) -> None:
        """One of its connections has ended in order."""
        words, place = self._words, source % PLACES * WORDS_EACH
        if words[place] != source:
            place = self._place(source)
            if words[place] != source:
                return  # it had to be forgotten
        words[place + 1] -= words[place + 1] > 0
        words[place + 2] = believed(words[place + 2], MOST) + 1

    def _place(self, source: int) -> int:
        """Where it stands, or may stand: an empty place, or that of the one with the fewest open connections."""
        words = self._words
        places = [(source + each) % PLACES * WORDS_EACH for each in range(NEAR)]
        found = next((place for place in places if words[place] == source), -1)
        return found if found >= 0 else min(places, key=lambda place: words[place + 1] if words[place] else -1)

    def open(self) -> dict[int, int]:
        """The sources with open connections, and how many of each have ended in order. Any word may be false."""
        return {source: ended for source, count, ended in self._entries() if 0 < count <= MOST}

    def seen(self) -> set[int]:
        """The sources that were here, a while ago at most."""
        return {source for source, _, _ in self._entries()}

    def _entries(self) -> list[tuple[int, int, int]]:
        words = self._words.tolist()
        each = zip(words[::WORDS_EACH], words[1::WORDS_EACH], words[2::WORDS_EACH], strict=True)
        return [(source, count, min(max(ended, 0), MOST)) for source, count, ended in each if source]


class Refused:
    """The sources that are refused, until when; instants are nanoseconds of the monotonic clock. Each change is copied
    to `copy`, where workers read it."""

    __slots__ = ("_copy", "_words")

    def __init__(self, words: memoryview[int], copy: memoryview[int] | None = None) -> None:
        self._words = words
        self._copy = copy

    def refuse(self, source: int, until: int) -> None:
        """From now on, until then. Of more than there is room for, the one whose time is over first is let in again."""
        words = self._words
        places = range(1, REFUSED_WORDS, 2)
        place = next((each for each in places if words[each] == source), -1)
        if place < 0:
            place = min(places, key=lambda each: words[each + 1])
        words[place], words[place + 1] = source, until
        words[0] = max(words[place + 1] for place in places)
        if self._copy is not None:
            self._copy[:] = words

    def holds(self, source: int) -> bool:
        """Whether a source is refused now."""
        words = self._words
        if not words[0] or not source:
            return False
        now = time.monotonic_ns()
        if words[0] <= now:
            return False
        entries = words.tolist()
        return any(each == source and until > now for each, until in zip(entries[1::2], entries[2::2], strict=True))
