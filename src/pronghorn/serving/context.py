"""The context of a worker's model: what it serves with, its own faults, and its heartbeat.

How connections begin is in admission.py, and how they end in connection_end.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from pronghorn import events
from pronghorn.connection.base import AnyConnection
from pronghorn.connection.blocking import Connection
from pronghorn.events import Observer
from pronghorn.lifespans import Lifespan
from pronghorn.peers import Peer
from pronghorn.scoreboard import message_rates, service_times
from pronghorn.scoreboard.counts import (
    ACCEPTED,
    OPEN,
    PROGRAM,
    Counts,
)
from pronghorn.scoreboard.details import WORD
from pronghorn.scoreboard.row import Row
from pronghorn.scoreboard.stacks import Remains
from pronghorn.serving.connection_end import ConnectionEnds
from pronghorn.serving.gate import ALONE
from pronghorn.serving.goodbyes import Goodbyes, Say, part_of
from pronghorn.serving.service import Offer
from pronghorn.serving.unread_headers import look_for_headers
from pronghorn.settings import Settings
from pronghorn.system.drain import Drain, become_current
from pronghorn.system.stdio import dropped

if TYPE_CHECKING:
    from pronghorn.serving.callback_frames import Turn
    from pronghorn.serving.connection_inquiry import Apart
    from pronghorn.serving.handover import Handover
    from pronghorn.serving.slow_callbacks import Watcher

LOOP_FAILURES = WORD["loop_failures"]
TICK = 1.0  # seconds: nothing waits longer without looking up
DESERTED = "no connection is left"  # why a worker drains that has let go of its listeners
BEAT = 0.5  # seconds between two heartbeats of a loop that has much to do
SHORT_AT_MOST = 5  # times in ten seconds that a worker's loop may have no memory
spare_memory = [bytes(512 * 1024)]  # never touched


def _nothing() -> None:
    return None


class Thing(Protocol):
    """A descriptor that a loop watches beside connections, such as the worker's line to its supervisor."""

    def fileno(self) -> int: ...
    def on_readable(self) -> None: ...
    def close(self) -> None: ...


def by_descriptors(settings: Settings, descriptors: int) -> tuple[int, str]:
    """The capacity of models that need nothing per connection but its descriptor."""
    return descriptors, "the limit of descriptors (ulimit -n)"


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know of a model while it serves."""

    name: str
    capacity: Callable[[Settings, int], tuple[int, str]] = by_descriptors
    """Connections that one worker holds at most, of so many descriptors, and what sets that limit."""
    descriptors: float = math.inf
    """Numbers of descriptors from this one on cannot be watched."""
    in_children: bool = False
    """A process of its own has each connection: the worker neither holds one nor reads from it."""


class OutOfMemory(SystemExit):
    """There is no memory for the worker's own loop: it ends, and another takes its place."""


