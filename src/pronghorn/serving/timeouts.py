"""Timeouts of connections: now and then, one pass over the open ones finds those that are over their time.

Law: no timer per connection, and nothing is noted per message. A pass compares each connection with the pass before,
so a deadline is kept late by two passes at most, and never early. The clock is an argument; the kernel is asked where
only the kernel knows (tcp(7), TCP_INFO). Nothing is cut here: the owner of the connections does that.

Tried and dropped: to note the time of each read on its connection, which costs every message and gains nothing.
"""

from __future__ import annotations

import _socket
import math
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from pronghorn.connection.base import AnyConnection
from pronghorn.connection.blocking import Connection
from pronghorn.connection.channel import AnyChannel
from pronghorn.connection.quiet import so_far
from pronghorn.connection.socket_facts import LONG_REPLY, Seen, tcp_info, unread, unsent
from pronghorn.connection.states import State
from pronghorn.errors import AGE, IDLE, MESSAGE_TIMEOUT, WRITE_TIMEOUT
from pronghorn.serving.service import Offer
from pronghorn.settings import Settings

LONGEST, SHORTEST = 1.0, 0.05  # seconds between two passes
PER_DEADLINE = 20  # passes within the shortest deadline: each is two of them late at most
SHARE = 100  # a pass may take this part of the processor's time: what others took meanwhile does not delay the next


C = TypeVar("C", bound=AnyConnection)


class Timeouts(Generic[C]):
    """The timeouts of one server's connections; `framed` says that its handler takes messages. `interval` is the time
    between two passes in seconds, infinite if there are no timeouts."""

    def __init__(self, settings: Settings, framed: bool) -> None:
        self.idle = settings.idle_timeout or math.inf
        self.message = (framed and settings.message_timeout) or math.inf
        self.write = settings.write_timeout or math.inf
        self.age = settings.max_connection_age or math.inf
        self.shortest, self.interval, self._next = math.inf, math.inf, 0.0
        self._look_for(min(self.idle, self.message, self.write, self.age))

    def _look_for(self, deadline: float) -> None:
        if deadline < self.shortest:
            self.shortest = deadline
            self.interval = max(SHORTEST, min(LONGEST, deadline / PER_DEADLINE))
            self._next = 0.0

    def keep_idle(self, conn: AnyConnection, seconds: float) -> None:
        """From now on the peer of this connection may be silent for so many seconds; 0 means as long as it likes."""
        if conn.seen is None:
            # A slot of each class below.
            conn.seen = so_far(conn) if isinstance(conn, AnyChannel) else Seen(conn.opened)  # type: ignore[misc]
        conn.seen.idle, conn.seen.look_at = seconds, 0.0
        self._look_for(seconds or math.inf)

    def wait(self, now: float) -> float:
        """Seconds until the next pass."""
        return max(0.0, self._next - now)

    def look_by(self, at: float) -> None:
        """Have the next pass no later than then."""
        self._next = min(self._next, at)

    def first_look(self, kernel_knows: bool) -> float:
        """The age at which a connection has to be looked at for the first time, in seconds: an unfinished message is
        timed from there, and so is everything else unless the kernel knows what happened before."""
        return min(self.shortest / 2, max(1.0, (self.message if kernel_knows else self.shortest) / 10) / 3)

    def due(self, conns: Iterable[C], now: float) -> list[tuple[C, str]]:
        """A pass, if it is time for one: the connections that are over their time, each with the reason."""
        if now < self._next:
            return []
        if self.interval == math.inf:
            self._next = math.inf
            return []
        began = time.thread_time()
        found = [*self._over(list(conns), now)]
        self._next = now + max(self.interval, SHARE * (time.thread_time() - began))
        return found

    def _over(self, conns: list[C], now: float) -> Iterator[tuple[C, str]]:
        raise NotImplementedError

    def _message(self, conn: C, sock: _socket.socket, seen: Seen, now: float) -> str:
        """Of an unfinished message. Nothing of it waits to be read: else it is not the peer that is slow."""
        if not conn.unfinished:
            seen.partial = 0.0
        elif not seen.partial or seen.messages != conn.messages:
            seen.partial, seen.messages = now, conn.messages
        elif now - seen.partial >= self.message and not unread(sock):
            return MESSAGE_TIMEOUT
        return ""


