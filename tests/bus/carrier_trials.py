"""What every carrier has to do, as trials over a real broker: hosts that are doubles, on one loop.

A trial is a coroutine that is given `Party`, which makes hosts. The test file of each carrier runs all of TRIALS.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import pytest

from pronghorn.bus.carrier import Away, Carrier
from pronghorn.bus.carriers import carrier_of
from pronghorn.bus.wire import REFUSE, REPLACE, SHARED

PATIENCE = 20.0
NAMES = [b"device:4711", b"a.b c*d>e", bytes(range(256))[1:], b"\0", b">", b"*", b"..", b"{x}%2E", "Gerät\r\n".encode()]


class Double:
    """A host: what its carrier has called, and what it has joined, as a hub would know it."""

    joins = True

    def __init__(self, name: str, url: str) -> None:
        self.id = name
        self.heard: list[bytes] = []
        self.evicted: list[bytes] = []
        self.strange: list[str] = []
        self.joined: dict[bytes, tuple[float, bool]] = {}
        self.ups = 0
        self.settling = 0.0
        self.downs: list[str] = []
        self.states: list[str] = []
        self.carrier: Carrier = carrier_of(url, self)
        self.task = asyncio.create_task(self.carrier.run())

    def hear(self, data: bytes) -> None:
        self.heard.append(data)

    def here(self) -> Iterable[tuple[bytes, float, bool]]:
        return [(name, since, alone) for name, (since, alone) in self.joined.items()]

    def evict(self, name: bytes, before: float) -> None:
        if name in self.joined and self.joined[name][0] < before:
            self.evicted.append(name)
            del self.joined[name]
            self.carrier.leave(name)

    def gone(self, host: str) -> None:
        """Nothing waits here."""

    def not_ours(self, what: str) -> None:
        self.strange.append(what)

    def up(self) -> None:
        self.ups += 1
        self.states.append("up")

    def down(self, why: str) -> None:
        self.downs.append(why)
        self.states.append(why)

    async def join(self, name: bytes, mode: int = SHARED, behind: float = 0.0) -> bool:
        """A connection joins; the clock of this host may be behind."""
        since = self.carrier.now() - behind
        self.joined[name] = since, mode != SHARED
        joined = await self.carrier.join(name, since, mode)
        if not joined:
            self.leave(name)  # as a hub does: an eviction may have come meanwhile, and found it too late a member
        await asyncio.sleep(self.settling)
        return joined

    @property
    def is_up(self) -> bool:
        return self.states[-1:] == ["up"]

    def leave(self, name: bytes) -> None:
        self.joined.pop(name, None)
        self.carrier.leave(name)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task], timeout=PATIENCE)


class Party:
    """The hosts of one trial, which are ended with it."""

    settling = 0.0
    """Seconds after which all brokers know what was said to one of them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.hosts: list[Double] = []

    async def host(self, url: str = "") -> Double:
        """One more host, which has reached the broker."""
        host = self.stranger(url)
        await until(lambda: host.ups)
        return host

    def stranger(self, url: str = "") -> Double:
        """One more host, which may never reach it."""
        host = Double(f"host{len(self.hosts)}", url or self.url)
        host.settling = self.settling
        self.hosts.append(host)
        return host

    async def end(self) -> None:
        await asyncio.gather(*(host.end() for host in self.hosts))


@contextlib.asynccontextmanager
async def hosts(*urls: str) -> AsyncIterator[list[Double]]:
    """A host for each of these URLs, which has reached its broker."""
    party = Party("")
    try:
        yield [await party.host(each) for each in urls]
    finally:
        await party.end()


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.005)


async def reached(host: Double, name: bytes, seconds: float = PATIENCE) -> None:
    """Wait until what this host sends to one member of the name finds one."""
    deadline = time.monotonic() + seconds
    while not await host.carrier.to_one(name, b"anybody?"):
        assert time.monotonic() < deadline, "the name was not found"
        await asyncio.sleep(0.01)


def run(url: str, trial: Callable[[Party], Awaitable[None]], kind: type[Party] = Party) -> None:
    """Run a trial, and end its hosts."""

    async def whole() -> None:
        party = kind(url)
        try:
            await trial(party)
        finally:
            await party.end()

    asyncio.run(whole())


async def all_and_one(party: Party) -> None:
    one, two, three = [await party.host() for _ in range(3)]
    assert await three.carrier.to_all(b"room", b"nobody") == set()
    assert await three.carrier.to_one(b"room", b"nobody") == ""
    await one.join(b"room")
    assert await one.carrier.to_all(b"room", b"only me") == set()
    assert await three.carrier.to_all(b"room", b"for one") == {one.id}
    await two.join(b"room", behind=1000.0)
    assert await three.carrier.to_all(b"room", b"for both") == {one.id, two.id}
    assert await one.carrier.to_all(b"room", b"for the other") == {two.id}
    for host in (one, two, three):  # the latest is the one that has joined last, whatever its clock says
        assert await host.carrier.to_one(b"room", b"from " + host.id.encode()) == two.id
    await until(lambda: len(two.heard) >= 5 and len(one.heard) >= 2)
    assert one.heard == [b"for one", b"for both"]
    assert set(two.heard) == {b"for both", b"for the other", b"from host0", b"from host1", b"from host2"}
    assert three.heard == []
    assert await three.carrier.missing([one.id, two.id, "nobody"]) == {"nobody"}
    await two.end()
    while await three.carrier.missing([one.id, two.id]) != {two.id}:
        await asyncio.sleep(0.01)


