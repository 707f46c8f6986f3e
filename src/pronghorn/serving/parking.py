"""Accepted TLS connections that have sent nothing yet, watched together in the place of a flow of control for each.

Law: with TLS the client speaks first. Flows of control are scarce under most models, and silent clients may not use
them up: a connection gets its flow when there is something to read. Without TLS no connection is kept here, since a
server may be the first to speak.
"""

from __future__ import annotations

import select

from pronghorn.connection.blocking import Connection
from pronghorn.connection.closing import first_word_due, turn_away
from pronghorn.connection.proxy_wait import TOO_LATE
from pronghorn.errors import HANDSHAKE_TIMEOUT, End, HandshakeTimeout
from pronghorn.serving.context import Context
from pronghorn.serving.polls import Poller
from pronghorn.serving.service import Service


class Parking:
    """The silent connections, by descriptor, the oldest first. The owner of `poller` may take them out of it for a
    while, and puts them back. They are not among the context's open connections, for which there has to be room."""

    def __init__(self, context: Context, poller: Poller, parked: dict[int, Connection]) -> None:
        self.parked = parked
        self._context = context
        self._poller = poller
        self._any = any(each.tls_at_once for each in context.services)

    def keeps(self, conn: Connection) -> bool:
        """Keep a connection that was just accepted, if there is TLS; whether it is kept."""
        if not self._any or not self._service(conn).tls_at_once:
            return False
        del self._context.open[conn.number]
        self.parked[conn.fileno()] = conn
        self._poller.register(conn, select.POLLIN)
        return True

    def _service(self, conn: Connection) -> Service:
        return self._context.offer_of(conn).service

    def take(self, fd: int) -> Connection:
        """A connection that has spoken; it is kept here no longer."""
        conn = self._left(fd)
        if (certificates := self._service(conn).certificates) is not None:
            certificates.context()  # here, so that a child of the fork model need not make a new one
        self._context.open[conn.number] = conn
        return conn

    def turn_late_away(self, now: float) -> None:
        """Close connections that have been silent for longer than a handshake may take."""
        for conn in list(self.parked.values()):
            service = self._service(conn)
            timeout = service.settings.handshake_timeout
            if now - conn.opened < timeout:
                continue
            if not service.limits.is_proxy(conn.peer):
                self._context.failed(conn, HandshakeTimeout(timeout))
            self._turn_away(conn, HANDSHAKE_TIMEOUT)

    def next(self) -> Connection | None:
        """Draining has begun: the next connection that has spoken, or is new. The others are closed."""
        for fd, conn in list(self.parked.items()):
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            if poller.poll(0) or first_word_due(conn):
                return self.take(fd)
            self._turn_away(conn, End.DRAINING)
        return None

    def _left(self, fd: int) -> Connection:
        try:
            self._poller.unregister(fd)
        except KeyError:
            pass  # there is no room now, so that the poller has no connections
        return self.parked.pop(fd)

    def _turn_away(self, conn: Connection, reason: str) -> None:
        self._left(conn.fileno())
        self._context.let_go_of(conn.fd, conn)
        offer = self._context.offer_of(conn)
        if offer.service.limits.is_proxy(conn.peer):
            self._context.refuse(offer, conn.detach(), conn.peer, TOO_LATE)
        else:
            turn_away(conn.detach())
            self._context.closed(conn, reason)
