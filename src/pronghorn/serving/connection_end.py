"""How a connection ends: whose fault an error is, and what is counted and told of each end, for every model.

Law: each connection that was counted as open passes `closed` once, when its descriptor is closed. An error that ended
its conversation, the handler's or the peer's, passes `failed` before. Closing itself is the work of the connection
(connection/closing.py) and of whoever runs the handler (conversations.py, channels.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from pronghorn import events
from pronghorn.bus.joined import JOINED
from pronghorn.connection.base import AnyConnection, Traffic, fields_as_text
from pronghorn.connection.blocking import ConnectionBase
from pronghorn.connection.states import is_peers_fault
from pronghorn.errors import ENDS, End, HandshakeFailed, HandshakeTimeout
from pronghorn.events import ConnectionClosed, HandlerFailed, Observer, PeerFailed
from pronghorn.peers import Peer
from pronghorn.scoreboard.counts import (
    BYTES_IN,
    BYTES_OUT,
    CLOSED_WORD,
    HANDED_OVER,
    HANDLER_ERRORS,
    MESSAGES,
    OPEN,
    PROBES,
    TAKEN_OVER,
    Counts,
)
from pronghorn.scoreboard.details import REASONS, WORD
from pronghorn.scoreboard.row import Row
from pronghorn.serving.admission import Admission, Note
from pronghorn.serving.end_states import NORMAL, state_of_end
from pronghorn.serving.service import Offer
from pronghorn.settings import Settings
from pronghorn.tracebacks import is_ours

DONE, ERROR, HANDSHAKE = End.DONE, End.ERROR, End.HANDSHAKE  # an access to the class calls a function (Python 3.11)
OF_PROBES = frozenset({End.DONE, End.DRAINING, End.RESET, End.TIMEOUT})
Sum = tuple[int, int, int]
"""Bytes in, bytes out, and messages, of several connections."""
Open = list[AnyConnection | Traffic]
TOLD_BY_NAME = 10  # of the connections that the drain deadline cuts


class Sums:
    """What the connections of one listener have received and sent, those that have ended and those that are open."""

    __slots__ = ("_done", "_now", "_written", "counts")

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self._done: Sum = (0, 0, 0)
        self._now: Sum = (0, 0, 0)
        self._written: Sum = (0, 0, 0)

    def end(self, conn: AnyConnection, sign: int) -> None:
        """A connection is over; with -1 it was another worker's before, which has counted what it had done."""
        self._done = _added(self._done, conn, sign)

    def begin(self) -> None:
        self._now = self._done

    def see(self, conn: AnyConnection | Traffic) -> None:
        """A connection is open, after `begin`."""
        self._now = _added(self._now, conn)

    def write(self) -> None:
        """Count what has come since the last time."""
        for word, now, before in zip((BYTES_IN, BYTES_OUT, MESSAGES), self._now, self._written, strict=True):
            if now > before:
                self.counts.add(word, now - before)
        self._written = _no_less(self._now, self._written)


def _no_less(now: Sum, written: Sum) -> Sum:
    """A counter never goes back: of a connection that broke, the kernel may know less at the end than before."""
    return max(now[0], written[0]), max(now[1], written[1]), max(now[2], written[2])


def _added(sums: Sum, conn: AnyConnection | Traffic, sign: int = 1) -> Sum:
    return sums[0] + sign * conn.bytes_in, sums[1] + sign * conn.bytes_out, sums[2] + sign * conn.messages


