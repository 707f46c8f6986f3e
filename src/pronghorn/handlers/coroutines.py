"""asyncio's styles: `async def handle(reader, writer)`, an asyncio.Protocol, and async message functions.

Law: the loop may be the whole worker's or one connection's; a handler sees no difference. When a coroutine returns or
raises, its connection ends: a client is never left waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pronghorn.connection.asyncio_channel import AnyAsyncioChannel, AsyncioLoop
from pronghorn.connection.asyncio_drain import Leave, context_of
from pronghorn.connection.blocking import Connection
from pronghorn.connection.first_byte import notes_first
from pronghorn.connection.interfaces import Terms
from pronghorn.connection.own_context import conversation, of_a_client
from pronghorn.connection.states import is_peers_fault
from pronghorn.errors import DescriptorLost, PeerTimeout, TooMuchUnsent
from pronghorn.handlers.asyncio_loop import equip
from pronghorn.handlers.conversations import Converse, CoroutineProtocol, cutting
from pronghorn.settings import Settings
from pronghorn.system.drain import Drain
from pronghorn.tls.asyncio_channel import channel_over, part

LOOK = 5.0  # seconds between two looks at whether a descriptor is still the connection's
CANCELLED = 1.0  # seconds that a cancelled task gets for what it still has to do
LATEST = 1.0  # seconds before the drain deadline at which tasks are cancelled, at most
SIGNS = 0.5  # seconds between two heartbeats of a connection's own loop, where its waits are watched
Streams = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Any]]


class StreamsProtocol(asyncio.StreamReaderProtocol):
    """asyncio's own streams over our transport."""

    inner: CoroutineProtocol | None = None
    """The protocol that cuts the input into messages, if the handler takes messages."""
    transport: AnyAsyncioChannel

    def __init__(self, handle: Streams, limit: int) -> None:
        loop = asyncio.get_running_loop()
        self._handle = handle
        super().__init__(asyncio.StreamReader(limit=limit, loop=loop), self._hold, loop=loop)

    def take_messages(self) -> CoroutineProtocol:
        """Before the connection is made: the protocol that cuts the input, of a connection from another process."""
        assert isinstance(self._handle, Converse)
        self.inner = cutting(self._handle.style, self._stream_reader)  # type: ignore[attr-defined]
        return self.inner

    def depart(self) -> None:
        """Another process goes on with the connection: the handler's task, which waits for a message, ends."""
        if self.inner is not None:
            self.inner.depart()
        if self._task is not None:  # type: ignore[attr-defined]
            self._task.cancel()  # type: ignore[attr-defined]

    @property
    def messages(self) -> int:
        return self.inner.messages if self.inner is not None else 0

    @property
    def unfinished(self) -> bool:
        return self.inner is not None and self.inner.unfinished

    @property
    def log_fields(self) -> dict[str, object] | None:
        return self.inner.log_fields if self.inner is not None else None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        super().connection_made(transport)

    def eof_received(self) -> bool:
        super().eof_received()
        # True with TLS of ours too. asyncio's own, after start_tls, can only close, and warns about another answer.
        return self._transport is self.transport  # type: ignore[attr-defined]

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.inner is not None:
            self.inner.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)  # type: ignore[arg-type]
        if self.inner is not None:
            self.inner.connection_lost(exc)

    @property
    def owes_exactly(self) -> Callable[[], bool] | None:
        """Whether a handler of messages owes a reply; None if the handler takes no messages."""
        return self.inner.owes if self.inner is not None else None

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation.set(self.transport)
        try:
            await self._handle(reader, writer)
        except asyncio.CancelledError:
            pass  # no task awaits this one, and asyncio's streams log it as an error (Python 3.11)
        except BaseException as error:
            # That a peer leaves in the middle of what the handler waits for is no failure of the handler.
            gone = isinstance(error, (asyncio.IncompleteReadError, PeerTimeout, TooMuchUnsent, DescriptorLost)) or (
                isinstance(error, OSError) and (is_peers_fault(error) or error is self.transport._error)
            )  # the last: a handshake, after start_tls
            if not gone:
                self.transport._failed(error)
        finally:
            writer.close()


def streams_factory(handle: Streams, limit: int) -> Callable[[], asyncio.BaseProtocol]:
    """A protocol factory for `async def handle(reader, writer)`; `limit` in bytes is StreamReader's."""
    return lambda: StreamsProtocol(handle, limit)


