"""Protocols for type checkers: what a loop watches, and what a channel asks of a loop.

Law: typed members and no code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pronghorn.connection.base import AnyConnection
from pronghorn.connection.states import State


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