class ConnectionEnds(Admission):
    """The open connections by number, and the accounts of those that have ended."""

    def __init__(self, offers: Sequence[Offer], settings: Settings, observe: Observer, row: Row, holds: bool) -> None:
        super().__init__(offers, settings, observe, row, holds)
        self.open: dict[int, AnyConnection] = {}
        self.cut = 0
        self.cut_off: dict[int, tuple[Peer, float]] = {}  # the first of them: their peers, and how old they were
        self._keeps_limits = True
        self._left = self.limits.left if all(each.service.limits is self.limits for each in offers) else None
        self._noted: set[int] = set()
        self._faulty: set[int] = set()  # open connections whose handler has raised
        self._done: Sum = (0, 0, 0)  # of connections that have ended
        self._written: Sum = (0, 0, 0)  # what the row has of these, and of those that are open
        self._by_listener = {each.name: Sums(each.counts) for each in offers if each.counts is not None}

    def fault(self, error: BaseException) -> None:
        raise NotImplementedError

    def failed(self, conn: AnyConnection, error: BaseException) -> None:
        """An error ended a conversation: one event, of the handler's fault or the peer's."""
        if isinstance(error, HandshakeFailed):
            if self.details is not None:
                self.details.add(_handshake_word(error))
            self.observe(
                events.HandshakeFailed(conn.number, conn.peer, error.what, self.told(conn), self.id_of(conn.number))
            )
            return
        if is_peers_fault(error):
            self.observe(PeerFailed(conn.number, conn.peer, error, self.told(conn), self.id_of(conn.number)))
            return
        with self.lock:
            self.counts.add(HANDLER_ERRORS)
            if (sums := self._by_listener.get(conn.listener)) is not None:
                sums.counts.add(HANDLER_ERRORS)
            if conn.number in self.open:
                self._faulty.add(conn.number)
        if isinstance(error, MemoryError) and self.settings.max_process_memory:
            error.add_note("Its process had no more address space (--max-process-memory).")
        if isinstance(error, MemoryError) and is_ours(error):
            self.fault(error)
        else:
            self.observe(HandlerFailed(conn.number, conn.peer, error, self.told(conn), self.id_of(conn.number)))

    def told(self, conn: AnyConnection) -> str:
        """The name of a connection's listener, for events: empty where there is nothing to be told apart."""
        return self.by_name[conn.listener].told

    def closed(self, conn: AnyConnection, reason: str) -> None:
        """Account for a connection that is over, and whose descriptor is closed."""
        details, tells = self.details, self.tells
        seconds = time.monotonic() - conn.opened if tells or details is not None else 0.0
        with self.lock:
            faulty = conn.number in self._faulty
            word = ERROR if faulty else DONE if reason is DONE else ENDS.get(reason, ERROR)  # as end_of()
            messages = self._leaves(conn, CLOSED_WORD[word])
            probe = not (conn.bytes_in or conn.bytes_out) and conn.measured and word in OF_PROBES
            if probe:
                self.counts.add(PROBES)
            if details is not None:
                offer, first = self.by_name[conn.listener], conn.first_sent
                details.connection(offer.number, REASONS[word], seconds, first - conn.opened if first else None)
                if offer.service.tls_at_once and conn.tls is None and word != HANDSHAKE:
                    details.add(WORD["handshake_unfinished"])
        if tells and (self.notes is None or faulty or probe or not self._note(conn, reason, seconds, messages)):
            self._tell_closed(conn, word, reason, faulty, probe, seconds)

    def _note(self, conn: AnyConnection, reason: str, seconds: float, messages: int) -> bool:
        """Have the end of a connection noted without an event, if it is a plain one."""
        if (
            reason != DONE
            or conn.tls is not None
            or conn.proxy is not None
            or conn.unacknowledged
            or not conn.measured
            or conn.program_end
            or conn.log_fields
            or conn.number in self._noted
        ):
            return False
        name = conn.listener
        try:
            note = self.notes_at[name]
        except KeyError:
            note = self.notes_at[name] = self._note_of(self.by_name[name])
        if note is None:
            return False
        first, bytes_out = conn.first_sent, conn.bytes_out
        after = first - conn.opened if first and bytes_out else None
        try:
            note(conn.peer, conn.number, seconds, after, conn.bytes_in, bytes_out, messages)
        except BaseException:  # no memory: an observer that raises is the business of who calls it
            return False
        return True

    def _note_of(self, offer: Offer) -> Note | None:
        row = self.row
        if self.notes is None or offer.service.tls_at_once:
            return None
        return self.notes(self.pid, row.slot, row.generation, offer.name, self.gathers)

    def _tell_closed(
        self, conn: AnyConnection, word: End, reason: str, faulty: bool, probe: bool, seconds: float
    ) -> None:
        row, proxy = self.row, conn.proxy
        offer, tls = self.by_name[conn.listener], conn.tls
        cut, sealed = conn.number in self._noted, tls is not None or not offer.service.tls_at_once
        first, late = conn.first_sent - conn.opened if conn.first_sent else None, conn.unacknowledged
        if reason == DONE and sealed and not (faulty or cut or late):
            state = NORMAL  # of most, without a call
        else:
            state = state_of_end(word, reason, faulty=faulty, cut=cut, sealed=sealed, unacknowledged=late)
        self.observe(
            ConnectionClosed(
                conn.number,
                conn.peer,
                word,
                seconds,
                conn.bytes_in,
                conn.bytes_out,
                conn.messages,
                conn.program_end,
                reason if reason != word else "",
                offer.told,
                fields_as_text(conn.log_fields),
                self.id_of(conn.number),
                state,
                conn.measured,
                first if conn.bytes_out or not conn.measured else None,
                proxy.via or "" if proxy is not None else "",
                tls.version if tls is not None else "",
                tls.sni or "" if tls is not None else "",
                row.slot,
                row.generation,
                probe,
                offer.name,
            )
        )

    def note_handshake(self) -> None:
        """A TLS handshake is done."""
        if self.details is not None:
            self.details.add(WORD["handshake_done"])

    def note_killed(self, offer: Offer, opened: float, end: End = End.KILLED) -> None:
        """The process of a connection has died with it."""
        if self.details is not None:
            self.details.connection(offer.number, REASONS[end], time.monotonic() - opened, None)

    def handed_over(self, conn: AnyConnection) -> None:
        """Account for a connection that goes on in another worker, and whose descriptor is closed here."""
        with self.lock:
            self._leaves(conn, HANDED_OVER)

    def taken_over(self, conn: AnyConnection, before: str) -> None:
        """Account for a connection that another worker has had; `before` says which, and its number there. What it has
        received and sent has been counted there."""
        with self.lock:
            self.open[conn.number] = conn
            self.row.add(OPEN)
            self.row.add(TAKEN_OVER)
            self.by_name[conn.listener].service.limits.took_over(conn.peer)
            self._had_done(conn)
            if (sums := self._by_listener.get(conn.listener)) is not None:
                sums.counts.add(OPEN)
        if self.tells:
            self.observe(
                events.ConnectionTakenOver(conn.number, conn.peer, before, self.told(conn), self.id_of(conn.number))
            )

    def child_killed(
        self, number: int, peer: Peer, opened: float, offer: Offer, cut: bool, end: End = End.KILLED
    ) -> None:
        """Observe the end of a connection whose process, under the fork model, was killed before it could do so, and
        before it had said what it received and sent; at the drain deadline, or by the operator, it was `cut`."""
        if self.tells:
            seconds, row = time.monotonic() - opened, self.row
            self.observe(
                ConnectionClosed(
                    number,
                    peer,
                    end,
                    seconds,
                    0,
                    0,
                    0,
                    listener=offer.told,
                    id=self.id_of(number),
                    state="KD" if cut else "HD",
                    measured=False,
                    worker=row.slot,
                    generation=row.generation,
                    listener_name=offer.name,
                )
            )

    def _leaves(self, conn: AnyConnection, word: int) -> int:
        """Count; gives how many messages there were."""
        if JOINED and conn.number in JOINED:
            JOINED[conn.number].end()
        self.open.pop(conn.number, None)
        if self._keeps_limits:  # before it is open no more: whoever reads that 0 are open finds room
            (self._left or self.by_name[conn.listener].service.limits.left)(conn.peer)
        self.counts.end(word)
        if self._faulty:
            self._faulty.discard(conn.number)
        messages = conn.messages
        bytes_in, bytes_out, count = self._done
        self._done = bytes_in + conn.bytes_in, bytes_out + conn.bytes_out, count + messages
        if self._by_listener and (sums := self._by_listener.get(conn.listener)) is not None:
            sums.counts.add(OPEN, -1)
            sums.end(conn, 1)
        if not self.open:
            self._fold()
        return messages

    def _had_done(self, conn: AnyConnection) -> None:
        """What another worker has counted of a connection is not counted again when it ends here."""
        self._done = _added(self._done, conn, -1)
        if (sums := self._by_listener.get(conn.listener)) is not None:
            sums.end(conn, -1)

    def fold(self) -> None:
        """Write what all connections have received and sent, which is not done for each message."""
        with self.lock:
            self._fold()

    def _fold(self) -> None:
        bytes_in, bytes_out, messages = self._done
        now: Open = list(self.open.values())  # others may come meanwhile
        if now and isinstance(now[0], ConnectionBase):  # each has a flow of control of its own, and all have
            now = [conn.so_far() if isinstance(conn, ConnectionBase) else conn for conn in now]
        for conn in now:
            bytes_in += conn.bytes_in
            bytes_out += conn.bytes_out
            messages += conn.messages
        written = self._written
        if bytes_in < written[0] or bytes_out < written[1]:
            bytes_in, bytes_out, messages = _no_less((bytes_in, bytes_out, messages), written)
        self._written = bytes_in, bytes_out, messages
        self.counts.pass_by(bytes_in - written[0], bytes_out - written[1], messages - written[2])
        if self._by_listener:
            self._fold_by_listener(now)

    def _fold_by_listener(self, now: Open) -> None:
        for sums in self._by_listener.values():
            sums.begin()
        for conn in now:
            if (mine := self._by_listener.get(conn.listener)) is not None:
                mine.see(conn)
        for sums in self._by_listener.values():
            sums.write()

    def note_cut(self, number: int, peer: Peer, opened: float) -> None:
        """Count a connection that is cut at the drain deadline, once; the first of them are noted by name."""
        if number not in self._noted:
            self._noted.add(number)
            self.cut += 1
            if len(self.cut_off) < TOLD_BY_NAME:
                self.cut_off[number] = peer, time.monotonic() - opened


def _handshake_word(error: HandshakeFailed) -> int:
    """Where a handshake that failed is counted, by what went wrong."""
    if isinstance(error, HandshakeTimeout):
        return WORD["handshake_timeout"]
    if "certificate" in error.what or "authority" in error.what:
        return WORD["handshake_untrusted"]
    is_tls = not any(each in error.what for each in ("without TLS", "does not speak TLS", "ClientHello"))
    return WORD["handshake_failed" if is_tls else "handshake_no_tls"]
