"""Channels on an asyncio loop: asyncio's own, over any selector, and uvloop's.

Law: this is all that asyncio and a Channel know of each other. The loop tells us of readiness (`add_reader`, of each
descriptor here, of a set of them in asyncio_epoll.py), the transport stays ours: so half-close, lingering and the
high-water mark are the same on every model.

Tried and dropped: `loop.connect_accepted_socket`. Its transports close without lingering, uvloop's without a chance to
step in, and neither bounds what a protocol writes that ignores `pause_writing`.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio import trsock
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from pronghorn.connection.asyncio_selectors import TRUST, make_anew
from pronghorn.connection.base import AnyConnection
from pronghorn.connection.channel import CLOSED, SLOTS, AnyChannel
from pronghorn.connection.interfaces import TlsStarts, Watchable
from pronghorn.connection.own_context import asked_by
from pronghorn.connection.transport import SocketView
from pronghorn.errors import DescriptorLost


class TransportSocket(trsock.TransportSocket):
    """What a SocketView is, as asyncio's class of it."""

    __slots__ = ()
    family, type = SocketView.family, SocketView.type
    dup, get_inheritable = SocketView.dup, SocketView.get_inheritable


class AnyAsyncioChannel(AnyChannel):
    """What asyncio's loops and handlers ask of a channel beyond the rest, whatever lies below it."""

    __slots__ = ()
    _start_tls_compatible = True  # asyncio looks there before it puts TLS of its own over a transport

    def open(self, protocol: Any) -> None:
        super().open(protocol)
        self.context.run(asked_by.set, self.number)  # tasks of the handler are told by their context

    def view(self) -> TransportSocket:
        return TransportSocket(cast(socket.socket, self.sock))  # what is called of it, the class below has as well

    # How a conversation ends while its server drains: see asyncio_drain.py.

    @property
    def application(self) -> Any:
        """The handler's own protocol; the channel's may be asyncio's TLS below that (loop.start_tls)."""
        return getattr(self.protocol, "_app_protocol", None) or self.protocol

    def tell_draining(self) -> None:
        """Call the protocol's `draining()`, if it has one: a true answer says that it wants to stay."""
        tell = getattr(self.application, "draining", None)
        try:
            if callable(tell) and self.context.run(tell):
                self.stay()
        except BaseException as error:
            self._failed(error)

    def note_aborted(self) -> None:
        """Its handler was cancelled, at the drain deadline: that is why it ends, once all is sent."""
        self._error = self._error or ConnectionAbortedError("cut at the drain deadline")

    def feed_eof(self) -> None:
        """Let the protocol think that the peer has finished. One that does not want to close goes on hearing."""
        if self.ended or self.is_closing():
            return
        if hasattr(self.protocol, "_stream_reader"):  # of asyncio's streams, which bear nothing behind their end
            self._end()
            return
        try:
            stay = self.context.run(self.protocol.eof_received)
        except BaseException as error:
            self._failed(error)
        else:
            if stay:
                self.stay()
            else:
                self.close()

    def _force_close(self, error: BaseException | None) -> None:
        """What asyncio's own TLS calls of the transport below it when that cannot go on."""
        self._gone(error)


class AsyncioChannel(AnyAsyncioChannel, asyncio.Transport):
    """A channel that is an asyncio.Transport, as handlers may assert."""

    __slots__ = (*SLOTS, "__weakref__")  # as asyncio's own


def _keep_no_idle(conn: AnyConnection, seconds: float) -> None:
    return None


class AsyncioLoop:
    """The channel's side of a running asyncio loop. `closed` is called with each channel whose end has come, once
    the loop no longer watches it; it closes the socket. `failed` is told what handlers raise.
    """

    __slots__ = tuple(
        "_aborts _closed _doubts _loop _trusted_until _watched call_later failed keep_idle tls_starts".split()
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        failed: Callable[[AnyConnection, BaseException], None],
        closed: Callable[[Watchable], None],
        tls_starts: TlsStarts,
        keep_idle: Callable[[AnyConnection, float], None] = _keep_no_idle,
    ) -> None:
        self._loop = loop
        self._aborts = type(loop).__module__.startswith("uvloop")  # when it is to watch a descriptor that is closed
        self._watched: dict[Watchable, tuple[bool, bool]] = {}
        self._doubts, self._trusted_until = False, 0.0
        self._closed = closed
        self.call_later: Callable[..., Any] = loop.call_later
        self.tls_starts = tls_starts
        self.failed, self.keep_idle = failed, keep_idle

    @property
    def reports_once(self) -> bool:
        """Whether a reset is told once, with the input before it, and then nothing of that descriptor any more."""
        return self._aborts

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(callback)

    def changed(self, channel: Watchable) -> None:
        if channel.is_closing() and channel.state is CLOSED and channel not in self._watched:
            return  # a handler speaks to a connection that is over
        # Readiness must be off at once (a paused protocol may be called no more), the rest once callbacks are through.
        self._watch(channel)
        if channel.is_closing():
            self._loop.call_soon(self._settle, channel)

    def _settle(self, channel: Watchable) -> None:
        if channel not in self._watched:
            return
        channel.settle()
        self._watch(channel)
        if channel.state is CLOSED:
            del self._watched[channel]
            self._closed(channel)

    def _watch(self, channel: Watchable) -> bool:
        """Tell the loop; whether that has proven whose the descriptor is, which here it never has."""
        watched = self._watched.get(channel)
        if watched == (channel.wants_read, channel.wants_write):
            return False  # and no system call finds out whose the descriptor is
        try:
            if self._aborts and watched is not None and not channel.is_own():
                self._forget(channel)
            else:
                self._tell_wishes(channel)
        except OSError as error:  # the system watches no more than so many (epoll_ctl(2), ENOSPC); or it is closed
            channel.cut(error)
        return False

    def _forget(self, channel: Watchable) -> None:
        """uvloop: its set of descriptors is to know no more of one that was closed."""
        if self._watched[channel] != (False, False):
            self._watched[channel] = (False, False)
            self._loop.remove_reader(channel.fileno())
            self._loop.remove_writer(channel.fileno())
            if not self._doubts:
                self._doubts = True
                self._loop.call_soon(self._make_anew)
        channel.cut(DescriptorLost())

    def _make_anew(self) -> None:
        """At most once in a second: it takes as long as there are descriptors."""
        now = self._loop.time()
        if now < self._trusted_until:
            self._loop.call_at(self._trusted_until, self._make_anew)
            return
        self._doubts, self._trusted_until = False, now + TRUST
        make_anew(self._loop._get_backend_id())  # type: ignore[attr-defined]

    def _tell_wishes(self, channel: Watchable) -> None:
        fd = channel.fileno()
        reads, writes = self._watched.get(channel, (False, False))
        if channel.wants_read is not reads:
            if channel.wants_read:
                self._loop.add_reader(fd, channel.on_readable)
            else:
                self._loop.remove_reader(fd)
        if channel.wants_write is not writes:
            if channel.wants_write:
                self._loop.add_writer(fd, channel.on_writable)
            else:
                self._loop.remove_writer(fd)
        self._watched[channel] = (channel.wants_read, channel.wants_write)
