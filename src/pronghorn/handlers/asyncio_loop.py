"""`sendfile` and `start_tls` of asyncio's loops for Pronghorn's transports: these methods look into a transport.

Law: what the loops do for their own transports is done here for ours, under uvloop too, which has no `sendfile` and
asks for its own classes in `start_tls`. Any other transport goes to the loop's own method.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from pronghorn.connection.channel import AnyChannel
from pronghorn.tls.channel import AnyTlsChannel

PIECE = 1 << 20  # bytes of a file per call of the kernel, so that deadlines see them go
BLOCK = 1 << 18  # bytes of a file that are read at once, where the kernel cannot send it


def equip(loop: Any) -> None:
    """Have a loop's `sendfile` and `start_tls` take our transports."""
    loop.sendfile = functools.partial(sendfile, loop, loop.sendfile)
    loop.start_tls = functools.partial(start_tls, loop, loop.start_tls)


def below(transport: Any) -> AnyChannel | None:
    """The channel of a transport of ours, or below asyncio's own TLS; None for any other."""
    while not isinstance(transport, AnyChannel):
        protocol = getattr(transport, "_ssl_protocol", None)
        if protocol is None:
            return None
        transport = protocol._transport
    return transport


async def start_tls(
    loop: Any,
    other: Callable[..., Awaitable[Any]],
    transport: Any,
    protocol: Any,
    sslcontext: Any,
    *,
    server_side: bool = False,
    ssl_handshake_timeout: float | None = None,
    **options: Any,
) -> Any:
    """As asyncio's loop.start_tls, by the TLS of our own: it returns the same transport, which speaks TLS from now on,
    and belongs to `protocol`. Without an `sslcontext` the server's own certificates are used. What asyncio's streams
    have read ahead is thrown away. Raises HandshakeFailed, a ConnectionError, and what the transport's start_tls does.

    Our side as the client's, and TLS within TLS, are left to asyncio's own.
    """
    channel = below(transport)
    if channel is transport and server_side and channel.tls is None:
        started = channel.start_tls(sslcontext, timeout=ssl_handshake_timeout)
        started.protocol = protocol
        try:
            await started
        except asyncio.CancelledError:
            channel.close()
            raise
        return channel
    if channel is not None and not isinstance(loop, asyncio.BaseEventLoop):  # uvloop knows its own transports only
        other = functools.partial(asyncio.BaseEventLoop.start_tls, loop)
    options |= {"server_side": server_side, "ssl_handshake_timeout": ssl_handshake_timeout}
    return await other(transport, protocol, sslcontext, **options)


async def sendfile(
    loop: Any,
    other: Callable[..., Awaitable[int]],
    transport: Any,
    file: Any,
    offset: int = 0,
    count: int | None = None,
    *,
    fallback: bool = True,
) -> int:
    """As asyncio's loop.sendfile: the number of bytes sent; the file stands behind them. Reading is paused meanwhile.

    By sendfile(2) where there is no TLS; else, and for objects that are no plain files, the file is read in another
    thread, unless `fallback` is false: then RuntimeError or asyncio.SendfileNotAvailableError. ValueError and TypeError
    for wrong arguments, ConnectionError if the connection is lost.
    """
    channel = below(transport)
    if channel is None:
        return await other(transport, file, offset, count, fallback=fallback)
    _check(file, offset, count)
    if transport.is_closing():
        raise RuntimeError("Transport is closing")
    native = transport is channel and not isinstance(channel, AnyTlsChannel)
    if native:
        try:
            return await _natively(loop, channel, file, offset, count)
        except (asyncio.SendfileNotAvailableError, NotImplementedError) as error:
            if not fallback:
                raise asyncio.SendfileNotAvailableError("this loop cannot send files") from error
    elif not fallback:
        raise RuntimeError("fallback is disabled and native sendfile is not supported for transport")
    return await _by_reading(loop, transport, file, offset, count)


def _check(file: Any, offset: Any, count: Any) -> None:
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError("file should be opened in binary mode")
    if count is not None and not isinstance(count, int):
        raise TypeError(f"count must be a positive integer (got {count!r})")
    if count is not None and count <= 0:
        raise ValueError(f"count must be a positive integer (got {count!r})")
    if not isinstance(offset, int):
        raise TypeError(f"offset must be a non-negative integer (got {offset!r})")
    if offset < 0:
        raise ValueError(f"offset must be a non-negative integer (got {offset!r})")


class _Sending(asyncio.Protocol):
    """Takes the place of the handler's protocol while a file is sent; nothing is read then."""

    def __init__(self, transport: Any) -> None:
        self._app_transport, self._app_protocol = transport, transport.get_protocol()  # asked for as of asyncio's TLS
        self._reads, self._throttled = transport.is_reading(), _is_throttled(transport)
        self._room: asyncio.Future[None] | None = None
        self.task: asyncio.Future[int] | None = None
        self.lost: BaseException | None = None
        transport.pause_reading()
        transport.set_protocol(self)

    async def room(self) -> None:
        """Wait until the transport takes more."""
        while self.lost is None and _is_throttled(self._app_transport):
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        if self.lost is not None:
            raise self.lost

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost = error if error is not None else ConnectionError("Connection is closed by peer")
        self.resume_writing()
        if self.task is not None:
            self.task.cancel()
        self._app_protocol.connection_lost(error)

    def restore(self) -> None:
        transport, protocol = self._app_transport, self._app_protocol
        if transport.get_protocol() is self:
            transport.set_protocol(protocol)
        if self.lost is not None:
            return
        if self._reads:
            transport.resume_reading()
        throttled = _is_throttled(transport)
        if throttled and not self._throttled:
            protocol.pause_writing()
        elif self._throttled and not throttled:
            protocol.resume_writing()


def _is_throttled(transport: Any) -> bool:
    if isinstance(transport, AnyChannel):
        return transport._throttled
    return bool(getattr(getattr(transport, "_ssl_protocol", None), "_app_writing_paused", False))


async def _natively(loop: Any, channel: AnyChannel, file: Any, offset: int, count: int | None) -> int:
    """By another descriptor of the same socket, so that the loop's watch of the channel is not disturbed."""
    sending, total = _Sending(channel), 0
    low, high = channel.get_write_buffer_limits()
    channel.set_write_buffer_limits(high=0)
    try:
        await sending.room()  # what was written before goes first
        with channel.view().dup() as sock:
            while count is None or total < count:
                size = PIECE if count is None else min(PIECE, count - total)
                call = loop.sock_sendfile(sock, file, offset + total, size, fallback=False)
                sending.task = asyncio.ensure_future(call)
                sent = await _unless_lost(sending)
                total += sent
                channel.bytes_out += sent
                if sent < size:
                    break
        return total
    finally:
        channel.set_write_buffer_limits(high, low)
        sending.restore()


async def _unless_lost(sending: _Sending) -> int:
    assert sending.task is not None
    try:
        return await sending.task
    except asyncio.CancelledError:
        if sending.lost is not None:
            raise sending.lost from None
        raise


async def _by_reading(loop: Any, transport: Any, file: Any, offset: int, count: int | None) -> int:
    if offset:
        file.seek(offset)
    sending, total = _Sending(transport), 0
    try:
        while count is None or total < count:
            size = BLOCK if count is None else min(BLOCK, count - total)
            data = await loop.run_in_executor(None, file.read, size)
            if not data:
                break
            await sending.room()
            transport.write(data)
            total += len(data)
        return total
    finally:
        if total and hasattr(file, "seek"):
            file.seek(offset + total)
        sending.restore()
