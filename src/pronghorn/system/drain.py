"""Flags that are also descriptors, so that a loop waits for them beside sockets: Wake, and Drain.

Law: setting one never blocks, and may be done from any thread and from a signal handler.
"""

from __future__ import annotations

import math
import os
import select
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Protocol

from pronghorn.peers import Peer

ANYBODY = 0
"""The owner of a Drain while its process forks."""
ONE = (1).to_bytes(8, sys.byteorder)


class Wake:
    """A flag that wakes a loop: its descriptor is readable while it is set. Any thread may set it (eventfd(2)). Without
    `opened` it has no descriptor."""

    __slots__ = ("_read", "_write")

    def __init__(self, opened: bool = True) -> None:
        if not opened:
            self._read = self._write = -1
        elif hasattr(os, "eventfd"):
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
        read, write = self._read, self._write
        self._read = self._write = -1
        if read >= 0:
            os.close(read)
        if write >= 0 and write != read:
            os.close(write)


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

    In either stage goodbyes may be spread: they are said to one connection after the other, over `spread` seconds. Then
    the drain of each connection (OwnDrain) begins by itself.
    """

    __slots__ = tuple(
        "_heard _let_go_heard _own _stir _wake alone at_stop begun deadline lets_go lost owner patience spread "
        "timeout why".split()
    )

    def __init__(
        self, timeout: float, lost: Callable[[tuple[str, ...]], None] = _nobody_hears, spread: float = 0.0
    ) -> None:
        """`timeout` is what open connections get, in seconds; `lost` is called with the names of what the deadline has
        cut off beside connections; goodbyes are spread over so many seconds when draining begins."""
        self.timeout: float = timeout
        self.patience: Callable[[], float] = lambda: timeout  # seconds until the deadline, when draining begins
        self.at_stop: float = spread
        self.spread: float = 0.0
        """Seconds over which goodbyes are said, from the last of the two stages; 0: none are, or all at once."""
        self.owner: int = os.getpid()
        self.begun: bool = False
        self.lets_go: bool = False  # the process accepts no more; true while it drains, too
        self.alone: frozenset[str] = frozenset()  # addresses of listeners that no other worker serves any more
        self.why: str = ""
        self.deadline: float = math.inf
        self.lost = lost
        self._heard: list[Callable[[], object]] = []  # called once, when draining begins
        self._let_go_heard: list[Callable[[], object]] = []  # the same when it lets go
        self._own: dict[int, weakref.ref[OwnDrain]] = {}
        self._wake, self._stir = Wake(), Wake()

    def let_go(self, alone: Iterable[str] = (), spread: float = 0.0) -> None:
        """Accept no more, and go on with the open connections, to which goodbyes are spread over so many seconds (0:
        none are said). Clients that wait at the addresses `alone`, which no other worker serves, are accepted before.
        """
        if not self.lets_go:
            self.alone = frozenset(alone)
            self.spread = spread
            self.lets_go = True
            if spread:
                self._stir.set()
            _call_each(self._let_go_heard)

    def begin(self, why: str = "") -> None:
        """Start draining; the deadline (monotonic) runs from the first call, and a signal handler may make it. A later
        call can only bring the deadline nearer."""
        deadline = time.monotonic() + self.patience()
        if self.begun:
            self.deadline = min(self.deadline, deadline)
            return
        self.why, self.deadline, self.spread = why, deadline, self.at_stop
        self.begun = self.lets_go = True
        self._wake.set()
        self._stir.set()
        if not self.spread:
            self.spread_no_more()
        _call_each(self._heard)

    def spread_no_more(self) -> None:
        """Draining has begun, and goodbye is said to all connections at once from here on."""
        self.spread = 0.0
        for own in list(self._own.values()):
            if (each := own()) is not None:
                each.begin(self.why)

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

    def stir(self) -> Wake:
        """Readable once goodbyes are said, to one connection after the other or to all at once."""
        if self._stir.fileno() < 0:
            self._stir = Wake()
            if self.begun or self.spread:
                self._stir.set()
        return self._stir

    def close(self) -> None:
        self._wake.close()
        self._stir.close()


class OwnDrain(Drain):
    """The drain of one connection: it begins when goodbye is said to this connection, with that of its process at the
    latest. It has no descriptor before somebody asks for it."""

    __slots__ = ("__weakref__", "process")

    def __init__(self, process: Drain, begun: bool = False) -> None:
        """`begun`: goodbye has been said already."""
        self.process = process
        self.timeout, self.patience, self.owner, self.lost = (
            process.timeout,
            process.patience,
            process.owner,
            process.lost,
        )
        self.at_stop = self.spread = 0.0
        self.begun, self.lets_go, self.alone = begun, False, frozenset()
        self.why, self.deadline = "", math.inf
        self._heard, self._let_go_heard, self._own = [], [], {}
        self._wake, self._stir = Wake(False), Wake(False)
        process._own[id(self)] = weakref.ref(self)
        if process.begun and not process.spread:
            self.begin(process.why)

    def begin(self, why: str = "") -> None:
        """Say goodbye. The deadline is that of the process, if it drains."""
        if not self.begun:
            self.why, self.deadline = why, self.process.deadline
            self.begun = self.lets_go = True
            self._wake.set()
            _call_each(self._heard)

    def __del__(self) -> None:
        self.process._own.pop(id(self), None)
        self.close()


class Ends(Protocol):
    """A connection, as far as its end goes, and what a log tells of it."""

    number: int
    peer: Peer
    listener: str

    @property
    def drain(self) -> Drain | None: ...
    @property
    def log(self) -> dict[str, object]: ...
    def stay(self) -> None: ...


connection_number: ContextVar[int] = ContextVar("pronghorn_connection", default=0)
"""The number of the connection that the running code serves; 0: of none."""
_current: Drain | None = None
_connections: Mapping[int, Ends] = {}


def connection_here() -> Ends | None:
    """The connection that the running code serves, as long as it is open."""
    return _connections.get(connection_number.get())


def stay() -> None:
    """Keep the connection that the calling code serves open although the server stops or says goodbye: until the
    handler ends it, or until the drain deadline. For code that sees no connection object: `conn.stay()` is the same.
    RuntimeError outside of a conversation.
    """
    conn = connection_here()
    if conn is None:
        raise RuntimeError("pronghorn.stay() was called by code that serves no connection, or one that has ended")
    conn.stay()


def current_log() -> dict[str, object]:
    """Fields for the line that a log has at the end of the connection that the calling code serves, whatever its style:
    `pronghorn.current_log()["device"] = name`. For code that sees no connection object: `conn.log` is the same.
    RuntimeError outside of a conversation.
    """
    conn = connection_here()
    if conn is None:
        raise RuntimeError("pronghorn.current_log() was called by code that serves no connection, or an ended one")
    return conn.log


def current_drain() -> Drain:
    """The drain of the connection that the calling code serves, or else, in a lifespan for one, that of the worker:
    true once the server wants to stop, or says goodbye to this connection; `await drain.begins()` returns then, and so
    does `drain.wait(seconds)`, which blocks; its descriptor (`fileno`) becomes readable. Outside of a worker it is one
    that never begins.
    """
    global _current
    conn = connection_here()
    if conn is not None and (own := conn.drain) is not None:
        return own
    if _current is None:
        _current = Drain(0.0)
    return _current


def become_current(drain: Drain, connections: Mapping[int, Ends] = MappingProxyType({})) -> None:
    """From now on `current_drain` returns this one, and those of these open connections, by their numbers."""
    global _current, _connections
    _current, _connections = drain, connections
