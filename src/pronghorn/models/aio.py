"""An asyncio loop, asyncio's own or uvloop's, calls what is ready; handlers may be coroutines.

It costs a callback object per event, and memory for streams and tasks; uvloop spares some of that. What epoll's page
could not do: run coroutines, with everything that was ever written for asyncio, beside the connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import select
import selectors
import sys
import time
import warnings
from collections.abc import Callable

from pronghorn.connection import asyncio_selectors
from pronghorn.connection.asyncio_channel import AsyncioChannel
from pronghorn.connection.asyncio_epoll import loop_of_many
from pronghorn.connection.channel import OPENING
from pronghorn.connection.interfaces import Watchable
from pronghorn.handlers.asyncio_loop import equip
from pronghorn.handlers.coroutines import LATEST, cancel_tasks, finish_tasks, leave_executor, tasks_of_clients
from pronghorn.models.model import Model
from pronghorn.serving.callback_frames import AsyncioTurns
from pronghorn.serving.channels import Loops
from pronghorn.serving.context import DESERTED, TICK, Context, OutOfMemory
from pronghorn.serving.tls_starts import TlsStarts


class AsyncioLoops(Loops):
    """Acceptors and channels on the running asyncio loop."""

    channel_class = AsyncioChannel
    parts = False  # a task that is about to begin asks its channel for it

    def __init__(self, context: Context) -> None:
        self._loop = asyncio.get_running_loop()
        self._glue = loop_of_many(self._loop, self.failed, self.release, TlsStarts(context), context.guarded)
        self.call_later = self._loop.call_later
        self.changed = self._glue.changed
        self.call_soon_threadsafe = self._glue.call_soon_threadsafe
        self._reports_once = self._glue.reports_once
        self._received: dict[int, int] = {}
        super().__init__(context)

    def release(self, thing: Watchable, proven: bool = False) -> None:
        super().release(thing, proven)
        if not (self.open or self.header_waits) and self.context.drain.lets_go:
            if self.context.drain.begun:
                self._last.set()
            else:
                self._end_if_deserted()

    def let_go(self) -> None:
        super().let_go()
        self._end_if_deserted()

    def _end_if_deserted(self) -> None:
        if self.is_deserted() and not tasks_of_clients():
            self.context.drain.begin(DESERTED)

    async def live(self) -> None:
        """Serve within the handler's lifespan, if it has an async one."""
        lifespans = self.context.lifespans
        adopted = sys.modules.get("pronghorn.serving.adopted")
        async with contextlib.AsyncExitStack() as entered:
            for each in lifespans:
                if adopted is not None:
                    mine = [one for one in self.entrances if one.service.handler.lifespan is each]
                    sealed = any(one.service.tls_at_once for one in mine)
                    listeners = tuple(one.offer.listener for one in mine)
                    adopted.serve_at(adopted.ServingAt(listeners, sealed, self.context.settings.drain_quiet))
                await entered.enter_async_context(each)
            await self.serve()
            self.context.finish()

    async def serve(self) -> None:
        """Until draining began and the last connection is gone."""
        loop, drain = self._loop, self.context.drain
        for entrance in self.entrances:
            entrance.renew()  # with what the lifespans have set
        self._last = asyncio.Event()
        begun = asyncio.Event()
        loop.add_reader(drain.fileno(), begun.set)
        for thing in self.context.watched:
            loop.add_reader(thing.fileno(), thing.on_readable)
        for acceptor in self.acceptors:
            self.changed(acceptor)
        drain.when_let_go(self.let_go)
        self._turn()
        self.keep_deadlines()
        self.context.watch_callbacks(AsyncioTurns(loop), loop)
        self.context.ready()
        await begun.wait()
        loop.remove_reader(drain.fileno())
        self.begin_draining()
        self._last.clear()  # the last one may have gone just before the queue brought another
        if self.open or self.header_waits:
            try:
                await asyncio.wait_for(self._last.wait(), max(0.0, drain.deadline - loop.time()))
            except TimeoutError:
                self.note_late()
                await cancel_tasks(drain)
                self.cut()
                await asyncio.sleep(0)
                return
        self.context.finish()  # the connections are over, whatever is still to do
        await finish_tasks(drain, LATEST)

    def _turn(self) -> None:
        self.context.go_on()
        self.context.guarded(self.tick, time.monotonic())
        if self._reports_once:
            self.context.guarded(self._look_again)
        if self.context.drain.lets_go:
            self._end_if_deserted()
        self.call_later(TICK, self._turn)

    def _look_again(self) -> None:
        """uvloop reports a reset once, with the input before it, and watches that descriptor no more: a channel that
        reads once for each report would never learn of the reset."""
        received = {number: channel.bytes_in for number, channel in self.open.items()}
        poller, suspects = select.poll(), {}
        sealed = self.sealed  # of handshakes and parts of records nothing is counted
        for number, count in received.items():
            channel = self.open[number]
            moved = count != self._received.get(number, 0) or (
                sealed and (channel.state is OPENING or channel.unfinished)
            )
            if moved and channel.wants_read:
                suspects[channel.fileno()] = channel
                poller.register(channel, 0)  # errors are told unasked
        self._received = received
        for fd, events in poller.poll(0) if suspects else ():
            if events & select.POLLERR:
                suspects[fd].on_readable()


