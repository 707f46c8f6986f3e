"""`MessageConnection`: the connection as a message handler sees it; `Conversation`: the same for coroutines.

Law: the handler is called on the connection's own flow of control (its thread, process or greenlet, or the thread of
the worker's loop), and may call anything here. From elsewhere `send`, `write`, `close`, `is_closing`, `unsent` and
`drained` are safe under every model, and what they send keeps the order of each sender; the timers are not for others.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, cast
from typing import Protocol as Interface

from pronghorn.bus.joined import JOINED, Exclusive, place_of_bus
from pronghorn.connection.base import OnBus
from pronghorn.connection.proxy_protocol import ProxyHeader
from pronghorn.connection.tls_facts import TlsFacts
from pronghorn.connection.transport import check_bytes
from pronghorn.framing.rule import M, R, with_defaults
from pronghorn.handlers.message_protocol import MessageProtocol, TlsAhead
from pronghorn.handlers.message_timers import Timer, Timers
from pronghorn.identity import WorkerFacts, worker
from pronghorn.peers import Peer
from pronghorn.system.drain import Drain

if TYPE_CHECKING:
    import asyncio
    import ssl
    from typing import TypeVarTuple

    Ts = TypeVarTuple("Ts")

_counting = threading.Lock()  # of what is handed over, which several threads add to


class MessageConnection(Generic[M]):
    """The connection as a message handler sees it: as the second argument of the function, or as the argument of the
    class; `send` takes messages of type M, which are bytes unless said otherwise. Once the connection is over, what is
    sent is dropped, and nothing raises: `is_closing` tells."""

    __slots__ = ("_fields", "_flow", "_idle", "_passed_on", "_protocol", "_timers", "_waiters")

    def __init__(self, protocol: MessageProtocol) -> None:
        self._protocol = protocol
        self._flow = threading.get_ident()
        self._fields: dict[str, object] | None = None
        self._timers: Timers | None = None
        self._idle: float | None = None
        self._passed_on = 0  # bytes that other threads have sent, and that the loop has not taken over yet
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] | None = None

    # What there is to know.

    @property
    def peer(self) -> Peer:
        """The other end's address: host and port, or a string for a unix socket."""
        return self._protocol.transport.peer

    @property
    def local(self) -> Peer | None:
        """The address that the client has connected to: host and port, or the path of a unix socket. With a PROXY
        header, the one that it names. None if the connection was gone before anybody asked."""
        return self._protocol.transport.local

    @property
    def listener(self) -> str:
        """The name of the listener that the client has connected to."""
        return self._protocol.transport.listener

    @property
    def proxy(self) -> ProxyHeader | None:
        """The header of the proxy that made the connection for its client (`peer` is the client's address then)."""
        return self._protocol.transport.proxy

    @property
    def number(self) -> int:
        """The connection's number in its worker, as the log writes it."""
        return self._protocol.transport.number

    @property
    def worker(self) -> WorkerFacts:
        """The worker that serves the connection: its number, generation and more (`pronghorn.worker`)."""
        return worker()

    @property
    def tls(self) -> TlsFacts | None:
        """Version, cipher, alpn, sni and peer_certificate of the TLS below; None where there is none."""
        return self._protocol.transport.tls

    @property
    def drain(self) -> Drain:
        """Begins when the server wants to stop: true then, and it can be waited for (`pronghorn.current_drain`)."""
        return self._protocol.transport.drain

    @property
    def draining(self) -> bool:
        """True once the server wants to stop."""
        return self._protocol.transport.draining

    @property
    def lifespan(self) -> Any:
        """What the handler's lifespan yielded in this worker."""
        return self._protocol.transport.lifespan

    @property
    def log(self) -> dict[str, object]:
        """Fields for the line that the log has at the end of this connection: `conn.log["device"] = name`. Their values
        are written as text, and escaped."""
        if self._fields is None:
            self._fields = {}
        return self._fields

    @property
    def log_fields(self) -> dict[str, object] | None:
        """What `log` has, if anybody has used it."""
        return self._fields

    # What the handler may ask for.

    def stay(self) -> None:
        """Keep the connection open although the server drains: until `close`, or until the drain deadline."""
        self._protocol.transport.stay()

    @property
    def idle_timeout(self) -> float | None:
        """Seconds that the peer of this connection may be silent, in the place of `--idle-timeout`; 0: as long as it
        likes; None: as the setting says. ValueError for a negative one."""
        return self._idle

    @idle_timeout.setter
    def idle_timeout(self, seconds: float) -> None:
        if not seconds >= 0:
            raise ValueError(f"idle_timeout is in seconds, from 0 on; got {seconds!r}")
        self._idle = seconds
        self._protocol.transport.keep_idle(seconds)

    def call_later(self, seconds: float, function: Callable[[*Ts], object], *args: *Ts) -> Timer:
        """Have `function(*args)` called after so many seconds, on the connection's own flow of control and never while
        its handler runs; what it raises ends the connection. The end of the connection cancels it.

        RuntimeError from another thread, ValueError for negative seconds, TypeError for what cannot be called.
        """
        return self._own_timers().start(seconds, 0, function, args)

    def every(self, seconds: float, function: Callable[[*Ts], object], *args: *Ts) -> Timer:
        """The same again and again, for the first time after so many seconds. A turn that was missed, because the
        handler took longer, is left out. ValueError unless `seconds` is more than 0."""
        if not seconds > 0:
            raise ValueError(f"every() needs more than 0 seconds; got {seconds!r}")
        return self._own_timers().start(seconds, seconds, function, args)

    def join(self, name: str | bytes, *, exclusive: Exclusive = False, on_bus: OnBus | None = None) -> None:
        """Join a name of the bus, 1 to 255 bytes: what is published to it is sent to this connection from now on,
        framed as a reply is, until it leaves the name or ends. If the handler's class has a method `on_bus(message)`,
        that is called in the place of it, on the connection's own flow of control, with each `pronghorn.bus.Message`;
        or else the function `on_bus`, as `on_bus(conn, message)`. What it returns is the answer, where somebody asks.

        `exclusive=True` ends the connections that have joined the name before, and so does a later one with it to this
        one; with "refuse" it is this call that fails, by NameTaken, as long as there is one. Returns when the hub knows
        of it, after a second at most: where the hub is away the connection has joined as soon as it is back. Raises
        BusError for a name that cannot be, and after the end of the connection.
        """
        protocol = self._protocol
        if on_bus is None and protocol.style.hears_bus:
            on_bus = _to_object
        place_of_bus().join(protocol.transport, name, exclusive, on_bus, self, protocol.style.frame)

    def leave(self, name: str | bytes) -> None:
        """Leave a name of the bus; nothing happens if it was not joined. At its end a connection leaves by itself."""
        self._protocol.transport.leave(name)

    def start_tls(
        self, context: ssl.SSLContext | None = None, *, after: M | None = None, timeout: float | None = None
    ) -> TlsAhead:
        """Speak TLS from here on, as the server's side (STARTTLS): behind the reply that is being made, which says in
        the clear that TLS may begin. With `after`, a message that says so in its place, at once; so it is in a
        coroutine that awaits this, which goes on when the handshake is done. What is sent afterwards goes over TLS.

        What has come in the clear behind the message in hand is thrown away. Without a `context` the listener's own
        certificates are used, the newest. `timeout` in seconds is --handshake-timeout by default. A handshake that
        fails ends the connection.

        Raises BadSetting if the listener has no certificate; RuntimeError if the connection speaks TLS already, and in
        another thread than the connection's own. See RFC 3207.
        """
        if threading.get_ident() != self._flow:
            raise RuntimeError("start_tls() is for the connection's own handler, and not for another thread")
        return self._protocol.start_tls(context, after, timeout)

    # What anybody may ask for.

    def send(self, message: M) -> Awaitable[None] | None:
        """Send one more message, framed as a reply is. From any thread or task, under every model."""
        self._send(message)
        return None

    def write(self, raw: bytes) -> None:
        """Send bytes as they are. From any thread or task, under every model."""
        if threading.get_ident() == self._flow:
            self._protocol.send(raw)
        else:
            self._pass_on(raw)

    def close(self) -> None:
        """End the connection, after the reply that is being made; messages that came behind are not answered."""
        if threading.get_ident() == self._flow:
            self._protocol.close()
        else:
            self._protocol.transport.pass_on(self._protocol.close)

    def is_closing(self) -> bool:
        """Whether the connection is over, or about to end: what is sent now is dropped."""
        return self._protocol.closing or self._protocol.transport.is_closing()

    @property
    def unsent(self) -> int:
        """Bytes that wait here because the peer does not read. Always 0 under models with a flow of control per
        connection, where `send` returns when the kernel has taken all."""
        return self._passed_on + self._protocol.transport.get_write_buffer_size()

    async def drained(self) -> None:
        """Return once the peer has taken so much that more may be sent: at once, unless more than the high-water mark
        (`--write-high-water`) was unsent; or when the connection ends. For coroutines, on any loop. Once the connection
        is over, a coroutine handler's own call of it raises what `receive` raises then."""
        import asyncio  # here: not every worker needs it

        while not (self._has_room() or self._protocol.transport.is_closing()):
            loop = asyncio.get_running_loop()
            waiter = loop.create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append((loop, waiter))
            if self._has_room():  # since just now
                self.make_room()
            await waiter
        if self._protocol.transport.is_closing():
            await asyncio.sleep(0)  # a coroutine that sends for ever leaves the loop to others
            self._check_open()

    # What the protocol calls, and inner workings.

    def _send(self, message: Any) -> None:
        style = self._protocol.style
        try:
            raw = style.frame(message)
            check_bytes(raw)
        except (TypeError, AttributeError) as error:
            raise style.unfit(message, error) from None
        self.write(raw)

    @property
    def has_timers(self) -> bool:
        return bool(self._timers)

    def state(self) -> Any:
        """What another process needs of it, for `take_over` there. Timers stay behind."""
        joined = JOINED.get(self.number)
        return self._fields, self._idle, [*joined.names] if joined is not None else []

    def take_over(self, state: Any) -> None:
        self._fields, idle, *names = state  # an older program has sent no names
        if idle is not None:
            self.idle_timeout = idle
        for name in names[0] if names else ():
            self.join(name)

    def end(self) -> None:
        """The connection has ended: no timer falls due any more, and nobody waits."""
        if self._timers is not None:
            self._timers.end()
        self.make_room()

    def make_room(self) -> None:
        """Wake those who wait until more may be sent."""
        waiters, self._waiters = self._waiters, None
        for loop, waiter in waiters or ():
            try:
                loop.call_soon_threadsafe(_wake, waiter)
            except RuntimeError:  # that loop was closed
                pass

    def _has_room(self) -> bool:
        return self._passed_on <= self._protocol.style.high_water and not self._protocol.transport.throttled

    def _pass_on(self, raw: bytes) -> None:
        check_bytes(raw)
        with _counting:
            self._passed_on += len(raw)
        self._protocol.transport.pass_on(functools.partial(self._write_passed_on, bytes(raw)))

    def _write_passed_on(self, raw: bytes) -> None:
        with _counting:
            self._passed_on -= len(raw)
        self._protocol.transport.write(raw)
        if self._waiters is not None and self._has_room():
            self.make_room()

    def _own_timers(self) -> Timers:
        if threading.get_ident() != self._flow:
            raise RuntimeError(
                "timers are for the connection's own handler: from another thread send(), write() and close() are safe"
            )
        if self._timers is None:
            self._timers = self._make_timers()
        return self._timers

    def _make_timers(self) -> Timers:
        return Timers(self._protocol.transport, None)

    def _check_open(self) -> None: ...


