"""Workers that turn on their server: it goes on, serves by its other workers, answers ctl, and stops in order."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from launch import PATIENCE, Launched, launched, wait_for

HANDLER = Path(__file__).with_name("hostile_handler.py")
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


def said(server: Launched, line: bytes) -> int:
    """Send a worker a line; the process id of that worker, or 0 if it died meanwhile."""
    try:
        return int(server.ask(line + b"\n") or 0)
    except ConnectionError:
        return 0


def ctl(folder: Path, command: str) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(f"{folder}/ctl")
        sock.sendall(msgspec.json.encode({"command": command}) + b"\n")
        answer: dict[str, Any] = msgspec.json.decode(b"".join(iter(lambda: sock.recv(65536), b"")))
    assert answer["ok"], answer
    return answer


def serves_by_another(server: Launched, hostile: int) -> None:
    wait_for(lambda: said(server, b"hello") not in (0, hostile), "an answer of another worker")


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
        wait_for(lambda: psutil.Process(started.pid).num_fds() <= before, "no more descriptors")
        stops_in_order(started, public)
