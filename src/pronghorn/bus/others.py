"""A hub and the other hosts: what joins, is published or is asked here goes to them, and what they send comes here.

Law: in the hub's process, and only where a carrier is set. A name that one connection holds alone is reached here
without the broker; all others by it, since a later member may be elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from pronghorn.bus.carrier import Away, Carrier
from pronghorn.bus.directory import MOST_NAMES
from pronghorn.bus.far import Far, Withdraw
from pronghorn.bus.hub import Errand, Hub, Link
from pronghorn.bus.wire import (
    AWAY,
    EVICT,
    GRANTED,
    LOST,
    PARTED,
    REFUSE,
    REPLY,
    RESULT,
    TAKEN,
    UNDECIDED,
    UNREACHED,
    BadFrame,
)

Said = tuple[Any, ...]
"""What a link is told: a frame's fields."""
FIRST = 1.0
"""Seconds in which the broker is waited for, from the start of the hub on: it was not away, but not connected yet."""
TURN = 1.0
"""Seconds at least in which those that wait before have gone on."""
LOOK_EVERY = 2.0
"""Seconds between two looks at whether hosts that wait for answers are there."""


class Others:
    """The other hosts, for a hub. `open` makes the carrier."""

    def __init__(self, hub: Hub, open: Callable[[Far], Carrier]) -> None:
        self._hub = hub
        hub.unsent = lambda: self.far.carrier.dropped
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: dict[asyncio.Task[None], int] = {}  # those of questions, and the number of each one's link
        hub.directory.keep_empty()
        self.far = Far(open, self)
        self._first = time.monotonic() + FIRST
        self._looks = False

    # What the hub calls.

    def join(self, link: Link, request: int, number: int, name: bytes, mode: int, since: float) -> None:
        """A connection has joined here. It counts as no request: a link that comes back joins for all its connections
        at once. Raises BadFrame."""
        if len(self._tasks) >= MOST_NAMES:
            raise BadFrame(f"what brings it to more than {MOST_NAMES:,} names that are being joined at once")
        self._spawn(self._join(link, request, number, name, mode, since))

    async def _join(self, link: Link, request: int, number: int, name: bytes, mode: int, since: float) -> None:
        outcome = UNDECIDED if mode == REFUSE else GRANTED
        try:
            joined = await self.far.carrier.join(name, since + self._ahead(), mode)
            outcome = GRANTED if joined else TAKEN
        except Away:
            """The broker learns of it when it is back."""
        finally:
            if outcome != GRANTED:
                self._hub.directory.leave((link.number, number), name, since)
                self._hub.left()
            if request and link.number in self._hub.links:
                link.send(RESULT, request, outcome)

    def leave(self, name: bytes) -> None:
        """The last connection has left a name here."""
        # Behind a join of this turn of the loop, whose task has yet to begin.
        asyncio.get_running_loop().call_soon(self.far.carrier.leave, name)

    def publish(self, link: Link, request: int, name: bytes, payload: bytes, to_one: bool) -> None:
        if to_one:
            work = self._publish_to_one(request, name, payload)
        else:
            here: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self.deliver(name, payload, False, here.set_result)
            work = self._publish(request, name, payload, here)
        self._begin(link, work, (RESULT, request, UNREACHED))

    async def _publish(self, request: int, name: bytes, payload: bytes, here: asyncio.Future[int]) -> Said:
        try:
            await self._connected()
            alone = not self._hub.directory.members(name)
            result = await self.far.publish(name, payload, patient=alone) + await here
        except (Away, ConnectionResetError):
            result = UNREACHED - await here
        return RESULT, request, result

    async def _publish_to_one(self, request: int, name: bytes, payload: bytes) -> Said:
        try:
            await self._connected()
            result = await self.far.publish_to_one(name, payload)
        except (Away, ConnectionResetError):
            result = UNREACHED
        return RESULT, request, result

    def ask(self, link: Link, request: int, name: bytes, payload: bytes, seconds: float) -> None:
        task = self._begin(link, self._ask(request, name, payload, seconds), (REPLY, request, LOST, b""))
        self._asked[task] = link.number

    def lose(self, link: int) -> None:
        """A link has ended: nobody waits for the answers to its questions."""
        for task, number in self._asked.items():
            if number == link:
                asyncio.get_running_loop().call_soon(task.cancel)  # behind its first step

    async def withdraw(self, seconds: float) -> None:
        """The hub ends: nobody here waits for an answer any more, and the hosts that were asked are told."""
        asked = list(self._asked)
        for each in asked:
            asyncio.get_running_loop().call_soon(each.cancel)
        if asked:
            await asyncio.wait(asked, timeout=seconds)

    def _look_later(self) -> None:
        """Now and then, as long as there are questions of other hosts: whether these are still there."""
        if not self._looks:
            self._looks = True
            asyncio.get_running_loop().call_later(LOOK_EVERY, lambda: self._spawn(self._look_for_askers()))

    async def _look_for_askers(self) -> None:
        try:
            await self.far.look_for_askers()
        except Away:
            """They cannot be told anything now, either."""
        finally:
            self._looks = False
            if self.far.asked_from_elsewhere:
                self._look_later()

    async def _ask(self, request: int, name: bytes, payload: bytes, seconds: float) -> Said:
        try:
            await self._connected()
            status, answer = await self.far.ask(name, payload, seconds)
        except Away as error:
            status, answer = PARTED if error.perhaps else AWAY, b""
        return REPLY, request, status, answer

    async def _connected(self) -> None:
        """Wait for the first connection to the broker, and for those that have waited for it. Raises Away."""
        left = self._first - time.monotonic()
        if self.far.holds or (left > 0 and not self.far.was_up):
            await self.far.until_up(max(left, TURN))

    def _begin(self, link: Link, work: Coroutine[Any, Any, Said], failed: Said) -> asyncio.Task[None]:
        """Do what a link has asked for, and tell it the result; `failed` where a fault of ours leaves none."""
        link.under_way += 1
        return self._spawn(self._settle(link, work, failed))

    async def _settle(self, link: Link, work: Coroutine[Any, Any, Said], failed: Said) -> None:
        said = failed
        try:
            said = await work
        finally:
            link.under_way -= 1
            if link.number in self._hub.links:
                link.send(*said)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._asked.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            about = {"message": "A request to other hosts has failed.", "exception": error}
            asyncio.get_running_loop().call_exception_handler(about)

    def _ahead(self) -> float:
        """What the carrier's clock is ahead of this machine's."""
        return self.far.carrier.now() - time.monotonic()

    # What other hosts ask of this one: see far.Members.

    def deliver(self, name: bytes, payload: bytes, to_one: bool, done: Callable[[int], None]) -> None:
        if len(payload) > self._hub.longest:
            return done(0)
        self._hub.publish_here(Errand(self._hub, done), 0, name, payload, to_one)

    def question(self, name: bytes, payload: bytes, seconds: float, done: Callable[[int, bytes], None]) -> Withdraw:
        delivery = self._hub.ask_here(Errand(self._hub, done), 0, name, payload, seconds)
        if delivery:
            self._look_later()
        return partial(self._hub.withdraw, delivery)

    def here(self) -> Iterable[tuple[bytes, float, bool]]:
        ahead = self._ahead()
        for name, since, alone in self._hub.directory.all():
            yield name, since + ahead, alone

    def evict(self, name: bytes, before: float) -> None:
        for link, number in self._hub.directory.evict(name, before - self._ahead()):
            self._hub.links[link].send(EVICT, number, name)
        self._hub.left()

    def told(self, up: bool, why: str) -> None:
        self._hub.broker_is(up, why)

    def warn(self, text: str) -> None:
        self._hub.say(text)
