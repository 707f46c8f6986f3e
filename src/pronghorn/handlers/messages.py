"""Message functions and `pronghorn.Protocol`: the two styles that every model runs.

Law: no I/O here but through the transport, which is asyncio's, a Channel or a BlockingTransport: all answer to the
same calls. Whatever one read brought is answered by one write, unless the peer does not read; then the messages that
are left wait, so that a small question with a large answer cannot fill the memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from pronghorn.connection.proxy_protocol import ProxyHeader
from pronghorn.connection.transport import Transport
from pronghorn.errors import BadMessage
from pronghorn.framing import Framing, stream
from pronghorn.peers import Peer

FRAMING = "__pronghorn_framing__"
T = TypeVar("T", bound=Callable[..., Any])
Reply = Callable[[Any], "Any | None"]


def message(framing: Framing[Any] = stream) -> Callable[[T], T]:
    """Mark a function, or a class made once per connection, as a message handler with this framing.

    The function takes a message as bytes, without delimiter or prefix, and returns the reply as bytes, or None for no
    reply; the framing puts the mark back. It may take the connection as a second argument (`MessageConnection`: peer,
    number, draining, lifespan, send, write, close). The function itself stays as it was, so that a test can call it.
    """
    if not isinstance(framing, Framing):
        raise TypeError(f"@message needs a framing, as in @message(lines); got {framing!r}")

    def mark(handler: T) -> T:
        try:
            setattr(handler, FRAMING, framing)
        except AttributeError:  # of a built-in function, or a bound method, nothing can be noted
            handler = cast(T, partial(cast(Any, handler)))
            setattr(handler, FRAMING, framing)
        return handler

    return mark


class Protocol:
    """The base class of protocol handlers: asyncio.Protocol's callbacks, on every model.

    The promise that makes it so: use nothing but the transport, which has the interface of asyncio.Transport. All
    callbacks of one connection come one after the other; under models with a flow of control per connection, `write`
    may block, and `pause_writing` never comes.
    """

    __slots__ = ()

    def connection_made(self, transport: Any) -> None:
        """The connection is open; `transport` has its `peer`, `number`, `draining` and `lifespan`."""

    def data_received(self, data: bytes) -> None:
        """Some bytes arrived, cut anywhere."""

    def eof_received(self) -> bool | None:
        """The peer sends no more; unless this returns true, the transport closes once all is sent."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection has ended; `exc` is None if either side closed it in order."""

    def pause_writing(self) -> None:
        """More than the high-water mark is unsent, since the peer does not read. Reading pauses by itself."""

    def resume_writing(self) -> None:
        """Most of it has been sent."""

    def draining(self) -> bool | None:
        """The server wants to stop; unless this returns true, the transport closes once all is sent."""


