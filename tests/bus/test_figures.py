"""What a server says of its bus: in ctl status, in its metrics, for probes and in its log."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from launch import Launched, launched_code, wait_for
from pronghorn import bus
from pronghorn.bus import wire
from pronghorn.bus.figures import OUTCOMES, told
from pronghorn.bus.hub import MOST_UNSENT, Hub, Link
from pronghorn.control import client

CODE = """
import pronghorn

@pronghorn.message(pronghorn.lines)
class handler:
    def __init__(self, conn):
        self.conn = conn

    def __call__(self, line):
        self.conn.join(line)
        return b"ok"

    def on_bus(self, message):
        if message.payload == b"fail":
            raise RuntimeError("it fails")
        if message.payload != b"wait":
            return message.payload.upper()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    folder = tmp_path_factory.mktemp("f")
    places = {"control_socket": str(folder / "c.sock"), "admin": f"unix:{folder}/admin"}
    with launched_code(folder, CODE, model="epoll", workers=2, **places) as one:
        one.ready(2)
        yield one


def get(server: Launched, path: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(server.folder / "admin"))
        sock.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode())
        return b"".join(iter(lambda: sock.recv(65536), b"")).decode()


def status(server: Launched) -> dict[str, Any]:
    found: dict[str, Any] = client.ask(str(server.folder / "c.sock"), {"command": "status"}, 10)["bus"]
    return found


def values(server: Launched) -> dict[str, float]:
    found = re.findall(r"^pronghorn_bus_(\S+) (\S+)$", get(server, "/metrics"), re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_outcomes_are_in_the_order_of_the_wire() -> None:
    known = [wire.ANSWERED, wire.NOBODY, wire.MUTE, wire.LATE, wire.LOST, wire.FAILED, wire.TOO_LONG]
    assert (
        [*known, wire.AWAY, wire.PARTED] == list(range(len(OUTCOMES)))
        and OUTCOMES[wire.NOBODY] == "nobody_there"
        and OUTCOMES[wire.LATE] == "late"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        5,
        {},
        {"counts": {"publications": -1}},
        {"counts": {"questions": {"x": 1}}},
        {"counts": {}, "links": 2**60},
    ],
)
def test_nothing_that_cannot_be_true_is_believed(wrong: object) -> None:
    assert told(wrong) is None
    assert told({"counts": {}, "links": 3}) is not None


@pytest.mark.slow
def test_what_the_bus_does_is_counted_exactly(server: Launched) -> None:
    assert status(server) == {"carrier": "local"} and values(server) == {}, "nobody has used it"
    with server.connect() as sock, sock.makefile("rb") as lines:
        sock.sendall(b"device:1\nroom\n")
        assert [lines.readline() for _ in range(2)] == [b"ok\n"] * 2
        with bus.connect(f"unix:{server.folder}/c.bus") as outside:
            for number in range(5):
                assert outside.publish("room", b"%d" % number) == 1
            assert outside.publish("nobody", b"x") == 0
            assert outside.ask("room", b"x") == b"X"
            for name, payload, error, seconds in (
                ("nobody", b"x", bus.NobodyThere, 15),
                ("room", b"wait", bus.NoAnswer, 0.3),
                ("room", b"fail", bus.CannotAnswer, 15),
            ):
                with pytest.raises(error):
                    outside.ask(name, payload, seconds)
            expected = {
                "publications_total": 6,
                "deliveries_total": 5,
                'questions_total{outcome="answered"}': 1,
                'questions_total{outcome="nobody_there"}': 1,
                'questions_total{outcome="late"}': 1,
                'questions_total{outcome="handler_failed"}': 1,
                'questions_total{outcome="lost"}': 0,
                'messages_dropped_total{reason="slow_connection"}': 0,
                'messages_dropped_total{reason="slow_worker"}': 0,
            }
            wait_for(lambda: expected.items() <= values(server).items(), "the figures")
    [hub] = [
        each
        for each in client.ask(str(server.folder / "c.sock"), {"command": "status"}, 10)["side_processes"]
        if each["name"] == "bus"
    ]
    os.kill(hub["pid"], signal.SIGKILL)
    with bus.connect(f"unix:{server.folder}/c.bus") as outside:
        outside.publish("nobody", b"x", timeout=20)
        wait_for(lambda: values(server).get("publications_total") == 7, "what a dead hub has counted, and the next")
    assert "bus_broker" not in get(server, "/metrics")
    assert "bus" not in get(server, "/readyz?verbose")


def test_what_a_broker_does_not_take_is_told_once_a_minute() -> None:
    said, clock = list[str](), [1000.0]
    hub = Hub(100, lambda: clock[0], said.append)
    hub.tick()
    for unsent in (1, 3, 5):
        hub.unsent = lambda unsent=unsent: unsent  # type: ignore[misc]
        hub.tick()
    clock[0] += 61
    hub.tick()
    assert said == [
        "The broker does not take what the bus has for it: 1 message for other hosts was dropped.",
        "The broker does not take what the bus has for it: 4 messages for other hosts were dropped.",
    ]
    assert hub.told().counts.slow_broker == 5


def test_what_a_process_does_not_read_is_dropped_counted_and_told() -> None:
    said, links = list[str](), list[Link]()
    hub = Hub(100, lambda: 0.0, said.append)
    hub.settled()
    for waits, closing in ((0, False), (MOST_UNSENT, False), (0, True)):
        link = Link(hub)
        link.connection_made(
            Mock(get_write_buffer_size=lambda waits=waits: waits, is_closing=lambda closing=closing: closing)
        )
        hub.directory.join((link.number, 1), b"room", wire.SHARED, 1.0)
        links.append(link)
    publisher, slow, _ = links
    slow.pid = 4711
    for _ in range(3):
        publisher.data_received(wire.frame(wire.PUBLISH, 1, b"room", b"x", False))
    assert hub.told().counts.slow_worker == 3, "and none for a link that ends"
    assert said == ["Process 4711 does not read what the bus has for it: messages to it are dropped."], "once"
