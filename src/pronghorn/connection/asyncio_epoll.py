"""`EpollLoop`: the channels of an asyncio loop in an epoll set of their own, which the loop watches as one descriptor.

Law: an event is one call from here, whatever loop turns around: asyncio's own makes a key, a handle and a call in a
context of each, uvloop a handle of libuv's for each connection. The loop calls `_turn` in its order among all that it
calls, and its tasks and timers run between two of these. What holds of the page epoll holds here: readiness is a hint,
and a set is made anew when it tells of a descriptor that is no longer ours (epoll(7), question 6).

Tried and dropped: a selector under asyncio's loop that calls channels by itself. It spares one system call in a turn,
calls them before what was to be called sooner, and does nothing for uvloop.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable
from typing import Any

from pronghorn.connection.asyncio_channel import AsyncioLoop
from pronghorn.connection.asyncio_selectors import TRUST
from pronghorn.connection.base import AnyConnection
from pronghorn.connection.channel import CLOSED
from pronghorn.connection.interfaces import TlsStarts, Watchable

MOST = 256  # events of one turn: what is left comes in the next
if hasattr(select, "epoll"):
    IN, OUT = select.EPOLLIN, select.EPOLLOUT


class EpollLoop(AsyncioLoop):
    """An AsyncioLoop on Linux, for many connections. `closed` is also told whether the kernel has just shown that the
    descriptor is still the one that was watched. `guarded` calls what it is given, once a turn, and takes what that
    raises: there is no memory for a list of events, say."""

    __slots__ = ("_guarded", "_left", "_release", "_set", "_things", "_wishes")
    reports_once = False

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        failed: Callable[[AnyConnection, BaseException], None],
        closed: Callable[[Any, bool], None],
        tls_starts: TlsStarts,
        guarded: Callable[[Callable[[], object]], object],
    ) -> None:
        super().__init__(loop, failed, lambda thing: closed(thing, False), tls_starts)
        self._release, self._guarded = closed, guarded
        self._wishes: dict[Watchable, int] = {}
        """What is asked of the set, of each thing that is not released."""
        self._things: dict[int, Watchable] = {}
        """Those in the set, by descriptor."""
        self._left: set[int] = set()
        """Descriptors that were taken out of the set in this turn, which may have brought events of them."""
        self._make_set()

    def changed(self, thing: Watchable) -> None:
        if not thing.is_closing():
            self._watch(thing)
        elif thing.state is not CLOSED or thing in self._wishes:  # else a handler speaks to what is over
            self._wishes.setdefault(thing, 0)
            self._loop.call_soon(self._settle, thing)

    def _settle(self, thing: Watchable) -> None:
        if thing not in self._wishes:
            return
        thing.settle()
        proven = self._watch(thing)
        if thing.state is CLOSED:
            del self._wishes[thing]
            self._release(thing, proven)

    def _watch(self, thing: Watchable) -> bool:
        """Tell the kernel; whether that has proven whose the descriptor is."""
        events, watched = IN * thing.wants_read | OUT * thing.wants_write, self._wishes.get(thing, 0)
        self._wishes[thing] = events
        if events == watched:
            return False
        fd = thing.fileno()
        try:
            if not events:
                if self._things.get(fd) is thing:
                    del self._things[fd]
                self._left.add(fd)
                self._set.unregister(fd)
            elif watched:
                self._set.modify(fd, events)
            else:
                self._set.register(fd, events)
                self._things[fd] = thing
        except OSError as error:  # the system watches no more than so many (epoll_ctl(2), ENOSPC); or it is closed
            self._doubts |= not events
            thing.cut(error)
            return False
        return True

    def _turn(self) -> None:
        """Call those of which the kernel tells."""
        things, left = self._things, self._left
        left.clear()
        for fd, events in self._set.poll(0, MOST):
            thing = things.get(fd)
            if thing is None:
                self._doubts |= fd not in left
                continue
            if events & ~OUT:
                thing.on_readable()
            if events & ~IN:
                thing.on_writable()
        if self._doubts and time.monotonic() >= self._trusted_until:
            self._doubts, self._trusted_until = False, time.monotonic() + TRUST
            self._loop.remove_reader(self._set.fileno())
            self._set.close()
            self._make_set()

    def _make_set(self) -> None:
        self._set = select.epoll()
        for fd, thing in list(self._things.items()):
            try:
                self._set.register(fd, self._wishes[thing])
            except OSError as error:
                thing.cut(error)
        self._loop.add_reader(self._set.fileno(), self._guarded, self._turn)


def loop_of_many(
    loop: asyncio.AbstractEventLoop,
    failed: Callable[[AnyConnection, BaseException], None],
    closed: Callable[[Any, bool], None],
    tls_starts: TlsStarts,
    guarded: Callable[[Callable[[], object]], object],
) -> AsyncioLoop:
    """The best that there is for all the connections of a worker: see EpollLoop."""
    if hasattr(select, "epoll"):
        return EpollLoop(loop, failed, closed, tls_starts, guarded)
    return AsyncioLoop(loop, failed, lambda thing: closed(thing, False), tls_starts)