async def leaving(party: Party) -> None:
    one, two, three = [await party.host() for _ in range(3)]
    await one.join(b"room")
    await two.join(b"room")
    assert await three.carrier.to_one(b"room", b"1")
    two.leave(b"room")
    await until(lambda: not two.joined)
    while await three.carrier.to_all(b"room", b"all") != {one.id}:
        await asyncio.sleep(0.01)
    assert await three.carrier.to_one(b"room", b"2")
    await until(lambda: b"2" in one.heard)
    one.leave(b"room")
    while await three.carrier.to_one(b"room", b"3"):
        await asyncio.sleep(0.01)
    await until(lambda: two.heard)
    assert two.heard[0] == b"1" and b"2" not in two.heard


async def replaced(party: Party) -> None:
    """A hub that is replaced: what has come to it is heard, and until the next one is there nobody is told that nobody
    is."""
    one, old = [await party.host() for _ in range(2)]
    await old.join(b"device", REPLACE)
    assert await one.carrier.to_one(b"device", b"1")
    await until(lambda: one.is_up)
    await old.carrier.retire()
    assert old.heard == [b"1"]
    for call in (one.carrier.to_one, one.carrier.to_all):
        with pytest.raises(Away, match="may be back") as away:
            await call(b"device", b"2")
        assert away.value.soon
    with pytest.raises(Away, match="may be back"):
        await one.join(b"device", REFUSE)
    del one.joined[b"device"]
    new = await party.host()
    await new.join(b"device", REPLACE)
    assert await one.carrier.to_one(b"device", b"3") == new.id
    await until(lambda: new.heard == [b"3"])
    assert old.heard == [b"1"]


async def any_bytes(party: Party) -> None:
    one, two = [await party.host() for _ in range(2)]
    for name in NAMES:
        await one.join(name)
    for name in NAMES:
        assert await two.carrier.to_all(name, name) == {one.id}
    assert not await two.carrier.to_one(b"device:4712", b"")
    two.carrier.send(one.id, b"")
    two.carrier.send(one.id, bytes(range(256)))
    two.carrier.send("nobody", b"lost")
    await until(lambda: len(one.heard) == len(NAMES) + 2)
    assert sorted(one.heard) == sorted([*NAMES, b"", bytes(range(256))])


async def large_data(party: Party) -> None:
    """A payload of a mebibyte with what the bus adds, which is more than some brokers take at once."""
    one, two = [await party.host() for _ in range(2)]
    await one.join(b"room")
    large = b"".join(number.to_bytes(4, "big") for number in range(300_000))
    await two.carrier.to_all(b"room", large)
    await two.carrier.to_one(b"room", large)
    two.carrier.send(one.id, large)
    two.carrier.send(one.id, b"small")
    await until(lambda: len(one.heard) == 4)
    assert one.heard[3] == b"small" and all(each == large for each in one.heard[:3])


async def order(party: Party) -> None:
    one, two, three = [await party.host() for _ in range(3)]
    await one.join(b"room")

    async def send(host: Double, start: int, to_one: bool) -> None:
        method = host.carrier.to_one if to_one else host.carrier.to_all
        sent = [asyncio.ensure_future(method(b"room", b"%d" % number)) for number in range(start, start + 500)]
        await asyncio.gather(*sent)

    await asyncio.gather(send(two, 0, True), send(three, 1000, True), send(one, 2000, True))
    await send(two, 3000, False)
    await until(lambda: len(one.heard) == 2000)
    heard = [int(each) for each in one.heard]
    for start in (0, 1000, 2000, 3000):
        assert [each for each in heard if start <= each < start + 1000] == list(range(start, start + 500))


async def order_while_members_change(party: Party) -> None:
    """Each message to one is taken by exactly one host, and each host takes its own in their order."""
    one, two, three = [await party.host() for _ in range(3)]
    await one.join(b"room")
    sent = [asyncio.ensure_future(three.carrier.to_one(b"room", b"%d" % number)) for number in range(300)]
    await two.join(b"room")
    sent += [asyncio.ensure_future(three.carrier.to_one(b"room", b"%d" % number)) for number in range(300, 600)]
    one.leave(b"room")
    sent += [asyncio.ensure_future(three.carrier.to_one(b"room", b"%d" % number)) for number in range(600, 900)]
    assert all(await asyncio.gather(*sent))
    await until(lambda: len(one.heard) + len(two.heard) >= 900)
    heard = [[int(each) for each in host.heard] for host in (one, two)]
    assert sorted(heard[0] + heard[1]) == list(range(900))
    assert all(each == sorted(each) for each in heard)
    assert two.heard[-1] == b"899"