class Context(ConnectionEnds):
    """What a model serves with: what each listener offers, settings, drain, observer; and the connections that are
    open.

    The model calls `ready` once, when it has entered its loop and listens there: clients are served from then on. It
    calls `let_go` once, when it has closed its listeners, and `drained` once, after the last connection. It calls
    `turns` now and then from a flow of control that nothing holds up. A model on an asyncio loop is given the
    `lifespans` that are async: it enters them before `ready`, and leaves them after `drained`. `remains` is memory of
    this process and its children that outlives them.
    """

    apart: Apart | None = None
    """The connections that processes of their own have, where the model makes some."""
    exhausted = False
    is_child = False
    """The process has one connection, and no other: see ChildContext."""
    _of_children: ChildContext | None = None
    _short_at: tuple[float, ...] = ()  # when memory was missing lately

    def __init__(
        self,
        *,
        offers: Sequence[Offer],
        settings: Settings,
        model: Traits,
        drain: Drain,
        observe: Observer,
        row: Row,
        watched: Sequence[Thing] = (),
        ready: Callable[[], None] = _nothing,
        let_go: Callable[[], None] = _nothing,
        drained: Callable[[], None] = _nothing,
        turns: Callable[[], None] = _nothing,
        remains: Remains | None = None,
        lifespans: Sequence[Lifespan] = (),
        handover: Handover | None = None,
    ) -> None:
        super().__init__(offers, settings, observe, row, holds=not model.in_children)
        self.services = [*{id(each.service): each.service for each in offers}.values()]
        self.handlers = [each.handler for each in self.services]
        self.model = model
        self.drain = drain
        self.watched = watched
        self.ready, self.let_go, self.turns = ready, let_go, turns
        self.remains = remains
        self.lifespans = lifespans
        self.handover = handover
        self._drained = drained
        self._fold_at = 0.0
        self._watcher: Watcher | None = None
        self.become_current()
        message_rates.keep_in(row.map)
        look_for_headers(self)

    def become_current(self) -> None:
        """From now on `current_drain` and `stay` find the connections that are open here."""
        become_current(self.drain, self.open)

    @property
    def to_be_served_alone(self) -> int:
        """How many connections a model takes one by one at first."""
        return ALONE if self.remains is not None and self.remains.careful else 0

    def process_limits(self) -> AbstractContextManager[None]:
        """What is in force while a process serves a connection, if it serves one at a time. Raises as ProcessLimits."""
        settings = self.settings
        if not (settings.max_process_cpu or settings.max_process_memory):
            return nullcontext()
        from pronghorn.system.process_limits import ProcessLimits  # here: few servers have any

        return ProcessLimits(settings, self.remains.stacks.fileno() if self.remains is not None else -1)

    def fault(self, error: BaseException) -> None:
        """Something raised that must not: the error is observed, and the caller goes on. Where memory is missing again
        and again OutOfMemory is raised: a worker that can only turn clients away is worse than its successor."""
        if isinstance(error, MemoryError):
            now = time.monotonic()
            self._short_at = (*(each for each in self._short_at if now - each < 10.0), now)
            self.exhausted = len(self._short_at) > SHORT_AT_MOST
            self.go_on()
        if self.details is not None:
            self.details.add(LOOP_FAILURES)
        self.observe(events.LoopFailed(error))

    def go_on(self) -> None:
        """Raise OutOfMemory if there is too little memory to go on: see `fault`, which any flow of control may call."""
        if self.exhausted:
            spare_memory.clear()  # for what is left to be said
            raise OutOfMemory

    def guarded(self, call: Callable[..., object], *args: Any) -> None:
        """Call what a loop calls between two waits: whatever it raises, the loop goes on."""
        try:
            call(*args)
        except BaseException as error:
            self.fault(error)

    # What is written on the scoreboard.

    def tick(self, now: float) -> None:
        """Write the heartbeat of the loop that serves; and now and then the sums, in a two-hundredth of its time: of
        the processor's, for a machine that is busy would have them written seldom."""
        self.turns()
        if self.details is not None:
            self.details.drops(dropped)
        self.row.tick(now)
        self._ended = [self._ended[1], self.row.own[ACCEPTED] - self.row.own[OPEN]]
        if now >= self._fold_at:
            began = time.thread_time()
            self.fold()
            self._fold_at = now + 200 * (time.thread_time() - began)

    def note_program(self, conn: AnyConnection, pid: int, lives: bool) -> None:
        """A program has got a connection, or has ended: noted for the case that this process is killed."""
        children = self.remains.children if self.remains is not None else None
        with self.lock, suppress(MemoryError):  # if there is no entry left, nobody will know
            if children is not None and lives:
                children.lend(conn.peer, conn.opened).words[PROGRAM] = pid
            elif children is not None:
                for entry in children.used():
                    if children.program(entry) == pid:
                        children.back(children.block(entry))

    def goodbyes(self, conns: Mapping[int, object]) -> Goodbyes | None:
        """The goodbyes that are to be spread over these connections from now on; None if none are."""
        seconds = self.drain.spread
        if not seconds:
            return None
        if conns:
            self.observe(events.GoodbyesBegin(len(conns), seconds))
        return Goodbyes(conns, seconds, part_of(self.row.slot), time.monotonic())

    def look_at_goodbyes(self, goodbyes: Goodbyes, conns: Mapping[int, object], say: Say) -> None:
        """Say what is due; and observe once, when all had time for a quiet moment, how many were told and go on."""
        goodbyes.look(conns, time.monotonic, say, time.thread_time)
        if goodbyes.is_through(time.monotonic(), self.drain.timeout) and (goodbyes.said or goodbyes.left):
            self.observe(events.GoodbyesSaid(goodbyes.said, goodbyes.left))

    def watch_callbacks(self, turn: Turn, loop: object = None) -> None:
        """Have callbacks that hold up the loop told from now on, until the drain is over. Called on the loop's thread;
        `turn` is what tells a turn of the loop from others, `loop` an asyncio loop."""
        if self.settings.slow_callback:
            from pronghorn.serving.slow_callbacks import Watcher  # here: models without a loop need none

            self._watcher = Watcher(self, turn, loop)
            self._watcher.start()

    def finish(self) -> None:
        """The drain is over: call `drained`, if nothing has done so."""
        if self._watcher is not None:
            self._watcher.stop()
        drained, self._drained = self._drained, _nothing
        drained()

    def for_children(self) -> ChildContext:
        """The context of processes that are forked from here, each for one connection."""
        made = ChildContext(self)
        self._of_children = self._of_children or made  # the first is the one that serves: see rehearsal.py
        return made

    def ask_who_hears(self) -> None:
        super().ask_who_hears()
        if self._of_children is not None:
            self._of_children.ask_who_hears()


class ChildContext(Context):
    """Of forked processes with one connection each. It is made before the first fork: to make one for each would cost
    a process some seventy page faults. When a process has ended, its worker does what is to be done about limits."""

    is_child = True

    def __init__(self, parent: Context) -> None:
        self.__dict__.update(parent.__dict__)
        self._of_children = None
        self.open = {}
        self._done = self._written = (0, 0, 0)
        self._keeps_limits = False
        self._by_listener = {}

    def serve_one(self, conn: Connection, counts: Counts) -> None:
        """In the process: its connection, and where it counts, which its worker has lent to it."""
        self.counts = counts
        self.open[conn.number] = conn
        if self.details is not None:
            service_times.begin_at(conn.number)

    def refused(self, offer: Offer, peer: Peer, limit: str, detail: str = "", *, admitted: bool = False) -> None:
        self._count_refused(offer, peer, limit, detail)

    def note_program(self, conn: AnyConnection, pid: int, lives: bool) -> None:
        self.counts.words[PROGRAM] = pid if lives else 0
