"""Admission of connections: accept(2) with its errors, the limits, and fairness among workers, for every model.

Law: every connection of every model is accepted here. A connection that is refused is closed in order, so that its
client reads an end and no reset, and counted.
"""

from __future__ import annotations

import fcntl
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

from pronghorn.connection.base import AnyConnection
from pronghorn.connection.closing import turn_away
from pronghorn.connection.proxy_wait import NO_BYTE, TOO_LATE, WRONG
from pronghorn.errors import End
from pronghorn.events import AcceptFailed, ClientsWait, ConnectionClosed, ConnectionOpened, ConnectionRefused, Observer
from pronghorn.listening.listener import Exhausted, Listener
from pronghorn.peers import Peer
from pronghorn.scoreboard.connection_limits import (
    CRASHED,
    DENIED,
    SOURCE_TOO_FAST,
    TOO_FAST,
    TOO_FAST_IN_ALL,
    TOO_MANY,
    TOO_MANY_IN_ALL,
    Limits,
)
from pronghorn.scoreboard.counts import ACCEPTED, CLOSED_WORD, OPEN, PROBES, REFUSED, Counts
from pronghorn.scoreboard.details import REASONS, WORD
from pronghorn.scoreboard.row import Row
from pronghorn.serving.emfile import SpareDescriptor
from pronghorn.serving.end_states import state_of_refusal
from pronghorn.serving.gate import EXHAUSTED_PAUSE, FAIR_PAUSE
from pronghorn.serving.service import Offer, set_limits
from pronghorn.settings import Settings
from pronghorn.system.stdio import keep_standard_descriptors

Note = Callable[[Peer, int, float, float | None, int, int, int], None]
REFUSALS_IN_A_ROW = 64  # before others have their turn
LOWEST = 3  # descriptor of a connection: what is below is standard input, output and error
NO_DESCRIPTOR = "no descriptor"
FAIR_PAUSES = 5  # in a row, while a client waits: the emptier worker has had its chance


REFUSED_FOR = {
    limit: WORD[name]
    for name, limit in {
        "refused_access": DENIED,
        "refused_source_count": TOO_MANY,
        "refused_rate": TOO_FAST,
        "refused_source_rate": SOURCE_TOO_FAST,
        "refused_crash_penalty": CRASHED,
        "refused_proxy_header": TOO_LATE,
        "refused_proxy": WRONG,
        "refused_descriptors": NO_DESCRIPTOR,
    }.items()
}
REFUSED_OTHERWISE = WORD["refused_resources"]
REFUSED_FOR_OTHERS = {
    TOO_MANY_IN_ALL: (WORD["refused_source_count"], WORD["refused_source_count_in_all"]),
    TOO_FAST_IN_ALL: (WORD["refused_rate"], WORD["refused_rate_in_all"]),
}
"""Where a refusal counts by its limit, and once more, since a host alone would have let that peer in."""


class Full(Exhausted):
    """A listener has no room for another connection; others may have."""


