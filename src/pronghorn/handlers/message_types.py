"""What the decorator `message` takes, for type checkers: callables, and classes of callables, that fit a framing.

Law: types only; nothing that runs imports this file. A decorator shall give back exactly what it was given, which takes
a type variable with a bound; and a bound has no type variables in it. So there is one for framings of bytes and one for
framings of text, and the rest is checked, and given back as Any.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeAlias, TypeVar

from pronghorn.handlers.message_connection import Conversation, MessageConnection

M = TypeVar("M")
R = TypeVar("R")
Got: TypeAlias = "R | Coroutine[Any, Any, R | None] | None"
"""What comes of a message: a reply, None for none, or a coroutine of either."""
Replies = Callable[[M], Got[R]] | Callable[[M, MessageConnection[R]], Got[R]] | Callable[[M, Conversation[R]], Got[R]]
"""A message function, with the connection or without."""
MessageHandler = (
    Replies[M, R]
    | Callable[[], Replies[M, R]]
    | Callable[[MessageConnection[R]], Replies[M, R]]
    | Callable[[Conversation[R]], Replies[M, R]]
)
"""A message function, or a class whose objects are such; one is made for each connection."""

OfBytes = TypeVar("OfBytes", bound=MessageHandler[bytes, bytes])
OfText = TypeVar("OfText", bound=MessageHandler[str, str])


class MarksBytes(Protocol):
    """`@message(framing)` of a framing whose messages are bytes."""

    def __call__(self, handler: OfBytes, /) -> OfBytes: ...


class MarksText(Protocol):
    """The same of a framing whose messages are text."""

    def __call__(self, handler: OfText, /) -> OfText: ...