class MessageProtocol(Protocol):
    """One connection of a message handler."""

    __slots__ = (
        "_closing",
        "_cutter",
        "_frame",
        "_left",
        "_out",
        "_reply",
        "_waiting",
        "messages",
        "style",
        "transport",
    )

    def __init__(self, style: MessageStyle) -> None:
        self.style = style
        self._reply: Reply = _nothing
        self._cutter = style.framing.cutter(style.max_size)
        self._frame = style.frame
        self._out: list[bytes] | None = None  # replies of the batch in hand
        self._waiting: list[bytes] | None = None  # messages whose turn comes when the peer reads again
        self._left = False  # input is over, or draining began: close as soon as nothing is owed
        self._closing = False  # the handler asked for the end
        self.messages = 0
        self.transport: Transport = None  # type: ignore[assignment]  # until connection_made()

    @property
    def partial(self) -> bool:
        """Whether a message has begun to arrive, or waits for its answer."""
        return self._cutter.partial or self._waiting is not None

    @property
    def unfinished(self) -> bool:
        """Whether a message has begun to arrive, and nothing but its rest is waited for."""
        return self._cutter.partial and self._waiting is None

    def cut_up(self, data: bytes) -> list[bytes]:
        """The messages that end in this input, or at its end: for handlers that are asked one after the other."""
        return self._cutter.feed(data) if data else [] if self.transport.draining else self._cutter.finish()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._reply = self.style.reply_for(self)  # a handler object may send first

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._cutter.feed(data)
        except BadMessage as error:
            self._answer(error.complete)
            raise
        if len(messages) == 1 and self.style.alone and self._waiting is None:
            self.messages += 1
            reply = self._reply(messages[0])
            if reply is not None:
                self.transport.write(self._frame(reply))
        elif messages:
            self._answer(messages)
        if self._left:
            self._leave()

    def eof_received(self) -> bool:
        self._answer(self._cutter.finish())
        self._left = True
        self._leave()
        return True

    def draining(self) -> bool:
        if getattr(self.transport, "stays", False):
            return True
        self._left = True
        self._leave()
        return True

    def resume_writing(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._answer(waiting)
        if self._left:
            self._leave()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._waiting = None
        self._reply = _nothing  # it may hold this object

    def send(self, raw: bytes) -> None:
        if self._out is not None:
            self._out.append(raw)
        else:
            self.transport.write(raw)

    @property
    def closing(self) -> bool:
        """The handler has asked for the end."""
        return self._closing

    async def reply_later(self, message: bytes) -> bytes | None:
        """What an async handler returns for one message, after what it sent meanwhile; `close` waits for it."""
        self.messages += 1
        self._out = []
        try:
            reply: bytes | None = await self._reply(message)  # type: ignore[misc]
        finally:
            self.flush()
            self._out = None
        return reply

    def _answer(self, messages: list[bytes]) -> None:
        if self._waiting is not None:
            self._waiting += messages
            return
        self._out = out = []
        size = done = 0
        try:
            for message in messages:
                done += 1
                reply = self._reply(message)
                if reply is not None:
                    out.append(self._frame(reply))
                    size += len(out[-1])
                if self._closing or (size > self.style.high_water and not self._room()):
                    break
                size = size if out else 0
        finally:
            self.messages += done
            self.flush()
            self._out = None
            if self._closing:
                self.transport.close()
        if done < len(messages) and not self.transport.is_closing():
            self._waiting = messages[done:]

    def close(self) -> None:
        """End the connection, after the reply that is being made."""
        self._closing = True
        if self._out is None:
            self.transport.close()

    def flush(self) -> None:
        """Send the replies that the batch in hand has gathered."""
        if self._out:
            raw = b"".join(self._out)
            self._out.clear()
            self.transport.write(raw)

    def _room(self) -> bool:
        """Send what there is; whether the peer takes it fast enough for more."""
        self.flush()
        return not self.transport.is_closing() and self.transport.get_write_buffer_size() <= self.style.high_water

    def _leave(self) -> None:
        if not self.partial:
            self.transport.close()


class MessageConnection:
    """The connection as a message function sees it, when it takes it as its second argument."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: MessageProtocol) -> None:
        self._protocol = protocol

    @property
    def peer(self) -> Peer:
        """The other end's address: host and port, or a string for a unix socket."""
        return self._protocol.transport.peer

    @property
    def proxy(self) -> ProxyHeader | None:
        """The header of the proxy that made the connection for its client (`peer` is the client's address then)."""
        return self._protocol.transport.proxy

    @property
    def number(self) -> int:
        """The connection's number in its worker, as the log writes it."""
        return self._protocol.transport.number

    @property
    def tls(self) -> Any:
        """Version, cipher, alpn, sni and peer_certificate of the TLS below; None where there is none."""
        return self._protocol.transport.tls

    def stay(self) -> None:
        """Keep the connection open although the server drains: until `close`, or until the drain deadline."""
        self._protocol.transport.stay()

    @property
    def drain(self) -> Any:
        """Begins when the server wants to stop: true then, and it can be waited for (`pronghorn.current_drain`)."""
        return self._protocol.transport.drain

    @property
    def draining(self) -> bool:
        """True once the server wants to stop."""
        return self._protocol.transport.draining

    @property
    def lifespan(self) -> Any:
        """What the handler's lifespan yielded in this worker."""
        return self._protocol.transport.lifespan

    def send(self, message: bytes) -> None:
        """Send one more message, framed as a reply is."""
        self.write(self._protocol.style.frame(message))

    def write(self, raw: bytes) -> None:
        """Send bytes as they are."""
        self._protocol.send(raw)

    def close(self) -> None:
        """End the connection, after the reply that is being made; messages that came behind are not answered."""
        self._protocol.close()


def _nothing(message: bytes) -> None:
    return None


class MessageStyle:
    """What all connections of one message handler share, and how each gets its reply function: decided once.

    `alone`: the function knows nothing of its connection, which spares the hot path a batch.
    """

    __slots__ = ("_both", "_handler", "_takes", "alone", "frame", "framing", "high_water", "max_size")

    def __init__(self, handler: Callable[..., Any], framing: Framing[Any], max_size: int, high_water: int) -> None:
        self.framing = framing
        self.frame = framing.frame
        self.max_size = max_size
        self.high_water = high_water
        self._handler = handler
        made = isinstance(handler, type)
        self._takes = made and bool(positional(handler))
        call = getattr(handler, "__call__") if made else handler  # noqa: B004, B009 (of the class, self included)
        self._both = len(positional(call)) > (2 if made else 1)
        self.alone = not (self._takes or self._both)

    def reply_for(self, protocol: MessageProtocol) -> Reply:
        """The reply function of one connection: the handler, or an object of its own, which may know the connection."""
        reply = self._handler
        if isinstance(reply, type):
            reply = reply(MessageConnection(protocol)) if self._takes else reply()
        if self._both:
            connection = MessageConnection(protocol)
            return lambda message: reply(message, connection)
        return reply


def positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The positional parameters without a default; none of a callable without a signature."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [each for each in parameters if each.kind in kinds and each.default is each.empty]