class Receives(Interface):
    """What a Conversation asks of its protocol: see conversations.py."""

    async def receive(self) -> Any: ...
    def spawn(self, awaitable: Awaitable[Any], /) -> Any: ...
    def check_open(self) -> None: ...


class Sent:
    """What `conn.send` returns to a coroutine: to await it is to wait until more may be sent."""

    __slots__ = ("_conn",)

    def __init__(self, conn: Conversation[Any, Any]) -> None:
        self._conn = conn

    def __await__(self) -> Generator[Any, None, None]:
        return self._conn.drained().__await__()


class Conversation(MessageConnection[R], Generic[M, R]):
    """The connection as coroutines see it: messages, of type M, come by `async for message in conn`, or one by
    `receive()`; `send` takes those of type R, which is M unless said otherwise."""

    __slots__ = ("_sent",)
    if not TYPE_CHECKING:

        def __class_getitem__(cls, types: Any) -> Any:
            """Conversation[M] is Conversation[M, M]."""
            return super().__class_getitem__(with_defaults(cls, types))

    def __init__(self, protocol: MessageProtocol) -> None:
        super().__init__(protocol)
        self._sent = Sent(self)

    def __aiter__(self) -> AsyncIterator[M]:
        return self

    async def __anext__(self) -> M:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def receive(self) -> M | None:
        """The next message; None when no more come: the peer has finished, the connection is closed here, or the server
        drains and nothing is owed. Raises the error that broke the connection, BadMessage, or CancelledError at the
        drain deadline."""
        return cast("M | None", await cast(Receives, self._protocol).receive())

    def send(self, message: R) -> Awaitable[None]:
        """Send one more message, framed as a reply is, from any thread or task: it is on its way when this returns. To
        `await` it is to wait, too, while the peer does not read (`drained`). Awaited by the connection's own handler it
        raises what broke the connection, if that is over."""
        self._send(message)
        return self._sent

    def _make_timers(self) -> Timers:
        return Timers(self._protocol.transport, cast(Receives, self._protocol).spawn)

    def _check_open(self) -> None:
        cast(Receives, self._protocol).check_open()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _to_object(conn: MessageConnection[Any], message: Any) -> Any:
    """A message of the bus for the object that the handler's class has made."""
    return conn._protocol.object.on_bus(message)
