"""The gateway as its users see it: a real server, devices over TCP, an operator. Run it with pytest."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from devices import ANSWER, COMMAND, HEAD, HEARTBEAT, LOGIN, PLACE, POSITION

HERE = Path(__file__).parent


def until(condition: Callable[[], object], seconds: float = 20.0) -> object:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)
    return found


class Gateway:
    """`pronghorn serve` with the gateway's settings file, at ports that are free."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        addresses = [f"--bind=127.0.0.1:0,name={name}" for name in ("devices", "operators")]
        options = [*addresses, "--workers=2", "--control-socket=off"]
        command = [sys.executable, "-m", "pronghorn", "serve", *options]
        environment = os.environ | {"GATEWAY_DB": str(folder / "gateway.db")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=HERE, env=environment, stderr=log)
        until(lambda: " Serving " in self.text or self.process.poll() is not None)
        self.ports = {
            name: int(port) for port, name in re.findall(r"Listening at: tcp://[^ ]*:(\d+) \((\w+)\)", self.text)
        }

    @property
    def text(self) -> str:
        return self.log.read_text()

    def connect(self, name: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[name]), timeout=20)

    def operator(self, line: str) -> str:
        with self.connect("operators") as sock:
            sock.sendall(line.encode() + b"\n")
            with sock.makefile() as file:
                return file.readline().strip()

    def command(self, device: str, text: str) -> int:
        return int(self.operator(f"send {device} {text}").removeprefix("command "))


class Simulated:
    """A device."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        self.sock = gateway.connect("devices")
        self.file = self.sock.makefile("rb")
        assert self.ask(LOGIN, 1, name.encode()) == (LOGIN | ANSWER, 1, b"")

    def __enter__(self) -> Simulated:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def send(self, kind: int, number: int, body: bytes = b"") -> None:
        self.sock.sendall(struct.pack(">H", HEAD.size + len(body)) + HEAD.pack(kind, number) + body)

    def hears(self) -> tuple[int, int, bytes]:
        (size,) = struct.unpack(">H", self.file.read(2))
        message = self.file.read(size)
        return (*HEAD.unpack_from(message), message[HEAD.size :])

    def ask(self, kind: int, number: int, body: bytes = b"") -> tuple[int, int, bytes]:
        self.send(kind, number, body)
        return self.hears()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    yield gateway
    gateway.process.terminate()
    assert gateway.process.wait(20) == 0, gateway.text


def test_a_position_is_acknowledged_and_kept_once(gateway: Gateway) -> None:
    with Simulated(gateway, "tracker-1") as device:
        for _ in range(2):  # the acknowledgement may be lost
            assert device.ask(POSITION, 7, PLACE.pack(52.5, 13.4)) == (POSITION | ANSWER, 7, b"")
    assert gateway.operator("track tracker-1") == "52.5,13.4"


def test_a_command_reaches_its_device_and_its_answer_the_operator(gateway: Gateway) -> None:
    with Simulated(gateway, "tracker-2") as device:
        assert "tracker-2:on" in gateway.operator("devices")
        number = gateway.command("tracker-2", "open the door")
        assert device.hears() == (COMMAND, number, b"open the door")
        device.send(COMMAND | ANSWER, number)
        until(lambda: gateway.operator(f"state {number}") == "done")
    until(lambda: "tracker-2:off" in gateway.operator("devices"))


def test_a_device_that_comes_anew_takes_the_place_of_its_old_connection(gateway: Gateway) -> None:
    with Simulated(gateway, "tracker-3"), Simulated(gateway, "tracker-3"), Simulated(gateway, "tracker-3") as device:
        number = gateway.command("tracker-3", "hello")
        assert device.hears() == (COMMAND, number, b"hello")


def test_who_does_not_log_in_is_not_heard(gateway: Gateway) -> None:
    with gateway.connect("devices") as sock:
        sock.sendall(struct.pack(">H", HEAD.size) + HEAD.pack(HEARTBEAT, 1))
        assert sock.recv(100) == b""


def test_a_reload_is_not_noticed(gateway: Gateway) -> None:
    with Simulated(gateway, "tracker-4") as device:
        ready = gateway.text.count("is ready, process id")
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: gateway.text.count("is ready, process id") >= ready + 2)
        for number in range(2, 50):
            assert device.ask(HEARTBEAT, number) == (HEARTBEAT | ANSWER, number, b"")
        number = gateway.command("tracker-4", "still there?")
        assert device.hears() == (COMMAND, number, b"still there?")
