"""STARTTLS: how an open connection becomes one with TLS below it, a channel or a blocking connection.

Law: what came in the clear never counts as if it had come over TLS (CVE-2011-0411). A client begins its handshake when
it has read that it may (RFC 3207, section 4), so what came before that was said is none of it. Where it is said here
(`after`), all that has come by then is read and thrown away. Where it was said before, what is unread goes to the
handshake, which fails at anything in the clear. What was read ahead by files of the connection is thrown away.

The object stays the one that the handler has; its class becomes that of a connection with TLS, which has no slots more.

Tried and dropped: asyncio's SSLProtocol between channel and protocol, as asyncio's own start_tls has it. It cannot
half-close, loses what is written behind the peer's close_notify, and every model but asyncio would need another.
"""

from __future__ import annotations

import io
import ssl
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from pronghorn.connection.blocking import Connection, ConnectionBase
from pronghorn.connection.channel import OPEN, OPENING, AnyChannel, Channel
from pronghorn.connection.closing import READ_SIZE
from pronghorn.connection.first_byte import FirstByte, noting
from pronghorn.connection.interfaces import Cancellable
from pronghorn.connection.transport import Bytes
from pronghorn.tls.blocking import TlsCalls, secured
from pronghorn.tls.channel import AnyTlsChannel, SealedSocket, TlsChannel
from pronghorn.tls.records import Records

if TYPE_CHECKING:
    import asyncio

MOST_THROWN_AWAY = 64  # reads; what is left after these the handshake refuses
HANDSHAKE = b"\x16\x03"  # how a record of one begins (RFC 8446, 5.1)
MakeContext = Callable[[], ssl.SSLContext]


class TlsStart:
    """A handshake in the middle of a conversation; a coroutine may await its end, which raises what ended it."""

    __slots__ = ("_channel", "_late", "_waiter", "done", "error", "protocol")

    def __init__(self, channel: AnyTlsChannel | None = None) -> None:
        """Without a `channel` the handshake is done already."""
        self._channel = channel
        self._late: Cancellable | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.done = channel is None
        self.error: BaseException | None = None
        self.protocol: Any = None
        """The one that has the connection after the handshake; None if it stays the one that it is."""

    def __await__(self) -> Generator[Any, None, None]:
        if not self.done:
            import asyncio  # not everybody who serves needs it

            self._waiter = asyncio.get_running_loop().create_future()
            yield from self._waiter
        if self.error is not None:
            raise self.error

    def finish(self, error: BaseException | None = None) -> None:
        if self.done:
            return
        self.done, self.error, self._channel = True, error, None
        if self._late is not None:
            self._late.cancel()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def last(self, seconds: float) -> None:
        """End the connection if the handshake is not done within so many `seconds`."""
        assert self._channel is not None
        self._late = self._channel.loop.call_later(seconds, lambda: self._end_late(seconds))

    def _end_late(self, seconds: float) -> None:
        if self._channel is not None and self._channel.state is OPENING:
            self._channel.late(seconds)


def start(
    channel: AnyChannel,
    context: MakeContext,
    after: Bytes,
    seconds: float,
    then: Callable[[], None] = lambda: None,
) -> TlsStart:
    """Have a channel send `after`, and speak TLS from then on; what is written meanwhile goes over TLS.

    `context` is asked for the SSLContext of the moment; a handshake that is not done within `seconds` ends the
    connection. `then` is called when it is done. RuntimeError if a handshake is under way, or if we have said our last
    word; ConnectionResetError if the peer has.
    """
    if channel.ended:
        raise ConnectionResetError("it left before the handshake")
    if isinstance(channel, AnyTlsChannel) or channel.state is not OPEN or channel.wrote_eof:
        raise RuntimeError(f"start_tls() of a connection that is {channel.state.value}")
    made = context()
    early = _read_ahead(channel.protocol)
    if after:
        _throw_away(channel.sock.recv)
        channel.write(after)
        if channel.is_closing():
            started = TlsStart()
            started.error = channel._error or ConnectionResetError("it left before the handshake")
            return started
    sealed = _with_tls(channel, Records(made))
    started = _start(sealed, context, seconds, then)
    if early:
        sealed.shake(early)
    return started


