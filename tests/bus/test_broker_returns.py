"""What a hub says of other hosts in the moments in which it, or the broker, has just come back."""

from __future__ import annotations

import asyncio

import pytest
from carrier_in_memory import Broker, InMemory
from test_far import Worker, hosts

from pronghorn.bus.others import Others
from pronghorn.bus.wire import ANSWERED, AWAY, NOBODY


def test_a_name_may_be_joined_again_a_moment_after_the_broker_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await two.join(b"device")
        broker.away()
        broker.up = True
        broker.names.clear()
        one.hub.others.far.up()  # type: ignore[union-attr]
        asked = asyncio.ensure_future(one.ask(b"device"))
        told = asyncio.ensure_future(one.publish(b"device", to_one=True))
        await asyncio.sleep(0.1)
        assert not asked.done() and not told.done(), "its host is not back yet"
        broker.back()
        assert await asked == (ANSWERED, b"HOW") and await told == 1
        monkeypatch.setattr("pronghorn.bus.far.REJOINING", 0.1)
        broker.away()
        broker.back()
        assert await one.ask(b"nowhere") == (NOBODY, b""), "once all are back"
        monkeypatch.setattr("pronghorn.bus.far.REJOINING", 30.0)
        broker.away()
        broker.back()
        assert await one.ask(b"nowhere", seconds=0.1) == (AWAY, b""), "it is not known yet"

    hosts(2, trial)


def test_a_hub_that_has_just_begun_is_connected_in_a_moment() -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await two.join(b"device")
        one.hub.others = Others(one.hub, lambda far: InMemory(broker, far))
        asked = asyncio.ensure_future(one.ask(b"device"))
        told = asyncio.ensure_future(one.publish(b"device"))
        await asyncio.sleep(0.05)
        assert not asked.done() and not told.done()
        one.hub.others.far.up()
        assert await asked == (ANSWERED, b"HOW") and await told == 1

    hosts(2, trial)
