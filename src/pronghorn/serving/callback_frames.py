"""The frames of a loop's thread, seen from another thread: which callback runs, for which connection, and where.

Law: frames are read, and nothing of the user's is kept by that. The variables of a frame are looked at only where the
code is the server's or asyncio's: up to Python 3.12 `f_locals` makes a dict, which holds what stands in it until the
frame ends.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import CodeType, FrameType
from typing import Any

from pronghorn.connection.asyncio_drain import context_of
from pronghorn.connection.base import AnyConnection
from pronghorn.system.drain import connection_number
from pronghorn.tracebacks import HOUSE

MOST_FRAMES = 40  # of a stack, the innermost
PAGES = os.path.join(HOUSE, "models", "")
LIBRARY = os.path.join(os.path.dirname(os.__file__), "")
INSTALLED = f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}"
TURNS_LOOP = (  # files whose functions call many callbacks, one after the other
    PAGES,
    *(os.path.join(HOUSE, each, "") for each in ("serving", "worker_process", "system", "listening", "supervisor")),
    *(
        os.path.join(HOUSE, "connection", each)
        for each in ("timer_queue.py", "asyncio_selectors.py", "asyncio_epoll.py")
    ),
    os.path.join(LIBRARY, "asyncio", ""),
    os.path.join(LIBRARY, "selectors.py"),
    f"{os.sep}gevent{os.sep}",
)
CALLERS = (  # files of the server whose functions call back, and are never compiled
    PAGES,
    *(os.path.join(HOUSE, *each) for each in (("connection", "timer_queue.py"), ("serving", "event_loop.py"))),
)
HOLDERS = ("conn", "channel", "self", "transport")
"""Variables of the server's own functions that lead to a connection."""
CALLS = "call", "ready", "thing"
"""Variables of a loop, and of what calls in its turns, that hold what is called now: see `_called`."""
PATHS = ("transport", "conn", "channel", "_protocol", "protocol", "_timers")
Turn = Callable[[], float | None]
"""What one turn of a loop is told from others by; None if nothing tells."""


def loops_frames(thread: int) -> list[FrameType]:
    """The stack of a thread from the loop's own function on, the innermost frame last."""
    frames: list[FrameType] = []
    frame = sys._current_frames().get(thread)
    while frame is not None:
        frames.append(frame)
        if frame.f_code.co_filename.startswith(PAGES):  # what stands below has nothing to say, such as a script
            break
        frame = frame.f_back
    frames.reverse()
    return frames


def callback_of(frames: Sequence[FrameType]) -> FrameType | None:
    """The outermost frame that belongs to one callback; None if the loop runs none, but waits, or is between two."""
    for frame in frames:
        file = frame.f_code.co_filename
        if not file.startswith(TURNS_LOOP) and TURNS_LOOP[-1] not in file:
            return frame
    return None


class AsyncioTurns:
    """The turns of an asyncio loop of any kind, from another thread: calls that the loop answers. As long as the last
    one is not answered, no coroutine has run that was suspended when it was made, since calls are run in order."""

    def __init__(self, loop: Any) -> None:
        self._call = loop.call_soon_threadsafe
        self._answered, self._asked = 0, False

    def __call__(self) -> int | None:
        """How many calls were answered; None if the loop is closed."""
        if not self._asked:
            self._asked = True
            try:
                self._call(self._answer)
            except RuntimeError:
                return None
        return self._answered

    def _answer(self) -> None:
        self._answered += 1
        self._asked = False


# Whose connection it is.


def connection_of(
    frames: Sequence[FrameType], open: Mapping[int, AnyConnection], loop: Any = None
) -> AnyConnection | None:
    """The connection for which a callback runs, on this asyncio loop if it is one; None if nothing says so."""
    for frame in reversed(frames):
        if frame.f_code.co_filename.startswith(CALLERS) or frame.f_code is _handle_runs():
            if (found := _called(frame, open)) is not None:
                return found
            break
        if not frame.f_code.co_filename.startswith(HOUSE):
            continue
        noted: Mapping[str, object] = frame.f_locals
        for name in HOLDERS:
            if (found := _leads_to(noted.get(name))) is not None:
                return found
    return open.get(_number_in_context(frames, loop)) if loop is not None else None


def _called(frame: FrameType, open: Mapping[int, AnyConnection]) -> AnyConnection | None:
    """The connection that a loop's own function has called, or None: in a compiled build nothing between that function
    and the user's has a frame. An acceptor calls for the newest connection."""
    noted = frame.f_locals
    called: object = next((noted[name] for name in CALLS if name in noted), None)
    if frame.f_code is _handle_runs():
        called = getattr(noted.get("self"), "_callback", None)
    if sys.version_info < (3, 13):
        noted.clear()  # a page's frame lasts as long as the worker, and would keep it
    while isinstance(called, partial):
        called = called.func
    called = getattr(called, "__self__", called)
    if not isinstance(called, AnyConnection) and hasattr(called, "listener"):  # an acceptor
        return next(reversed(dict(open).values()), None)
    return _leads_to(called)


def _handle_runs() -> CodeType | None:
    """The code by which asyncio calls back, if this process has asyncio."""
    asyncio = sys.modules.get("asyncio")
    return asyncio.Handle._run.__code__ if asyncio is not None else None


def _leads_to(thing: object) -> AnyConnection | None:
    for _ in range(4):  # a timer has its timers, these have the transport, and this is a channel, or has one
        if isinstance(thing, AnyConnection):
            return thing
        if thing is None or not type(thing).__module__.startswith("pronghorn."):
            return None
        following: object = None
        for path in PATHS:
            following = getattr(thing, path, None)
            if following is not None:
                break
        thing = following
    return None


def _number_in_context(frames: Sequence[FrameType], loop: Any) -> int:
    """The number that the context of asyncio's current task, or callback, names."""
    import asyncio  # here: this loop is one

    task = asyncio.current_task(loop)
    context = context_of(task) if task is not None else None
    if context is not None and (number := context.get(connection_number, 0)):
        return number
    for frame in frames:
        if frame.f_code is asyncio.Handle._run.__code__:
            context = getattr(frame.f_locals.get("self"), "_context", None)
            return context.get(connection_number, 0) if context is not None else 0
    return 0


# What is told.


def place_of(frames: Sequence[FrameType]) -> str:
    """The innermost line that the user has written: not the server's, nor of the library or an installed package, if
    there is one."""
    theirs = [each for each in frames if not each.f_code.co_filename.startswith(HOUSE)]
    own = [each for each in theirs if not _is_library(each.f_code.co_filename)]
    frame = (own or theirs or frames)[-1]
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _is_library(file: str) -> bool:
    return file.startswith((LIBRARY, "<frozen")) or any(each in file for each in INSTALLED)


def stack_of(frames: Sequence[FrameType]) -> str:
    """The frames as text, the innermost last, without the server's own if there are others."""
    theirs = [each for each in frames if not each.f_code.co_filename.startswith(HOUSE)] or list(frames)
    lines = traceback.StackSummary.extract((each, each.f_lineno) for each in theirs[-MOST_FRAMES:])
    return "".join(lines.format()).rstrip()
