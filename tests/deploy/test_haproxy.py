"""The samples of deploy/haproxy: a real HAProxy in front of two servers, what it tells them, and whom it leaves out."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from behind import (
    DEPLOY,
    PLACES,
    Clients,
    Host,
    answers_a_last_word,
    ask,
    balancer,
    changed,
    connect,
    hosts,
    killed,
    running,
    said,
    serves,
)

from launch import ctl, wait_for

HAPROXY = balancer("haproxy", "the package haproxy of the system", "/usr/sbin")
pytestmark = pytest.mark.slow

FRONTS = {"haproxy.cfg": "bind :8000", "tls.cfg": "bind :8443", "tcp-check.cfg": "bind :8001"}
AGENT = "agent.cfg"
"""Not a sample: the same servers as those of haproxy.cfg, in a backend where the agent check alone tells of a drain."""
WORDS = {"two": {"agent_check_drain": True}}
QUICK = {
    "    user haproxy\n    group haproxy\n    chroot /var/lib/haproxy\n": "",
    "maxconn 20000": "maxconn 200",
    " inter 1s": " inter 100ms",
    "agent-inter 2s": "agent-inter 100ms",
    "slowstart 20s": "slowstart 100ms",
}


class HaProxy:
    """A running HAProxy, and the two servers behind it."""

    def __init__(self, folder: Path, fronts: dict[str, int], hosts: dict[str, Host]) -> None:
        self.folder, self.fronts, self.hosts = folder, fronts, hosts
        self.plain, self.tls, self.tcp_check, self.agent = (fronts[name] for name in (*FRONTS, AGENT))

    def tell(self, command: str) -> str:
        """What HAProxy answers to a command of its own."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.folder / "stats"))
            sock.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: sock.recv(65536), b"")).decode()

    def state(self, server: str, backend: str = "pronghorn") -> str:
        """What HAProxy thinks of a server, and its weight: `UP 100`."""
        rows = self.tell("show stat").splitlines()
        names = rows[0].lstrip("# ").split(",")
        row = next(
            dict(zip(names, each.split(","), strict=False)) for each in rows if each.startswith(f"{backend},{server},")
        )
        return f"{row['status']} {row['weight']}"


def samples(folder: Path, both: dict[str, Host], fronts: dict[str, int]) -> dict[str, str]:
    """The samples for two servers of this machine and listeners that are there already, by their descriptors."""
    here = both["one"].folder
    (here / "both.pem").write_bytes(b"".join((here / f"tls_{part}.pem").read_bytes() for part in ("cert", "key")))
    changes: dict[str, dict[str, str]] = {
        "haproxy.cfg": {**QUICK, "/run/haproxy/admin.sock": str(folder / "stats")},
        "tls.cfg": {"/etc/haproxy/certs/": f"{here}/both.pem"},
        "tcp-check.cfg": {"inter 2s": "inter 100ms"},
    }
    for name, host in both.items():
        server = f"server {name} {PLACES[name]}:8000"
        changes["haproxy.cfg"][server] = f"server {name} {host.plain} port {host.admin} agent-port {host.agent}"
        changes["tcp-check.cfg"][server] = f"server {name} {host.plain}"
    found = {
        name: changed((DEPLOY / "haproxy" / name).read_text(), {bind: f"bind fd@{fronts[name]}", **changes[name]})
        for name, bind in FRONTS.items()
    }
    plain = found["haproxy.cfg"]
    names = {"devices": "agent_devices", "pronghorn": "agent", "GET /readyz": "GET /livez"}
    return {
        **found,
        AGENT: changed(
            plain[plain.index("frontend") :], {**names, f"fd@{fronts['haproxy.cfg']}": f"fd@{fronts[AGENT]}"}
        ),
    }


@contextmanager
def balanced(folder: Path, **settings: object) -> Iterator[HaProxy]:
    with ExitStack() as stack:
        settings = {"drain_delay": 0.5, "max_connections": 10, **settings}
        both = stack.enter_context(hosts(folder, WORDS, **settings))
        fronts = {name: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for name in (*FRONTS, AGENT)}
        for name, text in samples(folder, both, {each: sock.fileno() for each, sock in fronts.items()}).items():
            (folder / name).write_text(text)
        command = [HAPROXY, "-db", *(word for name in fronts for word in ("-f", name))]
        stack.enter_context(running(command, folder, tuple(each.fileno() for each in fronts.values())))
        proxy = HaProxy(folder, {name: sock.getsockname()[1] for name, sock in fronts.items()}, both)
        wait_for((folder / "stats").exists, "haproxy")
        wait_for(lambda: serves(proxy.plain, "one", "two"), "both servers")
        yield proxy


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HaProxy]:
    with balanced(tmp_path_factory.mktemp("haproxy")) as found:
        yield found


