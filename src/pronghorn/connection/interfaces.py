"""Protocols for type checkers: what Channel and Connection share, what a loop watches, what a channel asks of a loop.

Law: typed members and no code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from pronghorn.connection.proxy_protocol import ProxyHeader
from pronghorn.connection.socket_facts import Seen
from pronghorn.connection.states import State
from pronghorn.peers import Peer
from pronghorn.system.drain import Drain


class AnyConnection(Protocol):
    """What Connection and Channel share."""

    number: int
    """Counted from 1 in each worker."""
    peer: Peer
    proxy: ProxyHeader | None
    """What the proxy said, if one made the connection for its client."""
    opened: float
    """When it was accepted (monotonic seconds)."""
    bytes_in: int
    bytes_out: int
    drain: Drain | None
    protocol: Any
    """The handler's, if it is one that reacts."""
    stays: bool
    """Its handler does not want to be ended by draining."""
    aged: bool
    """It has lived for `max_connection_age`, and is being ended for that."""
    seen: Seen | None

    @property
    def messages(self) -> int: ...
    @property
    def unfinished(self) -> bool: ...
    @property
    def draining(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def program_end(self) -> str: ...
    def fileno(self) -> int: ...
    def is_own(self) -> bool: ...
    def lose(self) -> None: ...
    def stay(self) -> None: ...


class Watchable(Protocol):
    """What a loop watches: one descriptor, and two wishes."""

    @property
    def wants_read(self) -> bool: ...
    @property
    def wants_write(self) -> bool: ...
    @property
    def state(self) -> State: ...
    def fileno(self) -> int: ...
    def is_closing(self) -> bool: ...
    def is_own(self) -> bool: ...
    def on_readable(self) -> None: ...
    def on_writable(self) -> None: ...
    def settle(self) -> None: ...
    def cut(self, error: BaseException, /) -> None: ...


class Loop(Protocol):
    """What a channel asks of whoever waits for it."""

    def changed(self, thing: Watchable, /) -> None:
        """Look at the wishes of `thing` and call its `settle()`, after this batch of events."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> object:
        """Call `callback` after `delay` seconds."""

    def failed(self, conn: AnyConnection, error: BaseException, /) -> None:
        """The protocol, or the peer, broke the conversation: for the log; the channel closes by itself."""
