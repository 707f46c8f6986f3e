"""Message handlers that are coroutines: async functions and classes, and conversations, over asyncio's streams.

Law: one message is handled at a time. `connected` comes before the first message, `closed` when the last one, and the
tasks of timers, have ended: they are cancelled when the connection is over. Whatever ends a conversation, `closed` is
awaited once.
"""

from __future__ import annotations

import asyncio
import inspect
import mmap
import warnings
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

from pronghorn.connection.asyncio_channel import AnyAsyncioChannel
from pronghorn.connection.asyncio_drain import works
from pronghorn.connection.closing import READ_SIZE
from pronghorn.connection.interfaces import TlsStart
from pronghorn.connection.own_context import conversation
from pronghorn.connection.states import is_peers_fault
from pronghorn.errors import BadMessage, End, end_of, reason_of
from pronghorn.handlers.message_connection import Conversation
from pronghorn.handlers.message_protocol import MessageProtocol
from pronghorn.handlers.messages import MessageStyle
from pronghorn.scoreboard.service_times import sampler

CANCELLED = 1.0  # seconds that a cancelled timer's task gets for what it still has to do


class Converse:
    """A conversation over streams, of a handler in this `style`."""

    __slots__ = ("_call", "style")

    def __init__(
        self, style: MessageStyle, call: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> None:
        self.style, self._call = style, call

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Awaitable[None]:
        return self._call(reader, writer)


class CoroutineProtocol(MessageProtocol):
    """One connection of a message handler that is a coroutine: its messages are asked for, one after the other."""

    __slots__ = (
        "_between",
        "_busy",
        "_failed",
        "_finished",
        "_over",
        "_reader",
        "_ready",
        "_tasks",
        "handed_over",
        "moved",
    )
    transport: AnyAsyncioChannel

    def __init__(self, style: MessageStyle, reader: asyncio.StreamReader) -> None:
        super().__init__(style)
        self._reader: Any = reader
        self._ready: deque[Any] = deque()  # cut, and not asked for yet
        self._failed: BadMessage | None = None  # what came behind these
        self._finished = False
        self._busy = False  # a reply is being made, which `close` waits for
        self._tasks: set[asyncio.Future[Any]] = set()  # of timers
        self._over = False  # the handler has returned, or is told of the end
        self._between = False  # nothing but a message is waited for, and not by the handler
        self.moved = False  # it comes from another process
        self.handed_over: Any = None
        """What the handler's `handed_over` has returned to be awaited, if it moved here."""

    async def receive(self) -> Any:
        """See Conversation."""
        while not (self._ready or self._closing):
            if self._failed is not None:
                raise self._failed
            if self._finished:
                return None
            data = await self._reader.read(READ_SIZE)
            try:
                self._ready += self._cut(data)
            except BadMessage as error:
                self._ready += error.complete
                self._failed = error
            self._finished = not data
        if self._closing:
            return None
        self.messages += 1
        return self._ready.popleft()

    async def next(self) -> Any:
        """The same for the server's own loop: while it waits nothing of the handler is under way."""
        self._between = True
        try:
            return await self.receive()
        finally:
            self._between = False

    # How it moves to another process.

    @property
    def busy(self) -> str:
        reader = self._reader
        waits = self._between and reader._waiter is not None and not reader._buffer
        return "" if waits and not (self._ready or self._tasks or self._closing) else "it is in the middle of something"

    def depart(self) -> None:
        super().depart()
        if inspect.iscoroutine(self.handed_over):
            self.handed_over.close()  # it was never the connection's turn

    def take_over(self, transport: Any, state: Any) -> None:
        super().take_over(transport, state)
        self._ready += self._waiting or ()
        self._waiting, self.moved = None, True

    def _cut(self, data: bytes) -> list[Any]:
        return self._cutter.feed(data) if data else [] if self.transport.draining else self._cutter.finish()

    async def answer(self, message: Any, awaits: bool) -> bytes | None:
        """What the handler returns for one message, or `awaits`: for it to be awaited."""
        self._busy = True
        try:
            found: Any = self._reply(message)
            return cast("bytes | None", await found if awaits else found)
        finally:
            self._busy = False

    def owes(self) -> bool:
        """Whether the handler owes its client something: it does not wait for a message, or a timer's task works."""
        return self.partial or self._reader._waiter is None or any(works(task, self._reader) for task in self._tasks)

    def spawn(self, awaitable: Awaitable[Any]) -> asyncio.Future[Any]:
        """Run what a timer's function has returned to be awaited; what it raises ends the connection."""
        conversation.set(self.transport)
        task = asyncio.ensure_future(awaitable)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.transport._failed(error)

    def check_open(self) -> None:
        """Raise what broke the connection, in its own conversation: a handler that only sends would never find out.
        What others send is dropped, and so is what comes behind the handler's own `close`, or in its `closed`."""
        if not (self._closing or self._over) and conversation.get() is self.transport:
            broken = self.transport._error or self._reader.exception()
            raise broken or ConnectionResetError("the connection is over")

    async def finish(self, error: BaseException | None) -> None:
        """The conversation is over, with that error if it raised one: end what is left of it, and tell the handler."""
        self._over = True
        if self.connection is not None:
            self.connection.end()
        if tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CANCELLED)
        if self.style.tells_closed and self.object is not None:
            found = self._style.tell_closed(self, self._end(error))
            if inspect.isawaitable(found):
                await found
        self.object = None

    def _end(self, error: BaseException | None) -> End:
        channel = self.transport
        if error is None or error is channel._error:
            return channel.ended_by(channel._error)
        if isinstance(error, asyncio.CancelledError):
            return End.ABORTED
        return end_of(reason_of(error)) if is_peers_fault(error) else End.ERROR

    @property
    def _style(self) -> MessageStyle:
        return cast(MessageStyle, self.style)

    # What differs from the protocol that is called.

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._reply = self.style.reply_for(self)

    def resume_writing(self) -> None:
        if self.connection is not None:
            self.connection.make_room()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.connection is not None:
            self.connection.end()

    def _is_answering(self) -> bool:
        return self._busy

    def begin_tls(self, context: Any, last: bytes, timeout: float | None) -> TlsStart:
        self._ready.clear()
        self._failed = None
        return super().begin_tls(context, last, timeout)

    def close(self) -> None:
        self._closing = True
        if not self._busy:
            self.transport.close()


