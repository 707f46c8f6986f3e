"""The bus over Redis: two and three hosts on one loop, against a real redis-server and a real valkey-server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from carrier_trials import PATIENCE, TRIALS, Double, Party, hosts, run, until

import brokers
from brokers import Broker, asked
from pronghorn.bus.carrier import Away
from pronghorn.bus.wire import REFUSE, REPLACE, SHARED

pytest.importorskip("redis", reason="redis-py is not installed")
from redis.asyncio.connection import Connection

from pronghorn.bus.redis_carrier import RedisCarrier
from pronghorn.bus.redis_pipe import Forgotten, Pipe

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = brokers.redis(tmp_path_factory.mktemp("redis"))
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


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.__name__)
def test_what_every_carrier_does(url: str, trial: Callable[[Party], Awaitable[None]]) -> None:
    run(url, trial)


@pytest.mark.slow
def test_valkey_does_the_same(tmp_path: Path) -> None:
    one = brokers.redis(tmp_path, server="valkey-server")
    with brokers.running(one):
        for trial in TRIALS:
            run(f"redis://127.0.0.1:{one.port}?prefix={trial.__name__}", trial)


def test_what_other_programs_send_is_told_and_harms_nothing(broker: Broker, url: str) -> None:
    async def trial(party: Party) -> None:
        one, two = [await party.host() for _ in range(2)]
        await one.join(b"room")
        asked(broker, "PUBLISH", f"{{{url.partition('prefix=')[2]}}}:evict:{one.id}", "now room")
        await until(lambda: one.strange)
        assert await two.carrier.to_all(b"room", b"x") == {one.id}
        assert not one.downs and one.ups == 1

    run(url, trial)


def test_a_fault_of_ours_is_told_with_its_place_and_the_bus_goes_on(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def trial(party: Party) -> None:
        one, two = [await party.host() for _ in range(2)]
        await one.join(b"room")
        one.hear = lambda data: int("a fault")  # type: ignore[assignment, method-assign, return-value]
        await two.carrier.to_all(b"room", b"x")
        await until(lambda: one.downs)
        assert one.downs[0].endswith("a fault of the bus, which the log has: ValueError.")
        del one.hear
        await until(lambda: one.ups == 2)
        assert await two.carrier.to_all(b"room", b"x") == {one.id}

    run(url, trial)
    assert caplog.text.count("invalid literal for int() with base 10: 'a fault'") == 1


@pytest.mark.slow
def test_another_password_is_taken_by_the_next_connection_or_the_one_before_where_it_is_refused(broker: Broker) -> None:
    def user(number: str) -> str:
        return f"redis://renewed:{number}@127.0.0.1:{broker.port}?prefix=renewed"

    async def trial(party: Party) -> None:
        one = await party.host()
        one.carrier.renew(user("2"))
        for ups, admitted in ((2, "1"), (3, "2"), (4, "2")):
            asked(broker, "ACL", "SETUSER", "renewed", "resetpass", f">{admitted}")
            asked(broker, "CLIENT", "KILL", "USER", "renewed")
            await until(lambda ups=ups: one.ups == ups)  # type: ignore[misc]
        one.carrier.renew(user("3"))
        one.carrier.renew(user("4"))
        asked(broker, "CLIENT", "KILL", "USER", "renewed")
        await until(lambda: one.ups == 5)

    asked(broker, "ACL", "SETUSER", "renewed", "on", ">1", "~*", "&*", "+@all")
    run(user("1"), trial)


def test_of_two_that_join_at_once_one_stays_whatever_their_clocks_say(broker: Broker, url: str) -> None:
    """A host whose idea of the time is behind joins after another; that it was evicted by that one before reaches it
    only then, or while Redis owes it the answer. It had been evicted too, and nobody had the name."""
    prefix = f"{{{url.partition('prefix=')[2]}}}:"

    async def trial(party: Party) -> None:
        one, two = [await party.host() for _ in range(2)]
        for when in ("late", "meanwhile"):
            name = when.encode()
            await two.join(name, REPLACE)
            (before,) = asked(broker, "ZRANGE", f"{prefix}n:{when}", "0", "-1", "WITHSCORES")[1::2]
            joining = asyncio.ensure_future(one.join(name, REPLACE, behind=1.0))
            if when == "meanwhile":
                await asyncio.sleep(0)
                assert one.carrier._asked  # type: ignore[attr-defined]
                one.carrier._evict(before, name)  # type: ignore[attr-defined]
            assert await joining
            asked(broker, "PUBLISH", f"{prefix}evict:{one.id}", before.decode() + " " + when)
            assert await two.carrier.to_one(name, b"x") == one.id
            await until(lambda when=when: len(one.heard) == 1 + (when == "meanwhile"))  # type: ignore[misc]
            assert two.evicted[-1] == name and not one.evicted
            assert await two.join(name, REPLACE, behind=5.0)
            await until(lambda name=name: name in one.evicted)  # type: ignore[misc]
            one.evicted.clear()
        assert not one.carrier._asked and not one.carrier._held  # type: ignore[attr-defined]

    run(url, trial)


def test_hosts_have_one_clock(url: str) -> None:
    async def trial() -> None:
        async with hosts(url, url) as (a, b):
            assert abs(a.carrier.now() - time.time()) < 5 and abs(a.carrier.now() - b.carrier.now()) < 5

    asyncio.run(trial())


def test_a_host_that_ends_leaves_nothing(broker: Broker, url: str) -> None:
    async def trial() -> None:
        async with hosts(url) as (a,):
            await asyncio.gather(*(a.join(b"%d" % each) for each in range(1200)))
            assert len(keys(broker, url)) == 1202
        assert keys(broker, url) == set()

    asyncio.run(trial())


@pytest.mark.slow
def test_a_dead_host_is_noticed_and_its_names_go(broker: Broker, url: str) -> None:
    async def trial() -> None:
        async with hosts(url, url, url) as (a, b, dead):
            await asyncio.gather(*(dead.join(b"%d" % each) for each in range(1200)), dead.join(b"room"))
            await b.join(b"room", behind=1000.0)
            await dead.join(b"room")
            dead.carrier._say_goodbye = nothing  # type: ignore[attr-defined]
            await dead.end()
            assert await a.carrier.to_one(b"room", b"x") and await a.carrier.to_all(b"room", b"y") == {b.id}
            for call in (a.carrier.to_one, a.carrier.to_all):
                with pytest.raises(Away, match="may be back") as away:
                    await call(b"8", b"x")
                assert away.value.soon
            with pytest.raises(Away, match="may be back"):
                await b.join(b"7", REFUSE)
            assert asked(broker, "DEL", f"{{{url.partition('prefix=')[2]}}}:lost") == 1  # as after LOST seconds
            assert not await a.carrier.to_one(b"8", b"x")
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
            await until(lambda: not a.is_up and not b.is_up)
            with pytest.raises(Away, match=f"Redis at 127.0.0.1:{own.port} "):
                await a.carrier.to_all(b"room", b"x")
            with pytest.raises(Away):
                await b.join(b"7", REPLACE)  # later than a
            with pytest.raises(Away):
                await a.join(b"new", behind=1e9)
            b.leave(b"room")
            a.leave(b"8")
            own.start()
            await until(lambda: a.is_up and b.is_up)
            await until(lambda: b"7" not in a.joined)
            assert await a.carrier.to_all(b"7", b"x") == {b.id} and await b.carrier.to_all(b"9", b"x") == {a.id}
            assert await b.carrier.to_all(b"new", b"x") == {a.id}
            assert not await b.carrier.to_one(b"8", b"x") and not await a.carrier.to_one(b"room", b"x")

    asyncio.run(trial())


@pytest.mark.slow
def test_a_broker_that_stops_is_noticed_and_bounds_what_waits(own: Broker) -> None:
    url = f"redis://127.0.0.1:{own.port}?socket_timeout=0.5"

    async def trial() -> None:
        async with hosts(url, url) as (a, b):
            with contextlib.suppress(Away):  # of a pause that is longer: it is joined again
                await b.join(b"room")
            await until(lambda: a.is_up and b.is_up)
            own.signal(signal.SIGSTOP)
            try:
                sending = [asyncio.create_task(a.carrier.to_all(b"room", b"x" * 2**20)) for _ in range(10)]
                await until(lambda: "does not answer" in a.states[-1] and "does not answer" in b.states[-1])
                results = await asyncio.gather(*sending, return_exceptions=True)
                assert all(isinstance(each, Away) for each in results) and a.carrier.dropped == 3
                assert [getattr(each, "perhaps", None) for each in results] == [True] * 7 + [False] * 3
            finally:
                own.signal(signal.SIGCONT)
            await until(lambda: a.is_up and b.is_up)
            assert await a.carrier.to_all(b"room", b"y") == {b.id}
            await until(lambda: b.heard[-1:] == [b"y"])

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
            await until(lambda: len(b.heard) == 330)
            assert [each for each in b.heard if each != b"x"] == [b"%d" % each for each in range(300)]
            prefix = url.partition("prefix=")[2]
            asked(broker, "DEL", *(f"{{{prefix}}}:".encode() + each for each in keys(broker, url)))  # as FLUSHALL does
            await until(lambda: len(a.states) == 3 and len(b.states) == 3)
            assert b.states[1] == f"Redis at 127.0.0.1:{broker.port} has taken this host for dead."
            assert await a.carrier.to_all(b"room", b"y") == {b.id}

    asyncio.run(trial())


def test_a_command_is_answered_whatever_becomes_of_its_connection(broker: Broker) -> None:
    async def trial() -> None:
        connection = Connection(port=broker.port, protocol=2, socket_timeout=None)
        await connection.connect()
        pipe = Pipe(connection)
        running = asyncio.create_task(pipe.run())
        asked = [pipe.ask(b"PING")]
        await asked[0]
        asked += [pipe.ask(b"BLPOP", b"none", b"0"), pipe.ask(b"PING")]
        await asyncio.sleep(0)
        running.cancel()
        asyncio.get_running_loop().call_soon(running.cancel)  # by each that notices
        await asyncio.wait([running])
        asked.append(pipe.ask(b"PING"))
        results = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), PATIENCE)
        assert results[0] == b"PONG" and [type(each) for each in results[1:]] == [Forgotten] * 3
        assert not results[3].sent

    asyncio.run(trial())


def test_a_carrier_that_is_cancelled_while_it_loses_its_connections_closes_them(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[Any] = []

    async def begin(self: RedisCarrier, session: Any) -> None:
        sessions.append(session)
        asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)  # type: ignore[union-attr]
        raise ConnectionError

    monkeypatch.setattr(RedisCarrier, "_begin", begin)

    async def trial(party: Party) -> None:
        await asyncio.wait([party.stranger().task], timeout=PATIENCE)
        (session,) = sessions
        assert not session.inbox.is_connected and not session._commands.is_connected

    run(url, trial)


@pytest.mark.slow
def test_after_any_trouble_the_directory_says_who_is_where(own: Broker) -> None:
    """Hosts join, leave and send at random, while connections and the broker end, hang, and forget."""
    chance = random.Random()
    url = f"redis://127.0.0.1:{own.port}?socket_timeout=0.5"
    names = [b"%d" % each for each in range(12)]

    async def trouble() -> None:
        for _ in range(8):
            await asyncio.sleep(chance.random() * 0.3)
            what = chance.choice(["kill", "stop", "CLIENT KILL TYPE normal", "CLIENT KILL TYPE pubsub", "FLUSHALL"])
            if what == "kill":
                own.kill()
                own.start()
            elif what == "stop":
                own.signal(signal.SIGSTOP)
                await asyncio.sleep(chance.random())
                own.signal(signal.SIGCONT)
            else:
                asked(own, *what.split())
                asked(own, "SCRIPT", "FLUSH")

    async def act(host: Double, over: asyncio.Future[None]) -> None:
        while not over.done():
            name = chance.choice(names)
            try:
                if name in host.joined:
                    host.leave(name)
                else:
                    await host.join(name, chance.choice([SHARED, REPLACE]))
                await host.carrier.to_all(name, b"x")
                await host.carrier.to_one(name, b"y")
            except Away:
                await asyncio.sleep(0.02)

    def right() -> bool:
        found = {each: asked(own, "ZRANGE", b"{pronghorn}:n:" + each, "0", "-1") for each in names}
        there = {name: {each[1:].partition(b".")[0].decode() for each in hosts} for name, hosts in found.items()}
        return there == {each: {host.id for host in party if each in host.joined} for each in names}

    async def trial() -> None:
        async with hosts(url, url, url) as three:
            party.extend(three)
            over = asyncio.ensure_future(trouble())
            await asyncio.gather(over, *(act(host, over) for host in three))
            await until(lambda: all(host.is_up for host in three) and right())

    party: list[Double] = []
    asyncio.run(trial())
