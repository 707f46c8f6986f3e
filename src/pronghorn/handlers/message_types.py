"""What the decorators `message` and `conversation` take, for type checkers: callables, and classes, that fit a framing.

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
Later: TypeAlias = Coroutine[Any, Any, R | None]
Replies: TypeAlias = Callable[[M], R | None] | Callable[[M, MessageConnection[R]], R | None]
"""A message function: it returns the reply, or None for none."""
RepliesLater: TypeAlias = Callable[[M], Later[R]] | Callable[[M, Conversation[M, R]], Later[R]]
"""An async message function."""
Object: TypeAlias = Replies[M, R] | RepliesLater[M, R] | Callable[[M, Conversation[M, R]], R | None]
"""An object that is called with each message; the last if one of its other methods is async."""
MessageHandler: TypeAlias = (
    Replies[M, R] | RepliesLater[M, R] | Callable[[], Object[M, R]] | Callable[[Conversation[M, R]], Object[M, R]]
)
"""A message function, or a class whose objects are called in its place; one is made for each connection."""
ConversationHandler: TypeAlias = Callable[[Conversation[M, R]], Coroutine[Any, Any, object]]

HandlerOfBytes = TypeVar("HandlerOfBytes", bound=MessageHandler[bytes, bytes])
HandlerOfText = TypeVar("HandlerOfText", bound=MessageHandler[str, str])
ConversationOfBytes = TypeVar("ConversationOfBytes", bound=ConversationHandler[bytes, bytes])
ConversationOfText = TypeVar("ConversationOfText", bound=ConversationHandler[str, str])


class MarksBytes(Protocol):
    """`@message(framing)` of a framing whose messages are bytes."""

    def __call__(self, handler: HandlerOfBytes, /) -> HandlerOfBytes: ...


class MarksText(Protocol):
    """The same of a framing whose messages are text."""

    def __call__(self, handler: HandlerOfText, /) -> HandlerOfText: ...


class HoldsBytes(Protocol):
    """`@conversation(framing)` of a framing whose messages are bytes."""

    def __call__(self, handler: ConversationOfBytes, /) -> ConversationOfBytes: ...


class HoldsText(Protocol):
    """The same of a framing whose messages are text."""

    def __call__(self, handler: ConversationOfText, /) -> ConversationOfText: ...