class PacedCoroutineProtocol(CoroutineProtocol):
    """The same where messages of a source have a rate: one that has to wait is handed over in its turn. Meanwhile the
    stream fills, and then nothing is read."""

    __slots__ = ()

    async def receive(self) -> Any:
        message, rate = await super().receive(), self._style.rate
        while message is not None and rate is not None:
            count, seconds = rate.take(self.transport.peer, 1)
            if count:
                break
            await asyncio.sleep(seconds)
        return message


def cutting(style: MessageStyle, reader: asyncio.StreamReader) -> CoroutineProtocol:
    """What cuts the input of one connection into messages, and keeps the rate of its source, if there is one."""
    return (CoroutineProtocol if style.rate is None else PacedCoroutineProtocol)(style, reader)


def messages_as_streams(style: MessageStyle, awaits: bool) -> Converse:
    """An async message function, or a class with async methods, as a conversation over streams. `awaits`: what it
    returns for a message is to be awaited."""

    async def hold(protocol: CoroutineProtocol, conn: Conversation) -> None:
        timer = sampler()
        found, protocol.handed_over = protocol.handed_over, None
        if protocol.object is not None and not protocol.moved:
            found = style.tell_connected(protocol)
        if inspect.isawaitable(found):
            await found
        channel = protocol.transport
        while (message := await protocol.next()) is not None:
            answer = protocol.answer(message, awaits)
            reply = await (answer if timer is None or not timer.due() else timer.awaited(answer))
            if reply is not None:
                try:
                    channel.write(style.frame(reply))
                except (TypeError, AttributeError) as error:
                    raise style.unfit(reply, error) from None
            if protocol.halts and (ahead := protocol.resume()) is not None:
                await ahead
            if channel.throttled:
                await conn.drained()

    return _over_streams(style, hold)


def conversation_as_streams(style: MessageStyle, handler: Callable[[Any], Awaitable[Any]]) -> Converse:
    """`async def handle(conn)` as a conversation over streams."""

    told = mmap.mmap(-1, 1)  # once in a worker and its children
    name = getattr(handler, "__qualname__", None) or repr(handler)

    async def hold(protocol: CoroutineProtocol, conn: Conversation) -> None:
        found: object = await handler(conn)
        if isinstance(found, (bytes, bytearray, str)) and not told[0]:
            told[0] = 1
            warnings.warn(
                f"{name} returned {type(found).__name__}, which goes nowhere: it is a conversation, and has to send, "
                "by await conn.send(...). If it answers one message: @pronghorn.message, not @pronghorn.conversation.",
                RuntimeWarning,
                stacklevel=1,
            )

    return _over_streams(style, hold)


def _over_streams(style: MessageStyle, hold: Callable[[CoroutineProtocol, Conversation], Awaitable[None]]) -> Converse:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = cast(AnyAsyncioChannel, writer.transport)
        moved, error = channel.protocol.inner, None
        protocol = channel.protocol.inner = cutting(style, reader) if moved is None else moved
        try:
            if moved is None:
                protocol.connection_made(channel)
            await hold(protocol, cast(Conversation, protocol.connection))
        except BaseException as raised:
            error = raised
            raise
        finally:
            await protocol.finish(error)
            if isinstance(error, asyncio.CancelledError):
                channel.note_aborted()

    return Converse(style, converse)
