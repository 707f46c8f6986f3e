"""Workers that turn on their server: it goes on, serves by its other workers, answers ctl, and stops in order."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from launch import PATIENCE, Launched, launched, wait_for
from pronghorn.errors import HandshakeFailed
from pronghorn.testing.tls import over_tls, throw_away_pair

HANDLER = Path(__file__).parents[1] / "hostile_handler.py"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the attacks are those of Linux")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may read; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        shutil.copy(HANDLER, folder)
        yield Path(folder)


@contextmanager
def server(folder: Path, **settings: Any) -> Iterator[Launched]:
    """With two workers that answer with their process ids; as another user where that can be."""
    if os.geteuid() == 0:
        settings["user"] = "65534"
    given = {"workers": 2, "model": "epoll", "control_socket": f"{folder}/ctl", "drain_timeout": 2, **settings}
    with launched(folder, "hostile_handler:reply", **given) as started:
        assert "listening" in started.report, started.log
        started.ready(2)
        yield started


def said(server: Launched, line: bytes, *, tls: bool = False, seconds: float = 3.0) -> int:
    """Send a worker a line; the process id of that worker, or 0 if it died meanwhile or had no room."""
    try:
        with server.connect() as sock, over_tls(sock) if tls else sock as conn:
            conn.settimeout(seconds)
            conn.sendall(line + b"\n")
            return int(conn.recv(100) or 0)
    except (ConnectionError, TimeoutError, HandshakeFailed):
        return 0


def ctl(folder: Path, command: str) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(f"{folder}/ctl")
        sock.sendall(msgspec.json.encode({"command": command}) + b"\n")
        answer: dict[str, Any] = msgspec.json.decode(b"".join(iter(lambda: sock.recv(65536), b"")))
    assert answer["ok"], answer
    return answer


def serves_by_another(server: Launched, hostile: int, *, tls: bool = False) -> None:
    wait_for(lambda: said(server, b"hello", tls=tls) not in (0, hostile), "an answer of another worker")


def stops_in_order(server: Launched, folder: Path) -> None:
    server.send(signal.SIGTERM)
    assert server.exit() in (0, 6), server.log
    assert not (folder / "ctl").exists()
    assert "Traceback" not in server.log, server.log


@pytest.mark.parametrize(
    ("attack", "why"),
    [("rubbish", "is no report"), ("endless", "is longer than 256 KiB"), ("reports", "more than 64 things")],
)
def test_a_worker_that_floods_its_line_is_killed_and_replaced(public: Path, attack: str, why: str) -> None:
    with server(public) as started:
        supervisor = psutil.Process(started.pid)
        memory, spent = supervisor.memory_info().rss, supervisor.cpu_times()
        hostile = said(started, attack.encode())
        wait_for(lambda: why in started.log, "the reason in the log")
        serves_by_another(started, hostile)
        started.ready(3)
        assert hostile not in started.workers()
        assert ctl(public, "status")["result"]["state"] == "SERVING"
        used = supervisor.cpu_times()
        assert used.user + used.system - spent.user - spent.system < 1.0
        assert supervisor.memory_info().rss - memory < 4 * 1024 * 1024
        stops_in_order(started, public)


def test_descriptors_that_a_worker_sends_are_not_kept(public: Path) -> None:
    with server(public) as started:
        before = psutil.Process(started.pid).num_fds()
        hostile = said(started, b"rights")
        serves_by_another(started, hostile)
        # It sends them to the bus, too, whose hub is started then: with a line, its errors, a socket and a lock.
        wait_for(lambda: psutil.Process(started.pid).num_fds() <= before + 4, "no more descriptors")
        for each in (each for each in psutil.Process(started.pid).children() if ": bus" in " ".join(each.cmdline())):
            wait_for(lambda hub=each: hub.num_fds() < 30, "none in the hub either")  # type: ignore[misc]
        assert "Traceback" not in started.log
        stops_in_order(started, public)


@pytest.mark.parametrize("attack", ["scribble", "truncate"])
def test_a_worker_that_spoils_what_is_shared_spoils_itself(public: Path, attack: str, tmp_path: Path) -> None:
    """The supervisor and the other worker go on, under all limits that are counted there, and it passes."""
    limits = {"max_connections": 1000, "max_connections_per_source": 500, "accept_rate": 10_000}
    tls = attack == "truncate"
    with server(public, **limits, **(throw_away_pair(str(tmp_path)) if tls else {})) as started:
        ask = partial(said, started, attack.encode(), tls=tls, seconds=PATIENCE)
        hostile = wait_for(ask, "the word of the worker that attacks")
        deadline = time.monotonic() + 4  # the attack goes on for three seconds
        while time.monotonic() < deadline:
            ctl(public, "status")
            ctl(public, "workers")
            said(started, b"hello", tls=tls)
        other = next(pid for pid in started.workers() if pid != hostile)
        os.kill(other, signal.SIGKILL)
        serves_by_another(started, hostile, tls=tls)
        with suppress(ProcessLookupError):
            os.kill(hostile, signal.SIGKILL)
        ctl(public, "reload")
        wait_for(lambda: said(started, b"hello", tls=tls), "an answer of a new worker")
        wait_for(lambda: ctl(public, "status")["result"]["open"] == 0, "no open connection")
        status = ctl(public, "status")["result"]
        assert (status["state"], status["faults"]) == ("SERVING", 0), status
        assert "Traceback" not in started.log, started.log
        stops_in_order(started, public)
