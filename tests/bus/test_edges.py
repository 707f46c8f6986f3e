"""The bus where something is late, stuck or gone: whose questions nobody waits for, and a hub that reads nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from bus_devices import ANSWERING, Device

from launch import Launched, launched_code, wait_for
from pronghorn import bus
from pronghorn.bus.hub import Hub, Link
from pronghorn.bus.joined import JOINED
from pronghorn.bus.local import LocalBus
from pronghorn.bus.members import Message
from pronghorn.bus.wire import ANSWER, CANCEL, JOIN, LEAVE, QUESTION, REFUSE, REPLACE, RESULT, SHARED, Reader, frame
from pronghorn.identity import BusPlace

HOLDS = """
import os, pronghorn

@pronghorn.message(pronghorn.lines)
class handler:
    def __init__(self, conn):
        self.conn, self.kept = conn, []

    def __call__(self, line):
        if line == b"join":
            self.conn.join("device", exclusive=True)
        elif line == b"answer":
            self.kept.pop(0).reply(b"done")
        elif line == b"asked":
            return b"%d of %d" % (sum(each.asked for each in self.kept), len(self.kept))
        return b"%d" % os.getpid()

    def on_bus(self, message):
        self.kept.append(message)
"""


# Each passes on what it is asked, and answers by the next line.
STYLES = {
    "message": ANSWERING,
    "conversation": """
import pronghorn

@pronghorn.conversation(pronghorn.lines)
async def handler(conn):
    kept = []
    async def on_bus(conn, message):
        kept.append(message)
        await conn.send(message.payload)
    async for line in conn:
        if line == b"join device":
            conn.join("device", on_bus=on_bus)
            await conn.send(b"joined")
        else:
            kept.pop(0).reply(line)
""",
    "protocol": """
import asyncio, pronghorn

class handler(pronghorn.Protocol):
    def connection_made(self, transport):
        self.transport, self.kept = transport, []

    def data_received(self, data):
        if data == b"join device\\n":
            self.transport.join("device", on_bus=self.on_bus)
            self.transport.write(b"joined\\n")
        else:
            self.kept.pop(0).reply(data.strip())

    def on_bus(self, transport, message):
        self.kept.append(message)
        transport.write(message.payload + b"\\n")
""",
}
STYLES["protocol that is told"] = (
    STYLES["protocol"]
    + """
    def draining(self):
        return False
"""
)
STYLES["asyncio protocol"] = STYLES["protocol"].replace("pronghorn.Protocol", "asyncio.Protocol")


@contextmanager
def served(folder: Path, **settings: Any) -> Iterator[Launched]:
    with launched_code(
        folder, HOLDS, model="epoll", workers=1, control_socket=str(folder / "c.sock"), **settings
    ) as one:
        one.ready(1)
        yield one


class Fake:
    """A worker's bus, and a hub that the test plays."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []
        place = {"longest": 100, "most_unsent": 100, "drops_oldest": False}
        self.local = LocalBus(BusPlace(connect=self._connect, join=print, slow=print, **place))  # type: ignore[arg-type]

    def _connect(self) -> socket.socket:
        ours, hub = socket.socketpair()
        self.ends.append(hub)
        return ours

    def hub(self, count: int = 1) -> socket.socket:
        """The hub's end of the link's connection of that number, which is up."""
        wait_for(lambda: len(self.ends) == count and self.local._link.is_up, "the link")
        self.ends[-1].settimeout(15)
        return self.ends[-1]

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *error: object) -> None:
        JOINED.clear()
        self.local._link.close()
        for each in self.ends:
            each.close()


class Asked:
    """A connection that keeps what it is asked."""

    loop = None

    def __init__(self) -> None:
        self.kept: list[Message] = []

    def answers(self) -> bool:
        return True

    def take(self, message: Message) -> bool:
        self.kept.append(message)
        return True


def asks_in_vain(client: bus.Client) -> None:
    with pytest.raises(bus.BusLost):
        client.ask("device", b"?", 60)


