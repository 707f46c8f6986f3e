"""What a client in another process publishes and asks through when it is given a broker's URL: a host without members.

Law: one thread of this process has an asyncio loop on which the carrier runs, from the first use on; callers are any
threads, and tasks of any loops. Whoever waits when it ends learns that it has. A forked process begins anew.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar, cast

from pronghorn.bus.carrier import Away
from pronghorn.bus.carriers import carrier_of
from pronghorn.bus.errors import BusLost, BusUnavailable, HubSilent
from pronghorn.bus.far import Far, Nobody
from pronghorn.bus.requests import PATIENCE

Result = TypeVar("Result")
FAREWELL = 2.0  # seconds in which the connection to the broker is closed
FIRST_PATIENCE = 5.0  # seconds that callers wait for the first connection, within the time of each
AWAY_PATIENCE = 1.0  # seconds that a caller waits for a broker that went away, or that has not been there by then
CLOSED = "The client has been closed meanwhile."
HINT = "Is the broker running, and is the URL right?"


class BrokerClient:
    """The thread, its loop, and this process among the hosts."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._patient = time.monotonic() + FIRST_PATIENCE
        self._guard = threading.Lock()
        self.is_over = False
        """It takes nothing more."""
        self._calls: set[asyncio.Task[Any]] = set()
        started: Future[Far] = Future()
        self._thread = threading.Thread(target=self._run, args=(url, started), name="pronghorn-bus", daemon=True)
        self._thread.start()
        self._far = started.result()

    def _run(self, url: str, started: Future[Far]) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            far = Far(lambda host: carrier_of(url, host), Nobody())
        except BaseException as error:
            self._loop.close()
            started.set_exception(error)
            return
        self._running = self._loop.create_task(far.carrier.run())
        self._running.add_done_callback(lambda _: self._loop.stop())
        started.set_result(far)
        self._loop.run_forever()
        self._over()
        while pending := asyncio.all_tasks(self._loop):
            for each in pending:
                each.cancel()
            self._loop.run_until_complete(asyncio.wait(pending))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _over(self) -> None:
        with self._guard:
            self.is_over = True
        self._loop.run_until_complete(asyncio.sleep(0))  # what was begun before is a task then

    def publish(self, seconds: float, name: bytes, payload: bytes, to_one: bool) -> Future[int]:
        """How many connections have taken it, on all hosts."""
        far = self._far
        return self._begin(seconds, 0, lambda _: (far.publish_to_one if to_one else far.publish)(name, payload))

    def ask(self, seconds: float, name: bytes, payload: bytes) -> Future[tuple[int, bytes]]:
        """What became of a question (see wire.py), and the answer."""
        return self._begin(seconds, PATIENCE, lambda left: self._far.ask(name, payload, left))

    def _begin(
        self, seconds: float, more: float, call: Callable[[float], Coroutine[Any, Any, Result]]
    ) -> Future[Result]:
        """Have the loop do it, as soon as the broker is there, within the time; the broker itself may owe it for
        some seconds more."""
        until = time.monotonic() + seconds

        async def within() -> Result:
            far, task = self._far, cast("asyncio.Task[Any]", asyncio.current_task())
            self._calls.add(task)
            try:
                patient = AWAY_PATIENCE if far.was_up else max(AWAY_PATIENCE, self._patient - time.monotonic())
                await far.until_up(min(until - time.monotonic(), patient))
                left = until - time.monotonic()
                async with asyncio.timeout(left + more):
                    return await call(left)
            except Away as error:
                raise (BusLost(str(error)) if error.perhaps else BusUnavailable(str(error), HINT)) from None
            except ConnectionResetError:
                raise BusLost("The broker went away meanwhile.") from None
            except TimeoutError:
                raise HubSilent(seconds + more) from None
            except asyncio.CancelledError:
                if not self.is_over:
                    raise
                raise BusLost(CLOSED) from None
            finally:
                self._calls.discard(task)

        with self._guard:
            if self.is_over:
                raise BusUnavailable(CLOSED, "Publish or ask before it is closed.")
            return asyncio.run_coroutine_threadsafe(within(), self._loop)

    def end(self) -> None:
        """Begin to end the connection to the broker. Whoever waits gets BusLost."""
        try:
            self._loop.call_soon_threadsafe(self._begin_to_end)
        except RuntimeError:  # it has ended
            pass

    def _begin_to_end(self) -> None:
        with self._guard:
            self.is_over = True
        self._ending = self._loop.create_task(self._end())

    async def _end(self) -> None:
        """Questions are withdrawn while the broker can still be told."""
        if calls := list(self._calls):
            for each in calls:
                each.cancel()
            await asyncio.wait(calls, timeout=FAREWELL / 2)
        self._running.cancel()

    def join(self) -> None:
        """Wait until it has ended, within a bound."""
        self._thread.join(FAREWELL)
