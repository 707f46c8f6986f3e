"""The turns of an event loop that a page writes out (select, poll, epoll, kqueue): changes, deadlines, and the end.

Law: a loop watches things, each with a descriptor and two wishes (`wants_read`, `wants_write`), and calls them when
they may act. Changes are handled between two waits, never in the middle of a batch of events: so no descriptor is
closed, and none given out anew, while events for it may still be in hand.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from pronghorn.connection.channel import CLOSED, CLOSING
from pronghorn.connection.interfaces import Watchable
from pronghorn.connection.timer_queue import Entry, TimerQueue
from pronghorn.serving.acceptor import Watched
from pronghorn.serving.channels import Loops
from pronghorn.serving.context import BEAT, DESERTED, TICK, Context
from pronghorn.system.drain import Wake

A_TURN = 1000  # calls that other threads have passed on
MOST_PASSED_ON = 10_000  # calls, above which a thread that passes on one more waits a moment
WAITS = 0.001  # seconds


class PassedOn:
    """Calls that other threads pass on to a loop: a queue whose descriptor is readable while there are any."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._wake, self._woken = Wake(), False

    def fileno(self) -> int:
        return self._wake.fileno()

    def add(self, call: Callable[[], object]) -> None:
        """From any thread: behind those that were added before."""
        self._calls.append(call)
        if len(self._calls) > MOST_PASSED_ON:
            time.sleep(WAITS)  # a thread that never waits would fill the memory before the loop has its turn
        if not self._woken:  # else the loop will look, or has not looked yet
            self._woken = True
            self._wake.set()

    def run(self, guarded: Callable[[Callable[[], object]], object]) -> None:
        """On the loop: call what there is, in order; no more than so much, that connections have their turn too."""
        # In this order: a thread that finds `_woken` true has added its call before the calls are counted.
        self._wake.clear()
        self._woken = False
        for _ in range(min(len(self._calls), A_TURN)):
            call = self._calls.popleft()
            guarded(call)
        if self._calls:
            self._woken = True
            self._wake.set()


class Turns(Loops):
    """The turns of one loop: the page handles what changed, waits, and calls the things that are ready."""

    def __init__(self, context: Context) -> None:
        self._changed: list[Watchable] = []
        self.watched: dict[int, Watchable] = {}
        """For a page whose kernel keeps the set: what is in it, by descriptor. Whatever is taken out of both without an
        error was still what had come in, since the kernel knows it by more than its number."""
        self.changed = self._changed.append
        self._deadlines = TimerQueue()
        super().__init__(context)
        context.gathers = True
        context.ask_who_hears()
        self._now, self._drain = time.monotonic(), context.drain
        self._beat_at = 0.0
        self.doubted = False
        self._trusted_until = 0.0
        self._has_let_go = False
        self._drained = Watched(context.drain.fileno(), self._begin)
        self.changed(self._drained)
        self._passed_on = PassedOn()
        self.changed(Watched(self._passed_on.fileno(), self._take_over))
        for each in context.watched:
            self.changed(Watched(each.fileno(), each.on_readable))
        self._deadlines.add(self._now, lambda: self._deadlines.add(self._now, self._enter))

    def call_later(self, delay: float, callback: Callable[[], object]) -> Entry:
        return self._deadlines.add(time.monotonic() + delay, callback)

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        self._passed_on.add(callback)

    def _take_over(self) -> None:
        self._passed_on.run(self.context.guarded)

    def next(self) -> bool:
        """Whether there is another turn: until draining began and the last connection is gone, or is cut."""
        self._now = now = time.monotonic()
        if now < self._deadlines.next and now < self._beat_at and not self._drain.lets_go:
            return True
        return self._attend()

    def _attend(self) -> bool:
        """To what falls due, and to draining; whether there is another turn."""
        if self._now >= self._deadlines.next:
            self._deadlines.run(self._now, self.context.guarded)
        if self._now >= self._beat_at:
            self._beat_at = self._now + BEAT
            if self.context.exhausted:
                self.context.go_on()
            self.context.guarded(self.tick, self._now)
        drain = self._drain
        if not drain.begun:
            if not drain.lets_go:
                return True
            self._go_on()
            if not drain.begun:
                return True
        if self._drained.wants_read:
            self._begin()
        if self._now >= drain.deadline:
            self.cut()
        return bool(self.open or self.header_waits or self._changed)

    def changes(self) -> Iterable[Watchable]:
        """The things that changed since the last turn; one that wants nothing is to be let go of, here and now."""
        return self._settled() if self._changed else ()

    def _settled(self) -> Iterator[Watchable]:
        changed, watched = self._changed, self.watched
        try:
            while changed:
                thing = changed.pop()
                if (fd := thing.fileno()) < 0:  # it has been released
                    continue
                if (state := thing.state) is CLOSING or state is CLOSED:
                    thing.settle()
                    known = watched.get(fd) is thing
                    yield thing
                    if thing.state is CLOSED:
                        self.release(thing, known and fd not in watched and not self.doubted)
                else:
                    yield thing
        finally:
            if self.context.flush is not None:
                self.context.guarded(self.context.flush)

    def on_readable(self) -> None:
        """The kernel reports a descriptor that was closed here, and of which another process has a copy."""
        self.doubted = True

    on_writable = on_readable

    def doubts_the_set(self) -> bool:
        """Whether it is time for a new set of descriptors: the old one holds what cannot be taken out of it."""
        if not self.doubted or self._now < self._trusted_until:
            return False
        self.doubted, self._trusted_until = False, self._now + TICK
        return True

    def timeout(self) -> float:
        """Seconds to wait at most: until something falls due, and never longer than a tick."""
        rest, drain = self._deadlines.next - self._now, self._drain
        if drain.lets_go:
            if self.is_deserted() or (drain.begun and not (self.open or self.header_waits)):
                return 0.0
            rest = min(rest, drain.deadline - self._now)
        return TICK if rest > TICK else rest if rest > 0.0 else 0.0

    def _enter(self) -> None:
        """Serve: in the second turn, since the first has shown that the page can wait."""
        self.context.watch_callbacks(lambda: self._now)
        self.context.ready()
        self.keep_deadlines()
        for acceptor in self.acceptors:
            if not acceptor.is_closing():
                self.changed(acceptor)

    def _go_on(self) -> None:
        """Without the listeners, until the last connection has ended."""
        if not self._has_let_go:
            self._has_let_go = True
            self.let_go()
        elif self.is_deserted():
            self.context.drain.begin(DESERTED)

    def _begin(self) -> None:
        self._drained.wants_read = False
        self.changed(self._drained)
        self.begin_draining()