def timeouts_of(offers: Iterable[Offer], kind: Callable[[Settings, bool], Timeouts[C]]) -> AnyTimeouts[C]:
    """The timeouts of all connections, each by the settings of its listener."""
    made: dict[tuple[float, ...], Timeouts[C]] = {}
    by_name: dict[str, Timeouts[C]] = {}
    for each in offers:
        new = kind(each.service.settings, each.service.handler.framed)
        by_name[each.name] = made.setdefault((new.idle, new.message, new.write, new.age), new)
    return next(iter(made.values())) if len(made) == 1 else TimeoutsByListener(by_name, [*made.values()])


class TimeoutsByListener(Generic[C]):
    """Timeouts of listeners that differ, with the calls of Timeouts; listeners with the same have one pass."""

    def __init__(self, by_name: dict[str, Timeouts[C]], apart: list[Timeouts[C]]) -> None:
        self._by_name = by_name
        self._apart = apart
        self.interval = min((each.interval for each in apart), default=math.inf)

    def keep_idle(self, conn: AnyConnection, seconds: float) -> None:
        """See Timeouts."""
        self._by_name[conn.listener].keep_idle(conn, seconds)
        self.interval = min(each.interval for each in self._apart)

    def wait(self, now: float) -> float:
        return min((each.wait(now) for each in self._apart), default=math.inf)

    def look_by(self, at: float) -> None:
        for each in self._apart[:1]:
            each.look_by(at)

    def first_look(self, kernel_knows: bool) -> float:
        return min((each.first_look(kernel_knows) for each in self._apart), default=math.inf)

    def due(self, conns: Iterable[C], now: float) -> list[tuple[C, str]]:
        found: list[tuple[C, str]] = []
        for timeouts in [each for each in self._apart if not each.wait(now)]:
            mine = [each for each in list(conns) if self._by_name[each.listener] is timeouts]
            found += timeouts.due(mine, now)
        return found


AnyTimeouts = Timeouts[C] | TimeoutsByListener[C]


class ChannelTimeouts(Timeouts[AnyChannel]):
    """Of channels, which count what they read and send. The kernel is asked what is unsent only of those that have sent
    something since a pass saw all of it acknowledged: no call is made for those that are silent. A channel with which
    nothing is the matter has no Seen, but three facts of its own."""

    _before = -1.0  # when the last pass was

    def _over(self, conns: list[AnyChannel], now: float) -> Iterator[tuple[AnyChannel, str]]:
        not_heard_since, stalled_since, born = now - self.idle, now - self.write, now - self.age
        framed, looks = self.message < math.inf, min(self.write, self.idle) < math.inf
        for channel in conns:
            seen, reason = channel.seen, ""
            if seen is None:
                if self._is_well(channel, now, looks) and not (
                    channel.heard <= not_heard_since or channel.opened <= born or (framed and channel.unfinished)
                ):
                    continue
                seen = channel.seen = so_far(channel)
            if (looks or seen.idle >= 0) and (channel.wants_write or channel.bytes_out != seen.acknowledged):
                _look_at_unsent(channel, seen, now)
            if channel.bytes_in != seen.bytes_in:
                seen.bytes_in, seen.heard = channel.bytes_in, now
            elif seen.idle >= 0:
                silent = seen.idle and max(seen.heard, seen.took) <= now - seen.idle
                if silent and _is_silent(channel.sock, seen.idle):
                    reason = IDLE
            elif max(seen.heard, seen.took) <= not_heard_since and _is_silent(channel.sock, self.idle):
                reason = IDLE
            if seen.stalled and seen.stalled <= stalled_since:
                reason = WRITE_TIMEOUT
            if framed:
                reason = self._message(channel, channel.sock, seen, now) or reason
            if channel.opened <= born and not channel.goodbye:
                reason = reason or AGE
            if reason and channel.state is not State.OPENING and not channel.is_lingering():
                yield channel, reason
            elif not (reason or seen.stalled or seen.partial or seen.idle >= 0):
                channel.heard, channel.heard_in = max(seen.heard, seen.took), seen.bytes_in
                channel.acknowledged, channel.seen = seen.acknowledged, None
        self._before = now

    def _is_well(self, channel: AnyChannel, now: float, looks: bool) -> bool:
        """Note what a channel has received; whether its peer has taken all."""
        if channel.bytes_in != channel.heard_in:
            channel.heard, channel.heard_in = now, channel.bytes_in
        elif channel.heard == self._before:  # silent since the pass that heard it
            channel.cool()
        if looks and (channel.wants_write or channel.bytes_out != channel.acknowledged):
            if channel.wants_write or unsent(channel.sock):
                return False
            channel.acknowledged = channel.bytes_out
        return True


