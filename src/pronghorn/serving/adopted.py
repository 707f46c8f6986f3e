"""Servers that a library makes for itself, served on Pronghorn's listeners: what it gives to `loop.create_server`.

Law: only what is made while the lifespan is entered is caught, so a conversation that opens a listener of its own (a
passive FTP transfer) has it. Nothing is ever served in another way than its library asked for: TLS is honoured, and
what fits no listener is refused before the worker is ready. The library's own close runs once nobody is owed anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import weakref
from asyncio.trsock import TransportSocket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

from pronghorn.connection.asyncio_channel import AnyAsyncioChannel
from pronghorn.connection.asyncio_drain import LOOK, Ending, Tasks, context_of
from pronghorn.connection.closing import first_word_due, last_call
from pronghorn.connection.own_context import conversation
from pronghorn.handlers.handler import HOLDS
from pronghorn.lifespans import ASYNC, Lifespan, kind_of, lifespan
from pronghorn.system.drain import current_drain

CALLS = ("create_server", "create_unix_server")
TLS_TIMEOUTS = ("ssl_handshake_timeout", "ssl_shutdown_timeout")


class ServingAt(NamedTuple):
    """Where and how this worker serves, as far as servers that are adopted may want to know it."""

    listeners: tuple[Any, ...] = ()
    sealed: bool = False
    """The listeners have TLS."""
    quiet: float = 0.0
    """The setting `drain_quiet`."""


_serving_at = ServingAt()


def serve_at(place: ServingAt) -> None:
    """From now on servers are adopted there."""
    global _serving_at
    _serving_at = place


class AdoptedServer(asyncio.AbstractServer):
    """What `create_server` returns: it looks like asyncio's Server, and its sockets are Pronghorn's listeners."""

    def __init__(self, factory: Callable[[], Any], where: Any, tls: dict[str, Any], starts: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._factory, self._tls, self._serves = factory, tls, starts
        self.where = where
        """The port or the path that its library asked for; None if it does not matter."""
        self.channels: weakref.WeakSet[AnyAsyncioChannel] = weakref.WeakSet()
        self.bound: socket.socket | None = None
        """What its library has bound, and wants to have closed."""
        self._closed = False
        self._forever: asyncio.Future[None] | None = None

    def fits(self, listener: Any) -> bool:
        return bool(self.where) and _where(listener.place[1]) == self.where

    @property
    def sockets(self) -> tuple[TransportSocket, ...]:
        if self._closed:
            return ()
        listeners = [*filter(self.fits, _serving_at.listeners)] or _serving_at.listeners
        return tuple(TransportSocket(each._socket) for each in listeners)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def is_serving(self) -> bool:
        return self._serves and not self._closed

    async def start_serving(self) -> None:
        self._serves = True

    async def serve_forever(self) -> None:
        """Return never: CancelledError once it is closed, as asyncio's."""
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._closed:
            raise RuntimeError(f"server {self!r} is closed")
        self._serves = True
        self._forever = self._loop.create_future()
        try:
            await self._forever
        finally:
            self.close()

    def close(self) -> None:
        """Whoever comes from now on is turned away; open connections go on."""
        self._closed = True
        if self.bound is not None:
            self.bound.close()
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()

    async def wait_closed(self) -> None:
        await asyncio.sleep(0)

    def close_clients(self) -> None:
        for channel in list(self.channels):
            channel.close()

    def abort_clients(self) -> None:
        for channel in list(self.channels):
            channel.abort()

    def take(self, channel: AnyAsyncioChannel) -> None:
        """Give a connection to the library, with the TLS that it asked for."""
        if not self.is_serving():
            channel.close()
            return
        self.channels.add(channel)
        protocol = self._factory()
        if hasattr(protocol, "_stream_reader"):
            conversation.set(channel)  # so that it is known what its coroutine has begun
        if self._tls:
            from asyncio.sslproto import SSLProtocol

            protocol = SSLProtocol(self._loop, protocol, waiter=None, server_side=True, **self._tls)  # type: ignore[arg-type]
        channel.set_protocol(protocol)
        protocol.connection_made(channel)