class OwnLoops:
    """One asyncio loop per connection, for models with a flow of control of its own; kept from one to the next."""

    def __init__(self, factory: Callable[[], Any], settings: Settings) -> None:
        self._factory = factory
        self._high_water, self._most_unsent = settings.write_high_water, settings.max_write_buffer
        self._quiet = settings.drain_quiet
        self._here = threading.local()

    def converse(self, conn: Connection) -> None:
        """Hold one conversation on this flow's loop; what the handler raised passes through."""
        runner = getattr(self._here, "runner", None)
        if runner is None:
            runner = self._here.runner = asyncio.Runner()
            leave_executor(runner.get_loop())
            equip(runner.get_loop())
        try:
            runner.run(self._one(conn), context=contextvars.copy_context())
        except (SystemExit, KeyboardInterrupt):  # of a task, maybe: the loop was left in the middle of a conversation
            with contextlib.suppress(BaseException):
                self.leave()
            raise
        finally:
            if (runner := getattr(self._here, "runner", None)) is not None and tasks_of_clients(runner.get_loop()):
                self._here.runner = None
                _go_on(runner, conn)

    def leave(self) -> None:
        """Close the loop of this flow of control, at its end."""
        runner = getattr(self._here, "runner", None)
        if runner is not None:
            self._here.runner = None
            runner.close()

    async def _one(self, conn: Connection) -> None:
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        errors: list[BaseException] = []
        assert conn.tls_starts is not None
        watch = AsyncioLoop(
            loop,
            lambda _, error: errors.append(error),
            lambda _: over.set_result(None),
            conn.tls_starts,
            lambda _, seconds: conn.keep_idle(seconds),
        )
        terms = Terms(watch, conn.process_drain, self._most_unsent, self._high_water, conn.listener, notes_first(conn))
        channel = channel_over(conn, terms)
        leave = Leave(loop, channel, self._quiet)
        conn.lend_to_loop(channel, leave, functools.partial(_cancel_all, loop, asyncio.current_task()))
        if conn.waits.watched:
            _give_signs(over, conn)

        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            if not channel.is_own():  # epoll tells nothing of a descriptor that is closed
                channel.lose()
            timer = loop.call_later(LOOK, look)

        look()
        channel.open(self._factory())
        try:
            await over
        finally:
            timer.cancel()
            conn.take_from_loop()
            part(channel, conn)
        if errors:
            raise errors[0]


def _cancel_all(loop: asyncio.AbstractEventLoop, keeper: asyncio.Task[Any] | None) -> None:
    """Cancel all that runs on a loop but the task that keeps it; called from another flow of control."""

    def cancel() -> None:
        for task in asyncio.all_tasks(loop) - {keeper}:
            task.cancel()

    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
        loop.call_soon_threadsafe(cancel)


def _go_on(runner: asyncio.Runner, conn: Connection) -> None:
    """Let the tasks that an ended conversation has begun go on, in a thread of their own. It is no daemon, so that the
    end of the process waits for it; the flow of control makes another loop for its next client."""
    drain = conn.process_drain if conn.process_drain is not None else Drain(0.0)

    def finish() -> None:
        with runner:
            runner.run(finish_tasks(drain, 2 * LATEST))

    try:
        threading.Thread(target=finish, name=f"tasks of connection {conn.number}", daemon=False).start()
    except RuntimeError:  # the system has no more threads
        runner.close()


def _give_signs(over: asyncio.Future[None], conn: Connection) -> None:
    """Tell the supervisor's watch that the loop turns: nothing else can be seen of a flow that waits in it."""
    if not over.done():
        conn.waits.sign()
        over.get_loop().call_later(SIGNS, _give_signs, over, conn)


async def cancel_tasks(drain: Drain) -> None:
    """At the drain deadline: cancel the tasks of handlers on this loop, name to `drain.lost` those that are no open
    conversation, and give them a moment to end. The tasks of a lifespan live on."""
    tasks = [each for each in tasks_of_clients() if each is not asyncio.current_task()]
    _cancel(tasks, drain)
    if tasks:
        await asyncio.wait(tasks, timeout=CANCELLED)


def _cancel(tasks: list[asyncio.Task[Any]], drain: Drain) -> None:
    if names := tuple(f"task {each.get_name()!r} ({_called(each)})" for each in tasks if not _is_open(each)):
        drain.lost(names)
    for task in tasks:
        task.cancel()


def tasks_of_clients(loop: asyncio.AbstractEventLoop | None = None) -> list[asyncio.Task[Any]]:
    """The tasks on a loop (the running one) that conversations have begun, however indirectly; none of a lifespan."""
    found = []
    for task in asyncio.all_tasks(loop):
        context = context_of(task)
        if context is None or context.get(of_a_client, False):
            found.append(task)
    return found


async def finish_tasks(drain: Drain, spare: float) -> None:
    """Wait for the tasks that conversations have left behind. `spare` seconds before the drain deadline (or a quarter
    of the drain timeout, if that is less) they are named to `drain.lost` and cancelled, and get that time to end."""
    current, spare = asyncio.current_task(), min(spare, drain.timeout / 4)
    while tasks := [each for each in tasks_of_clients() if each is not current]:
        rest = drain.deadline - spare - time.monotonic()
        if rest <= 0:
            _cancel(tasks, drain)
            await asyncio.wait(tasks, timeout=spare)
            return
        await asyncio.wait(tasks, timeout=min(rest, SIGNS))


def _called(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    return str(getattr(coroutine, "__qualname__", coroutine))


def _is_open(task: asyncio.Task[Any]) -> bool:
    """Whether the connection of a task is still open, or was cut at the drain deadline, which an event tells."""
    context = context_of(task)
    channel = context.get(conversation) if context is not None else None
    return channel is not None and (not channel.is_closing() or isinstance(channel._error, ConnectionAbortedError))


def leave_executor(loop: Any) -> None:
    """Keep the end of a loop from waiting for its executor, which would block: the executor's threads are joined at the
    end of the process, as those of all executors (system/process_exit.py)."""

    async def left(timeout: float | None = None) -> None:
        return None

    loop.shutdown_default_executor = left
