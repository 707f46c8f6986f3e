"""Threads that hold one conversation each, and the next one if that comes soon: to start a thread costs more.

Law: the next client finds nothing of the last. A conversation has a context of its own (contextvars), and a thread for
which something was kept (threading.local) ends with its conversation: to throw that away sooner is not safe, since
asyncio has a pointer into it. Threads that wait are few, and wait for a moment only.
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from pronghorn.connection.blocking import Connection
from pronghorn.serving.conversations import Conversations
from pronghorn.system.process_exit import OwnThread

MOST_WAITING = 32  # threads
PATIENCE = 1.0  # seconds that a thread waits for another conversation
LOOP = "__asyncio_running_event_loop__"  # of Python 3.11: that a loop runs on the thread, or does no more


class Place:
    """Where a thread waits for a conversation."""

    __slots__ = ("conn", "given")

    def __init__(self) -> None:
        self.conn: Connection | None = None
        self.given = _thread.allocate_lock()
        """Held, until there is one."""
        self.given.acquire()


class Threads:
    """The threads of a process's conversations. One flow of control calls `hold`."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations
        self._waiting: list[Place] = []  # the last that came is the first that is taken

    def hold(self, conn: Connection) -> None:
        """Have a thread hold this conversation. Raises RuntimeError if none can be started."""
        try:
            place = self._waiting.pop()
        except IndexError:
            OwnThread(self._work, conn).start()
        else:
            place.conn = conn
            place.given.release()

    def _work(self, first: Connection) -> None:
        conn: Connection | None = first
        place, me, data = Place(), threading.current_thread(), kept_for_this_thread()
        name = me.name
        while conn is not None:
            handler = self._conversations.converse(conn).handler
            conn = None  # the next may come late
            if data is not None and (not data or data.keys() == {LOOP}) and len(self._waiting) < MOST_WAITING:
                me.name = name
                conn = self._next(place)
        handler.leave()

    def _next(self, place: Place) -> Connection | None:
        self._waiting.append(place)
        if not place.given.acquire(timeout=PATIENCE):
            try:
                self._waiting.remove(place)
                return None
            except ValueError:  # it was taken just now
                place.given.acquire()
        conn, place.conn = place.conn, None
        return conn


def kept_for_this_thread() -> dict[Any, Any] | None:
    """What code that runs on the calling thread has kept for this thread alone (threading.local): the dictionary in
    which CPython has it, as long as the thread lives. None where Python has it elsewhere."""
    get = _getter()
    return None if get is None else get()


@cache
def _getter() -> Callable[[], dict[Any, Any]] | None:
    if sys.implementation.name != "cpython":
        return None
    import ctypes  # here: only the thread model needs it

    address = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThreadState_GetDict", ctypes.pythonapi))

    def get() -> dict[Any, Any]:
        found: dict[Any, Any] = ctypes.cast(address(), ctypes.py_object).value
        return found

    before, trial = len(get()), threading.local()
    trial.kept = True
    return get if len(get()) > before else None
