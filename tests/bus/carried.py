"""Hosts without a hub, on one loop: what a carrier calls, and a carrier as a hub uses it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable

from pronghorn.bus.carrier import Carrier
from pronghorn.bus.carriers import carrier_of
from pronghorn.bus.wire import SHARED

NUMBERS = itertools.count()
PATIENCE = 30.0


class Inbox:
    """A `Host` that keeps what it hears, and does with evictions what a hub does."""

    def __init__(self) -> None:
        self.id = f"host{next(NUMBERS)}"
        self.heard: list[bytes] = []
        self.evicted: list[tuple[bytes, float]] = []
        self.states: list[str] = []
        self.names: dict[bytes, tuple[float, bool]] = {}
        self.carrier: Carrier | None = None

    def hear(self, data: bytes) -> None:
        self.heard.append(data)

    def here(self) -> Iterable[tuple[bytes, float, bool]]:
        return [(name, since, alone) for name, (since, alone) in self.names.items()]

    def evict(self, name: bytes, before: float) -> None:
        self.evicted.append((name, before))
        if name in self.names and self.names[name][0] < before:
            del self.names[name]
            assert self.carrier
            self.carrier.leave(name)

    def up(self) -> None:
        self.states.append("up")

    def down(self, why: str) -> None:
        self.states.append(why)


class Taking:
    """A host and its carrier, as a hub uses it."""

    def __init__(self, url: str) -> None:
        self.inbox = Inbox()
        self.carrier = self.inbox.carrier = carrier_of(url, self.inbox)

    @property
    def id(self) -> str:
        return self.inbox.id

    async def join(self, name: bytes, mode: int = SHARED, since: float | None = None) -> bool:
        since = self.carrier.now() if since is None else since
        self.inbox.names[name] = since, mode != SHARED
        joined = await self.carrier.join(name, since, mode)
        if not joined:
            del self.inbox.names[name]
        return joined

    def leave(self, name: bytes) -> None:
        del self.inbox.names[name]
        self.carrier.leave(name)

    async def up(self) -> None:
        await until(lambda: self.inbox.states[-1:] == ["up"])


async def until(true: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def hosts(*urls: str) -> AsyncIterator[list[Taking]]:
    """A host for each URL, connected."""
    taking = [Taking(url) for url in urls]
    tasks = [asyncio.create_task(each.carrier.run()) for each in taking]
    try:
        for each in taking:
            await each.up()
        yield taking
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
