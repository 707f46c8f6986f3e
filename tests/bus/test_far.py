"""What hubs of several hosts say to each other, over a carrier in memory: counts, answers, and who holds a name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import virtual_time
from carrier_in_memory import Broker, InMemory

from pronghorn.bus.carrier import Away
from pronghorn.bus.carriers import carrier_in_any_case
from pronghorn.bus.far import ANSWER, PUBLICATION, REACHED, TRIES, Far, Nobody
from pronghorn.bus.hub import Hub
from pronghorn.bus.others import LOOK_EVERY, Others
from pronghorn.bus.wire import (
    ANSWERED,
    ASK,
    AWAY,
    CANCEL,
    DELIVER,
    EVICT,
    GRANTED,
    JOIN,
    LATE,
    LONGEST_PAYLOAD,
    LOST,
    MOST_REACHED,
    NOBODY,
    PARTED,
    PUBLISH,
    QUESTION,
    REFUSE,
    REPLACE,
    REPLY,
    RESULT,
    SHARED,
    TAKEN,
    UNDECIDED,
    UNREACHED,
    Reader,
    packed,
)

pytestmark = pytest.mark.timeout(20)


class Worker:
    """A link of a hub, and the process at its other end."""

    pid = 1
    has_room = True

    def __init__(self, hub: Hub) -> None:
        self.hub, self.number, self.under_way = hub, hub.number(), 0
        hub.links[self.number] = self
        self.reader = Reader()
        self.results: dict[int, asyncio.Future[Any]] = {}
        self.got: list[tuple[bytes, bytes]] = []
        self.evicted: list[tuple[int, bytes]] = []
        self.mute = False
        self.withdrawn = 0
        self.last = 0

    def send(self, *fields: Any) -> None:
        if fields[0] in (RESULT, REPLY):
            self.results[fields[1]].set_result(fields[2:])
        elif fields[0] == EVICT:
            self.evicted.append(fields[1:])
        elif fields[0] == CANCEL:
            self.withdrawn += 1

    def write(self, raw: bytes) -> None:
        for kind, delivery, name, payload, _ in self.reader.feed(raw):
            self.got.append((name, payload))
            if not self.mute:
                asyncio.get_running_loop().call_soon(self._answer, kind, delivery, payload)

    def _answer(self, kind: int, delivery: int, payload: bytes) -> None:
        if kind == DELIVER:
            self.hub.reached(self, delivery, 1)  # type: ignore[arg-type]
        else:
            assert kind == QUESTION
            self.hub.answer(self, delivery, ANSWERED, payload.upper())  # type: ignore[arg-type]

    async def request(self, kind: int, *fields: Any) -> Any:
        calls = {JOIN: self.hub.join, PUBLISH: self.hub.publish, ASK: self.hub.ask}
        self.last += 1
        future = self.results[self.last] = asyncio.get_running_loop().create_future()
        calls[kind](self, self.last, *fields)  # type: ignore[operator]
        return await future

    async def join(self, name: bytes, mode: int = SHARED, number: int = 1) -> int:
        (outcome,) = await self.request(JOIN, number, name, mode, time.monotonic())
        return int(outcome)

    async def publish(self, name: bytes, payload: bytes = b"x", to_one: bool = False) -> int:
        (count,) = await self.request(PUBLISH, name, payload, to_one)
        return int(count)

    async def ask(self, name: bytes, payload: bytes = b"how", seconds: float = 5.0) -> tuple[int, bytes]:
        status, answer = await self.request(ASK, name, payload, seconds)
        return status, answer


async def until(condition: Callable[[], object]) -> None:
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the condition did not come true")


def hosts(count: int, trial: Callable[[Broker, list[Worker]], Awaitable[None]]) -> list[Hub]:
    hubs: list[Hub] = []

    async def main() -> None:
        broker, workers = Broker(), []
        for _ in range(count):
            hub = Hub(1000, time.monotonic, print)
            hub.others = Others(hub, lambda far: InMemory(broker, far))
            hub.others.far.up()
            hub.settled()
            hubs.append(hub)
            workers.append(Worker(hub))
        await trial(broker, workers)
        await asyncio.sleep(0.01)
        for hub, worker in zip(hubs, workers, strict=True):
            assert set(hub.links) == {worker.number}, "nothing is left under way"
            assert worker.under_way == 0

    virtual_time.run(main())
    return hubs


def test_a_publication_reaches_all_hosts_and_counts_them() -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, _, three = workers
        for each in workers:
            assert await each.join(b"room") == GRANTED
        assert await one.publish(b"room", b"hello") == 3
        assert [each.got for each in workers] == [[(b"room", b"hello")]] * 3
        three.hub.leave(three, 1, b"")  # type: ignore[arg-type]
        assert await one.publish(b"room") == 2
        assert await one.publish(b"elsewhere") == 0
        assert await one.publish(b"room", bytes(1001)) == -1

    hosts(3, trial)


def test_one_is_the_latest_to_join_on_whichever_host() -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await two.join(b"room")
        await one.join(b"room")
        for each in workers:
            assert await each.publish(b"room", b"p", to_one=True) == 1
            assert await each.ask(b"room", b"q") == (ANSWERED, b"Q")
        assert [payload for _, payload in one.got] == [b"p", b"q"] * 2
        assert two.got == []
        assert await one.ask(b"nowhere") == (NOBODY, b"")
        assert await one.publish(b"nowhere", to_one=True) == 0

    hosts(2, trial)


def test_who_joins_and_leaves_in_one_moment_has_left() -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        for mode in (SHARED, REPLACE):
            one.hub.join(one, 0, 1, b"room", mode, time.monotonic())  # type: ignore[arg-type]
            one.hub.leave(one, 1, b"")  # type: ignore[arg-type]
            await asyncio.sleep(0.01)
            assert not broker.names[b"room"] and await two.publish(b"room") == 0
        one.hub.join(one, 0, 1, b"room", SHARED, time.monotonic())  # type: ignore[arg-type]
        one.hub.leave(one, 1, b"")  # type: ignore[arg-type]
        await one.join(b"room", number=2)
        assert await two.publish(b"room") == 1

    hosts(2, trial)


def test_a_name_held_alone_changes_hosts() -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await one.join(b"device", REPLACE)
        assert await two.join(b"device", REFUSE) == TAKEN
        assert list(two.hub.directory.members(b"device")) == []
        await two.join(b"device", REPLACE)
        assert one.evicted == [(1, b"device")]
        assert await one.ask(b"device") == (ANSWERED, b"HOW")
        assert two.got and not one.got

    hosts(2, trial)


def test_a_broker_that_is_away() -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await one.join(b"room")
        await two.join(b"room")
        await one.join(b"mine", REPLACE)
        broker.away()
        assert await one.publish(b"room") == UNREACHED - 1, "the one here"
        assert await one.publish(b"room", to_one=True) == UNREACHED, "the latest may be elsewhere"
        assert await one.ask(b"room") == (AWAY, b"")
        assert await one.ask(b"mine") == (ANSWERED, b"HOW"), "held alone here"
        assert await one.publish(b"mine") == 1
        assert await one.join(b"late", number=2) == GRANTED
        assert await one.join(b"free", REFUSE, number=2) == UNDECIDED
        assert await two.join(b"mine", REPLACE) == GRANTED, "nobody can know"
        broker.back()
        assert one.evicted == [(1, b"mine")], "the later one has it"
        assert await two.publish(b"late") == 1
        assert await two.publish(b"free") == 0
        assert await two.publish(b"room") == 2

    hosts(2, trial)


@pytest.mark.parametrize("through", ["hub", "client"])
def test_what_waits_for_the_broker_is_not_overtaken_by_what_comes_with_it(through: str) -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await two.join(b"room")
        others = one.hub.others
        assert isinstance(others, Others)
        far, others._first = others.far, time.monotonic() + 10
        far.is_up = far.was_up = False

        async def outside(payload: bytes) -> int:
            await far.until_up(10)
            return await far.publish(b"room", payload)

        async def inside(payload: bytes) -> int:
            return await one.publish(b"room", payload)

        sent: list[asyncio.Task[int]] = []

        def send() -> None:
            publish = inside if through == "hub" else outside
            sent.append(asyncio.get_running_loop().create_task(publish(b"%d" % len(sent))))

        for _ in range(5):
            send()
        await asyncio.sleep(0.01)
        send()
        far.up()
        for _ in range(20):
            send()
            await asyncio.sleep(0)
        assert await asyncio.gather(*sent) == [1] * 26
        assert [payload for _, payload in two.got] == [b"%d" % number for number in range(26)]

    hosts(2, trial)


def test_what_is_under_way_when_the_broker_goes_is_lost_and_said_so() -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await two.join(b"room")
        two.mute = True
        asked = asyncio.ensure_future(one.ask(b"room"))
        published = asyncio.ensure_future(one.publish(b"room"))
        while len(two.got) < 2:
            await asyncio.sleep(0.001)
        broker.away()
        assert await asked == (PARTED, b"")
        assert await published == UNREACHED
        two.hub.lose(two)  # type: ignore[arg-type]
        two.hub.links[two.number] = two

    hosts(2, trial)


def test_a_host_that_does_not_answer_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pronghorn.bus.far.PATIENCE", 0.05)

    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two, _ = workers
        for each in workers:
            await each.join(b"room")
        two.mute = True
        assert await one.publish(b"room") == 2
        assert one.hub.others.far.missed == 1  # type: ignore[union-attr]
        two.hub.lose(two)  # type: ignore[arg-type]
        two.hub.links[two.number] = two

    hosts(3, trial)


def test_a_host_that_is_gone_is_not_waited_for() -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await two.join(b"room")
        two.mute = True
        published = asyncio.ensure_future(one.publish(b"room"))
        while not two.got:
            await asyncio.sleep(0.001)
        one.hub.others.far.gone(two.hub.others.far.id)  # type: ignore[union-attr]
        assert await published == 0
        assert one.hub.others.far.missed == 0  # type: ignore[union-attr]
        two.hub.lose(two)  # type: ignore[arg-type]
        two.hub.links[two.number] = two

    hosts(2, trial)


def test_a_latest_that_has_just_left_gives_way_to_the_one_before() -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await one.join(b"room")
        await two.join(b"room")
        stale = broker.names[b"room"].copy()
        two.hub.leave(two, 1, b"")  # type: ignore[arg-type]
        broker.names[b"room"] = stale  # its leaving is still on its way
        asyncio.get_running_loop().call_later(0.02, broker.names[b"room"].pop, two.hub.others.far.id)  # type: ignore[union-attr]
        assert await one.ask(b"room") == (ANSWERED, b"HOW")

    hosts(2, trial)


def test_a_broker_that_goes_on_naming_who_has_left_is_not_asked_for_ever() -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        broker.names[b"room"] = {two.hub.others.far.id: (1.0, False)}  # type: ignore[union-attr]
        assert await one.ask(b"room") == (NOBODY, b"")
        assert await one.publish(b"room", to_one=True) == 0
        assert one.hub.others.far._last == 2 * TRIES  # type: ignore[union-attr]

    hosts(2, trial)


def test_a_host_that_is_not_there_at_the_moment_is_waited_for() -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await two.join(b"room")
        calls = [
            lambda: one.ask(b"room"),
            lambda: one.publish(b"room", to_one=True),
            lambda: one.publish(b"room"),
        ]
        for call, wanted in zip(calls, [(ANSWERED, b"HOW"), 1, 1], strict=True):
            broker.gone = {two.hub.others.far.id}  # type: ignore[union-attr]
            asyncio.get_running_loop().call_later(0.1, broker.gone.clear)
            assert await call() == wanted
        del two.got[:]
        broker.gone = {two.hub.others.far.id}  # type: ignore[union-attr]
        asyncio.get_running_loop().call_later(0.12, broker.gone.clear)
        counts = [asyncio.ensure_future(one.publish(b"room", b"%d" % each)) for each in range(5)]
        await asyncio.sleep(0.1)
        counts += [asyncio.ensure_future(one.publish(b"room", b"%d" % each)) for each in range(5, 10)]
        assert await asyncio.gather(*counts) == [1] * 10
        assert [payload for _, payload in two.got] == [b"%d" % each for each in range(10)], "in their order"
        broker.gone = {two.hub.others.far.id}  # type: ignore[union-attr]
        assert await one.ask(b"room", seconds=0.1) == (AWAY, b""), "and not: nobody"
        await one.join(b"room")
        broker.gone = {two.hub.others.far.id}  # type: ignore[union-attr]
        assert await one.publish(b"room") == 1, "a room that has members here does not wait"

    hosts(2, trial)


def test_what_waits_for_a_host_is_overtaken_by_nothing_that_waits_for_none() -> None:
    """The first message waits, since only the host that is not there has the name; the next would not wait, since by
    then a connection here has joined. Whether the host is back by then or not, none arrives before an earlier one."""

    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await two.join(b"room")
        away = {two.hub.others.far.id}  # type: ignore[union-attr]
        broker.gone = set(away)
        first = asyncio.ensure_future(one.publish(b"room", b"1"))
        await asyncio.sleep(0.01)
        await one.join(b"room")
        assert await asyncio.wait_for(one.publish(b"room", b"2"), 2) == 1, "and so has not waited for the host"
        broker.gone.clear()
        assert await one.publish(b"room", b"3") == 2
        assert await first == 1
        assert [payload for _, payload in two.got] == [b"1", b"3"]
        assert not one.hub.others.far._ways._ways  # type: ignore[union-attr]

    hosts(2, trial)


def test_what_could_be_sent_only_after_a_later_message_is_not_sent() -> None:
    """Of two messages on their way to the broker the first finds the host not there, and the second finds it, which is
    known only after the first would be tried again."""

    async def trial(broker: Broker, workers: list[Worker]) -> None:
        far, (_, two) = workers[0].hub.others.far, workers  # type: ignore[union-attr]
        await two.join(b"room")
        at_once, answers = far.carrier.to_all, iter((0.01, 0.15))

        async def to_all(name: bytes, data: bytes) -> set[str]:
            try:
                return await at_once(name, data)
            finally:
                await asyncio.sleep(next(answers, 0))

        far.carrier.to_all = to_all  # type: ignore[method-assign]
        broker.gone = {two.hub.others.far.id}  # type: ignore[union-attr]
        first = asyncio.ensure_future(far.publish(b"room", b"1"))
        await asyncio.sleep(0)
        broker.gone.clear()
        second = asyncio.ensure_future(far.publish(b"room", b"2"))
        with pytest.raises(Away, match="later message"):
            await first
        assert await second == 1
        assert [payload for _, payload in two.got] == [b"2"]

    hosts(2, trial)


def test_a_question_behind_one_that_waits_longer_was_not_asked_when_its_time_is_over() -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await two.join(b"room")
        broker.gone = {two.hub.others.far.id}  # type: ignore[union-attr]
        longer = asyncio.ensure_future(one.ask(b"room", seconds=5.0))
        await asyncio.sleep(0)
        assert await one.ask(b"room", seconds=0.02) == (AWAY, b"")
        broker.gone.clear()
        assert await longer == (ANSWERED, b"HOW")

    hosts(2, trial)


def test_what_is_no_message_of_ours_is_ignored_and_what_others_want_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pronghorn.bus.far.MOST_UNDER_WAY", 1)

    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await two.join(b"room")
        far = two.hub.others.far  # type: ignore[union-attr]
        said: list[str] = []
        two.hub.say = said.append
        for raw in (b"", b"\xc1", packed(PUBLICATION), packed(99, "x"), packed(PUBLICATION, 1, 2, 3, 4, 5)):
            far.hear(raw)
        assert len(said) == 1 and "is no message of the bus" in said[0], "it is told once"
        two.mute = True
        first = asyncio.ensure_future(one.publish(b"room"))
        while not two.got:
            await asyncio.sleep(0.001)
        assert await one.publish(b"room") == 0, "more than may be under way"
        two.hub.reached(two, next(iter(two.hub._publications)), 1)  # type: ignore[arg-type]
        assert await first == 1

    hosts(2, trial)


def test_a_client_among_hosts_reaches_members_and_is_none() -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        (one,) = workers
        await one.join(b"room")
        client = Far(lambda far: InMemory(broker, far), Nobody())
        with pytest.raises(Away, match="yet"):
            await client.until_up(0.01)
        client.up()
        await client.until_up(0.01)
        assert await client.publish(b"room", b"x") == 1
        assert await client.publish_to_one(b"room", b"x") == 1
        assert await client.ask(b"room", b"how", 5.0) == (ANSWERED, b"HOW")
        assert await client.ask(b"nowhere", b"how", 5.0) == (NOBODY, b"")

    hosts(1, trial)


def test_a_question_to_a_host_that_is_cut_off_is_over_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the carrier hangs or the host: the time is the asker's."""

    async def hangs(name: bytes, data: bytes) -> str:
        await asyncio.sleep(60)
        return ""

    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await two.join(b"device")
        monkeypatch.setattr(two.hub.others.far, "hear", lambda data: None)  # type: ignore[union-attr]
        assert await asyncio.wait_for(one.ask(b"device", seconds=0.1), 2) == (LATE, b"")
        monkeypatch.setattr(one.hub.others.far.carrier, "to_one", hangs)  # type: ignore[union-attr]
        assert await asyncio.wait_for(one.ask(b"device", seconds=0.1), 2) == (LATE, b"")

    hosts(2, trial)


