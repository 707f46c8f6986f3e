"""A listener as a participant in a loop, and the other things that a loop watches beside its connections.

Law: an acceptor takes a bounded number of connections at a time, so that a flood of connects does not starve open
conversations. It rests while other workers have more room, or none has any. Where workers have just died, the first
connections come one by one: a client that sends what a worker dies of shall not take others along. An acceptor lets go
of its listener when draining has begun and the queue is empty, and only once no loop watches the listener.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from pronghorn.connection.channel import CLOSED, OPEN
from pronghorn.listening.listener import Exhausted, Listener
from pronghorn.peers import Peer
from pronghorn.serving.context import Context, OutOfMemory
from pronghorn.serving.gate import EXHAUSTED_PAUSE, FAIR_PAUSE, Gate

ACCEPTS_PER_TURN = 16


class Watched:
    """A descriptor that is only read: the drain, and the worker's line to its supervisor."""

    wants_write = False
    state = OPEN

    def __init__(self, fd: int, on_readable: Callable[[], None]) -> None:
        self._fd = fd
        self.on_readable = on_readable
        self.wants_read = True

    def fileno(self) -> int:
        return self._fd

    def on_writable(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.state is CLOSED

    def is_own(self) -> bool:
        """No code of a handler has had the descriptor, and could have closed it."""
        return True

    def settle(self) -> None:
        pass

    def cut(self, error: BaseException) -> None:
        """The loop could not watch it."""
        raise error


class Acceptor(Watched):
    """A listener as a participant in a loop. `adopt` is called with each connection, `changed` with the acceptor when
    the acceptor's wishes have changed, and `call_later` with what is to be done in some seconds."""

    def __init__(
        self,
        listener: Listener,
        context: Context,
        adopt: Callable[[Listener, int, Peer], None],
        changed: Callable[[Any], None],
        call_later: Callable[[float, Callable[[], None]], Any],
    ) -> None:
        super().__init__(listener.fileno(), self.accept)
        self.listener = listener
        self._context, self._adopt, self._changed, self._call_later = context, adopt, changed, call_later
        self._gate = Gate(context.to_be_served_alone)
        self._most = 1.0  # connections at a time

    def accept(self) -> None:
        """Take what is there, up to a bound; out of descriptors, or fuller than another worker, rest for a moment.

        The bound grows while there is always a client: a call of accept(2) that finds none costs as much as one that
        finds one, and where clients come one by one every second call would find none."""
        if not self.wants_read:
            return
        context, listener = self._context, self.listener
        try:
            spread = context.come_and_go
            for _ in range(1 if self._gate.alone else int(self._most)):
                if not spread and context.gives_way():
                    self.rest(FAIR_PAUSE)
                    return
                if (got := context.accept(listener)) is None:
                    self._most = 1.0
                    return
                try:
                    self._adopt(listener, *got)
                except BaseException as error:
                    self._not_adopted(got, error)
            self._most = min(self._most * 1.1, ACCEPTS_PER_TURN)
            if self._gate.alone:
                self._gate.took_one(time.monotonic())
                self._closed()
        except Exhausted:
            self._gate.run_short(time.monotonic())
            self._closed()
        except OSError:
            self.rest(math.inf)
        except OutOfMemory:
            raise
        except BaseException as error:  # no memory for one more
            self.rest(EXHAUSTED_PAUSE)
            context.fault(error)

    def _one(self) -> bool:
        if (got := self._context.accept(self.listener)) is None:
            return False
        try:
            self._adopt(self.listener, *got)
        except BaseException as error:
            self._not_adopted(got, error)
        return True

    def _not_adopted(self, got: tuple[int, Peer], error: BaseException) -> None:
        context = self._context
        context.refuse(context.offers[self.listener], *got, type(error).__name__, admitted=True)
        context.fault(error)

    def cut(self, error: BaseException) -> None:
        """The loop could not watch it: try again in a while."""
        self.rest(EXHAUSTED_PAUSE)

    def rest(self, seconds: float) -> None:
        """Look at the listener no more for so long."""
        self._gate.rest(seconds, time.monotonic())
        self._closed()

    def _closed(self) -> None:
        self.wants_read = False
        self._changed(self)
        self._look_later()

    def _look_later(self) -> None:
        self.look()
        left = self._gate.wait(time.monotonic())
        if 0 < left < math.inf:  # uvloop's timers come up to a millisecond early
            self._call_later(max(left, 0.001), self._look_later)

    def look(self) -> None:
        """Whether the rest is over."""
        if not self.wants_read and not self._context.drain.lets_go and self._gate.is_open(time.monotonic()):
            self.wants_read = True
            self._changed(self)

    def relieve(self) -> None:
        """A connection has ended: there may be room again."""
        if self._gate.relieve():
            self.retire() if self._context.drain.lets_go else self.look()

    def let_go(self) -> None:
        """Other workers serve the listener: leave its queue to them. If there are none, take the queue first."""
        if self.listener.address in self._context.drain.alone:
            self.retire()
        else:
            self.wants_read = False
            self.state = CLOSED
            self._changed(self)

    def retire(self) -> None:
        """Take what is in the queue, and let go of the listener once no loop watches it: a listener that is closed
        before stays in an epoll set as long as another process has it, ready for ever. Clients that come meanwhile are
        for other workers; those for whom there is no room wait until the next connection ends."""
        if self.is_closing():
            return
        waits = False
        try:
            for _ in range(self.listener.queued()):
                if self.listener not in self._context.listeners or not self._one():
                    break
        except Exhausted:
            self._gate.run_short(time.monotonic())
            waits = bool(self._context.open)
        except OSError:
            pass  # it has been observed
        self.wants_read = False
        if not waits:
            self.state = CLOSED
        self._changed(self)