class Adoption:
    """The servers that one lifespan makes."""

    def __init__(self) -> None:
        self.servers: list[AdoptedServer] = []
        self.active = False
        self.through = False  # the library's own close: until then the server ends no connection at a stop
        self._caught = asyncio.Event()

    async def caught(self, count: int = 1) -> None:
        """Wait until so many servers were made: for a library that makes them in a task of its own."""
        while len(self.servers) < count:
            self._caught.clear()
            await self._caught.wait()

    async def create_server(
        self,
        protocol_factory: Callable[[], Any],
        host: Any = None,
        port: Any = None,
        *,
        sock: Any = None,
        ssl: Any = None,
        start_serving: bool = True,
        **more: Any,
    ) -> AdoptedServer:
        """loop.create_server. Of a socket that the library has bound only the address counts; the server closes it."""
        where = port
        if sock is not None:
            where = _where(sock.getsockname())
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RD)  # it listens no more (Linux)
        tls = {"sslcontext": ssl, **{name: more.get(name) for name in TLS_TIMEOUTS}}
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        if ssl is not None and _serving_at.sealed:
            raise RuntimeError(
                "The library brings TLS of its own, and the server has --tls-cert: a client would have to speak TLS "
                "within TLS. Leave out one of them."
            )
        server = AdoptedServer(protocol_factory, where, tls if ssl is not None else {}, start_serving)
        server.bound = sock
        self.servers.append(server)
        self._caught.set()
        return server

    async def create_unix_server(self, protocol_factory: Callable[[], Any], path: Any = None, **more: Any) -> Any:
        return await self.create_server(protocol_factory, port=str(path) if path is not None else None, **more)

    def settle(self) -> None:
        """All were made: RuntimeError unless each connection can only be meant for one of them."""
        self.active = False
        listeners = _serving_at.listeners
        if not self.servers:
            raise RuntimeError(
                "Nothing called loop.create_server or asyncio.start_server before the lifespan's yield, so there is "
                "nothing to serve. Start the library's server within `async with pronghorn.adopt():`."
            )
        if len(self.servers) == 1:
            return
        for each in self.servers:
            if not any(map(each.fits, listeners)):
                self._refuse(f"nobody listens at {each.where!r}")
        for listener in listeners:
            if sum(each.fits(listener) for each in self.servers) != 1:
                self._refuse(f"{listener.address} is not for exactly one of them")

    def _refuse(self, why: str) -> None:
        wanted = ", ".join(repr(each.where) for each in self.servers)
        raise RuntimeError(
            f"The library has made {len(self.servers)} servers, at {wanted}, and {why}. Give a --bind with the same "
            "port or path for each."
        )

    def server_of(self, channel: AnyAsyncioChannel) -> AdoptedServer:
        if len(self.servers) == 1:
            return self.servers[0]
        where = _where(channel.sockname)
        return next(each for each in self.servers if each.where == where)

    async def quiet(self) -> None:
        """Return when draining has begun and nobody is owed anything, or shortly before its deadline."""
        drain, quiet = current_drain(), _serving_at.quiet
        await drain.begins()
        latest = last_call(drain.deadline, drain.timeout) - min(1.0, drain.timeout / 4)
        endings: weakref.WeakKeyDictionary[AnyAsyncioChannel, Ending] = weakref.WeakKeyDictionary()
        while (now := time.monotonic()) < latest:
            channels = [each for server in self.servers for each in server.channels if not each.is_closing()]
            tasks, owing = Tasks(), bool(drain.spread and channels)
            for channel in channels:
                ending = endings.setdefault(channel, Ending(channel, quiet, drain.deadline, drain.timeout))
                owing = bool(first_word_due(channel)) or not ending.is_over(now, tasks) or owing
            if not owing:
                return
            await asyncio.sleep(LOOK)

    def leave(self) -> None:
        """The library's own close is through: what is left is ended as any other."""
        for server in self.servers:
            server.close()
        self.through = True


_current: Adoption | None = None


