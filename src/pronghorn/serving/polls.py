"""Waiting for clients where one of many takes each: one of several processes, or one of several threads.

Law: of those that wait, one is woken for each client, and not all (epoll(7)). A process that dies between that and
accept(2) takes the others' wake with it: so whoever waits this way tries accept(2) now and then without being woken.
What the accepting flow of control does for all of them (the gate, limits, draining) is in blocking.py.
"""

from __future__ import annotations

import _thread
import os
import queue
import select
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from pronghorn.connection.blocking import Connection
from pronghorn.listening.listener import Listener
from pronghorn.serving.gate import EXHAUSTED_PAUSE

PROCESSES = getattr(select, "EPOLLEXCLUSIVE", 0)
"""The flag of a listener's descriptor in the set of a process that is one of many (since Linux 4.5)."""


class Poller(Protocol):
    """What of select.poll is used to wait for clients; timeouts are in milliseconds."""

    def register(self, fd: Any, events: int, /) -> None: ...
    def unregister(self, fd: Any, /) -> None: ...
    def poll(self, timeout: float, /) -> list[tuple[int, int]]: ...


class EpollSet:
    """The calls of select.poll over epoll(7). A descriptor that was closed before it was taken out stays in the set as
    long as another process has a copy: then the set is made anew."""

    def __init__(self) -> None:
        self._epoll, self._held = select.epoll(), dict[int, int]()

    def register(self, fd: Any, events: int) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        self._epoll.register(number, events)
        self._held[number] = events

    def unregister(self, fd: Any) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        del self._held[number]
        try:
            self._epoll.unregister(number)
        except OSError:
            self._epoll.close()
            self._epoll = select.epoll()
            for each, events in self._held.items():
                self._epoll.register(each, events)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        return self._epoll.poll(timeout / 1000)


class Places:
    """Where the threads of a pool wait for clients, each given one by the accepting flow of control."""

    shared = False
    """The threads may accept for themselves, by `take`, which the accepting flow sets."""
    take: Callable[[int], Connection | None]

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Connection] = queue.SimpleQueue()

    @staticmethod
    def made() -> Places:
        """Of the kind that this system has the calls for."""
        return SharedPlaces() if hasattr(select, "epoll") and hasattr(os, "eventfd") else Places()

    def give(self, conn: Connection) -> None:
        """Have a thread hold this conversation."""
        self._waiting.put(conn)

    def next(self) -> Connection:
        """The connection that the calling thread is to serve now."""
        return self._waiting.get()

    def register(self, fd: int, events: int) -> None:
        """Have the threads accept from this listener."""

    def unregister(self, fd: int) -> None:
        """Have them do so no more; none is in the middle of it when this returns."""

    def look_again(self) -> None:
        """Wake a thread if a client waits: one may have been woken, and could not accept."""


class SharedPlaces(Places):
    """The same where each thread accepts for itself, or is given a connection. The listener is in a set of epoll(7),
    with the bell that says that there is one to be given."""

    shared = True

    def __init__(self) -> None:
        super().__init__()
        self._given: deque[Connection] = deque()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        self._epoll = select.epoll()
        self._epoll.register(self._bell, select.EPOLLIN)
        self._taking = _thread.allocate_lock()
        self._listener = -1  # that may be accepted from

    def register(self, fd: int, events: int) -> None:
        self._epoll.register(fd, events | select.EPOLLET)
        self._listener = fd

    def unregister(self, fd: int) -> None:
        self._listener = -1
        with self._taking:
            self._epoll.unregister(fd)

    def look_again(self) -> None:
        if (fd := self._listener) >= 0:
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLET)

    def give(self, conn: Connection) -> None:
        self._given.append(conn)
        os.eventfd_write(self._bell, 1)

    def next(self) -> Connection:
        # Who is accepting now leaves what is more in the queue to whoever was woken for it.
        if self._listener >= 0 and self._taking.acquire(blocking=False):
            try:
                conn = self.take(fd) if (fd := self._listener) >= 0 else None  # it may be none any more
            finally:
                self._taking.release()
            if conn is not None:
                return conn
        while True:
            for fd, _ in self._epoll.poll(-1, 1):
                conn = self._given_one() if fd == self._bell else self._taken(fd)
                if conn is not None:
                    return conn

    def _taken(self, fd: int) -> Connection | None:
        with self._taking:
            if self._listener != fd:
                return None
            conn = self.take(fd)
            if conn is not None:
                self.look_again()  # the kernel has told of all that wait at once
            return conn

    def _given_one(self) -> Connection | None:
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            return None
        return self._given.popleft()


class Polled:
    """What the accepting flow of control polls while it may accept: the listeners, and accepted connections that have
    sent nothing yet. A listener that is `full` is left out for a while, so that it holds up no other. Listeners are in
    the poller `at`, which may be that of other flows."""

    __slots__ = ("_at", "_events", "_parked", "_poller", "full", "listeners", "on")

    def __init__(
        self, poller: Poller, at: Poller | Places, listeners: Iterable[Listener], parked: dict[int, Connection]
    ) -> None:
        self.listeners = {each.fileno(): each for each in listeners}
        self._poller, self._at, self._parked = poller, at, parked
        self._events = select.POLLIN | (PROCESSES if isinstance(at, EpollSet) else 0)
        self.on = False
        self.full: dict[int, float] = {}
        """Listeners that are left out, until when."""

    def look(self, ready: bool, now: float) -> None:
        """Poll them from now on, if the flow is `ready`."""
        for fd in [each for each, until in self.full.items() if now >= until]:
            del self.full[fd]
            if self.on:
                self._at.register(fd, self._events)
        if ready is not self.on:
            self.on = ready
            for fd in (each for each in self.listeners if each not in self.full):
                self._at.register(fd, self._events) if ready else self._at.unregister(fd)
            for fd in self._parked:
                self._poller.register(fd, select.POLLIN) if ready else self._poller.unregister(fd)

    def leave_out(self, fd: int, now: float) -> None:
        """This listener is full. It may be left out already, where somebody has tried it all the same."""
        if self.on and fd not in self.full:
            self._at.unregister(fd)
        self.full[fd] = now + EXHAUSTED_PAUSE

    def relieve(self) -> None:
        """A conversation has ended: there may be room again."""
        self.full = dict.fromkeys(self.full, 0.0)

    def drop(self, fd: int) -> None:
        """This listener is gone."""
        if self.on and fd not in self.full:
            self._at.unregister(fd)
        self.full.pop(fd, None)
        del self.listeners[fd]
