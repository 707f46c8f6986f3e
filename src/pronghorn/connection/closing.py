"""Closing: how a connection lingers so that no reply is lost, is turned away unserved, or is cut short.

Law: close(2) with unread input makes the kernel send a reset, which takes away what the peer has not read yet
(RFC 1122, 4.2.2.13). So the server half-closes, throws away input, and closes when the peer has taken everything.
"""

from __future__ import annotations

import _socket
import math
import os
import select
import socket
import struct
import time

from pronghorn.connection.base import AnyConnection
from pronghorn.connection.socket_facts import unread, unsent
from pronghorn.settings.lifecycle import LAST_WORDS

READ_SIZE = 64 * 1024
LINGER_TIMEOUT = 2.0
FIRST_WORD = 1.0  # seconds after accept(2) in which draining does not turn away a client that has said nothing yet
PATIENCE_LOST = LINGER_TIMEOUT / 8  # by each look that finds more input, although everything was acknowledged
LINGER_LOOK = 0.05  # seconds between two looks at what the peer has acknowledged
_trash = bytearray(READ_SIZE)  # where discarded input goes, and is never read


def discard(sock: _socket.socket) -> bool:
    """Throw away the input that is there, without blocking; True when the peer has ended or is gone."""
    try:
        for _ in range(16):
            if not sock.recv_into(_trash):
                return True
    except (BlockingIOError, InterruptedError):
        pass
    except OSError:
        return True
    return False


class Lingering:
    """How long a connection that has said its last word waits for its peer: LINGER_TIMEOUT seconds from `now`, or until
    `latest`, and less for a peer that speaks on although it has taken everything. No I/O; instants are monotonic."""

    __slots__ = ("gave_up", "until")

    def __init__(self, now: float, latest: float = math.inf) -> None:
        self.until = min(latest, now + LINGER_TIMEOUT)
        self.gave_up = False
        """The time was over, and the peer had not acknowledged everything."""

    def is_over(self, now: float, *, ended: bool, came: bool, unsent: bool) -> bool:
        """Whether to close now. `ended`: the peer has; `came`: there was input, so that more may be on its way, and to
        close would answer it with a reset; `unsent`: the peer has not acknowledged everything."""
        if came and not unsent:
            self.until -= PATIENCE_LOST
        if ended or not (came or unsent):
            return True
        self.gave_up = now >= self.until and unsent
        return now >= self.until


def may_close(sock: _socket.socket, lingering: Lingering, *, reading_shut: bool = False) -> bool:
    """One look at a connection that lingers: throw away what came; whether to close now. `reading_shut`: an end of
    input proves nothing."""
    came = unread(sock) > 0
    ended = discard(sock) and not reading_shut
    return lingering.is_over(time.monotonic(), ended=ended, came=came, unsent=not ended and unsent(sock) > 0)


def linger(sock: socket.socket, *, reading_shut: bool = False, ended: bool = False, until: float = math.inf) -> bool:
    """Half-close, then discard input until the peer has ended, or has acknowledged everything and says no more, or its
    time is over (see Lingering); blocking. `reading_shut`: an end of input proves nothing; `ended`: the peer's end has
    been read already; `until`: a deadline (monotonic) that ends it sooner. Returns whether the peer had not
    acknowledged everything by then.
    """
    try:
        sock.shutdown(socket.SHUT_WR)
        if ended and not reading_shut:  # no more can come, and nothing is unread
            return False
        sock.setblocking(False)  # a handler may have left a timeout, or none
        os.set_blocking(sock.fileno(), False)  # and a program needs it blocking, of which gevent's socket knows nothing
    except (OSError, ValueError):  # closed, by the handler or the peer
        return False
    lingering, poller = Lingering(time.monotonic(), until), None
    while not may_close(sock, lingering, reading_shut=reading_shut):
        if reading_shut:  # poll(2) would not wait
            time.sleep(LINGER_LOOK)
            continue
        if poller is None:
            poller = select.poll()
            poller.register(sock, select.POLLIN)
        poller.poll(LINGER_LOOK * 1000)
    return lingering.gave_up


def close(sock: _socket.socket) -> None:
    """Close a descriptor. An error that close(2) reports changes nothing: the descriptor is closed."""
    try:
        sock.close()
    except OSError:
        pass


def end(sock: _socket.socket) -> None:
    """Close a descriptor, and end the connection with it: a copy of the descriptor in a child process that the handler
    has forked would keep it open, and its client waiting (shutdown(2) ends it for all copies)."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the peer has ended it, or is gone
    close(sock)


def turn_away(fd: int) -> None:
    """Close an accepted descriptor unserved, in order: so that its client reads an end. Its number is free at once."""
    try:
        sock = _socket.socket(fileno=fd)  # gevent's would be closed later
    except OSError:
        os.close(fd)
        return
    say_no(sock)
    close(sock)


def say_no(sock: _socket.socket) -> None:
    """Half-close, and throw away what has come: the peer reads an end, and not a reset."""
    try:
        sock.setblocking(False)
        sock.shutdown(socket.SHUT_WR)
        discard(sock)
    except OSError:
        pass


def let_go(sock: _socket.socket) -> None:
    """Close this process's descriptor and nothing else: no lingering, no half-close; others may hold the socket."""
    fd = sock.detach()
    if fd >= 0:
        try:
            os.close(fd)
        except OSError:  # see close()
            pass


def first_word_due(conn: AnyConnection) -> float:
    """Seconds that a connection still gets for its first byte although draining began; 0 once it has sent something.

    A client connects and then writes. A connection that is ended between the two loses the client's request, and a
    reload must lose none.
    """
    if conn.bytes_in or conn.process_drain is None:
        return 0.0
    due = conn.opened + min(FIRST_WORD, conn.process_drain.timeout / 2) - time.monotonic()
    return max(0.0, due)


def last_call(deadline: float, timeout: float) -> float:
    """When handlers that still owe something are told the end of their input: so long before the drain deadline that
    they can finish. `timeout` is what the drain has in all, in seconds."""
    return deadline - min(LAST_WORDS, timeout / 4)


def drop_unsent(sock: _socket.socket) -> None:
    """Have the kernel throw away what is unsent when the socket is closed; the peer then reads a reset (socket(7),
    SO_LINGER with a time of 0)."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