class Admission:
    """Accepts and refuses connections. `row` is this worker's on the scoreboard, and `counts` where connections are
    counted: the same, except in a child of the fork model. `lock` is held while a flow of control counts."""

    gathers = False
    """Many connections end at once, and their flow of control calls `flush` when they have."""
    flush: Callable[[], None] | None = None
    """Has the ends written down that were noted, if there is anybody who notes them."""

    def __init__(self, offers: Sequence[Offer], settings: Settings, observe: Observer, row: Row, holds: bool) -> None:
        self.offers = {each.listener: each for each in offers}
        self.by_name = {each.name: each for each in offers}
        self.listeners = [*self.offers]
        """Those that live."""
        self.settings = settings
        """The server's."""
        self.observe = observe
        self.ask_who_hears()
        self.notes_first: bool = getattr(observe, "wants_first_byte", False) or row.details is not None
        """Whether somebody wants to know when the first byte of each was sent."""
        self.count = 0
        self.row = row
        self.pid = os.getpid()
        self.counts: Counts = row
        self.details = row.details
        """Where what metrics tell beside is counted; None if nobody reads metrics."""
        self.lock = threading.Lock()
        self.limits = Limits(settings, row, None if holds else math.inf)
        set_limits(offers, settings, row, self.limits)
        self.spare = SpareDescriptor()
        self.holders: dict[int, AnyConnection] = {}
        """The open connections by descriptor: one whose number accept(2) returns has lost its descriptor."""
        self._places = 0  # connections for which there is room without a look at what other workers and flows have
        self._ended = [0, 0]  # connections that had ended at the tick before last, and at the last
        self._pauses = 0
        self._paused_until = 0.0

    def ask_who_hears(self) -> None:
        """Find out which events an observer wants: now, and when the level of the log has changed."""
        hears = getattr(self.observe, "hears", None)
        self.tells_of_begins = hears is None or hears(ConnectionOpened)
        self.tells = hears is None or hears(ConnectionClosed)
        """Whether an observer wants the events of each connection: of its begin, of its end."""
        if self.flush is not None:
            self.flush()
        only = getattr(self.observe, "only", None)
        one = only(ConnectionClosed) if only else None
        self.notes: Callable[..., Note | None] | None = getattr(one, "notes", None)
        """Of the only observer of ends, if it takes those of plain connections without an event."""
        self.flush = getattr(one, "flush", None) if self.gathers else None
        self.notes_at: dict[str, Note | None] = {}

    def count_alone(self) -> None:
        """All connections begin on one flow of control from now on. Where no limit is shared with other workers, that
        flow need not reserve a place before it accepts, nor hold the lock when it counts."""
        if self.limits.unbounded and all(each.service.limits.unbounded for each in self.offers.values()):
            self._places = int(min(self.limits.most, sys.maxsize))

    def accept(self, listener: Listener) -> tuple[int, Peer] | None:
        """One connection that no limit refuses, if there is one; it is counted among the open ones.

        Raises Exhausted when descriptors or memory ran out, or when as many are open as may be; another OSError when
        the listener has died, which then is left out.
        """
        offer, row = self.offers[listener], self.row
        counts = offer.counts
        for _ in range(REFUSALS_IN_A_ROW):
            if reserved := row.own[OPEN] >= self._places:
                self._reserve(offer)
            try:
                got = listener.accept()
            except OSError as error:
                if reserved:
                    self._give_back(counts)
                self._failed_to_accept(listener, error)
                raise
            if got is None:
                if reserved:
                    self._give_back(counts)
                return None
            fd, peer = got
            if reserved:
                with self.lock:
                    row.add(ACCEPTED)
                    if counts is not None:
                        counts.add(ACCEPTED)
                    limit = offer.service.limits.refusal(peer)
            else:
                row.begin()
                if counts is not None:
                    counts.begin()
                limit = offer.service.limits.refusal(peer)
            if not limit:
                if fd < LOWEST or fd in self.holders:
                    fd = self._elsewhere(fd)
                if fd >= 0:
                    return fd, peer
                self.refused(offer, peer, NO_DESCRIPTOR, admitted=True)
                continue
            turn_away(fd)
            self._count_refused(offer, peer, limit)
        return None

    def let_go_of(self, fd: int, holder: AnyConnection) -> None:
        """The connection `holder` is about to close its descriptor `fd`."""
        if self.holders.get(fd) is holder:
            self.holders.pop(fd, None)

    def own_number(self, fd: int) -> int:
        """A new connection's descriptor, under another number if this one is a standard stream's or an open
        connection's; -1 if there is none, and it is closed then."""
        return self._elsewhere(fd) if fd < LOWEST or fd in self.holders else fd

    def _elsewhere(self, fd: int) -> int:
        """Another descriptor for a new connection whose number is a standard stream's, or that of an open connection
        whose descriptor somebody has closed; -1 if there is none, and the new connection is closed then."""
        holder = self.holders.get(fd)
        if holder is not None and holder.fileno() == fd:
            holder.lose()
        elif fd >= LOWEST:
            return fd
        others = [fd]
        try:
            while others[-1] < LOWEST or others[-1] in self.holders:
                others.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(LOWEST, others[-1] + 1)))
            new = others.pop()
        except OSError:
            new = -1
        for each in others:
            os.close(each)
        keep_standard_descriptors()
        return new

    def _reserve(self, offer: Offer) -> None:
        with self.lock:
            if self.limits.reserve():
                counts = offer.counts
                if counts is None:
                    return
                own = offer.service.limits
                counts.add(OPEN)
                if own.has_room():
                    return
                counts.add(OPEN, -1)
                self.row.add(OPEN, -1)
                error: Exhausted = Full("the listener has as many connections as it may have")
                reached = own.reached_here()
            else:
                error, reached = Exhausted("as many connections are open as may be"), self.limits.reached()
        self.observe(ClientsWait(offer.listener.address, *reached))
        raise error

    def _give_back(self, counts: Counts | None) -> None:
        with self.lock:
            self.row.add(OPEN, -1)
            if counts is not None:
                counts.add(OPEN, -1)

    def _failed_to_accept(self, listener: Listener, error: OSError) -> None:
        if not isinstance(error, Exhausted):
            self.observe(AcceptFailed(listener.address, error, 0.0))
            self.listeners.remove(listener)
            return
        count = 0
        for fd, _ in self.spare.accepted(listener, error):
            turn_away(fd)
            count += 1
        own = self.offers[listener].counts
        with self.lock:
            for counts in (self.row, own):
                if counts is not None:
                    counts.add(ACCEPTED, count)
                    counts.add(REFUSED, count)
        if self.details is not None and count:
            self.details.add(REFUSED_FOR[NO_DESCRIPTOR], count)
        self.observe(AcceptFailed(listener.address, error, EXHAUSTED_PAUSE, count))

    def number(self, offer: Offer, peer: Peer | None) -> int:
        """The next connection's number. `peer` is None where a proxy has yet to say for whom it speaks: then the caller
        observes ConnectionOpened later."""
        self.count += 1
        if peer is not None and self.tells_of_begins:
            self.observe(ConnectionOpened(self.count, peer, offer.told, self.id_of(self.count)))
        return self.count

    def id_of(self, number: int) -> str:
        """What names a connection of this worker in the whole server."""
        return f"{self.pid}-{number}"

    def offer_of(self, conn: AnyConnection) -> Offer:
        """What the listener offers that a connection has come to."""
        return self.by_name[conn.listener]

    def refusal_of_client(self, offer: Offer, client: Peer) -> str:
        """The limit that refuses a client for whom a proxy speaks; "" if there is none."""
        with self.lock:
            return offer.service.limits.refusal_of_client(client)

    def refuse(
        self, offer: Offer, fd: int, peer: Peer, limit: str, detail: str = "", *, admitted: bool = False
    ) -> None:
        """Close a connection unserved, in order. One that was `admitted` has passed all limits before."""
        turn_away(fd)
        self.refused(offer, peer, limit, detail, admitted=admitted)

    def refused(self, offer: Offer, peer: Peer, limit: str, detail: str = "", *, admitted: bool = False) -> None:
        """Account for a connection that was closed unserved."""
        with self.lock:
            offer.service.limits.refused()
            if admitted:
                offer.service.limits.left(peer)
        self._count_refused(offer, peer, limit, detail)

    def _count_probe(self, offer: Offer) -> None:
        """A connection ended without a byte before its PROXY header: a health check's, and no refusal."""
        if self.details is not None:
            self.details.connection(offer.number, REASONS[End.DONE], 0.0, None)
        with self.lock:
            self.counts.add(CLOSED_WORD[End.DONE])
            self.counts.add(PROBES)
            self.counts.add(OPEN, -1)
            if offer.counts is not None and self.counts is self.row:
                offer.counts.add(OPEN, -1)

    def _count_refused(self, offer: Offer, peer: Peer, limit: str, detail: str = "") -> None:
        if limit == NO_BYTE:
            return self._count_probe(offer)
        if self.details is not None:
            for word in REFUSED_FOR_OTHERS.get(limit) or (REFUSED_FOR.get(limit, REFUSED_OTHERWISE),):
                self.details.add(word)
        with self.lock:
            self.counts.add(REFUSED)
            self.counts.add(OPEN, -1)
            if offer.counts is not None and self.counts is self.row:
                offer.counts.add(REFUSED)
                offer.counts.add(OPEN, -1)
        row, state = self.row, state_of_refusal(limit)
        self.observe(ConnectionRefused(peer, limit, detail, offer.told, state, row.slot, row.generation, offer.name))

    @property
    def come_and_go(self) -> bool:
        """Whether more connections have ended since the last ticks than are open."""
        own = self.row.own
        return own[ACCEPTED] - own[OPEN] - self._ended[0] > own[OPEN]

    def gives_way(self) -> bool:
        """Whether to leave the next connection to a worker that has fewer, and look again in FAIR_PAUSE seconds.

        Not where they `come_and_go`: such connections spread by themselves, and a pause costs them more than it gains.
        And not for ever: the emptiest worker may be stuck.
        """
        if self.row.own[OPEN] < 2 or self.come_and_go or not self.row.crowded():
            return False
        now = time.monotonic()
        if now > self._paused_until + FAIR_PAUSES * FAIR_PAUSE:  # nobody waited when the last pause was over
            self._pauses = 0
        self._pauses += 1
        if self._pauses > FAIR_PAUSES:
            self._pauses = 0
            return False
        self._paused_until = now + FAIR_PAUSE
        return True