WARY = {"SelectSelector": asyncio_selectors.WarySelect, "EpollSelector": getattr(asyncio_selectors, "WaryEpoll", None)}
Maker = Callable[[], asyncio.AbstractEventLoop]
_made: tuple[Maker, asyncio.AbstractEventLoop]  # the loop that was made before the handler was imported, and by what


def begin(loop: str) -> None:
    """Make the loop that will serve the current one (see Model.loop), so that what a module makes of asyncio's while it
    is imported belongs to that loop; new_event_loop() makes loops of the same kind then."""
    global _made
    make = _maker(loop)
    if sys.version_info < (3, 14) and type(asyncio.get_event_loop_policy()) is asyncio.DefaultEventLoopPolicy:
        asyncio.set_event_loop_policy(_policy(make))
    _made = make, make()
    asyncio.set_event_loop(_made[1])


def _policy(make: Maker) -> asyncio.AbstractEventLoopPolicy:
    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return make()

    return Policy()


def _maker(loop: str) -> Maker:
    if loop == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    kind = getattr(selectors, loop)
    selector = WARY.get(kind.__name__) or kind
    return lambda: asyncio.SelectorEventLoop(selector())


def _serving_loop() -> asyncio.AbstractEventLoop:
    """The loop that was made early, or the one that the handler's module has set in its place."""
    make, early = _made
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            current = asyncio.get_event_loop()  # of a policy that the module has set, maybe
    except RuntimeError:  # asyncio.run() has left none
        current = early
    if current is not early and not current.is_closed():
        early.close()
        return current
    return make() if early.is_closed() else early


def serve(context: Context) -> None:
    """Serve on one asyncio loop: the one that `begin` has made."""

    async def main() -> None:
        await AsyncioLoops(context).live()

    serving_loop = _serving_loop()
    with asyncio.Runner(loop_factory=lambda: serving_loop) as runner:
        loop = runner.get_loop()
        asyncio.set_event_loop(loop)
        leave_executor(loop)
        equip(loop)
        serving = loop.create_task(main())
        while not serving.done():
            try:
                loop.run_until_complete(serving)
            except (SystemExit, KeyboardInterrupt) as error:  # a handler's task or timer: asyncio leaves its loop
                if serving.done() or isinstance(error, OutOfMemory):
                    raise
                context.fault(error)
        serving.result()
    asyncio.set_event_loop(None)


def uvloop_missing() -> str | None:
    if importlib.util.find_spec("uvloop") is not None:
        return None
    return "uvloop is not installed: pip install uvloop"


ASYNCIO = Model(
    name="asyncio",
    serve=serve,
    purpose="Coroutines and asyncio protocols, and whatever library they bring along.",
    cost="A handler that blocks or computes for long holds up all others.",
    loop="DefaultSelector",
    is_asyncio=True,
)
UVLOOP = Model(
    name="uvloop",
    serve=serve,
    purpose="What asyncio is for, on a faster loop: the default for asyncio handlers where uvloop is installed.",
    cost="Needs the uvloop package; otherwise as asyncio.",
    loop="uvloop",
    missing=uvloop_missing,
    is_asyncio=True,
)
