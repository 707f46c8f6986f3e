"""Whether a conversation on a flow of control of its own owes its client a reply, while the server drains.

Law: no handler is called and none is interrupted. A protocol says whether it holds half a message; of other handlers
the kernel tells what they wait for. A conversation that owes nothing, and was quiet for a while, may be told the end of
its input. For asyncio's styles see asyncio_drain.py.
"""

from __future__ import annotations

import math

from pronghorn.connection.asked import awaits_answer
from pronghorn.connection.blocking import Connection
from pronghorn.connection.closing import first_word_due
from pronghorn.connection.socket_facts import tcp_info, unread, unsent
from pronghorn.system import wait_channel

TWICE = 0.025  # seconds between two looks that have to agree


def is_over(conn: Connection, now: float, quiet: float) -> bool:
    """Whether a conversation owes nothing, and nothing was said in it for `quiet` seconds; one whose state is known
    need not be quiet. Asked again and again, with the time (monotonic) as an argument."""
    if not _owes_nothing(conn, now):
        return False
    if conn.partial is not None:
        return True
    if conn.process_drain is not None and quiet >= conn.process_drain.timeout:
        return False
    return _silent_for(conn, now) >= quiet


def is_quiet(conn: Connection, now: float, quiet: float) -> bool:
    """The same where there is no hurry: only a protocol that cuts messages, and so knows whether one has begun, need
    not be quiet."""
    if not _owes_nothing(conn, now):
        return False
    return type(getattr(conn.protocol, "partial", None)) is bool or _silent_for(conn, now) >= quiet


def _owes_nothing(conn: Connection, now: float) -> bool:
    # At the first look a flow may have read what it has not yet given to its handler: it waits for the interpreter's
    # lock, which we have. So one that seems idle is looked at again.
    if owes_reply(conn):
        conn.silent_since = math.inf
        return False
    if conn.silent_since == math.inf:
        conn.silent_since = now
    return now - conn.silent_since >= TWICE


def _silent_for(conn: Connection, now: float) -> float:
    silent = silence(conn)
    return now - conn.silent_since if silent is None else silent


def owes_reply(conn: Connection) -> bool:
    """Whether the peer seems to wait for an answer, or has only just come, as far as one can tell from outside a
    blocking handler; or whether somebody on the bus waits for what the peer is to say.

    A protocol says itself whether it holds half a message. Of other handlers the kernel tells: one that does not wait
    for its client computes, or waits for what it will answer with; so does one whose bytes are unsent. Where the kernel
    does not tell that, input that is newer than output has not been answered.
    """
    if unread(conn) or conn.pending() or awaits_answer(conn.number):
        return True
    if conn.partial is not None:
        return conn.partial() or first_word_due(conn) > 0
    if conn.fileno() < 0 or unsent(conn):
        return True
    info = tcp_info(conn)
    spoke = info is not None and conn.heard(info)
    if not spoke and first_word_due(conn):
        return True
    place = conn.waits_for()
    if place is not wait_channel.UNKNOWN:
        return place is not wait_channel.CLIENT
    return info is not None and bool(spoke and info.ms_since_received < info.ms_since_sent)


def silence(conn: Connection) -> float | None:
    """Seconds since something was said on a connection, in either direction; None where the kernel does not tell."""
    info = tcp_info(conn)
    return None if info is None else min(info.ms_since_sent, info.ms_since_received) / 1000
