"""A watcher beside a worker's loop: a callback that holds the loop up is named while it lasts, and counted.

Law: the loop does nothing for it. A thread looks a few times in `slow_callback` seconds at the stack of the loop's
thread, and at what tells one turn of the loop from another. A callback is slow once it was the same one, in the same
turn, for that long: many short callbacks in a long turn are not one slow one. Time in which the loop's thread waited
for a processor does not count, nor time in which the process was stopped, or debugged.

C code that keeps the interpreter lock keeps this thread from looking. The thread notices that it waited for the lock,
and tells of the callback as soon as it has the lock.

The thread ends before a fork(2) of the process, and begins again after it: a process with a second thread is not forked
without risk, and Python 3.12 warns of that. It takes no signals.

Tried and dropped: a timer of the kernel whose signal looks at the stack (it interrupts the system calls of the
handler's libraries, and Python's handlers do not run while C code does); the supervisor, which sees the heartbeat alone
and knows no connection.
"""

from __future__ import annotations

import _thread
import os
import resource
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple, Protocol

import msgspec

from pronghorn.connection.base import AnyConnection
from pronghorn.events import Observer, SlowCallback, SlowCallbackEnded
from pronghorn.scoreboard.counts import SLOW_CALLBACKS
from pronghorn.scoreboard.row import Row
from pronghorn.serving.callback_frames import Turn, callback_of, connection_of, loops_frames, place_of, stack_of
from pronghorn.settings import Settings
from pronghorn.system.signals import leave_signals_to_others
from pronghorn.tracebacks import debugger_in

LOOKS, QUIET_LOOKS = 4, 2  # in the time after which a callback is slow: while one runs, and before
LONGEST_REST = 1.0  # seconds between two looks
SHORTEST_REST = 0.01
PATIENCE = 0.2  # seconds for the end of the thread
LATE = 0.05  # seconds by which a look may come late and nothing is made of it
OF_WAITS = (
    0.25  # a thread that waits for the interpreter lock wakes up once in a switch interval; a part of that counts
)


class Served(Protocol):
    """What the watcher has to know of a model's context."""

    settings: Settings
    open: dict[int, AnyConnection]
    observe: Observer
    row: Row

    def told(self, conn: AnyConnection) -> str: ...
    def id_of(self, number: int) -> str: ...


class Clocks(NamedTuple):
    """Instants of one look, in seconds: monotonic; the processor time that the loop's thread has had; how long that
    thread has waited for a processor; and how often this thread has begun to wait."""

    now: float
    used: float
    queued: float
    waits: int


class Seen:
    """A callback that runs. `seconds` are those that count; before the look at which it was seen first it may have run
    for `head` seconds more. `told` is what is told at its end, once it was slow."""

    __slots__ = ("_frame", "_identity", "_turn", "head", "seconds", "told")

    def __init__(self, turn: float, identity: int, head: float, seconds: float) -> None:
        self._turn, self._identity, self.head, self.seconds = turn, identity, head, seconds
        self._frame: FrameType | None = None
        self.told: SlowCallbackEnded | None = None

    def again(self, turn: float | None, frame: FrameType) -> bool:
        """Whether this frame, in this turn, is the callback. The id of an object may be given out anew: so the frame is
        kept once it was seen twice, and not before, since what a frame holds lives as long as the frame."""
        if turn != self._turn or id(frame) != self._identity or self._frame not in (None, frame):
            return False
        self._frame = frame
        return True


