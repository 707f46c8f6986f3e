"""A handler as models see it: what is known of it before a bind, and its two shapes.

Law: `protocol()` reacts and never blocks; `converse(conn)` blocks as it likes, and needs a flow of control of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from pronghorn.connection.blocking import Connection
from pronghorn.connection.driver import drive
from pronghorn.framing import Framing
from pronghorn.handlers.message_protocol import MessageProtocol
from pronghorn.handlers.protocols import Protocol
from pronghorn.lifespans import Lifespan

HOLDS = "__pronghorn_holds__"
"""Of a handler: see Handler's `holds`."""


class HandlerFacts(msgspec.Struct, frozen=True):
    """What has to be known of a handler before anything is bound, as a probe sends it to the supervisor."""

    name: str
    style: str
    lifespan: str = ""
    """The kind of its lifespan, "sync" or "async"; empty if there is none."""
    moves: bool = False
    """Its connections can move to another worker, between two messages (handlers/moved_state.py)."""
    patched: bool = False
    """The import of its module patches the standard library by gevent."""

    @property
    def blocks(self) -> bool:
        """Whether a conversation needs a flow of control of its own."""
        return self.style in ("blocking", "program")

    @property
    def needs_asyncio(self) -> bool:
        """Whether a conversation needs an asyncio loop."""
        return self.style == "asyncio"


class Handler:
    """A handler in both shapes. One that `blocks` has no `protocol`; the others have both."""

    lifespan: Lifespan | None = None

    def __init__(
        self,
        facts: HandlerFacts,
        *,
        protocol: Callable[[], Any] | None = None,
        converse: Callable[[Connection], None] | None = None,
        leave: Callable[[], None] | None = None,
        framing: Framing[Any] | None = None,
        made: Any = None,
        holds: Callable[[], bool] | None = None,
        plain: bool = False,
    ) -> None:
        """`framing`: what cuts the input into messages, if anything does. `made`: what the user wrote, a class as a
        rule, of which each connection has an object. `holds`: whether, at a stop, its lifespan still is to close the
        connections, so that the server ends none. `plain`: a function that is given messages, and nothing of
        their connections (handlers/message_channel.py)."""
        self.facts = facts
        self.make = protocol
        """What makes a new protocol for one connection, where the handler has any: see `protocol()`."""
        self._converse = converse
        self._leave = leave
        self.framing = framing
        self.framed = framing is not None
        self.made = made
        self.holds = holds
        self.plain = plain

    def protocol(self) -> Any:
        """A new protocol for one connection; of asyncio's styles only inside a running loop."""
        assert self.make is not None, "a blocking handler has no protocol"
        return self.make()

    def converse(self, conn: Connection) -> None:
        """Hold one whole conversation, blocking; what the handler raises passes through."""
        if self._converse is not None:
            self._converse(conn)
        else:
            protocol = self.protocol()
            if isinstance(protocol, MessageProtocol):
                drive(protocol, conn, lambda: protocol.partial)
            else:
                tell = getattr(type(protocol), "draining", None)
                drive(protocol, conn, hears_drain=tell not in (None, Protocol.draining))

    def leave(self) -> None:
        """To be called by a flow of control that has held conversations, at its end."""
        if self._leave is not None:
            self._leave()
