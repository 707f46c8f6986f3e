"""Quiet moments of a channel whose handler reacts: nothing has begun, nothing is owed, nothing was said for a while.

Law: looked at from beside, now and then; nothing is noted per message. For conversations on a flow of control of their
own see in_flight.py, for asyncio's styles asyncio_drain.py.
"""

from __future__ import annotations

from pronghorn.connection.asked import awaits_answer
from pronghorn.connection.channel import OPENING, AnyChannel
from pronghorn.connection.closing import first_word_due
from pronghorn.connection.socket_facts import Seen, tcp_info, unread, unsent


def so_far(channel: AnyChannel) -> Seen:
    """What passes over the open connections have seen of a channel (serving/timeouts.py): of one with which nothing is
    the matter, when its last byte came, what it had received then, and what its peer had acknowledged."""
    seen = channel.seen
    if seen is None:
        seen = Seen(channel.heard)
        seen.bytes_in, seen.acknowledged = channel.heard_in, channel.acknowledged
    return seen


class Silence:
    """For how long nothing was said on a channel, in either direction."""

    __slots__ = ("_moved", "_since")

    def __init__(self) -> None:
        self._moved = (-1, -1)
        self._since = 0.0

    def lasts(self, channel: AnyChannel, now: float) -> float:
        """Seconds, as far as one can tell: by what has moved between two calls; at the first the kernel is asked."""
        if (moved := (channel.bytes_in, channel.bytes_out)) != self._moved:
            first = self._since == 0.0
            self._moved, self._since = moved, _last_word(channel, now) if first else now
        return now - self._since


def _last_word(channel: AnyChannel, now: float) -> float:
    """When the last byte went or came, as far as the kernel tells; else, that is now."""
    info = tcp_info(channel.sock)
    return now if info is None else now - min(info.ms_since_sent, info.ms_since_received) / 1000


def shrunk(quiet: float, waited: float, patience: float) -> float:
    """The seconds of silence that are asked for after `waited` seconds: `quiet` at first, none after `patience`. So a
    conversation that never pauses for long ends at the longest of its pauses that was there."""
    return quiet * max(0.0, 1.0 - waited / patience) if patience > 0 else 0.0


def is_quiet(channel: AnyChannel, silence: Silence, now: float, waited: float, quiet: float, patience: float) -> bool:
    """Whether goodbye may be said now, `waited` seconds after it could have been for the first time. A protocol that
    cuts messages knows whether one has begun, and is asked for no silence."""
    if channel.state is OPENING or first_word_due(channel):
        return False
    if awaits_answer(channel.number) or channel.get_write_buffer_size() or unread(channel.sock) or unsent(channel.sock):
        return False
    begun = getattr(channel.protocol, "partial", None)
    if type(begun) is bool:
        return not begun
    if silence.lasts(channel, now) < shrunk(quiet, waited, patience):
        return False
    return waited >= patience or not channel.bytes_in or channel.answered()