class Watcher:
    """The watcher of the loop that runs on the calling thread."""

    def __init__(self, context: Served, turn: Turn, loop: Any = None) -> None:
        self._context, self._turn, self._loop = context, turn, loop
        self._limit = context.settings.slow_callback
        originals = _unpatched()
        self._start_thread, self._make_lock = originals.start_new_thread, originals.allocate_lock
        self._loops_thread = originals.get_ident()
        self._clock = getattr(time, "pthread_getcpuclockid", lambda thread: None)(self._loops_thread)
        self._queue_file = f"/proc/self/task/{_thread.get_native_id()}/schedstat"
        self._rest = self._make_lock()
        self._over = self._make_lock()
        self._watches = self._stopped = False
        self._native_id = 0
        self._seen: Seen | None = None
        self._before = Clocks(time.monotonic(), 0.0, 0.0, 0)

    def start(self) -> None:
        """Watch from now on."""
        _become_current(self)
        self.go_on()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped = True
        self.pause()

    def pause(self) -> None:
        """End the thread, and wait until it has ended: a moment at most, since an observer may hold it up."""
        if not self._watches or _thread.get_native_id() == self._native_id:  # an observer forks
            return
        self._watches = False
        self._rest.release()
        if self._over.acquire(timeout=PATIENCE):
            self._over.release()
        deadline = time.monotonic() + PATIENCE
        while os.path.exists(f"/proc/self/task/{self._native_id}") and time.monotonic() < deadline:
            os.sched_yield()

    def go_on(self) -> None:
        """Begin, or begin again after `pause`."""
        if self._watches or self._stopped:
            return
        self._rest.acquire(blocking=False)
        self._watches = True
        if not self._over.acquire(blocking=False):  # the thread has not ended yet, and goes on
            return
        try:
            self._start_thread(self._run, ())
        except RuntimeError:  # the system has no more threads: then nobody watches
            self._watches = False

    # On the thread.

    def _run(self) -> None:
        try:
            leave_signals_to_others()
            self._native_id = _thread.get_native_id()
            self._before = self._clocks(False)
            while self._watches:
                rest = self._next_rest()
                if not self._rest.acquire(timeout=rest):
                    self._look(rest)
        finally:
            self._over.release()

    def _next_rest(self) -> float:
        if self._seen is not None:
            rest = self._limit / LOOKS
        else:
            rest = self._limit / QUIET_LOOKS if self._context.open else self._limit
        return max(SHORTEST_REST, min(LONGEST_REST, rest))

    def _look(self, rest: float) -> None:
        """Look at the loop's thread, `rest` seconds after the last look if nothing has held up this thread."""
        frames = loops_frames(self._loops_thread)
        callback = callback_of(frames)
        before, clocks = self._before, self._clocks(callback is not None)
        self._before = clocks
        counted, locked = _counted(before, clocks, rest)
        turn = self._turn() if callback is not None else None
        seen = self._seen
        if seen is not None and (callback is None or not seen.again(turn, callback)):
            self._ended(seen, min(rest, clocks.now - before.now))
            seen = self._seen = None
        if callback is None or turn is None:
            return
        if seen is None:
            head = max(0.0, _head(before.now, clocks.now, turn, rest) - locked)
            seen = self._seen = Seen(turn, id(callback), head, locked)
        else:
            seen.seconds += counted
        if debugger_in((each.f_code.co_filename, each.f_code.co_name) for each in frames):
            seen.seconds = 0.0
        elif seen.seconds >= self._limit and seen.told is None:
            self._tell(seen, frames, frames.index(callback))

    def _tell(self, seen: Seen, below: list[FrameType], begin: int) -> None:
        context, frames = self._context, below[begin:]
        conn = connection_of(below, context.open, self._loop)
        place, listener, id = place_of(frames), "", ""
        number, peer = (conn.number, conn.peer) if conn is not None else (0, "")
        if conn is not None:
            listener, id = context.told(conn), context.id_of(number)
        context.row.add(SLOW_CALLBACKS)
        seen.told = SlowCallbackEnded(number, peer, seen.seconds, place, listener, id)
        context.observe(SlowCallback(number, peer, seen.seconds, place, stack_of(frames), listener, id))

    def _ended(self, seen: Seen, since: float) -> None:
        """What was seen last, so many seconds ago, is over: tell how long it took in all, if it was slow."""
        if seen.told is not None:
            seconds = seen.head + seen.seconds + since / 2
            self._context.observe(msgspec.structs.replace(seen.told, seconds=seconds))

    def _clocks(self, all_of_them: bool) -> Clocks:
        """Without a callback, of which there is nothing to be known, only those that cost little."""
        used = time.clock_gettime(self._clock) if self._clock is not None else 0.0
        who = getattr(resource, "RUSAGE_THREAD", None)
        waits = resource.getrusage(who).ru_nvcsw if who is not None else 0
        return Clocks(time.monotonic(), used, self._queued() if all_of_them else 0.0, waits)

    def _queued(self) -> float:
        """Seconds for which the loop's thread was ready to run and no processor was free; 0 where nothing says so."""
        try:
            with open(self._queue_file, "rb") as file:
                return int(file.read().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return 0.0


def _counted(before: Clocks, clocks: Clocks, rest: float) -> tuple[float, float]:
    """Of the time between two looks, which were to be `rest` seconds apart: what counts for a callback that was seen at
    both; and for one that was seen at the second look only, because this thread has waited for the interpreter lock."""
    passed, used = clocks.now - before.now, clocks.used - before.used
    if passed <= 2 * rest + LATE:
        return max(0.0, passed - (clocks.queued - before.queued)), 0.0
    waited = (clocks.waits - before.waits) * sys.getswitchinterval() >= OF_WAITS * passed
    return min(passed, max(rest, used)), min(passed - rest, used) if waited else 0.0


def _head(before: float, now: float, turn: float, rest: float) -> float:
    """For how long a callback had run, as far as one can tell, that is seen at `now` and was not seen at the look
    `before`: since the turn began, if it is told by that instant, or else for half of the time, or of a `rest`."""
    return now - turn if before < turn <= now else min(rest, now - before) / 2


class _Originals(NamedTuple):
    """Functions of the module _thread, as gevent has found them: its own would make greenlets of the loop's thread."""

    start_new_thread: Callable[..., int]
    allocate_lock: Callable[[], Any]
    get_ident: Callable[[], int]


def _unpatched() -> _Originals:
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return _Originals(*(getattr(_thread, each) for each in _Originals._fields))
    return _Originals(*(monkey.get_original("_thread", each) for each in _Originals._fields))


# Forks of this process.

_current: list[Watcher] = []
"""The watcher of this process, if it has one."""


def _become_current(watcher: Watcher) -> None:
    if not _current:
        os.register_at_fork(before=_pause, after_in_parent=_go_on)
    _current[:] = [watcher]


def _pause() -> None:
    for each in _current:
        each.pause()


def _go_on() -> None:
    for each in _current:
        each.go_on()
