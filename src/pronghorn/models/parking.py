"""Where clients wait that have connected and said nothing, so that no flow of control has to wait for them.

Law: with TLS it is the client who speaks first. A flow of control is a scarce thing under most models, and those who
never speak may not use them up: it is given when there is something to read.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator

from pronghorn.connection import Connection
from pronghorn.errors import HandshakeFailed
from pronghorn.models.base import Context


class Parking:
    """The silent connections, by descriptor, the oldest first; `poller` is told of them while it is `watched`."""

    def __init__(self, context: Context, poller: select.poll) -> None:
        self._context = context
        self._poller = poller
        self._watched = False
        self._parked: dict[int, Connection] = {}

    def __contains__(self, fd: int) -> bool:
        return fd in self._parked

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._parked.values()))

    def watch(self, on: bool) -> None:
        """Have them watched, or not: while nobody is there to talk to them."""
        self._watched = on
        for fd in self._parked:
            self._poller.register(fd, select.POLLIN) if on else self._poller.unregister(fd)

    def add(self, conn: Connection) -> None:
        self._parked[conn.fileno()] = conn
        if self._watched:
            self._poller.register(conn, select.POLLIN)

    def take(self, fd: int) -> Connection:
        """One that has spoken; it is parked no longer."""
        conn = self._parked.pop(fd)
        if self._watched:
            self._poller.unregister(fd)
        return conn

    def turn_late_away(self) -> None:
        """Close those who have been silent for longer than a handshake may take."""
        timeout = self._context.settings.handshake_timeout
        for conn in self:
            if time.monotonic() - conn.opened < timeout:
                return
            self._context.failed(conn, HandshakeFailed(f"it did not finish the handshake within {timeout:g} s"))
            self.turn_away(conn, "HandshakeFailed")

    def turn_away(self, conn: Connection, reason: str) -> None:
        """Close one in order, unserved."""
        self.take(conn.fileno())
        self._context.turn_away(conn, reason)

    def leave(self) -> Iterator[Connection]:
        """Draining has begun: one after the other those who have spoken; the others are closed."""
        for conn in self:
            poller = select.poll()
            poller.register(conn, select.POLLIN)
            if poller.poll(0):
                yield self.take(conn.fileno())
            else:
                self.turn_away(conn, "draining")