@pytest.mark.slow
def test_questions_are_withdrawn_when_their_asker_ends_and_nothing_of_them_stays() -> None:
    """Whether they are under way to the broker, wait for a host that may be back, or are asked."""

    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        here, there = one.hub.others.far, two.hub.others.far  # type: ignore[union-attr]
        await two.join(b"device")
        two.mute = True
        tasks = len(asyncio.all_tasks())
        for _ in range(10_000):
            one.hub.ask(one, 0, b"device", b"how", 3600.0)  # type: ignore[arg-type]
        await until(lambda: len(two.got) == 10_000)
        assert len(two.hub._questions) == len(there._theirs) == 10_000
        one.hub.ask(one, 0, b"device", b"how", 3600.0)  # type: ignore[arg-type]
        one.hub.lose(one)  # type: ignore[arg-type]
        await until(lambda: two.withdrawn == len(two.got) == 10_001)
        await until(lambda: len(asyncio.all_tasks()) == tasks)
        for hub, far in ((one.hub, here), (two.hub, there)):
            assert not hub._questions and not hub._asked and not far._answers and not far._theirs
            assert not far._for_others and not far._ways._ways
        assert not one.hub.others._asked and not one.hub.others._tasks  # type: ignore[union-attr]
        assert len(two.hub.links) == 1
        one.hub.links[one.number] = one

    hosts(2, trial)


