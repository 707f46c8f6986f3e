"""What the pages of models/ share: what a model is, how a connection begins and ends, and who is still open.

Law: a model knows connections and nothing of processes. Accepting is done here, once for all models, with its limits
and errors; a page writes out its loop and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import msgspec

from pronghorn import events
from pronghorn.channel import AnyChannel
from pronghorn.connection import Connection, is_peers_fault
from pronghorn.counts import (
    ACCEPTED,
    BYTES_IN,
    BYTES_OUT,
    CLOSED_WORD,
    HANDLER_ERRORS,
    MESSAGES,
    OPEN,
    PROGRAM,
    end_reason,
)
from pronghorn.drain import become_current
from pronghorn.errors import BadSetting, HandshakeFailed, IncompatibleHandler
from pronghorn.events import (
    ConnectionClosed,
    HandlerFailed,
    Observer,
    PeerFailed,
)
from pronghorn.handlers import Facts, Handler
from pronghorn.lifespans import ASYNC, Lifespan
from pronghorn.listener import Drain, Listener, Peer
from pronghorn.models.door import ALONE, Door
from pronghorn.scoreboard_page import Page
from pronghorn.settings import Settings
from pronghorn.stacks import Remains
from pronghorn.tracebacks import is_ours

if TYPE_CHECKING:
    from pronghorn.certificates import Certificates

TICK = 1.0  # seconds: nothing waits longer without looking up
DESERTED = "no connection is left"  # why a worker drains that has let go of its listeners
BEAT = 0.5  # seconds between two heartbeats of a loop that has much to do
SHORT_AT_MOST = 5  # times in ten seconds that a worker's loop may have no memory
spare_memory = [bytes(512 * 1024)]  # of which no page is used
TOLD_BY_NAME = 10  # of the connections that the drain deadline cuts


def by_descriptors(settings: Settings, descriptors: int) -> tuple[int, str]:
    """The capacity of models that need nothing per connection but its descriptor."""
    return descriptors, "the limit of descriptors (ulimit -n)"


class Thing(Protocol):
    """Whatever a loop watches beside connections: the worker's line to its supervisor, for one."""

    def fileno(self) -> int: ...
    def on_readable(self) -> None: ...
    def close(self) -> None: ...


def _nothing_missing() -> str | None:
    return None


def _nothing() -> None:
    return None


class Model(msgspec.Struct, frozen=True):
    """One concurrency model: a page's `serve`, and what there is to know before it is chosen."""

    name: str
    serve: Callable[[Context], None]
    own_flow: bool
    """Each connection has a flow of control of its own: a process, thread or greenlet."""
    purpose: str
    cost: str
    capacity: Callable[[Settings, int], tuple[int, str]]
    """Connections that one worker holds at most, of so many descriptors, and what sets that limit."""
    holds: bool = False
    """One conversation holds the only flow of control."""
    descriptors: int | None = None
    """Numbers of descriptors from this one on cannot be watched."""
    selector: str = ""
    """The class in `selectors` that asyncio's loop uses when an asyncio handler runs under this model."""
    runs_asyncio: bool = True
    is_asyncio: bool = False
    """Its loop is asyncio's, whatever the handler is."""
    missing: Callable[[], str | None] = _nothing_missing
    """Why the model is not available here, and what to do; None if it is."""
    prepare: Callable[[], None] = _nothing
    """Called first thing in a worker, before the handler is imported."""
    learns_clients: bool = True
    """The worker itself reads for whom a proxy speaks."""

    def check(self, handler: Facts) -> None:
        """Refuse a handler that cannot run here: IncompatibleHandler says why, and which models to choose."""
        from pronghorn import models

        if handler.patched and self.name != "gevent":
            self._refuse_patched(handler)
        if handler.lifespan == ASYNC and (handler.blocks or not self.has_asyncio_loop(handler)):
            self._refuse_lifespan(handler)
        if handler.blocks and not self.own_flow:
            why = "A handler that blocks needs a flow of control of its own; here it would stop everybody else."
            fit = [each.name for each in models.pages() if each.own_flow]
        elif handler.needs_asyncio and not self.runs_asyncio:
            why = "A handler for asyncio needs an asyncio loop, and gevent is a loop of another kind."
            fit = [each.name for each in models.pages() if each.runs_asyncio]
        else:
            return
        raise IncompatibleHandler(
            f"{handler.name!r} is of {handler.style} style, which model {self.name!r} cannot run.",
            why,
            f"Choose another --model: {', '.join(fit)}.",
        )

    def check_settings(self, settings: Settings) -> None:
        """Refuse settings that this model cannot keep: BadSetting says why."""
        if settings.max_connections_per_source and settings.proxy_from and not self.learns_clients:
            raise BadSetting(
                f"--max-connections-per-source cannot be kept under {self.name} with --proxy-from.",
                "Only a connection's own process learns there for which client the proxy speaks.",
                "Limit sources at the proxy, or choose another --model.",
            )

    def make_loop(self, handler: Facts) -> None:
        """Make the asyncio loop that will serve, if there is to be one; before the handler is imported, in a worker."""
        if self.has_asyncio_loop(handler):
            from pronghorn.models import aio

            aio.begin(self)

    def has_asyncio_loop(self, handler: Facts) -> bool:
        """Whether one asyncio loop serves all connections of this handler."""
        return self.is_asyncio or (handler.needs_asyncio and not self.own_flow)

    def _refuse_patched(self, handler: Facts) -> NoReturn:
        raise IncompatibleHandler(
            f"{handler.name!r} patches the standard library by gevent, which model {self.name!r} cannot run on.",
            "After monkey.patch_all() threads and sockets wait for gevent's loop, which turns under its model only.",
            "Leave monkey.patch_all() out: asyncio has a loop of its own."
            if handler.needs_asyncio
            else "Use --model gevent, or leave monkey.patch_all() out.",
        )

    def _refuse_lifespan(self, handler: Facts) -> NoReturn:
        from pronghorn import models

        fit = [each.name for each in models.pages() if each.has_asyncio_loop(handler)]
        raise IncompatibleHandler(
            f"{handler.name!r} has an async lifespan, which model {self.name!r} cannot enter.",
            "An async lifespan lives on a worker's asyncio loop, one for all its connections; here is none.",
            "Make it a sync one: a handler that blocks runs beside no asyncio loop."
            if handler.blocks
            else f"Choose another --model: {', '.join(fit)}; or make it a sync one.",
        )

    def styles(self) -> list[str]:
        """The styles that run under this model, in the order of the manual."""
        own = ["blocking", "program"] if self.own_flow else []
        return ["message", "protocol", *(["asyncio"] if self.runs_asyncio else []), *own]

    def run(self, context: Context) -> int:
        """Serve until drained; the number of connections that were cut at the drain deadline."""
        if context.handler.facts.style == "program":
            from pronghorn.handlers import programs

            programs.note = context.note_program
        if context.handler.facts.needs_asyncio and not (self.own_flow or self.is_asyncio):
            from pronghorn.models import aio

            aio.serve_with(context)
        else:
            self.serve(context)
        context.fold()
        context.finish()
        return context.cut


