"""Servers on hosts of their own, HAProxy in front of them by the sample of deploy/, and clients, for trials.

Law: the configuration of HAProxy is deploy/haproxy/haproxy.cfg with other addresses and, where a trial asks for it,
shorter times; whatever is started here is ended with the `with` block, by its process id.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

import namespaces
from launch import Launched, ctl, launched, wait_for
from namespaces import Host, hosts
from pronghorn import bus

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
CLIENTS, ASKER = (Path(__file__).with_name(name) for name in ("host_clients.py", "host_asker.py"))
PORT, ADMIN, AGENT = 8000, 9901, 9902  # as in the sample
BROKER = 4000  # the port of whichever broker
BROKERS = {
    "redis": ("redis-server", "--port", "{port}", "--bind", "{address}", "--save", "", "--protected-mode", "no"),
    "nats": ("nats-server", "-a", "{address}", "-p", "{port}"),
}
HANDLER = """
import pronghorn

@pronghorn.message(pronghorn.lines)
class Device:
    def __init__(self, conn):
        self.conn, self.asked, self.next = conn, {}, 0

    def __call__(self, line):
        word, _, text = line.partition(b" ")
        if word == b"ping":
            return b"pong HOST " + text
        if word == b"I":
            self.conn.join(b"device:" + text.removeprefix(b"am "), exclusive=True)
            return b"welcome HOST"
        number, _, answer = text.partition(b" ")
        self.asked.pop(int(number)).reply(answer)

    def on_bus(self, message):
        self.next += 1
        self.asked[self.next] = message
        self.conn.send(b"do %d %b" % (self.next, message.payload))
"""


def _work(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def why_not(broker: str = "") -> str:
    """Why no hosts with HAProxy, and this broker, can be had here; empty if they can."""
    wanted = ["haproxy", *(BROKERS[broker][:1] if broker else ())]
    missing = [f"{name} is not installed" for name in wanted if program(name) is None]
    return namespaces.why_not() or ", ".join(missing)


def program(name: str) -> str | None:
    """The path of a program, which may have come with a wheel."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


class Server:
    """A server of one host, which may be started again and again; `now` is its present process."""

    def __init__(self, host: Host, folder: Path, settings: dict[str, Any]) -> None:
        self.host, self.folder, self._settings = host, folder, settings
        self._stack = ExitStack()
        self._starts = 0
        self.now: Launched

    def start(self) -> None:
        """It is ready afterwards."""
        self._starts += 1
        folder = self.folder / str(self._starts)
        folder.mkdir(parents=True)
        (folder / "mine.py").write_text(HANDLER.replace("HOST", self.host.name))
        own = {"control_socket": str(self.folder / "control"), "inside": self.host.inside}
        self.now = self._stack.enter_context(launched(folder, "mine:Device", **own, **self._settings))
        assert self.now.report.get("listening"), self.now.report
        self.now.ready(self._settings["workers"])

    def ctl(self, command: str, seconds: float = 60.0, **arguments: Any) -> Any:
        return ctl(self.folder, command, seconds, **arguments)

    def joined(self) -> int:
        """How many connections of this host have joined the names of devices."""
        with bus.connect(f"unix:{self.folder}/control.bus") as hub:
            return sum(count for _, count in hub.groups("device:", 100_000))

    def close(self) -> None:
        self._stack.close()