def test_a_question_that_nobody_waits_for_is_withdrawn_where_it_was_asked() -> None:
    """By whoever asks in another process, of another host and of its own; by a host that is gone; and by whoever
    goes while the question is under way."""

    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await two.join(b"device")
        two.mute = True
        for far in (one.hub.others.far, two.hub.others.far):  # type: ignore[union-attr]
            asking = asyncio.ensure_future(far.ask(b"device", b"how", 3600.0))
            await until(lambda: two.hub._questions)
            asking.cancel()
            await until(lambda: not two.hub._questions)
        asking = asyncio.ensure_future(one.hub.others.far.ask(b"device", b"how", 3600.0))  # type: ignore[union-attr]
        await until(lambda: two.hub._questions)
        await asyncio.sleep(3 * LOOK_EVERY)
        assert two.hub._questions, "its host is there"
        broker.gone = {one.hub.others.far.id}  # type: ignore[union-attr]
        await until(lambda: not two.hub._questions)
        assert two.withdrawn == 3
        asking.cancel()
        carrier = one.hub.others.far.carrier  # type: ignore[union-attr]
        to_one, broker.gone = carrier.to_one, set()

        async def slow(name: bytes, data: bytes) -> str:
            host = await to_one(name, data)
            await asyncio.sleep(0.05)
            return host

        carrier.to_one = slow  # type: ignore[method-assign]
        asking = asyncio.ensure_future(one.hub.others.far.ask(b"device", b"how", 3600.0))  # type: ignore[union-attr]
        await until(lambda: two.hub._questions)
        asking.cancel()
        await until(lambda: not two.hub._questions)

    hosts(2, trial)


