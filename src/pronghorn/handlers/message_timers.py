"""Timers of a message handler's connection: `conn.call_later` and `conn.every`, cancelled when the connection ends.

Law: a timer's function is called as the handler is: on the connection's own flow of control, never while the handler
runs, and what it raises ends the connection. A coroutine function, where the handler is of asyncio's style, becomes a
task beside the handler.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from typing import Any

from pronghorn.connection.interfaces import Cancellable
from pronghorn.connection.transport import Transport

Spawn = Callable[[Any], Any]


class Timer:
    """A call that is to come, or one that comes again and again. Made by `conn.call_later` and `conn.every`."""

    __slots__ = ("_args", "_due", "_function", "_handle", "_interval", "_task", "_timers")

    def __init__(
        self, timers: Timers, seconds: float, interval: float, function: Callable[..., Any], args: Any
    ) -> None:
        self._timers = timers
        self._interval = interval  # 0: it comes once
        self._function, self._args = function, args
        self._due = time.monotonic() + seconds
        self._handle: Cancellable | None = timers.transport.call_later(seconds, self._fire)
        self._task: Any = None

    @property
    def active(self) -> bool:
        """Whether a call is still to come."""
        return self._handle is not None

    def cancel(self) -> None:
        """No call comes any more. A task that is running is left to its end."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()
            self._timers.forget(self)

    def __reduce__(self) -> tuple[Callable[[], Timer], tuple[()]]:
        """In another process, to which the connection moves, it is a timer that is over: the handler starts a new one
        in its `handed_over`."""
        return _over, ()

    def _fire(self) -> None:
        if self._handle is None:
            return
        if self._interval:
            now = time.monotonic()
            self._due += self._interval
            if self._due <= now:  # it is late by whole turns, which are left out
                self._due += self._interval * math.ceil((now - self._due) / self._interval)
            self._handle = self._timers.transport.call_later(self._due - now, self._fire)
            if self._task is not None and not self._task.done():
                return  # the task of the turn before still runs
        else:
            self._handle = None
            self._timers.forget(self)
        found = self._function(*self._args)
        if self._timers.spawn is not None and inspect.isawaitable(found):
            self._task = self._timers.spawn(found)


def _over() -> Timer:
    timer = Timer.__new__(Timer)
    timer._handle = timer._task = None
    return timer


class Timers:
    """The timers of one connection. `spawn` runs what a function has returned to be awaited, if anything does."""

    __slots__ = ("_active", "_over", "spawn", "transport")

    def __init__(self, transport: Transport, spawn: Spawn | None) -> None:
        self.transport, self.spawn = transport, spawn
        self._active: set[Timer] = set()
        self._over = False

    def start(self, seconds: float, interval: float, function: Callable[..., Any], args: tuple[Any, ...]) -> Timer:
        """See MessageConnection.call_later. Once the connection is over nothing is called."""
        if not callable(function):
            raise TypeError(f"a timer needs something to call; got {function!r}")
        if not 0 <= seconds < math.inf:
            raise ValueError(f"a timer needs seconds from 0 on; got {seconds!r}")
        if self.spawn is None and inspect.iscoroutinefunction(function):
            raise TypeError(
                f"{function!r} is a coroutine function, and this handler runs without an asyncio loop: make one of the "
                "handler's own methods (__call__, connected, closed) a coroutine function too"
            )
        timer = Timer(self, seconds, interval, function, args)
        if self._over:
            timer.cancel()
        else:
            self._active.add(timer)
        return timer

    def __bool__(self) -> bool:
        """Whether a call is to come."""
        return bool(self._active)

    def forget(self, timer: Timer) -> None:
        self._active.discard(timer)

    def end(self) -> None:
        """The connection has ended: nothing is called any more."""
        self._over = True
        for timer in list(self._active):
            timer.cancel()