def test_connections_end_while_the_hub_reads_nothing() -> None:
    many = 30_000
    with Fake() as fake:
        hub = fake.hub()
        ending = threading.Thread(
            target=lambda: [fake.local._link.tell_later(LEAVE, each, b"x") for each in range(many)]
        )
        ending.start()
        ending.join(15)
        assert not ending.is_alive(), "it has waited for the hub"
        reader, found = Reader(), list[Any]()
        while len(found) < many:
            found += [each for each in reader.feed(hub.recv(65536)) if each[0] == LEAVE]
        assert [each[1] for each in found] == list(range(many)), "each is said once, in its order"
        assert len(fake.ends) == 1, "over the same connection"


def test_what_waits_for_a_hub_that_reads_nothing_is_bounded() -> None:
    with Fake() as fake:
        fake.hub()
        for _ in range(20):
            fake.local._link.tell_later(ANSWER, 1, 0, b"x" * 1024 * 1024)
        fake.hub(2)
        assert fake.local._link._owing == 0, "a new connection owes nothing"


def test_a_question_of_a_hub_that_is_gone_is_answered_to_nobody() -> None:
    asked = Asked()
    with Fake() as fake:
        hub = fake.hub()
        fake.local._groups.add(7, b"device", SHARED, lambda: asked, print)  # type: ignore[arg-type, return-value]
        hub.sendall(frame(QUESTION, 1, b"device", b"?", 7) + frame(QUESTION, 2, b"device", b"?", 7))
        wait_for(lambda: len(asked.kept) == 2, "the questions")
        assert fake.local.asks(7) and asked.kept[0].asked
        hub.sendall(frame(CANCEL, 1))
        wait_for(lambda: not asked.kept[0].asked, "its end")
        hub.close()
        again = fake.hub(2)
        assert not asked.kept[1].asked and not fake.local.asks(7)
        for each in asked.kept:
            each.reply(b"late")
        fake.local._link.tell(LEAVE, 9, b"end")
        reader, found = Reader(), list[Any]()
        while not found or found[-1][0] != LEAVE:
            found += reader.feed(again.recv(1000))
        assert ANSWER not in [each[0] for each in found]


def test_an_answer_that_is_too_long_is_told_to_both() -> None:
    asked = Asked()
    with Fake() as fake:
        hub = fake.hub()
        fake.local._groups.add(7, b"device", SHARED, lambda: asked, print)  # type: ignore[arg-type, return-value]
        hub.sendall(frame(QUESTION, 1, b"device", b"?", 7))
        wait_for(lambda: asked.kept, "the question")
        with pytest.raises(bus.BadBusMessage, match="has 101 bytes"):
            asked.kept[0].reply(b"x" * 101)
        reader, found = Reader(), list[Any]()
        while not found or found[-1][0] != ANSWER:
            found += reader.feed(hub.recv(1000))


def test_whoever_wants_a_free_name_waits_until_all_are_back() -> None:
    hub = Hub(100, lambda: 0.0, print)
    links = []
    for _ in range(2):
        link = Link(hub)
        link.connection_made(Mock(get_write_buffer_size=lambda: 0, is_closing=lambda: False))
        links.append(link)
    newcomer, holder = links
    said = Mock()
    newcomer.write = said  # type: ignore[method-assign]
    newcomer.data_received(frame(JOIN, 5, 1, b"device", REFUSE, 2.0))
    assert not said.called, "its holder may not be back yet"
    holder.data_received(frame(JOIN, 0, 1, b"device", REPLACE, 1.0))
    hub.settled()
    ((raw,),) = [each.args for each in said.call_args_list]
    assert Reader().feed(raw)[0] == [RESULT, 5, 0]
    assert list(hub.directory.members(b"device")) == [(holder.number, 1)]


