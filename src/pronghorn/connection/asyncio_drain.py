"""How the conversation of an asyncio handler is brought to its end while its server drains.

Law: the handler is not told an end of input while it owes its client something: while input is newer than output, while
a coroutine handler does something else than wait to read, while bytes are unsent, while somebody on the bus waits for
what the client answers, and for `drain_quiet` seconds after the last byte. Then, and shortly before the deadline in any
case, the end of input is told. Nothing here interrupts a handler or blocks: `look` is called now and then, on the loop
that has the channel.

Tried and dropped: to tell the end of input as soon as draining begins. To most libraries that says that the client is
gone and its work can be dropped: aiosmtpd lost mails, aiohttp, uvicorn and grpclib replies that were being made.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pronghorn.connection.asked import awaits_answer
from pronghorn.connection.channel import OPENING
from pronghorn.connection.closing import first_word_due, last_call
from pronghorn.connection.own_context import asked_by, conversation
from pronghorn.connection.quiet import Silence, shrunk
from pronghorn.connection.socket_facts import unread, unsent
from pronghorn.errors import End

if TYPE_CHECKING:
    import asyncio

    from pronghorn.connection.asyncio_channel import AnyAsyncioChannel

LOOK = 0.05  # seconds between two looks
SHARE = 20  # looks may take this part of the processor's time
OF_ASYNCIO = tuple(f"asyncio/{each}.py" for each in ("locks", "queues", "taskgroups", "tasks"))  # where tasks meet


class Ending:
    """One conversation that is to end by `deadline` (monotonic), within `timeout` seconds, and after `quiet` seconds
    in which nothing was said. One that is `gentle` has no last call: it ends when it owes nothing. The silence that is
    asked for becomes less with the time, to nothing after `timeout` seconds; from then on input that has not been
    answered counts as input that needs no answer. While somebody else `holds` the end in hand, one that is not gentle
    is told nothing but that the server drains."""

    __slots__ = tuple("_began _channel _gentle _holds _last_call _quiet _silence _timeout _told deadline".split())

    def __init__(
        self,
        channel: AnyAsyncioChannel,
        quiet: float,
        deadline: float,
        timeout: float,
        *,
        gentle: bool = False,
        holds: Callable[[], bool] | None = None,
    ) -> None:
        self._channel, self._holds = channel, holds
        self._quiet = quiet if quiet < timeout or gentle else math.inf
        self._timeout, self._gentle = timeout, gentle
        self._began = 0.0
        self._told = False
        self._silence = Silence()
        self.limit(deadline)

    def limit(self, deadline: float) -> None:
        """It shall end by this deadline, and not be gentle any more unless the deadline is infinite."""
        self.deadline = deadline
        self._last_call = last_call(deadline, self._timeout)
        self._gentle = self._gentle and deadline == math.inf

    def look(self, now: float, tasks: Tasks) -> bool:
        """Do what can be done now. True once there is nothing more to do: the end was told, or has come by itself."""
        channel = self._channel
        if channel.is_closing() or channel.ended:
            return True
        if not self._told and (channel.state is OPENING or first_word_due(channel)):
            channel.read_out()
            return False  # a handshake is brought to its end first
        if not self._told:
            self._told, self._began = True, now
            channel.read_out()
            channel.say_goodbye(End.DRAINING)
            channel.tell_draining()
            if channel.own_drain is not None:
                return False  # its handler waits for the drain, and may have something to say first
        if channel.is_closing() or channel.ended:
            return True
        if channel.stays:
            return self._gentle
        if self._holds is not None and not self._gentle and self._holds():
            return False
        if now >= self._last_call or self.is_over(now, tasks):
            feed_end(channel)
            return self._gentle or not channel.stays
        return False

    def is_over(self, now: float, tasks: Tasks) -> bool:
        """Whether nothing is owed any more, to be asked now and then."""
        channel = self._channel
        if awaits_answer(channel.number):
            return False
        exact = getattr(channel.application, "owes_exactly", None)
        if exact is not None:
            return not (exact() or unread(channel.sock) or _unsent(channel))
        waited = now - self._began if self._gentle else 0.0
        if self._silence.lasts(channel, now) < shrunk(self._quiet, waited, self._timeout):
            return False
        return not owes(channel, tasks, answers=not self._gentle or waited < self._timeout)


class Tasks:
    """The running tasks of each connection, by the context that they were made in; looked up when first asked for."""

    __slots__ = ("_asked", "_held")

    def __init__(self) -> None:
        self._held: dict[Any, list[Any]] | None = None
        self._asked: set[int] = set()

    def held_by(self, channel: AnyAsyncioChannel) -> list[Any]:
        """All of them: a coroutine handler's own, and what it has begun."""
        return self._look().get(channel, [])

    def asked_by(self, channel: AnyAsyncioChannel) -> bool:
        """Whether one was begun for the protocol's input, and not when its connection was made."""
        self._look()
        return channel.number in self._asked

    def _look(self) -> dict[Any, list[Any]]:
        if self._held is None:
            import asyncio  # not everybody who serves needs it

            self._held = {}
            for task in asyncio.all_tasks():
                context = context_of(task)
                if context is not None:
                    self._held.setdefault(context.get(conversation), []).append(task)
                    self._asked.add(context.get(asked_by, 0))
        return self._held


