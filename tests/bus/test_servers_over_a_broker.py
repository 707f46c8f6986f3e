"""Two servers and one broker: connections of both are reached, by handlers, by clients outside and by ctl."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from bus_devices import ANSWERING, Device, bus_process, bus_processes, raised

import brokers
from brokers import Broker
from launch import Launched, launched_code, wait_for
from pronghorn import bus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class Hosts:
    """A broker, its URL, and two servers whose bus it carries."""

    def __init__(self, broker: Broker, url: str, servers: list[Launched]) -> None:
        self.broker, self.url = broker, url
        self.one, self.two = servers

    def until_said(self, text: str, since: tuple[int, int] = (0, 0)) -> None:
        wait_for(lambda: text in self.one.log[since[0] :] and text in self.two.log[since[1] :], text)


@pytest.fixture(scope="module", params=["redis", "nats"])
def hosts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    folder = tmp_path_factory.mktemp("h")
    broker = brokers.redis(folder) if request.param == "redis" else brokers.nats()
    url = f"{request.param}://127.0.0.1:{broker.port}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(brokers.running(broker))
        servers = []
        for name in "ab":
            (folder / name).mkdir()
            server = launched_code(
                folder / name,
                ANSWERING,
                bus=url,
                workers=2,
                model="epoll",
                control_socket=str(folder / name / "c.sock"),
                drain_timeout=2,
            )
            servers.append(stack.enter_context(server))
        found = Hosts(broker, url, servers)
        found.until_said("The bus reaches other hosts")
        yield found


def test_all_members_are_reached_wherever_they_are(hosts: Hosts) -> None:
    with (
        Device(hosts.one) as one,
        Device(hosts.two) as two,
        Device(hosts.two) as three,
        bus.connect(hosts.url) as client,
    ):
        for each in (one, two, three):
            each.ask(b"join hall")
        assert one.ask(b"publish hall hello") == b"3"
        assert [each.line() for each in (one, two, three)] == [b"hello"] * 3
        assert client.publish("hall", b"from outside") == 3
        assert [each.line() for each in (one, two, three)] == [b"from outside"] * 3
        assert client.publish("hall", b"last", to="one") == 1
        assert three.line() == b"last"
        assert client.publish("elsewhere", b"x") == 0
        three.close()
        wait_for(lambda: client.publish("hall", b"x") == 2, "that it has left")


def test_a_device_is_asked_from_anywhere_and_follows_its_connection(hosts: Hosts) -> None:
    with Device(hosts.one) as old, bus.connect(hosts.url) as client:
        old.ask(b"alone device:1")
        with Device(hosts.two) as new:
            new.ask(b"alone device:1")
            assert old.is_cut(), "the older connection is ended on the other host"
            with new.answering(b"fine"):
                assert client.ask("device:1", b"how") == b"fine"
            with new.answering(b"well"), bus.connect(f"unix:{hosts.one.folder}/c.bus") as inside:
                assert inside.ask("device:1", b"how") == b"well", "by the other server"
        wait_for(lambda: isinstance(raised(lambda: client.ask("device:1", b"how")), bus.NobodyThere), "nobody")


def test_coroutines_outside_ask_many_at_once(hosts: Hosts) -> None:
    async def main() -> None:
        async with bus.aconnect(hosts.url) as client:
            names = [b"many:%d" % each for each in range(len(devices))]
            answers = await asyncio.gather(*(client.ask(name, name) for name in names))
            assert answers == names, "each by the right one"

    with contextlib.ExitStack() as stack:
        devices = [stack.enter_context(Device(each)) for each in (hosts.one, hosts.two) * 10]
        for number, each in enumerate(devices):
            each.ask(b"alone many:%d" % number)
            stack.enter_context(each.echoing())
        asyncio.run(main())


def test_names_and_payloads_are_any_bytes_and_bounded(hosts: Hosts) -> None:
    payload = bytes(range(256)) * 4000
    with Device(hosts.two) as two, bus.connect(hosts.url) as client:
        name = b"a b.*.>\t" + bytes(range(127, 255))
        two.ask(b"join " + name)
        assert client.publish(name, payload.replace(b"\n", b"")) == 1
        assert two.line() == payload.replace(b"\n", b"")
        assert isinstance(raised(lambda: client.publish(bytes(300), b"x")), bus.BadBusMessage)
        assert isinstance(raised(lambda: client.publish("", b"x")), bus.BadBusMessage)
        assert isinstance(raised(lambda: client.publish("x", bytes(2**20 + 1))), bus.BadBusMessage)


def test_what_one_publisher_sends_arrives_in_its_order(hosts: Hosts) -> None:
    with Device(hosts.one) as one, Device(hosts.two) as two, bus.connect(hosts.url) as client:
        one.ask(b"join order")
        two.ask(b"join order")

        async def main() -> None:
            async with bus.aconnect(hosts.url) as outside:
                counts = await asyncio.gather(*(outside.publish("order", b"%d" % each) for each in range(300)))
                assert counts == [2] * 300

        asyncio.run(main())
        assert client.publish("order", b"end") == 2
        for each in (one, two):
            assert [each.line() for _ in range(301)] == [b"%d" % number for number in range(300)] + [b"end"]


def test_a_broker_that_is_away_takes_nothing_from_a_server_and_all_is_joined_again(hosts: Hosts) -> None:
    with (
        Device(hosts.one) as one,
        Device(hosts.one) as neighbour,
        Device(hosts.two) as two,
        bus.connect(hosts.url) as client,
    ):
        one.ask(b"join room")
        two.ask(b"join room")
        neighbour.ask(b"alone mine")
        assert client.publish("room", b"before") == 2
        assert [one.line(), two.line()] == [b"before"] * 2
        since = len(hosts.one.log), len(hosts.two.log)
        hosts.broker.kill()
        hosts.until_said("does not reach other hosts", since)
        with bus.connect(f"unix:{hosts.one.folder}/c.bus") as inside:
            error = raised(lambda: inside.publish("room", b"here"))
            assert isinstance(error, bus.OtherHostsUnreached) and error.reached == 1
            assert one.line() == b"here"
            assert isinstance(raised(lambda: inside.ask("room", b"x")), bus.BusUnavailable), "never: nobody there"
            with neighbour.answering(b"still"):
                assert inside.ask("mine", b"how") == b"still"
        error = raised(lambda: client.publish("room", b"x"))
        assert isinstance(error, bus.BusUnavailable) and str(hosts.broker.port) in str(error)
        late = Device(hosts.two)
        late.ask(b"join late")
        hosts.broker.start()
        began = time.monotonic()
        wait_for(lambda: raised(lambda: client.publish("room", b"again")) is None, "the client")
        wait_for(lambda: client.publish("room", b"again") == 2, "all")
        wait_for(
            lambda: client.publish("late", b"x") == 1, f"joined while it was away ({time.monotonic() - began:.1f} s)"
        )
        late.close()


def test_a_client_begins_anew_in_a_forked_process(hosts: Hosts) -> None:
    with Device(hosts.one) as one, bus.connect(hosts.url) as client:
        one.ask(b"join fork")
        assert client.publish("fork", b"parent") == 1
        child = os.fork()
        if not child:
            os._exit(0 if raised(lambda: client.publish("fork", b"child")) is None else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert client.publish("fork", b"parent") == 1
        assert [one.line() for _ in range(3)] == [b"parent", b"child", b"parent"]


def test_a_broker_that_is_not_there_is_said_so_without_the_password() -> None:
    for scheme in ("redis", "nats"):
        url = f"{scheme}://user:very-secret@127.0.0.1:{brokers.free_port()}"
        with bus.connect(url) as client:

            def refused() -> bool:
                error = raised(lambda: client.publish("room", b"x", timeout=0.3))
                assert isinstance(error, bus.BusUnavailable) and "secret" not in str(error), repr(error)
                return "refused" in str(error)

            wait_for(refused, "what the kernel says")


@pytest.mark.parametrize("url", ["ftp://u:very-secret@h", "nats:", "redis://u:very-secret@h:port"])
def test_what_is_no_url_is_said_so_without_the_password(url: str) -> None:
    error = raised(lambda: bus.connect(url).publish("room", b"x"))
    assert isinstance(error, bus.BusError) and "secret" not in str(error), repr(error)


def upgraded_while_another_host_asks(hosts: Hosts) -> None:
    """An upgrade, and the death of a hub, make no device unknown."""
    outcomes: list[str] = []
    over = threading.Event()

    def asks() -> None:
        while not over.is_set():
            error = raised(lambda: client.ask("constant", b"how", 3.0))
            outcomes.append(type(error).__name__)

    def answered(count: int) -> None:
        before = outcomes.count("NoneType")
        wait_for(lambda: outcomes.count("NoneType") >= before + count, "answers")

    with Device(hosts.two) as device, bus.connect(hosts.url) as client, contextlib.ExitStack() as stack:
        device.ask(b"alone constant")
        stack.enter_context(device.echoing())
        thread = threading.Thread(target=asks)
        thread.start()
        try:
            answered(20)
            hosts.two.send(signal.SIGUSR2)
            wait_for(lambda: "Upgraded: process " in hosts.two.log, "the new program")
            upgraded = int(hosts.two.log.rpartition("Upgraded: process ")[2].split()[0])
            wait_for(lambda: bus_processes(upgraded), "its hub")
            answered(20)
            bus_processes(upgraded)[0].kill()
            answered(20)
        finally:
            over.set()
            thread.join()
    assert set(outcomes) <= {"NoneType", "BusLost", "NoAnswer"}, "and never: nobody is there"
    assert len([each for each in outcomes if each != "NoneType"]) <= 4, "only what was under way"


def test_a_hub_that_dies_a_reload_and_an_upgrade_lose_no_member(hosts: Hosts) -> None:
    """One test, because after the upgrade another process is the second server, and tests come in any order."""
    with Device(hosts.one) as one, Device(hosts.two) as two, bus.connect(hosts.url) as client:
        one.ask(b"join ward")
        two.ask(b"join ward")
        bus_process(hosts.two).kill()
        wait_for(lambda: client.publish("ward", b"x") == 2, "that the links are back at a new hub")
        hosts.two.send(signal.SIGHUP)
        hosts.two.ready(4)
        assert client.publish("ward", b"after") == 2
        for each in (one, two):
            assert set(iter(each.line, b"after")) == {b"x"}
    upgraded_while_another_host_asks(hosts)