@pytest.mark.slow
def test_a_handler_sees_that_nobody_waits_any_more(tmp_path: Path) -> None:
    with served(tmp_path) as server, Device(server) as device, bus.connect(f"unix:{tmp_path}/c.bus") as outside:
        device.ask(b"join")
        assert outside.publish("nobody", b"x") == 0, "it is connected"
        with pytest.raises(bus.NoAnswer):
            outside.ask("device", b"?", 0.2)
        wait_for(lambda: device.ask(b"asked") == b"0 of 1", "the end of its time")
        with bus.connect(f"unix:{tmp_path}/c.bus") as other:
            asking = threading.Thread(target=lambda: asks_in_vain(other))
            asking.start()
            wait_for(lambda: device.ask(b"asked") == b"1 of 2", "the question")
        asking.join(15)
        wait_for(lambda: device.ask(b"asked") == b"0 of 2", "the end of whoever asks")


@pytest.mark.slow
def test_a_connection_moves_once_it_has_answered(tmp_path: Path) -> None:
    answers: list[bytes] = []
    with (
        served(tmp_path, on_reload="handover", log_level="debug") as server,
        Device(server) as device,
        bus.connect(f"unix:{tmp_path}/c.bus") as outside,
    ):
        first = device.ask(b"join")
        asking = threading.Thread(target=lambda: answers.append(outside.ask("device", b"?", 60)))
        asking.start()
        wait_for(lambda: device.ask(b"asked") == b"1 of 1", "the question")
        server.send(signal.SIGHUP)
        wait_for(lambda: server.log.count("is ready, process id") == 2, "the new worker")
        for _ in range(200):  # meanwhile it is offered
            assert device.ask(b"x") == first, "it has not moved, since somebody waits"
        assert device.ask(b"answer") == first
        asking.join(15)
        assert answers == [b"done"]
        wait_for(lambda: device.ask(b"x") != first, "the new worker")


def refuses(server: Launched) -> bool:
    """Whether a new client finds an end, or nobody: after a while of farewells the listener is closed."""
    try:
        return server.refuses()
    except ConnectionRefusedError:
        return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("style", "model", "how"),
    [
        ("message", "epoll", "stop"),
        ("message", "thread", "stop"),
        ("conversation", "asyncio", "stop"),
        ("protocol", "thread", "stop"),
        ("protocol that is told", "thread", "stop"),
        ("asyncio protocol", "epoll", "stop"),
        ("message", "fork", "spread"),
    ],
)
def test_a_question_is_answered_before_its_connection_is_ended(
    tmp_path: Path, style: str, model: str, how: str
) -> None:
    """And once it is answered nothing is owed: the stop has no need of its 60 seconds."""
    answers: list[bytes] = []
    settings: dict[str, Any] = {"on_reload": "spread", "drain_spread": 0.1} if how == "spread" else {}
    settings |= {"control_socket": str(tmp_path / "c.sock"), "drain_timeout": 60, "drain_quiet": 0.2}
    with (
        launched_code(tmp_path, STYLES[style], model=model, workers=1, **settings) as server,
        bus.connect(f"unix:{tmp_path}/c.bus") as outside,
    ):
        server.ready(1)
        with Device(server) as device:
            device.ask(b"join device")
            asking = threading.Thread(target=lambda: answers.append(outside.ask("device", b"?", 60)))
            asking.start()
            assert device.line() == b"?"
            server.send(signal.SIGTERM if how == "stop" else signal.SIGHUP)
            wait_for(lambda: refuses(server) if how == "stop" else "Reloaded in" in server.log, "the drain")
            device.sock.settimeout(0.4)
            with pytest.raises(TimeoutError):  # which is neither a line nor the end
                device.sock.recv(1)
            device.sock.settimeout(15)
            if style == "message":  # what the client says beside is no end, either
                assert device.ask(b"leave nothing")
            device.sock.sendall(b"done\n")
            asking.join(15)
            assert answers == [b"done"]
            assert device.is_cut()
            if how == "stop":
                assert server.exit() == 0


def test_the_end_of_a_client_for_coroutines_may_be_awaited() -> None:
    async def trial() -> None:
        client = bus.aconnect("unix:/nowhere/x.bus")
        client.close()
        await client.close()
        await client.aclose()

    asyncio.run(trial())