@contextlib.asynccontextmanager
async def adopt() -> AsyncIterator[Adoption]:
    """Within, in the lifespan of a handler made by `adopted`, what is given to `loop.create_server`,
    `loop.create_unix_server` or `asyncio.start_server` is served on Pronghorn's listeners.

    The addresses that a library names are not bound: one server has all that `--bind` says, two and more have those
    with their port or path each. RuntimeError outside of such a lifespan, and for TLS beside the server's own.
    """
    adoption = _current
    if adoption is None or not adoption.active:
        raise RuntimeError(
            "pronghorn.adopt() belongs into the lifespan of a handler that pronghorn.adopted() has made: "
            "handler = pronghorn.adopted(lifespan)."
        )
    loop: Any = asyncio.get_running_loop()
    before = {name: loop.__dict__.get(name) for name in CALLS}
    own = {name: getattr(loop, name) for name in CALLS}

    def call(name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: (getattr(adoption, name) if adoption.active else own[name])(*args, **kwargs)

    for name in CALLS:
        setattr(loop, name, call(name))
    try:
        yield adoption
    finally:
        for name, value in before.items():
            delattr(loop, name) if value is None else setattr(loop, name, value)


def adopted(
    factory: Callable[[], AsyncIterator[object] | AbstractAsyncContextManager[object]],
) -> type[asyncio.Protocol]:
    """The handler that serves what a library starts: `factory` is an async lifespan that starts it within
    `async with pronghorn.adopt():`, and stops it behind its yield.

    What it yields is the lifespan's value. When the server drains, the code behind the yield, the library's own close,
    runs as soon as nobody is owed an answer, and shortly before the drain deadline in any case. It needs one asyncio
    loop for all connections: asyncio, uvloop, select, poll, epoll or kqueue. TypeError for a lifespan that is not
    async.
    """
    if kind_of(factory) != ASYNC:
        raise TypeError(f"{factory!r} should be an async lifespan: an async def with one yield")

    mine: list[Adoption] = []

    @contextlib.asynccontextmanager
    async def held() -> AsyncIterator[Any]:
        global _current
        adoption = _current = Adoption()
        mine[:] = [adoption]
        adoption.active = True
        library = _Library(factory, adoption)
        value = await library.start()
        try:
            adoption.settle()
            closing = asyncio.create_task(library.close_when_quiet())
            try:
                yield value
            finally:
                closing.cancel()
        finally:
            await library.close()

    held.__qualname__ = getattr(factory, "__qualname__", repr(factory))

    class Adopted(asyncio.Protocol):
        """Finds the server that a connection is for, and has its library take it over."""

        def connection_made(self, transport: Any) -> None:
            mine[0].server_of(transport).take(transport)

    setattr(Adopted, HOLDS, lambda: _current is not None and not _current.through)
    Adopted.__qualname__ = held.__qualname__
    return lifespan(held)(Adopted)


class _Library:
    """The user's lifespan in a task of its own, from its first line to its last."""

    def __init__(self, factory: Callable[[], Any], adoption: Adoption) -> None:
        self._made = Lifespan(factory)._made(contextlib.asynccontextmanager)
        self._adoption = adoption
        self._leave = asyncio.Event()
        self._entered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> Any:
        current = asyncio.current_task()
        self._task = asyncio.create_task(self._hold(), context=context_of(current))
        await asyncio.wait([self._task, self._entered], return_when=asyncio.FIRST_COMPLETED)
        if not self._entered.done():
            self._task.result()  # raises
        return self._entered.result()

    async def _hold(self) -> None:
        async with self._made as value:
            self._entered.set_result(value)
            await self._leave.wait()

    async def close_when_quiet(self) -> None:
        await self._adoption.quiet()
        self._leave.set()
        assert self._task is not None
        await asyncio.wait([self._task])
        self._adoption.leave()

    async def close(self) -> None:
        self._adoption.active = False
        self._leave.set()
        if self._task is not None:
            await self._task


def _where(name: Any) -> Any:
    """A port, or a path."""
    return name[1] if isinstance(name, tuple) else name
