"""How a connection is ended by somebody else than its handler: when it may be, in order, or at once.

Law: nobody interrupts a handler. Its connection is made to look as if the peer had finished, or had gone; a handler
that is well written then leaves by its usual door.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

from pronghorn.connection import Connection, tcp_info, unread, unsent
from pronghorn.errors import PeerError

FIRST_WORD = 1.0  # seconds after accept(2) in which draining does not turn away a client that has said nothing yet


def first_word_due(conn: Any) -> float:
    """Seconds that a Connection or a Channel still gets for its first byte although draining began.

    A client connects and then writes: between the two it was accepted, and owes nothing. To end it there would lose
    it, and a reload must lose nobody. One that has said something, or had its time, gets nothing more.
    """
    if conn.bytes_in or conn.drain is None:
        return 0.0
    due: float = conn.opened + min(FIRST_WORD, conn.drain.timeout / 2) - time.monotonic()
    return max(0.0, due)


def owes_reply(conn: Connection) -> bool:
    """Whether the peer seems to wait for an answer, or has only just come, as far as one can tell from outside a
    blocking handler.

    A protocol says itself whether it holds half a message. Of other handlers the kernel tells when input last came
    and when output last went: input that is newer has not been answered, unless it is older than a second.
    """
    if unread(conn):
        return True
    if conn.partial is not None:
        return conn.partial() or first_word_due(conn) > 0
    info = tcp_info(conn)
    if info is None or not info.bytes_in:
        return first_word_due(conn) > 0
    return bool(info.ms_since_received < info.ms_since_sent and info.ms_since_received < 1000)


def end_reading(conn: Connection) -> None:
    """Make the peer appear to have finished: the handler's next read finds the end (shutdown(2), SHUT_RD)."""
    conn.reading_shut = True
    try:
        conn.shutdown(socket.SHUT_RD)
    except OSError:
        pass


def drop_unsent(sock: socket.socket) -> None:
    """Have the kernel throw away what is unsent when the socket is closed, instead of keeping it for a peer that takes
    nothing (socket(7), SO_LINGER with a time of 0: the peer finds a reset)."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass


def cut(conn: Connection, error: BaseException) -> None:
    """End a connection that would not finish: both directions, and the program behind it if there is one. If a
    PeerError is the reason, the kernel is to forget what is unsent."""
    conn.reading_shut, conn.cut_by = True, error
    if isinstance(error, PeerError) and unsent(conn):
        drop_unsent(conn)
    try:
        conn.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    if conn.on_cut is not None:
        conn.on_cut()