def test_haproxy_takes_the_samples_as_they_are(tmp_path: Path, proxy: HaProxy) -> None:
    """But for the certificates, which are the user's."""
    certificate = str(proxy.hosts["one"].folder / "both.pem")
    text = changed((DEPLOY / "haproxy" / "tls.cfg").read_text(), {"/etc/haproxy/certs/": certificate})
    (tmp_path / "tls.cfg").write_text(text)
    plain, check = (str(DEPLOY / "haproxy" / name) for name in ("haproxy.cfg", "tcp-check.cfg"))
    for files in ([plain], [plain, check], [plain, str(tmp_path / "tls.cfg"), check]):
        command = [HAPROXY, "-c", *(word for file in files for word in ("-f", file))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr


def test_the_server_knows_the_client_and_what_it_asked_tls_for(proxy: HaProxy) -> None:
    assert ask(proxy.plain)[2:] == ("v2", "none", False)
    assert ask(proxy.tls, "devices.example")[2:] == ("v2", "devices.example", False)
    assert answers_a_last_word(proxy.plain)
    assert ask(proxy.tcp_check)[2:] == ("v2", "none", False)


def test_a_check_that_only_connects_is_taken_for_what_it_is(proxy: HaProxy) -> None:
    for name, host in proxy.hosts.items():
        before = ctl(host.folder, "status")["accepted"]
        wait_for(lambda host=host, before=before: ctl(host.folder, "status")["accepted"] > before + 2, "three checks")
        wait_for(lambda name=name: proxy.state(name, "pronghorn_tcp_check").startswith("UP"), "a check in time")  # type: ignore[misc]
        warnings = [
            each for each in host.server.log.splitlines() if "WARNING" in each and " up this worker's" not in each
        ]
        assert "Refused" not in host.server.log and "renew it" in warnings[0] and len(warnings) == 1, warnings


def test_the_weight_goes_with_the_load_and_ctl_drain_empties_the_backend(proxy: HaProxy) -> None:
    one = proxy.hosts["one"]
    wait_for(lambda: proxy.state("one") == "UP 100", "the whole weight")
    with ExitStack() as held:
        for _ in range(5):
            held.enter_context(one.server.connect())
        wait_for(lambda: proxy.state("one") == "UP 50", "half the weight for one that is half full")
    wait_for(lambda: proxy.state("one") == "UP 100", "the whole weight again")
    with Clients(proxy.plain) as clients:
        drained = threading.Thread(target=ctl, args=(one.folder, "drain"))
        drained.start()
        wait_for(lambda: proxy.state("one").endswith(" 0"), "the weight to be nothing")
        assert set(clients.more(20)) == {"two"}
        drained.join()
        ctl(one.folder, "resize", count=1)
        wait_for(lambda: "one" in clients.more(4), "clients for the server that is back")
    assert not clients.failures


@pytest.mark.parametrize("name, drained, after", [("one", "UP 0", "DRAIN"), ("two", "DRAIN (agent)", "UP")])
def test_the_words_drain_and_ready_are_said_where_they_are_asked_for(
    proxy: HaProxy, name: str, drained: str, after: str
) -> None:
    """They end what a person has set in HAProxy, which the weight alone does not."""
    host, (other,) = proxy.hosts[name], PLACES.keys() - {name}
    ctl(host.folder, "drain")
    wait_for(lambda: proxy.state(name, "agent").startswith(drained), drained)
    assert {each.server for each in (ask(proxy.agent) for _ in range(4))} == {other}
    ctl(host.folder, "resize", count=1)
    wait_for(lambda: proxy.state(name, "agent") == "UP 100", "the server to be back")
    proxy.tell(f"set server agent/{name} state drain")
    with host.server.connect():  # of which a weight of 90 tells, so that an agent check has been since
        wait_for(lambda: proxy.state(name, "agent").endswith(" 90"), "the next check")
        assert proxy.state(name, "agent").startswith(after)
    proxy.tell(f"set server agent/{name} state ready")


def test_a_server_that_is_killed_is_left_out(tmp_path: Path) -> None:
    """Clients that it had are lost with it, and nobody who comes later: that one is given to the other at once."""
    with balanced(tmp_path) as proxy:
        two = proxy.hosts["two"].server
        wait_for(lambda: all(proxy.state(each) == "UP 100" for each in proxy.hosts), "the end of slowstart")
        with Clients(proxy.plain) as clients:
            killed(two)
            dead = time.monotonic()
            wait_for(lambda: proxy.state("two").startswith("DOWN"), "the check to fail")
            assert set(clients.more(20)) == {"one"}
        assert not [error for began, error in clients.failures if began > dead]


def test_a_server_that_stops_loses_no_client_and_answers_those_that_it_has(tmp_path: Path) -> None:
    with balanced(tmp_path, drain_delay=60) as proxy:
        one = proxy.hosts["one"].server
        with ExitStack() as held, Clients(proxy.plain) as clients:
            while said(stays := held.enter_context(connect(proxy.plain))).server != "one":
                pass
            one.send(signal.SIGTERM)
            wait_for(lambda: proxy.state("one").startswith("DOWN"), "the check to fail")
            assert said(stays).server == "one"
            one.send(signal.SIGTERM)  # ends the delay
            assert one.exit() == 0
            assert set(clients.more(20)) == {"two"}
        assert not clients.failures
