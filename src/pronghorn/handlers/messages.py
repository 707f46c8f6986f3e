"""The message style: the decorator `message`, and what all connections of one message handler share."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from pronghorn.errors import End
from pronghorn.framing import Framing, stream
from pronghorn.framing.marks import TextLines
from pronghorn.handlers.message_connection import MessageConnection
from pronghorn.handlers.message_protocol import MessageProtocol, Reply

if TYPE_CHECKING:
    from pronghorn.handlers.message_types import (
        ConversationHandler,
        HoldsBytes,
        HoldsText,
        M,
        MarksBytes,
        MarksText,
        MessageHandler,
        R,
    )
    from pronghorn.scoreboard.message_rates import MessageRate

FRAMING = "__pronghorn_framing__"
CONVERSATION = "__pronghorn_conversation__"
SHOWN = 40  # characters of a reply that is none, in the message that says so
T = TypeVar("T", bound=Callable[..., Any])
C = TypeVar("C", bound=Callable[[Any], Awaitable[Any]])


@overload
def message() -> MarksBytes: ...
@overload
def message(framing: Framing[bytes, bytes]) -> MarksBytes: ...
@overload
def message(framing: Framing[str, str]) -> MarksText: ...
@overload
def message(framing: Framing[M, R]) -> Callable[[MessageHandler[M, R]], Any]: ...
def message(framing: Framing[Any, Any] = stream) -> Any:
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


@overload
def conversation() -> HoldsBytes: ...
@overload
def conversation(framing: Framing[bytes, bytes]) -> HoldsBytes: ...
@overload
def conversation(framing: Framing[str, str]) -> HoldsText: ...
@overload
def conversation(framing: Framing[M, R]) -> Callable[[ConversationHandler[M, R]], Any]: ...
def conversation(framing: Framing[Any, Any] = stream) -> Any:
    """Mark a coroutine function as a conversation: `async def handle(conn)`, whose messages this framing cuts.

    Messages come by `async for message in conn`, or one by one from `await conn.receive()`; `await conn.send(message)`
    frames and sends one. When the function returns, or raises, the connection ends. It is of the asyncio style, and
    runs where that runs. TypeError for what is no framing or no coroutine function.
    """
    if not isinstance(framing, Framing):
        raise TypeError(f"@conversation needs a framing, as in @conversation(lines); got {framing!r}")
    marked = message(framing)

    def mark(handler: C) -> C:
        if not (inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)):
            raise TypeError(f"@conversation is for async def handle(conn); got {handler!r}")
        handler = marked(handler)
        setattr(handler, CONVERSATION, True)
        return handler

    return mark


class MessageStyle:
    """What all connections of one message handler share, and how each gets its reply function: decided once.

    `alone`: the function knows nothing of its connection, which spares the hot path a batch.
    """

    __slots__ = tuple(
        "_both _closed _connected _connects _handler _kind _takes alone frame framing hears_bus high_water max_size "
        "rate tells_closed".split()
    )

    def __init__(
        self,
        handler: Callable[..., Any],
        framing: Framing[Any],
        max_size: int,
        high_water: int,
        kind: type[MessageConnection] = MessageConnection,
    ) -> None:
        """`kind` is what the handler sees of its connection."""
        self.framing = framing
        self.rate: MessageRate | None = None  # at which a coroutine's messages are handled
        self.frame: Callable[[Any], bytes] = framing.frame
        self.max_size = max_size
        self.high_water = high_water
        self._handler = handler
        self._kind = kind
        made = isinstance(handler, type)
        self._takes = made and bool(positional(handler))
        call = getattr(handler, "__call__") if made else handler  # noqa: B004, B009 (of the class, self included)
        self._both = len(positional(call)) > (2 if made else 1)
        # Whether the class has the method, and whether it takes the connection too.
        self._connected = _takes_also(handler, "connected", 1) if made else None
        self._closed = _takes_also(handler, "closed", 2) if made else None
        self.alone = not (self._takes or self._both or self._connected or self._closed)
        self.tells_closed = self._closed is not None
        self.hears_bus = made and callable(getattr(handler, "on_bus", None))
        self._connects = not self.alone or kind is not MessageConnection

    def unfit(self, message: Any, error: Exception) -> Exception:
        """What to raise in the place of `error`, which the framing, or the transport, has raised about a reply or about
        what `send` was given."""
        text = isinstance(self.framing, TextLines)
        ready = type(self.framing).__module__.startswith("pronghorn.framing.")
        if not ready or isinstance(message, str if text else (bytes, bytearray)):
            return error  # a rule of the user's own, or something else is wrong
        name = getattr(self._handler, "__qualname__", None) or repr(self._handler)
        return TypeError(f"{name} answers with {_told(message)}; {_wanted(text)}")

    def connect(self, protocol: MessageProtocol) -> MessageConnection:
        """What the handler sees of one connection; made once."""
        if protocol.connection is None:
            protocol.connection = self._kind(protocol)
        return cast(MessageConnection, protocol.connection)

    def reply_for(self, protocol: MessageProtocol, moved: Any = None) -> Reply:
        """The reply function of one connection: the handler, or an object of its own, which may know the connection:
        the one that was `moved` from another process, if there is one."""
        reply: Any = self._handler
        connection = self.connect(protocol) if self._connects else None
        if isinstance(reply, type):
            if moved is None:
                moved = reply(connection) if self._takes else reply()
            protocol.object = reply = moved
        if self._both:
            return lambda message: reply(message, connection)
        return reply  # type: ignore[no-any-return]

    def tell_connected(self, protocol: MessageProtocol) -> Any:
        """Call the object's `connected()`, if it has that method."""
        if self._connected is None:
            return None
        connected = protocol.object.connected
        return connected(protocol.connection) if self._connected else connected()

    def tell_closed(self, protocol: MessageProtocol, reason: End) -> Any:
        """Call the object's `closed(reason)`, which it has: see `tells_closed`."""
        told, protocol.object = protocol.object, None
        return told.closed(reason, protocol.connection) if self._closed else told.closed(reason)


def _told(message: Any) -> str:
    shown = repr(message)
    return f"{type(message).__name__}, {shown if len(shown) <= SHOWN else shown[:SHOWN] + '...'}"


def _wanted(text: bool) -> str:
    if text:
        return "messages of this framing are text: give it a str, or leave encoding= out of the framing."
    return "messages of this framing are bytes: encode a str, as in reply.encode(), or take lines(encoding='utf-8')."


def _takes_also(handler: Any, name: str, count: int) -> bool | None:
    """Whether a method takes one parameter more than `count`, self included; None if the class has no such method."""
    method = getattr(handler, name, None)
    return None if not callable(method) else len(positional(method)) > count


def positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The positional parameters without a default; none of a callable without a signature."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [each for each in parameters if each.kind in kinds and each.default is each.empty]