def test_the_only_addressee_that_may_have_a_message_is_not_followed_by_another() -> None:
    """Its worker has ended, or says nothing: the publisher learns of nobody, and no second connection gets it."""

    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await one.join(b"room")
        await two.join(b"room")
        two.mute = True
        for over in (two.hub.lose, lambda link: two.hub.tick()):
            two.hub._clock = lambda: time.monotonic() - 10.0
            published = asyncio.ensure_future(one.publish(b"room", to_one=True))
            while not two.got:
                await asyncio.sleep(0.001)
            two.hub._clock = time.monotonic
            over(two)
            assert await published == 0
            two.hub.links[two.number] = two
            await two.join(b"room")
            assert not one.got and len(two.got) == 1
            del two.got[:]

    hosts(2, trial)


def test_a_refused_join_takes_nothing_from_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await two.join(b"device")
        carrier = one.hub.others.far.carrier  # type: ignore[union-attr]
        slow, refused = carrier.join, asyncio.Event()

        async def join(name: bytes, since: float, mode: int) -> bool:
            joined = await slow(name, since, mode)
            if mode == REFUSE:
                await refused.wait()
            return joined

        monkeypatch.setattr(carrier, "join", join)
        first = asyncio.ensure_future(one.join(b"device", REFUSE))
        await asyncio.sleep(0)
        one.hub.leave(one, 1, b"device")  # type: ignore[arg-type]
        assert await one.join(b"device") == GRANTED
        refused.set()
        assert await first == TAKEN
        assert await two.publish(b"device") == 2

    hosts(2, trial)


