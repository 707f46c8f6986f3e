"""What a loop watches, what a channel asks of a loop, and the terms that it has there.

Law: typed members and no code.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pronghorn.connection.base import AnyConnection
from pronghorn.connection.states import State
from pronghorn.system.drain import Drain

if TYPE_CHECKING:
    import ssl


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


class Cancellable(Protocol):
    """What is to be called later, and can be taken back."""

    def cancel(self) -> None: ...


class Loop(Protocol):
    """What a channel asks of the loop that watches it."""

    def changed(self, thing: Watchable, /) -> None:
        """Look at the wishes of `thing` and call its `settle()`, after this batch of events."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Cancellable:
        """Call `callback` after `delay` seconds."""

    def call_soon_threadsafe(self, callback: Callable[[], object], /) -> None:
        """Call `callback` on the loop's own thread, after those that were handed over before; from any thread. Once the
        loop has ended nothing is called."""

    def keep_idle(self, conn: AnyConnection, seconds: float, /) -> None:
        """From now on this connection's peer may be silent for so many seconds."""

    def failed(self, conn: AnyConnection, error: BaseException, /) -> None:
        """The handler raised, or the peer broke off: for the log; the channel closes by itself."""

    @property
    def tls_starts(self) -> TlsStarts:
        """How channels become channels with TLS."""


class TlsStart(Awaitable[None], Protocol):
    """A handshake in the middle of a conversation; a coroutine may await its end, which raises what ended it."""

    protocol: Any
    """The protocol that has the connection after the handshake; None if it stays the one that it is."""

    @property
    def done(self) -> bool: ...


class TlsStarts(Protocol):
    """How connections that are open become connections with TLS: see tls/starttls.py."""

    def check(self, conn: AnyConnection, context: ssl.SSLContext | None) -> None:
        """Raise BadSetting if the server has no certificate, and there is no `context`; RuntimeError if the connection
        speaks TLS already."""

    def start(
        self, channel: Any, context: ssl.SSLContext | None, after: bytes | bytearray | memoryview, timeout: float | None
    ) -> TlsStart:
        """Have a channel send `after`, and begin the handshake; at once."""

    def hold(
        self, conn: Any, context: ssl.SSLContext | None, after: bytes | bytearray | memoryview, timeout: float | None
    ) -> None:
        """Have a blocking connection send `after`, and hold the handshake."""


class Terms(NamedTuple):
    """What the channels of one listener in a loop have in common."""

    loop: Loop
    drain: Drain | None
    most_unsent: int = sys.maxsize
    """Bytes: a handler that writes on beyond that is cut off."""
    high_water: int = 64 * 1024
    """Bytes unsent above which reading pauses, and the protocol is told."""
    listener: str = ""
    """The name of the listener that they came to."""
    notes_first: bool = False
    """Channels note when their first byte was sent: they begin with an empty backlog, so that the first write takes
    another way than those that follow, which ask nothing."""
    sockname: Any = None
    """Our own address of all of them, as getsockname(2) tells it; None if they may differ in that, and each has to be
    asked before its socket is closed."""
