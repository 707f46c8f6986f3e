"""Flags that are also descriptors, so that a loop waits for them beside sockets: Wake, and Drain.

Law: setting one never blocks, and may be done from any thread and from a signal handler.
"""

from __future__ import annotations

import math
import os
import select
import sys
import time
from collections.abc import Callable, Iterable

ANYBODY = 0
"""The owner of a Drain while its process forks."""
ONE = (1).to_bytes(8, sys.byteorder)


class Wake:
    """A flag that wakes a loop: its descriptor is readable while it is set. Any thread may set it (eventfd(2))."""

    __slots__ = ("_read", "_write")

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)

    def fileno(self) -> int:
        return self._read

    def set(self) -> None:
        """Make the descriptor readable; nothing happens if it is already, or if it is closed."""
        if self._write >= 0:
            try:
                os.write(self._write, ONE)
            except OSError:  # EAGAIN, as a rule: it is full, and so it is set
                pass

    def clear(self) -> None:
        """Make the descriptor unreadable again."""
        if self._read >= 0:
            try:
                while len(os.read(self._read, 4096)) == 4096:
                    pass
            except BlockingIOError:
                pass

    def close(self) -> None:
        descriptors, self._read, self._write = {self._read, self._write} - {-1}, -1, -1
        for descriptor in descriptors:
            os.close(descriptor)


def _nobody_hears(names: tuple[str, ...]) -> None:
    return None


def _call_each(heard: list[Callable[[], object]]) -> None:
    # A signal handler may do the same in the middle of this.
    while heard:
        try:
            call = heard.pop(0)
        except IndexError:
            return
        call()


class Drain:
    """A flag that is also a descriptor: whether this process stops accepting and lets its connections finish.

    A process leaves in two stages. First it may let go: it accepts no more, and goes on with its connections until they
    end by themselves; no handler learns of it. Draining is the second stage, or the only one: then the connections are
    ended too. Once draining has begun, the descriptor stays readable for ever. A Drain belongs to one process: a forked
    one shares the descriptor, and makes a Drain of its own, or becomes the `owner` of this one.
    """

    __slots__ = tuple("_heard _let_go_heard _wake alone begun deadline lets_go lost owner timeout why".split())

    def __init__(self, timeout: float, lost: Callable[[tuple[str, ...]], None] = _nobody_hears) -> None:
        """`timeout` is what open connections get, in seconds; `lost` is called with the names of what the deadline has
        cut off beside connections."""
        self.timeout: float = timeout
        self.owner: int = os.getpid()
        self.begun: bool = False
        self.lets_go: bool = False  # the process accepts no more; true while it drains, too
        self.alone: frozenset[str] = frozenset()  # addresses of listeners that no other worker serves any more
        self.why: str = ""
        self.deadline: float = math.inf
        self.lost = lost
        self._heard: list[Callable[[], object]] = []  # called once, when draining begins
        self._let_go_heard: list[Callable[[], object]] = []  # the same when it lets go
        self._wake = Wake()

    def let_go(self, alone: Iterable[str] = ()) -> None:
        """Accept no more, and go on with the open connections. Clients that wait at the addresses `alone`, which no
        other worker serves, are accepted before."""
        if not self.lets_go:
            self.alone = frozenset(alone)
            self.lets_go = True
            _call_each(self._let_go_heard)

    def begin(self, why: str = "") -> None:
        """Start draining; the deadline (monotonic) runs from the first call, and a signal handler may make it."""
        if not self.begun:
            self.why = why
            self.deadline = time.monotonic() + self.timeout
            self.begun = self.lets_go = True
            self._wake.set()
            _call_each(self._heard)

    def when_begun(self, call: Callable[[], object]) -> None:
        """Have `call` called once, when draining begins: now, if it has begun. A signal handler may call this."""
        self._heard.append(call)
        if self.begun:
            _call_each(self._heard)

    def when_let_go(self, call: Callable[[], object]) -> None:
        """The same for when this process lets go: not if it drains at once."""
        self._let_go_heard.append(call)
        if self.lets_go and not self.begun:
            _call_each(self._let_go_heard)

    def __bool__(self) -> bool:
        return self.begun

    def wait(self, seconds: float | None = None) -> bool:
        """Wait, blocking, until draining begins, or for so many `seconds`; whether it has begun."""
        if not self.begun:
            poller = select.poll()
            poller.register(self, select.POLLIN)
            poller.poll(None if seconds is None else seconds * 1000)
        return self.begun

    async def begins(self) -> None:
        """Return when draining begins, or at once if it has begun: for coroutines, on any loop."""
        import asyncio  # here: not every worker needs it

        loop = asyncio.get_running_loop()
        begun = loop.create_future()

        def wake() -> None:
            if not begun.done():
                begun.set_result(None)

        def hear() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(wake)

        self.when_begun(hear)
        try:
            await begun
        finally:
            try:
                self._heard.remove(hear)
            except ValueError:
                pass  # it was called

    def clear(self) -> None:
        """Make the descriptor unreadable again, if draining has not begun here: a forked process was told to drain
        before it had let go of its copy."""
        if not self.begun:
            self._wake.clear()

    def renew(self) -> None:
        """Have a descriptor again after `close`: a forked process makes one of its own when it needs one."""
        self._wake = Wake()
        if self.begun:
            self._wake.set()

    def fileno(self) -> int:
        """Its descriptor, which is readable once draining has begun; a forked process makes one of its own here."""
        if self._wake.fileno() < 0:
            self.renew()
        return self._wake.fileno()

    def close(self) -> None:
        self._wake.close()


_current: Drain | None = None


def current_drain() -> Drain:
    """The Drain of this worker, for handlers and their lifespans: true once the server wants to stop; `await
    drain.begins()` returns then, and so does `drain.wait(seconds)`, which blocks; its descriptor (`fileno`) becomes
    readable. Outside of a worker it is one that never begins.
    """
    global _current
    if _current is None:
        _current = Drain(0.0)
    return _current


def become_current(drain: Drain) -> None:
    """From now on `current_drain` returns this one."""
    global _current
    _current = drain