async def alone(party: Party) -> None:
    one, two, three = [await party.host() for _ in range(3)]
    assert await one.join(b"device", REPLACE)
    assert await two.join(b"device", REPLACE, behind=1000.0)
    await until(lambda: one.evicted == [b"device"])
    assert two.evicted == []
    assert not await three.join(b"device", REFUSE)
    assert await three.carrier.to_all(b"device", b"x") == {two.id}
    two.leave(b"device")
    await until(lambda: not two.joined)
    while not await three.join(b"device", REFUSE):
        await asyncio.sleep(0.01)
    assert not await one.join(b"device", REFUSE)
    assert await one.join(b"device", REPLACE)
    await until(lambda: three.evicted == [b"device"])


async def alone_at_once(party: Party) -> None:
    """Of several that want a name at the same moment one has it, and the others know."""
    hosts = [await party.host() for _ in range(3)]
    for number in range(3):
        refused, replaced = b"refuse:%d" % number, b"replace:%d" % number
        got = await asyncio.gather(*(host.join(refused, REFUSE) for host in hosts))
        assert got.count(True) == 1
        await asyncio.gather(*(host.join(replaced, REPLACE) for host in hosts))
        await until(lambda name=replaced: sum(name in host.joined for host in hosts) == 1)  # type: ignore[misc]
        assert await hosts[0].carrier.to_one(replaced, b"found")


async def a_host_ends(party: Party) -> None:
    one, two = [await party.host() for _ in range(2)]
    await one.join(b"room")
    await two.join(b"room")
    assert await one.carrier.to_all(b"room", b"") == {two.id}
    await two.end()
    while await one.carrier.to_all(b"room", b""):
        await asyncio.sleep(0.01)
    assert await one.carrier.to_one(b"room", b"to myself")
    await until(lambda: b"to myself" in one.heard)


async def joined_and_left_while_joining(party: Party) -> None:
    """What is called last counts, though a join before it is not over."""
    one, outside = [await party.host() for _ in range(2)]
    for last in (False, True):
        joins = [asyncio.ensure_future(one.join(b"device", REPLACE))]
        for _ in range(2):
            await asyncio.sleep(0)
            one.leave(b"device")
            joins.append(asyncio.ensure_future(one.join(b"device", REPLACE)))
        await asyncio.sleep(0)
        if not last:
            one.leave(b"device")
        await asyncio.gather(*joins)
        await asyncio.sleep(party.settling)
        while bool(await outside.carrier.to_one(b"device", b"x")) is not last:  # to leave is not waited for
            await asyncio.sleep(0.01)


async def many_changes(party: Party) -> None:
    """Hosts join, leave and take over a few names as fast as they can: nothing sent to one is heard twice, and in the
    end everybody knows who has what."""
    hosts = [await party.host() for _ in range(3)]
    outside = await party.host()
    for host in hosts:
        host.settling = 0.0
    names = [b"name:%d" % number for number in range(6)]
    dice = random.Random(7)
    end = time.monotonic() + 0.5
    taken: list[bytes] = []

    async def change(host: Double, own: list[bytes]) -> None:
        while time.monotonic() < end:
            name = dice.choice(own)
            if name in host.joined and dice.random() < 0.6:
                host.leave(name)
            else:
                await host.join(name, dice.choice([SHARED, REPLACE, REPLACE, REFUSE]), behind=dice.choice([0.0, 5.0]))
            await asyncio.sleep(dice.random() * 0.004)

    async def send(host: Double) -> None:
        for number in itertools.count():
            data = f"{host.id} {number}".encode()
            if time.monotonic() > end:
                return
            try:
                if await host.carrier.to_one(dice.choice(names), data):
                    taken.append(data)
            except Away as away:  # brokers that have to tell each other may not agree for a while
                assert party.settling and not away.perhaps

    tasks = [change(host, names[first : first + 2]) for host in hosts for first in (0, 2, 4)]
    await asyncio.gather(*tasks, send(outside), send(hosts[0]))
    await until(lambda: sum(len(host.heard) for host in hosts) >= len(taken))
    assert sorted(taken) == sorted(data for host in hosts for data in host.heard)
    for name in names:
        while await outside.carrier.to_all(name, b"") != {host.id for host in hosts if name in host.joined}:
            await asyncio.sleep(0.05)


TRIALS = [
    all_and_one,
    leaving,
    replaced,
    any_bytes,
    large_data,
    order,
    order_while_members_change,
    alone,
    alone_at_once,
    a_host_ends,
    joined_and_left_while_joining,
    many_changes,
]
