"""`Channel`: one accepted connection in a loop, which never blocks, and is the transport that its protocol writes to.

Law: a Channel knows its socket, its protocol and how much is unsent, and of its loop only `interfaces.Loop`. The loop
reads `wants_read` and `wants_write`, calls `on_readable` and `on_writable`, and is told by `loop.changed(channel)` when
a wish has changed or there is something to `settle()`. Readiness is a hint: every call here finds out for itself, so
that an event for a descriptor that has meanwhile become another's does no harm.

Nothing is torn down while a protocol's callback runs: `close()` only marks, and `settle()`, called by the loop after
the batch of events, tells `connection_lost`, lingers, and ends in CLOSED; only then may the loop let go of the socket.
"""

from __future__ import annotations

import _socket
import errno
import socket
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from pronghorn.connection.closing import LINGER_LOOK, READ_SIZE, Lingering, drop_unsent, end, may_close
from pronghorn.connection.interfaces import Cancellable, Terms
from pronghorn.connection.proxy_protocol import ProxyHeader
from pronghorn.connection.socket_facts import Seen, identity, unread, unsent
from pronghorn.connection.states import State, is_peers_fault, moved
from pronghorn.connection.transport import Bytes, Transport, check_bytes, fill, limits_of
from pronghorn.errors import DescriptorLost, End, PeerError, TooMuchUnsent, end_of, reason_of
from pronghorn.peers import Peer

BURST = 1 << 20  # bytes that a protocol sends at most before others have their turn: more waits for the loop
NO_SOCKET = frozenset({errno.EBADF, errno.ENOTSOCK})  # the descriptor is not what it was
READ_OUT = 64  # reads at most, of what had come before draining began
OPENING, OPEN, HALF_CLOSED, CLOSING, CLOSED = State
ABORTED, DRAINING, DONE = End.ABORTED, End.DRAINING, End.DONE  # an access to the class calls a function (Python 3.11)


SLOTS = tuple(
    "_asked _backlog _burst _dead _error _fd _fills _high _lingering _lost _low _most _name _paused _throttled "
    "acknowledged bytes_in bytes_out context ended first_sent goodbye heard heard_in inode listener loop number opened "
    "own_drain own_fields peer peer_ended process_drain protocol proxy seen sock state stays wants_read wants_write "
    "wrote_eof".split()
)
NOTHING: tuple[str, ...] = ()


