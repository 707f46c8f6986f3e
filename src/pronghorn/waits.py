"""What a flow of control waits for, where another one looks on.

Law: under iterative and prefork one flow accepts and converses, so that it cannot write its worker's heartbeat while it
waits for its client. It says that it waits, and a second flow beats as long as that is so. A handler that computes, or
that waits for something else, says nothing, and after `--worker-silence` it is held to hang.

Tried and dropped: to wake the waits themselves, by a timeout on the socket or a poll before each call. A timeout is
seen by every program and library that has the descriptor too; a poll is one more system call for each message.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Straight:
    """Nobody looks on: flows of control that are not the worker's only one."""

    watched = False

    def call(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call what may wait for the client."""
        return call(*args, **kwargs)

    def sign(self) -> None:
        """This flow lives, though it does not wait."""


class Waits(Straight):
    """Somebody looks on."""

    watched = True

    def __init__(self) -> None:
        self.flows: set[int] = set()  # that wait now
        self._signs = False

    def call(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        me = threading.get_ident()
        self.flows.add(me)
        try:
            return call(*args, **kwargs)
        finally:
            self.flows.discard(me)

    def sign(self) -> None:
        self._signs = True

    def look(self) -> bool:
        """Whether a flow waits for its client now, or has given a sign since the last look."""
        signs, self._signs = self._signs, False
        return signs or bool(self.flows)