def context_of(task: Any) -> contextvars.Context | None:
    """The context that a task runs in: `task.get_context()`, which Python 3.11 does not have."""
    if hasattr(task, "get_context"):
        return task.get_context()  # type: ignore[no-any-return]
    return next((each for each in gc.get_referents(task) if isinstance(each, contextvars.Context)), None)


def owes(channel: AnyAsyncioChannel, tasks: Tasks, answers: bool = True) -> bool:
    """Whether the handler owes its client something, as far as one can tell from beside it. Without `answers` input
    that nobody works at needs none."""
    if _unsent(channel) or (channel.wants_read and unread(channel.sock)):
        return True
    if tasks.asked_by(channel):  # an acknowledgement is not the answer
        return True
    reader, answered = getattr(channel.application, "_stream_reader", None), channel.answered() or not answers
    if reader is None:
        return not answered
    if reader._waiter is None:  # nobody waits to read
        return True
    held = tasks.held_by(channel)
    begun = len(reader._buffer) > 0 and not channel.answered()
    return any(works(task, reader) for task in held) or begun or (not answered and len(held) > 1)


def works(task: Any, reader: Any) -> bool:
    """Whether a task of a handler over asyncio's streams does something else than wait to read, or for another task of
    its own: it sleeps, say, or asks a database."""
    waiter = getattr(task, "_fut_waiter", None)
    if hasattr(waiter, "get_coro") or type(waiter).__name__ == "_GatheringFuture":
        return False
    inner = _innermost(task.get_coro())
    for kind in ("cr", "ag", "gi"):
        if hasattr(inner, f"{kind}_code"):
            code, frame = getattr(inner, f"{kind}_code"), getattr(inner, f"{kind}_frame")
            if code.co_name == "_wait_for_data":
                return frame is None or frame.f_locals.get("self") is not reader
            return not code.co_filename.endswith(OF_ASYNCIO) or code.co_name == "sleep"
    return True


def _innermost(coroutine: Any) -> Any:
    """What a suspended coroutine awaits at the bottom of it all, as far as that is code."""
    inner = coroutine
    while coroutine is not None:
        if type(coroutine).__name__.startswith("async_generator_"):  # a step of a generator: it does not tell whose
            coroutine = next((each for each in gc.get_referents(coroutine) if hasattr(each, "ag_code")), None)
        for kind, waits in (("cr", "cr_await"), ("ag", "ag_await"), ("gi", "gi_yieldfrom")):
            if hasattr(coroutine, f"{kind}_code"):
                inner, coroutine = coroutine, getattr(coroutine, waits)
                break
        else:
            break
    return inner


def feed_end(channel: AnyAsyncioChannel) -> None:
    """Tell the handler that its input has ended. With asyncio's own TLS above the channel (start_tls) that is told
    above it: below, it would cut the TLS off, and what the handler still has to say with it."""
    above = channel.application
    if above is channel.protocol:
        channel.feed_eof()
        return
    try:
        if not channel.context.run(above.eof_received):
            channel.protocol._app_transport.close()
        elif not hasattr(above, "_stream_reader"):
            channel.stay()
    except BaseException as error:
        channel.loop.failed(channel, error)
        channel.close()


class Leave:
    """Has the one conversation of an asyncio loop end, told from another flow of control."""

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: AnyAsyncioChannel, quiet: float) -> None:
        self._loop, self._channel, self._quiet = loop, channel, quiet
        self._ending: Ending | None = None
        self._looks = False

    def __call__(self, deadline: float, timeout: float) -> None:
        """By a deadline, within so many seconds; gently if that is infinite (see Ending)."""
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: it is over
            self._loop.call_soon_threadsafe(self._begin, deadline, timeout)

    def _begin(self, deadline: float, timeout: float) -> None:
        if self._ending is None:
            self._ending = Ending(self._channel, self._quiet, deadline, timeout, gentle=deadline == math.inf)
        self._ending.limit(deadline)
        if not self._looks:
            self._look()

    def _look(self) -> None:
        assert self._ending is not None
        endings = {0: self._ending}
        rest = look_at_all(endings, time.monotonic())
        self._looks = bool(endings)
        if self._looks:
            self._loop.call_later(rest, self._look)


def look_at_all(endings: dict[int, Ending], now: float) -> float:
    """One look at each; those that are through are taken out. Seconds until the next look."""
    began, tasks = time.thread_time(), Tasks()
    for number, ending in list(endings.items()):
        if ending.look(now, tasks):
            del endings[number]
    return max(LOOK, SHARE * (time.thread_time() - began))


def _unsent(channel: AnyAsyncioChannel) -> bool:
    return channel.get_write_buffer_size() > 0 or unsent(channel.sock) > 0
