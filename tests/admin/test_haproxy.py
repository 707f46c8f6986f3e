"""A real HAProxy in front of two servers: what it makes of /readyz and of the agent check."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from test_admin import ctl

from launch import Launched, launched, wait_for

pytest.importorskip("h11")
if shutil.which("haproxy") is None:
    pytest.skip("haproxy is not installed", allow_module_level=True)
pytestmark = pytest.mark.slow

WHO = """
import pronghorn
@pronghorn.message(pronghorn.lines)
def handler(line): return b"%s"
"""
CONFIG = """
global
    stats socket {folder}/stats mode 600
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout check 2s
listen front
    bind fd@{front}
    balance roundrobin
    {option}
    server one {one} {one_check}
    server two {two} {two_check}
"""


class Proxy:
    """A running HAProxy; `servers` are the two behind it, each with a folder that has its control socket."""

    def __init__(self, folder: Path, front: socket.socket, servers: dict[str, tuple[Launched, Path]]) -> None:
        self.folder, self.place, self.servers = folder, front.getsockname(), servers

    def ask(self) -> str:
        """Which server answers a new client."""
        with socket.create_connection(self.place, timeout=15) as sock:
            sock.sendall(b"who?\n")
            answer = sock.recv(100)
        assert answer.endswith(b"\n"), "the client got no answer"
        return answer.decode().strip()

    def state(self, server: str) -> str:
        """What HAProxy thinks of a server, and its weight: `UP 100`."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.folder / "stats"))
            sock.sendall(b"show stat\n")
            rows = b"".join(iter(lambda: sock.recv(65536), b"")).decode().splitlines()
        names = rows[0].lstrip("# ").split(",")
        row = next(
            dict(zip(names, each.split(","), strict=False)) for each in rows if each.startswith(f"front,{server},")
        )
        return f"{row['status']} {row['weight']}"


@contextmanager
def proxied(folder: Path, option: str, check: str, **settings: object) -> Iterator[Proxy]:
    with ExitStack() as stack:
        servers: dict[str, tuple[Launched, Path]] = {}
        places = {}
        for name in ("one", "two"):
            own = folder / name
            own.mkdir()
            (own / "mine.py").write_text(WHO % name)
            about = {"admin": "127.0.0.1:0", "agent_check": "127.0.0.1:0", "control_socket": str(own / "control")}
            server = stack.enter_context(launched(own, "mine:handler", **about, **settings))
            servers[name] = server, own
            ports = {each: server.report[each][0].rpartition(":")[2] for each in ("admin", "agent_check")}
            places[name] = server.report["listening"][0]
            places[f"{name}_check"] = check.format(**ports)
        front = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        text = CONFIG.format(folder=folder, front=front.fileno(), option=option, **places)
        (folder / "haproxy.cfg").write_text(text)
        command = ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]
        log = stack.enter_context(open(folder / "haproxy.log", "wb"))
        process = subprocess.Popen(command, pass_fds=[front.fileno()], stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.kill)
        proxy = Proxy(folder, front, servers)
        wait_for((folder / "stats").exists, "haproxy")
        wait_for(lambda: {proxy.ask() for _ in range(4)} == {"one", "two"}, "both servers")
        yield proxy


def test_a_server_that_stops_loses_no_client_behind_a_check_of_readiness(tmp_path: Path) -> None:
    check = "check port {admin} inter 100ms fall 1 rise 1"
    with proxied(tmp_path, "option httpchk GET /readyz", check, drain_delay=1.0) as proxy:
        answers: list[str] = []
        failures: list[BaseException] = []
        over = threading.Event()

        def clients() -> None:
            while not over.is_set():
                try:
                    answers.append(proxy.ask())
                except (OSError, AssertionError) as error:
                    failures.append(error)

        threads = [threading.Thread(target=clients) for _ in range(4)]
        for each in threads:
            each.start()
        try:
            one, _ = proxy.servers["one"]
            one.send(signal.SIGTERM)
            wait_for(lambda: proxy.state("one").startswith("DOWN"), "the check to fail")
            assert one.exit() == 0
            before = len(answers)
            wait_for(lambda: len(answers) > before + 20, "clients afterwards")
        finally:
            over.set()
            for each in threads:
                each.join()
        assert not failures and set(answers[before + 4 :]) == {"two"}


def test_the_weight_goes_with_the_load_and_ctl_drain_empties_the_backend(tmp_path: Path) -> None:
    check = "check port {admin} inter 1s agent-check agent-port {agent_check} agent-inter 100ms weight 100"
    with proxied(tmp_path, "", check, drain_delay=1.0, max_connections=10) as proxy:
        one, folder = proxy.servers["one"]
        assert wait_for(lambda: (told := proxy.state("one")).startswith("UP") and told) == "UP 100"
        held = [one.connect() for _ in range(5)]
        wait_for(lambda: proxy.state("one") == "UP 50", "half the weight for one that is half full")
        for each in held:
            each.close()
        drained = threading.Thread(target=ctl, args=(folder, "drain"))
        drained.start()
        wait_for(lambda: proxy.state("one") == "UP 0", "the weight to be nothing")
        assert {proxy.ask() for _ in range(10)} == {"two"}
        drained.join()
        ctl(folder, "resize", count=1)
        wait_for(lambda: proxy.state("one") == "UP 100", "the weight to be back")
        assert {proxy.ask() for _ in range(10)} == {"one", "two"}