def _read_ahead(protocol: Any) -> bytes:
    """Empty the buffer of asyncio's streams: a handshake that has begun, for the client has read what was written."""
    reader = getattr(protocol, "_stream_reader", None)
    buffer = getattr(reader, "_buffer", None)
    if reader is None or not buffer:
        return b""
    held = bytes(buffer)
    buffer.clear()
    reader._maybe_resume_transport()
    return held if held.startswith(HANDSHAKE) else b""


def _start(channel: AnyTlsChannel, context: MakeContext, seconds: float, then: Callable[[], None]) -> TlsStart:
    started = TlsStart(channel)

    def begins(channel: AnyTlsChannel) -> None:
        if (now := context()) is not channel.records.object.context:  # there is a new certificate
            _seal(channel, Records(now))

    def done(channel: AnyTlsChannel) -> None:
        if started.protocol is not None:
            channel.set_protocol(started.protocol)
        channel.go_on()
        started.finish()
        then()

    def over(error: BaseException | None) -> None:
        started.finish(error or ConnectionAbortedError("closed during the handshake"))

    channel.shake_hands(begins, done, over)
    started.last(seconds)
    return started


def _with_tls(channel: AnyChannel, records: Records) -> AnyTlsChannel:
    channel.wants_read = channel.wants_write = False
    channel.loop.changed(channel)  # asyncio's loops have noted the methods of its class
    plain = channel.sock
    channel.sock = SealedSocket(plain.family, plain.fileno(), plain)
    channel.__class__ = channel_class(type(channel))
    assert isinstance(channel, AnyTlsChannel)
    channel.begin_again()
    if isinstance(plain, ConnectionBase):  # a flow of its own has the connection, and a loop of its own
        _secure(plain)
    _seal(channel, records)
    return channel


def _seal(channel: AnyTlsChannel, records: Records) -> None:
    channel.seal(records)
    owner = channel.sock.owner
    if isinstance(owner, TlsCalls):
        owner.records = records


def channel_class(plain: type[AnyChannel]) -> type[AnyChannel]:
    """The class of channels that has TLS below it and is otherwise like the other."""
    if plain is Channel:
        return TlsChannel
    from pronghorn.tls.asyncio_channel import AsyncioTlsChannel

    return AsyncioTlsChannel


def hold(conn: Connection, context: MakeContext, after: Bytes, seconds: float) -> None:
    """Have a blocking connection send `after`, and speak TLS from then on. Raises HandshakeFailed, and the connection's
    own errors."""
    made = context()
    files = [file for file in (each() for each in conn.files) if file is not None and not file.closed]
    for file in files:
        if file.writable():
            file.flush()
    if after:
        waits = conn.gettimeout()
        conn.setblocking(False)
        try:
            _throw_away(conn.recv)
        finally:
            conn.settimeout(waits)
        conn.sendall(after)
    _secure(conn)
    assert isinstance(conn, TlsCalls)
    conn.records = Records(made)
    for file in files:
        if file.readable():
            _forget_what_was_read_ahead(file)
    conn.shake_hands(context, seconds, invited=True)


def _secure(conn: ConnectionBase) -> None:
    kind = type(conn)
    conn.__class__ = noting(secured(kind.ordinary)) if issubclass(kind, FirstByte) else secured(kind)
    assert isinstance(conn, TlsCalls)
    conn.begin_tls()


def _throw_away(recv: Callable[[int], bytes]) -> None:
    for _ in range(MOST_THROWN_AWAY):
        try:
            if not recv(READ_SIZE):
                return
        except OSError:  # nothing is left; or whoever reads next will learn of it
            return


def _forget_what_was_read_ahead(file: Any) -> None:
    """While the handshake is not done, the connection has nothing to read: so only what a file holds can come."""
    try:
        if isinstance(file, io.TextIOBase):
            while file.read(READ_SIZE):
                pass
        else:
            while held := file.peek(1):
                file.read1(len(held))
    except ValueError:  # a part of a character
        file.detach()