def test_a_fault_leaves_nobody_waiting_and_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fault(*_: object) -> bool:
        raise KeyError("a fault")

    async def trial(broker: Broker, workers: list[Worker]) -> None:
        (one,) = workers
        for method in ("join", "to_all", "to_one"):
            monkeypatch.setattr(one.hub.others.far.carrier, method, fault)  # type: ignore[union-attr]
        assert await one.join(b"free", REFUSE) == UNDECIDED
        assert await one.join(b"room") == GRANTED
        assert await one.publish(b"room") == UNREACHED
        assert await one.publish(b"room", to_one=True) == UNREACHED
        assert await one.ask(b"room") == (LOST, b"")

    hosts(1, trial)
    assert caplog.text.count("KeyError: 'a fault'") == 5


@pytest.mark.slow
def test_where_the_url_is_wrong_the_broker_is_away_and_nobody_is_said_not_to_be_there() -> None:
    async def main() -> None:
        hub = Hub(1000, time.monotonic, print)
        hub.others = others = Others(hub, lambda far: carrier_in_any_case("redis://?", far))
        hub.settled()
        running = asyncio.ensure_future(others.far.carrier.run())
        one = Worker(hub)
        assert await one.join(b"room") == GRANTED and await one.join(b"free", REFUSE) == UNDECIDED
        assert await one.publish(b"room") == UNREACHED - 1
        assert await one.ask(b"elsewhere") == (AWAY, b"")
        assert hub.broker is not None and not hub.broker.up and hub.broker.why
        running.cancel()

    asyncio.run(main())


def test_what_another_host_claims_is_not_believed() -> None:
    async def trial(broker: Broker, workers: list[Worker]) -> None:
        one, two = workers
        await two.join(b"room")
        two.mute = True
        far = one.hub.others.far  # type: ignore[union-attr]
        for status, payload in ((99, b""), (ANSWERED, bytes(LONGEST_PAYLOAD + 1)), (-1, b"")):
            asked = asyncio.ensure_future(one.ask(b"room"))
            while not far._answers:
                await asyncio.sleep(0.001)
            far.hear(packed(ANSWER, "somebody", far._last, status, payload))
            assert await asked == (LOST, b"")
        published = asyncio.ensure_future(one.publish(b"room"))
        while len(two.got) < 4:
            await asyncio.sleep(0.001)
        far.hear(packed(REACHED, "to everybody.*", far._last, 5))
        far.hear(packed(REACHED, two.hub.others.far.id, far._last, 2**64 - 1))  # type: ignore[union-attr]
        assert await published == MOST_REACHED
        assert await one.ask(b"room", seconds=float("nan")) == (LATE, b"")
        two.hub.lose(two)  # type: ignore[arg-type]
        two.hub.links[two.number] = two

    hosts(2, trial)
