"""The context (contextvars) that each connection has for itself, and our own variables in it.

Law: what one conversation sets no other sees. A connection's context is a copy of the one that was current when its
worker had become ready, so that what the handler's import and its lifespan have set is there. All that the server calls
of a handler for one connection runs in that context, connection_lost included; tasks and timers that are made there
copy it, as they do everywhere. A copy costs one small object, whatever is in it (PEP 567).

Tried and dropped: to enter it around a loop's event instead of around the handler's callback. asyncio's callbacks run
in copies of their own, so that each registration of a descriptor would begin a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, TypeVar

from pronghorn.system.drain import connection_number

if TYPE_CHECKING:
    from pronghorn.connection.channel import AnyChannel

T = TypeVar("T")
of_a_client: ContextVar[bool] = ContextVar("pronghorn_of_a_client", default=False)
"""Whether the running code serves a connection, or was started by code that does."""
conversation: ContextVar[AnyChannel | None] = ContextVar("pronghorn_conversation", default=None)
"""The channel whose coroutine handler is running, or has started what is running."""
asked_by: ContextVar[int] = ContextVar("pronghorn_asked_by", default=0)
"""The number of the connection whose input started this task; 0 for one that was started when it was made."""


def base() -> Context:
    """The context whose copies connections get: that of the caller."""
    context = copy_context()
    context.run(of_a_client.set, True)
    return context


def made_for(number: int, make: Callable[[], T]) -> T:
    """What `make` returns; the current context is that of the connection with this number from here on. One call for
    both: to run something in a context costs more than to set a variable."""
    connection_number.set(number)
    return make()