class OutOfMemory(SystemExit):
    """There is no memory for the worker's own loop: it ends, and another takes its place."""


class Context(Door):
    """What a model serves with: listeners, handler, settings, drain, observer; and the connections that are open.

    `ready` is called once by each model, when it has entered its loop and listens there: from then on clients are
    served, and not before. `let_go` is called once when it drains and has closed its listeners, and `drained` once
    after the last connection, before an async `lifespan` is left, which only models on an asyncio loop are given: they
    enter it before they are ready. `turns` is called once in a while by a flow of control that is not
    held up. `remains` is what this process and its children write down, for whoever reaps them.
    """

    connection_class: type[Any] = Connection
    exhausted = False
    _short_at: tuple[float, ...] = ()  # when memory was missing lately

    def __init__(
        self,
        *,
        listeners: list[Listener],
        handler: Handler,
        settings: Settings,
        model: Model,
        drain: Drain,
        observe: Observer,
        watched: list[Thing] | None = None,
        certificates: Certificates | None = None,
        page: Page | None = None,
        ready: Callable[[], None] = _nothing,
        let_go: Callable[[], None] = _nothing,
        drained: Callable[[], None] = _nothing,
        turns: Callable[[], None] = _nothing,
        remains: Remains | None = None,
        lifespan: Lifespan | None = None,
    ) -> None:
        super().__init__(listeners, settings, observe, page if page is not None else Page())
        self.handler = handler
        self.model = model
        self.drain = drain
        become_current(drain)
        self.watched: list[Thing] = watched if watched is not None else []
        self.certificates = certificates
        self.ready = ready
        self.let_go = let_go
        self.turns = turns
        self.remains = remains
        self.lifespan = lifespan
        self._drained = drained
        self.open: dict[int, Any] = {}
        self.cut = 0
        self.cut_off: dict[int, tuple[Peer, float]] = {}  # the first of them: their peers, and how old they were
        self._noted: set[int] = set()
        self._faulty: set[int] = set()  # open connections whose handler has raised
        self._done = [0, 0, 0]  # bytes in, bytes out and messages of connections that have ended
        self._told = [0, 0, 0]  # what the page has of these, and of those that are open
        self._fold_at = 0.0

    @property
    def to_be_served_alone(self) -> int:
        """How many connections a model takes one by one at first."""
        return ALONE if self.remains is not None and self.remains.careful else 0

    def fault(self, error: BaseException) -> None:
        """Something raised that must not: it is told, and whoever was called goes on. Raises OutOfMemory when there is
        none again and again: a worker that can only turn clients away is worse than its successor."""
        if isinstance(error, MemoryError):
            now = time.monotonic()
            self._short_at = (*(each for each in self._short_at if now - each < 10.0), now)
            self.exhausted = len(self._short_at) > SHORT_AT_MOST
            self.go_on()
        self.observe(events.LoopFailed(error))

    def go_on(self) -> None:
        """Raises OutOfMemory if there is too little to go on: see `fault`, which another flow of control may have
        called."""
        if self.exhausted:
            spare_memory.clear()  # for what is left to be said
            raise OutOfMemory

    def guarded(self, call: Callable[..., object], *args: Any) -> None:
        """Call what a loop calls between two waits: whatever it raises, the loop goes on."""
        try:
            call(*args)
        except BaseException as error:
            self.fault(error)

    # How a connection ends.

    def failed(self, conn: AnyChannel | Connection, error: BaseException) -> None:
        """An error ended a conversation: one record, of the handler's fault or the peer's."""
        if isinstance(error, HandshakeFailed):
            self.observe(events.HandshakeFailed(conn.number, conn.peer, error.what))
            return
        if is_peers_fault(error):
            self.observe(PeerFailed(conn.number, conn.peer, error))
            return
        with self.lock:
            self.counts.add(HANDLER_ERRORS)
            if conn.number in self.open:
                self._faulty.add(conn.number)
        if isinstance(error, MemoryError) and is_ours(error):
            self.fault(error)
        else:
            self.observe(HandlerFailed(conn.number, conn.peer, error))

    def closed(self, conn: Any, reason: str) -> None:
        """A connection is over, and its descriptor is closed."""
        with self.lock:
            self.open.pop(conn.number, None)
            counts, done = self.counts, self._done
            counts.add(OPEN, -1)
            if self.counts is self.page:  # a child's worker will do it
                self.limits.left(conn.peer)
            word = "error" if conn.number in self._faulty else end_reason(reason)
            counts.add(CLOSED_WORD[word])
            self._faulty.discard(conn.number)
            done[0] += conn.bytes_in
            done[1] += conn.bytes_out
            done[2] += conn.messages
            if not self.open:
                self._fold()
        if not self.tells:
            return
        seconds = time.monotonic() - conn.opened
        program = getattr(conn, "program_end", "")
        self.observe(
            ConnectionClosed(
                conn.number,
                conn.peer,
                word,
                seconds,
                conn.bytes_in,
                conn.bytes_out,
                conn.messages,
                program,
                reason if reason != word else "",
            )
        )

    # What the scoreboard is told.

    def tick(self, now: float) -> None:
        """The heartbeat of the loop that serves; and now and then the sums, which take a two-hundredth of its time."""
        self.turns()
        self.page.tick(now)
        self._ended = [self._ended[1], self.page.own[ACCEPTED] - self.page.own[OPEN]]
        if now >= self._fold_at:
            self.fold()
            self._fold_at = now + 200 * (time.monotonic() - now)

    def note_program(self, conn: Connection, pid: int, lives: bool) -> None:
        """A program has a connection now, or has it no more: others have to know if this process is killed."""
        if self.counts is not self.page:
            self.counts.words[PROGRAM] = pid if lives else 0
            return
        rows = self.remains.rows if self.remains is not None else None
        with self.lock, suppress(MemoryError):  # if there is no row left, nobody will know
            if rows is not None and lives:
                rows.lend(conn.peer, conn.opened).words[PROGRAM] = pid
            elif rows is not None:
                for row in rows.used():
                    if rows.program(row) == pid:
                        rows.back(rows.block(row))

    def fold(self) -> None:
        """Write what all connections have received and sent: nobody writes there for each message."""
        with self.lock:
            self._fold()

    def _fold(self) -> None:
        bytes_in, bytes_out, messages = self._done
        for conn in list(self.open.values()):  # others may come meanwhile
            bytes_in += conn.bytes_in
            bytes_out += conn.bytes_out
            messages += conn.messages
        counts, told = self.counts, self._told
        counts.add(BYTES_IN, bytes_in - told[0])
        counts.add(BYTES_OUT, bytes_out - told[1])
        counts.add(MESSAGES, messages - told[2])
        self._told = [bytes_in, bytes_out, messages]

    def note_cut(self, number: int, peer: Peer, opened: float) -> None:
        """A connection is cut at the drain deadline, and counted once; the first of them are told by name."""
        if number not in self._noted:
            self._noted.add(number)
            self.cut += 1
            if len(self.cut_off) < TOLD_BY_NAME:
                self.cut_off[number] = peer, time.monotonic() - opened

    def finish(self) -> None:
        """The drain is over: whoever knows it first says so."""
        drained, self._drained = self._drained, _nothing
        drained()
