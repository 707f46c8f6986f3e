"""The bus over Redis: two and three hosts on one loop, against a real redis-server and a real valkey-server."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from carried import Taking, hosts, until

import brokers
from brokers import Broker, asked
from pronghorn.bus.carrier import Away
from pronghorn.bus.wire import REFUSE, REPLACE

pytest.importorskip("redis", reason="redis-py is not installed")
NUMBERS = itertools.count()


@pytest.fixture(scope="module", params=["redis-server", pytest.param("valkey-server", marks=pytest.mark.slow)])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = brokers.redis(tmp_path_factory.mktemp("redis"), server=request.param)
    with brokers.running(one):
        yield one


@pytest.fixture
def url(broker: Broker) -> str:
    return f"redis://127.0.0.1:{broker.port}?prefix=t{next(NUMBERS)}"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Broker]:
    """A broker that the test may end."""
    one = brokers.redis(tmp_path)
    with brokers.running(one):
        yield one


def keys(broker: Broker, url: str) -> set[bytes]:
    prefix = url.partition("prefix=")[2]
    return {each.partition(b"}:")[2] for each in asked(broker, "KEYS", f"{{{prefix}}}:*")}


def test_what_is_sent_comes_to_every_other_host_or_to_the_latest(url: str) -> None:
    async def trial() -> None:
        async with hosts(url, url, url) as (a, b, c):
            assert not await a.carrier.to_one(b"room", b"?") and await a.carrier.to_all(b"room", b"?") == set()
            assert await a.join(b"room") and await b.join(b"room", since=1.0)  # whatever its clock says, b is later
            assert await a.carrier.to_all(b"room", b"from a") == {b.id}
            assert await c.carrier.to_all(b"room", b"from c") == {a.id, b.id}
            assert await c.carrier.to_one(b"room", b"one")
            await a.join(b"room")
            assert await a.carrier.to_one(b"room", b"own")
            c.carrier.send(b.id, b"straight")
            b.leave(b"room")
            assert await b.carrier.to_all(b"room", b"from b") == {a.id}
            await until(lambda: len(a.inbox.heard) == 3 and len(b.inbox.heard) == 4)
            assert a.inbox.heard == [b"from c", b"own", b"from b"]
            assert b.inbox.heard == [b"from a", b"from c", b"one", b"straight"]
            assert c.inbox.heard == []
            assert abs(a.carrier.now() - time.time()) < 1 and abs(a.carrier.now() - b.carrier.now()) < 0.1

    asyncio.run(trial())


def test_who_wants_a_name_alone_has_it_alone(url: str) -> None:
    async def trial() -> None:
        async with hosts(url, url, url) as (a, b, c):
            await a.join(b"device")
            await b.join(b"device")
            assert not await c.join(b"device", REFUSE)
            assert await c.join(b"device", REPLACE, since=1.0)
            await until(lambda: not a.inbox.names and not b.inbox.names)
            assert c.inbox.evicted == [] and await a.carrier.to_all(b"device", b"x") == {c.id}
            assert not await a.join(b"device", REFUSE)
            assert await c.join(b"device", REFUSE)  # it has it
            c.leave(b"device")
            assert await a.join(b"device", REFUSE) and await a.carrier.to_all(b"device", b"x") == set()

    asyncio.run(trial())


def test_names_and_payloads_are_any_bytes_and_keep_their_order(url: str) -> None:
    name, data = bytes(range(256))[1:], [bytes([each % 256]) * each for each in range(0, 4000, 7)]

    async def trial() -> None:
        async with hosts(url, url) as (a, b):
            for each in (name, b"\0", b"{x} \r\n *", b"\xff" * 255):
                await b.join(each)
                assert await a.carrier.to_all(each, each) == {b.id}
                await a.join(each, REPLACE)
            await until(lambda: not b.inbox.names)
            assert [each for each, _ in b.inbox.evicted] == b.inbox.heard == [name, b"\0", b"{x} \r\n *", b"\xff" * 255]
            b.inbox.heard.clear()
            await b.join(name)
            await asyncio.gather(
                *(a.carrier.to_all(name, each) for each in data), a.carrier.to_one(name, b"\0" * 2**20)
            )
            await until(lambda: len(b.inbox.heard) == len(data) + 1)
            assert b.inbox.heard == [*data, b"\0" * 2**20]

    asyncio.run(trial())


def test_a_host_that_ends_leaves_nothing(broker: Broker, url: str) -> None:
    async def trial() -> None:
        async with hosts(url) as (a,):
            await asyncio.gather(*(a.join(b"%d" % each) for each in range(1200)))
            assert len(keys(broker, url)) == 1202
        assert keys(broker, url) == set()

    asyncio.run(trial())


def test_a_dead_host_is_noticed_and_its_names_go(broker: Broker, url: str) -> None:
    async def trial() -> None:
        async with hosts(url, url) as (a, b):
            dead = Taking(url)
            running = asyncio.create_task(dead.carrier.run())
            await dead.up()
            await asyncio.gather(*(dead.join(b"%d" % each) for each in range(1200)), dead.join(b"room"))
            await b.join(b"room", since=1.0)
            await dead.join(b"room")
            dead.carrier._say_goodbye = nothing  # type: ignore[attr-defined]
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert await a.carrier.to_one(b"room", b"x") and await a.carrier.to_all(b"room", b"y") == {b.id}
            assert await b.join(b"7", REFUSE)
            await until(lambda: keys(broker, url) == {b"n:room", b"n:7", b"hosts", b"of:" + b.id.encode() + b".1"})

    asyncio.run(trial())


async def nothing(session: object) -> None:
    """In the place of a goodbye."""


def test_what_is_here_is_joined_again_after_the_broker_was_away(own: Broker) -> None:
    url = f"redis://127.0.0.1:{own.port}/1"

    async def trial() -> None:
        async with hosts(url, url) as (a, b):
            await asyncio.gather(*(a.join(b"%d" % each, REPLACE) for each in range(2000)), b.join(b"room"))
            own.kill()
            await until(lambda: a.inbox.states[-1] != "up" and b.inbox.states[-1] != "up")
            with pytest.raises(Away, match=f"Redis at 127.0.0.1:{own.port} "):
                await a.carrier.to_all(b"room", b"x")
            with pytest.raises(Away):
                await b.join(b"7", REPLACE)  # later than a
            with pytest.raises(Away):
                await a.join(b"new", since=5.0)
            b.leave(b"room")
            a.leave(b"8")
            own.start()
            await until(lambda: a.inbox.states[-1] == "up" and b.inbox.states[-1] == "up", 5.0)
            await until(lambda: b"7" not in a.inbox.names)
            assert await a.carrier.to_all(b"7", b"x") == {b.id} and await b.carrier.to_all(b"9", b"x") == {a.id}
            assert await b.carrier.to_all(b"new", b"x") == {a.id}
            assert not await b.carrier.to_one(b"8", b"x") and not await a.carrier.to_one(b"room", b"x")

    asyncio.run(trial())


@pytest.mark.slow
def test_a_broker_that_stops_is_noticed_and_bounds_what_waits(own: Broker) -> None:
    url = f"redis://127.0.0.1:{own.port}?socket_timeout=0.5"

    async def trial() -> None:
        async with hosts(url, url) as (a, b):
            await b.join(b"room")
            own.signal(signal.SIGSTOP)
            try:
                sending = [asyncio.create_task(a.carrier.to_all(b"room", b"x" * 2**20)) for _ in range(10)]
                await until(lambda: "does not answer" in a.inbox.states[-1] and "does not answer" in b.inbox.states[-1])
                results = await asyncio.gather(*sending, return_exceptions=True)
                assert all(isinstance(each, Away) for each in results) and a.carrier.dropped == 3
                assert [getattr(each, "perhaps", None) for each in results] == [True] * 7 + [False] * 3
            finally:
                own.signal(signal.SIGCONT)
            await until(lambda: a.inbox.states[-1] == "up" and b.inbox.states[-1] == "up")
            assert await a.carrier.to_all(b"room", b"y") == {b.id}
            await until(lambda: b.inbox.heard[-1:] == [b"y"])

    asyncio.run(trial())


@pytest.mark.slow
def test_what_redis_forgets_it_is_told_again(broker: Broker, url: str) -> None:
    async def trial() -> None:
        async with hosts(url, url) as (a, b):
            await b.join(b"room")
            for each in range(30):
                if not each % 10:
                    asked(broker, "SCRIPT", "FLUSH")
                sending = [asyncio.ensure_future(a.carrier.to_all(b"room", b"%d" % (10 * each + n))) for n in range(10)]
                await asyncio.sleep(0)
                sending.append(asyncio.ensure_future(a.carrier.to_all(b"room", b"x")))
                assert await asyncio.gather(*sending) == [{b.id}] * 11
            await until(lambda: len(b.inbox.heard) == 330)
            assert [each for each in b.inbox.heard if each != b"x"] == [b"%d" % each for each in range(300)]
            prefix = url.partition("prefix=")[2]
            asked(broker, "DEL", *(f"{{{prefix}}}:".encode() + each for each in keys(broker, url)))  # as FLUSHALL does
            await until(lambda: len(a.inbox.states) == 3 and len(b.inbox.states) == 3)
            assert b.inbox.states[1] == f"Redis at 127.0.0.1:{broker.port} has taken this host for dead."
            assert await a.carrier.to_all(b"room", b"y") == {b.id}

    asyncio.run(trial())
