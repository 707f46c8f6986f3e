"""The message style: the decorator `message`, and what all connections of one message handler share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from pronghorn.framing import Framing, stream
from pronghorn.handlers.message_connection import MessageConnection
from pronghorn.handlers.message_protocol import MessageProtocol, Reply

if TYPE_CHECKING:
    from pronghorn.handlers.message_types import M, MarksBytes, MarksText, MessageHandler, R

FRAMING = "__pronghorn_framing__"
T = TypeVar("T", bound=Callable[..., Any])


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


class MessageStyle:
    """What all connections of one message handler share, and how each gets its reply function: decided once.

    `alone`: the function knows nothing of its connection, which spares the hot path a batch.
    """

    __slots__ = ("_both", "_handler", "_takes", "alone", "frame", "framing", "high_water", "max_size")

    def __init__(self, handler: Callable[..., Any], framing: Framing[Any], max_size: int, high_water: int) -> None:
        self.framing = framing
        self.frame: Callable[[Any], bytes] = framing.frame
        self.max_size = max_size
        self.high_water = high_water
        self._handler = handler
        made = isinstance(handler, type)
        self._takes = made and bool(positional(handler))
        call = getattr(handler, "__call__") if made else handler  # noqa: B004, B009 (of the class, self included)
        self._both = len(positional(call)) > (2 if made else 1)
        self.alone = not (self._takes or self._both)

    def reply_for(self, protocol: MessageProtocol, moved: Any = None) -> Reply:
        """The reply function of one connection: the handler, or an object of its own, which may know the connection:
        the one that was `moved` from another process, if there is one."""
        reply = self._handler
        if isinstance(reply, type):
            if moved is None:
                moved = reply(MessageConnection(protocol)) if self._takes else reply()
            protocol.object = reply = moved
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