class Balancer:
    """A running HAProxy."""

    def __init__(self, host: Host, folder: Path, pid: int) -> None:
        self.host, self.folder, self.pid = host, folder, pid

    @property
    def address(self) -> str:
        return f"{self.host.address}:{PORT}"

    def ask(self, words: str) -> str:
        """What its stats socket answers."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.folder / f"{self.host.name}.stats"))
            sock.sendall(words.encode() + b"\n")
            return b"".join(iter(lambda: sock.recv(65536), b"")).decode()

    def row(self, server: str) -> dict[str, str]:
        """What it knows of a server, by the names of its statistics."""
        lines = self.ask("show stat").splitlines()
        names = lines[0].lstrip("# ").split(",")
        return next(
            dict(zip(names, each.split(","), strict=False)) for each in lines if each.startswith(f"pronghorn,{server},")
        )

    def takes(self, server: str) -> bool:
        """Whether new connections go there."""
        row = self.row(server)
        return row["status"].startswith("UP") and row["weight"] != "0"


class Broker:
    """A broker on a host of its own, which may be ended and started again."""

    def __init__(self, host: Host, folder: Path, kind: str) -> None:
        self.host, self._folder, self.kind = host, folder, kind
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        return f"{self.kind}://{self.host.address}:{BROKER}"

    def start(self) -> None:
        """It takes connections afterwards."""
        command = BROKERS[self.kind]
        path = program(command[0])
        assert path, f"{command[0]} is not installed"
        words = [each.format(address=self.host.address, port=BROKER) for each in command[1:]]
        log = self._stack.enter_context(open(self._folder / "broker.log", "ab"))
        running = self.host.running(path, *words, stdout=log, stderr=log, cwd=self._folder)
        self.process = self._stack.enter_context(running)
        wait_for(self._listens, f"the start of {command[0]}")

    def _listens(self) -> bool:
        with self.host.here(), socket.socket() as sock:
            return sock.connect_ex((self.host.address, BROKER)) == 0

    def close(self) -> None:
        self._stack.close()


class Clients:
    """A process of clients (host_clients.py, host_asker.py)."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def told(self, order: str = "") -> dict[str, Any]:
        """What its clients have seen so far; or, for an order, what became of it."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin and stdout
        stdin.write(order.encode() + b"\n")
        stdin.flush()
        return json.loads(stdout.readline())  # type: ignore[no-any-return]

    def there(self) -> int:
        """How many devices are welcome now."""
        return sum(self.told()["by_host"].values())


class Site:
    """All of it: the hosts, a server on each of some, and the balancers."""

    def __init__(self, machines: dict[str, Host], stack: ExitStack) -> None:
        self.hosts, self._stack = machines, stack
        self.servers: dict[str, Server] = {}
        self.broker: Broker | None = None
        self.balancers: list[Balancer] = []

    def clients(self, kind: str, count: float) -> Clients:
        """They run until the end of the `with` block of the site."""
        addresses = [each.address for each in self.balancers]
        return self._clients(CLIENTS, kind, str(count), *addresses)

    def asker(self, rate: float, devices: int) -> Clients:
        """A client of the bus that asks so many questions a second, from the same host."""
        assert self.broker
        return self._clients(ASKER, self.broker.url, str(rate), str(devices))

    def work(self) -> Counter[str]:
        """Seconds of processor time of all processes so far, by what they are."""
        found: Counter[str] = Counter()
        for server in self.servers.values():
            sides = {each["pid"]: each["name"] for each in server.ctl("status")["side_processes"]}
            for process in psutil.Process(server.now.pid).children():
                found["hubs" if sides.get(process.pid) == "bus" else "workers"] += _work(process)
        for balancer in self.balancers:
            found["balancers"] += _work(psutil.Process(balancer.pid))
        if self.broker:
            found["broker"] = _work(psutil.Process(self.broker.process.pid))
        return found

    def _clients(self, path: Path, *words: str) -> Clients:
        command = [sys.executable, str(path), *words]
        running = self.hosts["clients"].running(*command, stdin=-1, stdout=-1)
        return Clients(self._stack.enter_context(running))


@contextmanager
def site(
    folder: Path,
    names: Sequence[str] = ("one", "two", "three"),
    *,
    balancers: int = 1,
    quick: bool = True,
    changes: dict[str, str] | None = None,
    broker: str = "",
    **settings: Any,
) -> Iterator[Site]:
    """Servers on hosts of these names, ready, and all balancers send clients to all of them. `quick` has HAProxy check
    each 100 ms; `changes` are made in its configuration; `broker` (redis, nats) carries the
    bus."""
    fronts = [f"balancer{number}" for number in range(1, balancers + 1)]
    with hosts(*names, *fronts, "broker", "clients") as machines, ExitStack() as stack:
        found = Site(machines, stack)
        if broker:
            found.broker = Broker(machines["broker"], folder, broker)
            stack.callback(found.broker.close)
            found.broker.start()
            settings = {"bus": found.broker.url, **settings}
        sources = tuple(machines[each].address for each in fronts)
        for name in names:
            place = machines[name].address
            own = {"bind": f"{place}:{PORT}", "admin": f"{place}:{ADMIN}", "agent_check": f"{place}:{AGENT}"}
            given = {"workers": 2, "model": "epoll", **own, "proxy_from": sources, **settings}
            found.servers[name] = Server(machines[name], folder / name, given)
            stack.callback(found.servers[name].close)
            found.servers[name].start()
        for each in fronts:
            text = configuration(folder, machines[each], [machines[name] for name in names], quick, changes or {})
            found.balancers.append(stack.enter_context(balancer(folder, machines[each], text)))
        for each in found.balancers:
            wait_for(lambda each=each: all(map(each.takes, names)), "all servers to be up")  # type: ignore[misc]
        yield found


def configuration(folder: Path, host: Host, machines: Sequence[Host], quick: bool, changes: dict[str, str]) -> str:
    """The sample for these hosts, without what belongs to an installation."""
    text = SAMPLE.read_text()
    text = re.sub(r"(?m)^ +(log|user|group|chroot) .*\n", "", text)
    text = re.sub(r"stats socket \S+", f"stats socket {folder}/{host.name}.stats", text)
    text = re.sub(r"(?m)^ +maxconn \d+", "    maxconn 9900", text)  # two descriptors each
    text = re.sub(r"(?m)^ +server .*\n", "", text)
    if quick:
        text = re.sub(r"inter [12]s", "inter 100ms", text)
        text = text.replace("timeout connect 2s", "timeout connect 300ms")
        text = re.sub(r" slowstart \d+s", "", text)
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text + "".join(f"    server {each.name} {each.address}:{PORT}\n" for each in machines)


@contextmanager
def balancer(folder: Path, host: Host, text: str) -> Iterator[Balancer]:
    """HAProxy with this configuration."""
    path = folder / f"{host.name}.cfg"
    path.write_text(text)
    with (
        open(folder / f"{host.name}.log", "wb") as log,
        host.running("haproxy", "-db", "-f", str(path), stdout=log, stderr=log) as process,
    ):

        def answers() -> bool:
            assert process.poll() is None, Path(log.name).read_text()
            return os.path.exists(folder / f"{host.name}.stats")

        wait_for(answers, "haproxy")
        yield Balancer(host, folder, process.pid)