def _look_at_unsent(channel: AnyChannel, seen: Seen, now: float) -> None:
    """Note since when the peer has taken nothing of what is unsent, here or in the kernel."""
    held = unsent(channel.sock)
    info = tcp_info(channel.sock) if held else None
    if info is None and not channel.wants_write:  # a unix socket's peer reads it where it is: it has been taken
        seen.acknowledged, seen.stalled = channel.bytes_out, 0.0
        return
    taken = info.bytes_out if info is not None else channel.bytes_out - held
    seen.take(taken, held, channel.wants_write, now)


def _is_silent(sock: _socket.socket, seconds: float) -> bool:
    """Whether nothing came for so long, and nothing that came is unread."""
    if not unread(sock):
        return True
    info = tcp_info(sock)
    return info is not None and bool(info.ms_since_received >= seconds * 1000)


class OutsideTimeouts(Timeouts[Connection]):
    """Of connections that a flow of control has, perhaps in a call that blocks: seen from outside, by what the kernel
    tells. At a unix socket it does not tell when something came: there a handler that reads its socket itself may be
    silent for ever."""

    def _over(self, conns: list[Connection], now: float) -> Iterator[tuple[Connection, str]]:
        for conn in conns:
            seen = conn.seen
            if seen is None:
                seen = conn.seen = Seen(conn.opened)
            reason = ""
            if self.message < math.inf:
                reason = self._message(conn, conn, seen, now)
            if now >= seen.look_at and not reason:
                reason = self._look(conn, seen, now)
            if reason and conn.cut_by is None and conn.fileno() >= 0:
                yield conn, reason

    def _look(self, conn: Connection, seen: Seen, now: float) -> str:
        info = tcp_info(conn)
        if info is not None:
            seen.heard = now - info.ms_since_received / 1000
        elif conn.protocol is None:  # what it reads is not counted
            seen.heard = now
        elif conn.received != seen.bytes_in or unread(conn):
            seen.bytes_in, seen.heard = conn.received, now
        held, first = unsent(conn), not seen.stalled
        if not held or (info is None and _has_room(conn)):
            seen.stalled = 0.0
        else:
            taken = info.bytes_out if info is not None else -held
            if not seen.stalled and info is not None:  # the look before was long ago
                seen.stalled, seen.taken = now - info.ms_since_sent / 1000, taken
                seen.handed = taken + held
                if held >= LONG_REPLY:  # what was sent last had room, so something had been taken
                    seen.took = seen.stalled
            else:
                seen.take(taken, held, info is None, now)
        heard, idle = max(seen.heard, seen.took), self.idle if seen.idle < 0 else seen.idle or math.inf
        if now - heard >= idle and not (seen.stalled and first):  # then the next look tells whether it takes
            return IDLE
        if seen.stalled and now - seen.stalled >= self.write:
            return WRITE_TIMEOUT
        old = math.inf if conn.goodbye else conn.opened + self.age
        seen.look_at = now if seen.stalled or info is None else min(heard + idle, now + self.write, old)
        return AGE if old <= now else ""


def _has_room(sock: socket.socket) -> bool:
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    return any(event & select.POLLOUT for _, event in poller.poll(0))