class AnyChannel(Transport):
    """A non-blocking connection, whatever class its slots make it: see Channel, and AsyncioChannel."""

    __slots__: tuple[str, ...] = NOTHING

    def __init__(
        self,
        sock: _socket.socket,
        number: int,
        peer: Peer,
        terms: Terms,
        proxy: ProxyHeader | None = None,
        context: Context | None = None,
    ) -> None:
        """`context` is what all of the handler is called in, for this connection; a copy of the caller's by default."""
        self.sock, self.number, self.peer, self.proxy = sock, number, peer, proxy
        self.loop, self.process_drain, self._most, high_water, self.listener, notes, self._name = terms
        self.opened, self.state = time.monotonic(), OPENING
        self.bytes_in = self.bytes_out = 0
        self.first_sent = 0.0
        self.wants_read = self.wants_write = self.wrote_eof = False  # wrote_eof: we have said our last word
        self.ended = self.peer_ended = False  # the protocol has been told the end of input; it was the peer's own
        self.context = context if context is not None else copy_context()
        self.protocol: Any = None
        self.own_fields = None
        self._fills = False  # the protocol has a buffer of its own
        self.own_drain, self.goodbye = None, ""
        self.stays = False  # whether the handler wants to stay while draining
        self._asked = 0  # what had been written when the last input came
        self._backlog: bytearray | None = bytearray() if notes else None
        self._high, self._low = high_water, high_water // 4  # of the backlog: where reading pauses, and goes on
        self.seen: Seen | None = None
        self.heard, self.heard_in, self.acknowledged = self.opened, 0, 0  # while it is None: see quiet.so_far()
        self._paused = self._throttled = False  # by the protocol; by the peer, who does not read
        self._error: BaseException | None = None
        self._lost = self._dead = False  # connection_lost has been told; nothing can be sent any more
        self._lingering: Lingering | None = None  # all has been said, and the peer's end is awaited
        self._burst = BURST  # where bytes_out may get before the loop has had its turn
        self._fd = sock.fileno()  # stays what it was, so that the loop finds what it noted under this number
        self.inode = identity(self._fd)

    def open(self, protocol: Any) -> None:
        """Give the connection to `protocol`; it may write, or close, at once."""
        self.protocol, self._fills = protocol, hasattr(protocol, "get_buffer")
        self.state = OPEN if self.state is OPENING else moved(self.state, OPEN)
        self.wants_read = True
        try:
            self.context.run(protocol.connection_made, self)
        except BaseException as error:
            self._failed(error)
        self.loop.changed(self)

    def fileno(self) -> int:
        """The descriptor's number, until it is released; then -1."""
        return self._fd

    # What the loop calls.

    def on_readable(self) -> None:
        """There may be input: one read, given to the protocol."""
        self._burst = self.bytes_out + BURST
        if not self.wants_read or self._lingering:
            self._linger()
            return
        try:
            data = self.sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._gone(error)
            return
        except BaseException as error:  # no memory for what has come
            self._failed(error)
            return
        if not data:
            if getattr(self.sock, "cut_by", None) is not None:
                self._gone(None)
                return
            self.peer_ended = not getattr(self.sock, "reading_shut", False)
            self._end()
            return
        self.bytes_in += len(data)
        self._asked = self._written() if self._backlog else self.bytes_out
        try:
            if self._fills:
                self.context.run(fill, self.protocol, data)
            else:
                self.context.run(self.protocol.data_received, data)
        except BaseException as error:
            self._failed(error)

    def on_writable(self) -> None:
        """There may be room: send what is unsent."""
        self._burst = self.bytes_out + BURST
        backlog = self._backlog
        if backlog:
            try:
                sent = self.sock.send(backlog)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._gone(error)
                return
            self.bytes_out += sent
            self.first_sent = self.first_sent or time.monotonic()
            del backlog[:sent]
            if not backlog:
                self._backlog = None  # before the protocol goes on: it shall send, and not pile up
            if self._throttled and len(backlog) <= self._low:
                self._throttle(False)
        if not self._backlog:
            self._backlog = None
            if self.wrote_eof and self.state is not CLOSING:
                self._half_close()
            self._wish()

    def settle(self) -> None:
        """Do what had to wait for the end of the batch of events; afterwards `state` tells whether all is over."""
        if self.state is not CLOSING or self._backlog or self._lingering:
            return
        if not self._lost:
            self._lost = True
            try:
                self.context.run(self.protocol.connection_lost, self._error)
            except BaseException as error:
                self.loop.failed(self, error)
        if not (self.peer_ended or self._dead):
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            else:
                self._lingering = Lingering(time.monotonic())
                self._look()
                return
        self.state = CLOSED

    # What the protocol calls: asyncio.Transport.

    def write(self, data: Bytes) -> None:
        """Send at once what the kernel takes, and keep the rest; above the high-water mark reading pauses."""
        if self.wrote_eof:
            raise RuntimeError("write() after write_eof()")
        if self.state is CLOSING or self.state is CLOSED or not data:
            check_bytes(data)
            return
        backlog = self._backlog
        if backlog is not None and (backlog or self.state is OPENING):
            check_bytes(data)
            if len(backlog) > self._most:
                self.cut(TooMuchUnsent(len(backlog)))
                return
            backlog += data
        else:
            try:
                sent = self.sock.send(data) if self.bytes_out < self._burst else 0
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._gone(error)
                return
            self.bytes_out += sent
            if backlog is not None:  # nothing was sent before, and that is to be noted
                self._backlog, self.first_sent = None, time.monotonic() if self.bytes_out else 0.0
            if sent == len(data):
                return
            self._backlog = backlog = bytearray(memoryview(data)[sent:])
            self._wish()
        if not self._throttled and (len(backlog) > self._high or self.bytes_out >= self._burst):
            self._throttle(True)  # after a burst too: what the loop will send in a moment need not pile up here

    def write_eof(self) -> None:
        """Half-close once all is sent: the peer finds our end, and may go on speaking."""
        if not self.wrote_eof and self.state in (OPEN, HALF_CLOSED):
            self.wrote_eof = True
            if not self._backlog:
                self._half_close()

    def close(self) -> None:
        """Send what is unsent, then end; `connection_lost(None)` follows, never from within this call."""
        if self.state is not CLOSING and self.state is not CLOSED:
            self.state = CLOSING
            self._wish()

    def abort(self) -> None:
        """End without sending what is unsent."""
        self._gone(None)

    def is_closing(self) -> bool:
        return self.state is CLOSING or self.state is CLOSED

    def pause_reading(self) -> None:
        self._paused = True
        self._wish()

    def resume_reading(self) -> None:
        self._paused = False
        self._wish()

    def is_reading(self) -> bool:
        return not (self._paused or self.is_closing())

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Pause the protocol above `high` bytes unsent, and resume it at `low`. ValueError unless high >= low >= 0."""
        self._high, self._low = limits_of(high, low)
        if not self._throttled and self._backlog is not None and len(self._backlog) > self._high:
            self._throttle(True)

    def get_write_buffer_size(self) -> int:
        return len(self._backlog) if self._backlog is not None else 0

    def set_protocol(self, protocol: Any) -> None:
        """Give the connection to another protocol, one with a buffer of its own included (asyncio.BufferedProtocol)."""
        self.protocol = protocol
        self._fills = hasattr(protocol, "get_buffer")

    # What message handlers ask for.

    def call_later(self, delay: float, call: Callable[[], object]) -> Cancellable:
        return self.loop.call_later(delay, partial(self.call, call))

    def pass_on(self, call: Callable[[], object]) -> None:
        self.loop.call_soon_threadsafe(partial(self.call, call))

    def keep_idle(self, seconds: float) -> None:
        self.loop.keep_idle(self, seconds)

    @property
    def throttled(self) -> bool:
        return self._throttled

    def ended_by(self, error: BaseException | None) -> End:
        return End.ERROR if error is not None and not is_peers_fault(error) else end_of(self.reason)

    def call(self, call: Callable[..., object], *args: object) -> None:
        """Call what is not a part of the protocol's own input, on the loop's thread, as the protocol is called; not
        after the end."""
        if self._lost or self.state is CLOSED:
            return
        self._burst = self.bytes_out + BURST
        try:
            self.context.run(call, *args)
        except BaseException as error:
            self._failed(error)

    # Draining and cutting: what the server calls.

    def is_lingering(self) -> bool:
        """Everything has been said, and only the peer's end is awaited."""
        return self._lingering is not None

    @property
    def unacknowledged(self) -> bool:  # type: ignore[override]
        return self._lingering is not None and self._lingering.gave_up

    @property
    def reason(self) -> str:
        """Why the connection ended, in a word or two."""
        if self._error is not None:
            return reason_of(self._error)
        if self.goodbye:
            return self.goodbye
        if self._dead:
            return ABORTED
        drain = self.process_drain
        return DRAINING if drain is not None and drain.begun and not drain.spread else DONE  # as `draining`

    def read_out(self) -> None:
        """Take what came before draining began, so that it is answered."""
        for _ in range(READ_OUT):
            if not self.wants_read or not unread(self.sock):
                return
            self.on_readable()

    def cut(self, error: BaseException) -> None:
        """End now, whatever is unsent; if a PeerError is the reason, the kernel is to forget it too."""
        if not self.is_own():
            self.lose()
            return
        if isinstance(error, PeerError) and (self._backlog or unsent(self.sock)):
            drop_unsent(self.sock)
        else:
            self._before_cut()
        if isinstance(error, TooMuchUnsent):
            self.loop.failed(self, error)
        self._gone(error)

    def is_own(self) -> bool:
        """Whether the descriptor still leads where it led."""
        return identity(self._fd) == self.inode

    def lose(self) -> None:
        """The descriptor was closed by its number, which another socket may have by now: end, and touch it no more."""
        if self.state is not CLOSED and not self._dead:
            error = DescriptorLost()
            self.loop.failed(self, error)
            self._gone(error)

    def release(self, proven: bool = False) -> None:
        """The connection is over, and no loop watches it any more: close its descriptor, if it has it still. `proven`:
        it has, as the kernel has just told the loop."""
        if not (proven or self.is_own()):
            if not self._dead:  # the handler closed it, and said that it had done
                self._error = DescriptorLost()
                self.loop.failed(self, self._error)
            self.sock.detach()
        if self._name is None:
            self.keep_sockname()
        end(self.sock)
        self._fd = -1

    def answered(self) -> bool:
        """Whether something was written since input last came, or that was the answer to a question of the bus."""
        return not self.bytes_in or self._written() > self._asked

    # Inner workings.

    def _written(self) -> int:
        return self.bytes_out + (len(self._backlog) if self._backlog is not None else 0)

    def _before_cut(self) -> None:
        """What is still to be said before a connection is cut: nothing, unless a layer below has a last word."""

    def _wish(self) -> None:
        read = (self.state is OPEN or self.state is HALF_CLOSED) and not (self.ended or self._paused or self._throttled)
        write = bool(self._backlog) and self.state is not CLOSED
        if read is not self.wants_read or write is not self.wants_write:
            self.wants_read, self.wants_write = read, write
            self.loop.changed(self)
        elif self.state is CLOSING or self.state is CLOSED:
            self.loop.changed(self)

    def _throttle(self, on: bool) -> None:
        self._throttled = on
        self._wish()
        try:
            if on:
                self.protocol.pause_writing()  # in the context of the code that writes, as in asyncio
            else:
                self.context.run(self.protocol.resume_writing)
        except BaseException as error:
            self._failed(error)

    def _end(self) -> None:
        self.ended = True
        if self.state is OPEN:
            self.state = HALF_CLOSED
        try:
            stay = self.context.run(self.protocol.eof_received)
        except BaseException as error:
            self._failed(error)
        else:
            if not stay:
                self.close()
        if self.wants_read:  # it is not closed, which would have told the loop
            self._wish()

    def _half_close(self) -> None:
        if self.state is OPEN:
            self.state = moved(self.state, HALF_CLOSED)
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._gone(error)

    def _gone(self, error: BaseException | None) -> None:
        if self.state is CLOSED or self._dead:
            return
        if isinstance(error, OSError) and error.errno in NO_SOCKET:
            error = DescriptorLost()
            self.loop.failed(self, error)
        self._dead = True
        self._error = getattr(self.sock, "cut_by", None) or error  # a blocking connection that was cut
        self._backlog = None
        if self._lingering:
            self.state = CLOSED
        elif self.state is not CLOSING:
            self.state = CLOSING
        self._wish()

    def _failed(self, error: BaseException) -> None:
        if not (isinstance(error, OSError) and is_peers_fault(error)):
            self._error = self._error or error
            self.loop.failed(self, error)
        self.close()

    def _look(self) -> None:
        self._linger()
        if self.state is CLOSING:
            self.wants_read = True
            self.loop.changed(self)
            self.loop.call_later(LINGER_LOOK, self._look)

    def _linger(self) -> None:
        if self._lingering and self.state is CLOSING and may_close(self.sock, self._lingering):
            self.state, self.wants_read = moved(self.state, CLOSED), False
            self.loop.changed(self)


class Channel(AnyChannel):
    """A non-blocking connection; for its protocol, asyncio's transport interface (asyncio.Transport)."""

    __slots__ = SLOTS
