"""`AnyConnection`: what Channel, Connection and the transports of protocols share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pronghorn.bus.joined import Exclusive, place_of_bus
from pronghorn.connection.proxy_protocol import ProxyHeader
from pronghorn.connection.socket_facts import Seen
from pronghorn.connection.tls_facts import TlsFacts
from pronghorn.errors import End, as_text
from pronghorn.lifespans import lifespan_at
from pronghorn.peers import Peer
from pronghorn.system.drain import Drain, OwnDrain

DONE = End.DONE  # an access to the class calls a function (Python 3.11)
OnBus = Callable[[Any, Any], Any]
MOST_FIELDS, LONGEST_FIELD = 32, 1024
"""Of a handler's own fields, in the record of a connection's end: how many, and characters of each."""


class Traffic(NamedTuple):
    """What one connection has received and sent at some moment, by the names that the connection has for it."""

    bytes_in: int
    bytes_out: int
    messages: int
    listener: str


class AnyConnection:
    """One accepted connection, whether it may block or not."""

    __slots__ = ()
    number: int
    """Counted from 1 in each worker."""
    peer: Peer
    """The address that accept(2) gave: after a reset getpeername(2) no longer tells. Or what a proxy said."""
    proxy: ProxyHeader | None
    """What the proxy said, if one made the connection for its client."""
    listener: str
    """The name of the listener that it came to: what the settings call it, or its address."""
    opened: float
    """When it was accepted (monotonic seconds)."""
    bytes_in: int
    bytes_out: int
    process_drain: Drain | None
    """That of the process, if it is a server's; handlers see `drain`."""
    own_drain: OwnDrain | None
    """That of this connection, once its handler has asked for it."""
    protocol: Any
    """The handler's, if it is one that reacts, or the channel over the connection, on an asyncio loop of its own."""
    stays: bool
    """Its handler does not want to be ended by draining."""
    goodbye: str
    """Why this connection is being ended, and not all of its process: AGE, or DRAINING where goodbyes are spread; else
    empty. Its handler has learned of it."""
    seen: Seen | None
    own_fields: dict[str, object] | None
    """What `log` has, if anybody has used it."""
    program_end: str = ""
    """How the program behind it ended: `exit status 1`, `killed by SIGSEGV`; empty where there is none."""
    first_sent: float = 0.0
    """When its first byte was sent (monotonic seconds): see first_byte.py; 0.0 before, and where nobody notes it."""
    measured: bool = True
    """Whether bytes_in and bytes_out are known."""
    unacknowledged: bool = False
    """Its peer did not take all that was sent in the time that closing waits for that."""

    if TYPE_CHECKING:

        def fileno(self) -> int: ...
        def is_own(self) -> bool: ...
        def lose(self) -> None: ...

    @property
    def tls(self) -> TlsFacts | None:
        """What a handler may know of the TLS below; None where there is none."""
        return None

    @property
    def reason(self) -> str:
        """Why the connection ended, in a word or two; if it is still open: if nothing goes wrong."""
        return DONE

    @property
    def messages(self) -> int:
        """Messages that a framing has cut so far; 0 for a handler without one."""
        messages = getattr(self.protocol, "messages", 0)
        return messages if type(messages) is int else 0  # a user may mean something else by that

    @property
    def unfinished(self) -> bool:
        """Whether a part of a message has come, and the rest is waited for."""
        return getattr(self.protocol, "unfinished", False)

    @property
    def log(self) -> dict[str, object]:
        """Fields for the line that a log has at the end of this connection: `conn.log["device"] = name`. Their values
        are written as text, escaped, and cut off if they are very long."""
        if self.own_fields is None:
            self.own_fields = {}  # type: ignore[misc]  # a slot, as below
        return self.own_fields

    @property
    def log_fields(self) -> dict[str, object] | None:
        """What the handler wants the line at the end of the connection to tell beside the rest."""
        fields = getattr(self.protocol, "log_fields", None)
        if type(fields) is dict:
            return {**fields, **self.own_fields} if self.own_fields else fields
        return self.own_fields

    @property
    def draining(self) -> bool:
        """True once the server wants to stop, or says goodbye to this connection: a handler finishes what it has begun,
        and leaves."""
        drain = self.process_drain
        return drain is not None and (self.goodbye != "" or (drain.begun and not drain.spread))

    @property
    def drain(self) -> Drain:
        """What begins when `draining` becomes true, and can be waited for; None for a client's connection."""
        if self.own_drain is None and self.process_drain is not None:
            self.own_drain = OwnDrain(self.process_drain, self.draining)  # type: ignore[misc]  # a slot, as below
        return cast(Drain, self.own_drain)

    def say_goodbye(self, why: str) -> None:
        """This connection shall end, for `why` (see `goodbye`): its handler learns of it by `draining` and `drain`."""
        if not self.goodbye:
            self.goodbye = why  # type: ignore[misc]
            if self.own_drain is not None:
                self.own_drain.begin(why)

    @property
    def lifespan(self) -> Any:
        """What the handler's lifespan yielded in this worker."""
        return lifespan_at(self.listener)

    def join(self, name: str | bytes, *, exclusive: Exclusive = False, on_bus: OnBus | None = None) -> None:
        """Join a name of the bus, 1 to 255 bytes: what is published to it is written to this connection from now on,
        until it leaves the name or ends. Or, with `on_bus`, `on_bus(conn, message)` is called with each
        `pronghorn.bus.Message`; what it returns is the answer, where somebody asks.

        `exclusive=True` ends the connections that have joined the name before, and so does a later one with it to this
        one; with "refuse" it is this call that fails, by NameTaken, as long as there is one. Returns when the hub knows
        of it, after a second at most: where the hub is away the connection has joined as soon as it is back. Raises
        BusError for a name that cannot be, and after the end of the connection.
        """
        place_of_bus().join(self, name, exclusive, on_bus)

    def leave(self, name: str | bytes) -> None:
        """Leave a name of the bus; nothing happens if it was not joined. At its end a connection leaves by itself."""
        from pronghorn.bus import local

        local.here().leave(self.number, name)

    def cool(self) -> None:
        """Nothing has come for a while: let go of what could be made anew."""

    def stay(self) -> None:
        """The handler wants to go on although the server drains: until it ends the conversation, or until the drain
        deadline."""
        self.stays = True  # type: ignore[misc]  # a slot of each class below


def fields_as_text(fields: dict[str, object] | None) -> tuple[tuple[str, str], ...]:
    """What a handler has put into `log`, as text and within bounds."""
    if not fields:
        return ()
    few = list(fields.items())[:MOST_FIELDS]
    return tuple([(as_text(name)[:LONGEST_FIELD], as_text(value)[:LONGEST_FIELD]) for name, value in few])
