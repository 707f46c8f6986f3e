"""Calls whose exceptions must not end the supervisor: each exception is logged, counted, and survived.

Law: whatever a turn of the supervisor calls goes through here. Until the guard is `armed`, which is when the server
serves, exceptions pass: they are why a start fails. A forked process that comes back here by an exception ends at once:
a second supervisor is worse than no worker. When memory has run out, a reserve is given up, so that the failure can be
logged, and is taken again in a later turn; it is address space, of which no page is used.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any

from pronghorn import events
from pronghorn.events import Observer

RESERVE = 4 * 1024 * 1024  # bytes
PAUSE = 0.1  # seconds: the shortest turn after one in which something failed


class Guard:
    """`failures` is how many there were, `last` the last one in a line, and `failed` says whether there was one since
    the last `turn`. `pid` is the process that it belongs to."""

    __slots__ = ("_observe", "_reserve", "armed", "failed", "failures", "last", "pid")

    def __init__(self, observe: Observer = lambda event: None) -> None:
        self.armed = False
        self.failed = False
        self.failures = 0
        self.last = ""
        self._observe = observe
        self.pid = os.getpid()
        self._reserve: bytes | None = bytes(RESERVE)  # a bytearray would write its zeros: each page would be used

    def turn(self) -> None:
        """A new turn of the loop begins."""
        self.failed = False
        if self._reserve is None:
            try:
                self._reserve = bytes(RESERVE)
            except MemoryError:
                pass

    def __call__(self, what: str, call: Callable[..., object], *arguments: Any) -> bool:
        """Calls; False if that failed. `what` completes: failed to ..."""
        try:
            call(*arguments)
        except Exception as error:
            self._leave_if_lost()
            if not self.armed:
                raise
            self.note(what, error)
            return False
        except BaseException:
            self._leave_if_lost()
            raise
        return True

    def last_step(self, what: str, call: Callable[..., object], *arguments: Any) -> bool:
        """The same for a step on the way out: whatever it raises, armed or not, the next one follows."""
        try:
            call(*arguments)
        except BaseException as error:
            self._leave_if_lost()
            self.note(what, error)
            return False
        return True

    def note(self, what: str, error: BaseException) -> None:
        """Counts a failure and records it. Never raises."""
        self.failed = True
        self.failures += 1
        try:
            if isinstance(error, MemoryError):
                self._reserve = None
                traceback.clear_frames(error.__traceback__)
            self.last = f"failed to {what}: {type(error).__name__}"
            self._observe(events.SupervisorFailed(what, error))
        except BaseException:
            self.failures += 1  # it cannot be recorded; the count stays

    def _leave_if_lost(self) -> None:
        if os.getpid() != self.pid:
            os._exit(1)
