"""A supervisor that was killed: whatever its workers and their children are held by, all of them are gone in time."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from launch import Launched, launched, lives, wait_for
from pronghorn.settings import Settings
from pronghorn.system.watchdog import MONOTONIC, PROCESS_TIME, THREAD_TIME, Watchdog
from pronghorn.worker_process import worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the timers are Linux's")

HANDLERS = Path(__file__).parent.parent / "handlers_that_wait.py"


def family(server: Launched) -> list[psutil.Process]:
    return psutil.Process(server.pid).children(recursive=True)


def hung(server: Launched) -> socket.socket:
    """A connection whose handler will never end."""
    sock = server.connect()
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    return sock


def can_bind(address: object) -> bool:
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            again.bind(address)
        except OSError:
            return False
        return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("handler", "models"), [("sleeps", ("iterative", "thread")), ("computes", ("fork", "prefork"))]
)
def test_a_hung_orphan_of_a_killed_supervisor_leaves(handler: str, models: tuple[str, str], tmp_path: Path) -> None:
    """Under two models side by side: what it takes is the silence."""
    settings: Any = {"workers": 1, "drain_timeout": "500ms", "worker_silence": "1s"}
    with ExitStack() as stack:
        servers, everybody = list[Launched](), list[psutil.Process]()
        for model in models:
            (tmp_path / model).mkdir()
            source = f"{HANDLERS}:{handler}_for_ever"
            servers.append(stack.enter_context(launched(tmp_path / model, source, model=model, **settings)))
            stack.enter_context(hung(servers[-1]))
            mine = family(servers[-1])
            if handler == "computes":
                before = {each: each.cpu_times().user for each in mine}
                wait_for(
                    lambda before=before: any(each.cpu_times().user > then + 0.2 for each, then in before.items()),  # type: ignore[misc]
                    "the computing",
                )
            everybody += mine
        for server in servers:
            os.kill(server.pid, signal.SIGKILL)
            server.exit()
        wait_for(lambda: not any(map(lives, everybody)), "the end of all", 60)
        # A process counts as dead once its first thread is; another may hold the listener for a moment longer.
        for server in servers:
            wait_for(lambda server=server: can_bind(server.address), "the address")  # type: ignore[misc]


@pytest.mark.slow
def test_children_of_the_fork_model_keep_no_lock_of_a_unix_path(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with (
        launched(
            tmp_path,
            f"{HANDLERS}:sleeps_for_ever",
            bind=f"unix:{path},127.0.0.1:0",
            model="fork",
            drain_timeout="500ms",
        ) as server,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.connect(str(path))
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        worker = psutil.Process(*server.ready())
        (child,) = worker.children()
        assert not [each for each in child.open_files() if each.path.endswith(".lock")]
        listening = [each for each in child.net_connections("all") if each.status == psutil.CONN_LISTEN]
        assert not listening
        os.kill(server.pid, signal.SIGKILL)
        os.kill(worker.pid, signal.SIGKILL)
        server.exit()
        wait_for(lambda: not lives(worker), "its end")
        second = tmp_path / "second"
        second.mkdir()
        with launched(second, "upper", bind=f"unix:{path}") as again:
            assert "listening" in again.report, again.report
        wait_for(lambda: not lives(child), "the end of what nobody looks after any more", 60)


@pytest.mark.slow
def test_children_of_the_fork_model_notice_both_deaths_whatever_signal_is_lost(tmp_path: Path) -> None:
    handler = f"{HANDLERS}:sleeps_without_signals"
    with launched(tmp_path, handler, model="fork", drain_timeout="100ms") as server, server.connect() as sock:
        for each in (b"1", b"2"):
            sock.sendall(each)
            assert sock.recv(1) == each
            worker = psutil.Process(*server.ready())
            (child,) = worker.children()
            os.kill(child.pid, signal.SIGURG)  # as when a child has lived for a while
        assert sock.recv(100) == b"sleeps"
        os.kill(server.pid, signal.SIGKILL)
        os.kill(worker.pid, signal.SIGKILL)
        server.exit()
        wait_for(lambda: not lives(child), "the end of what nobody looks after any more")


@pytest.mark.parametrize("clock", [MONOTONIC, PROCESS_TIME, THREAD_TIME])
def test_a_watchdog_ends_a_process_that_is_stuck_in_c(clock: int) -> None:
    pid = os.fork()
    if pid == 0:
        watchdog = Watchdog(clock)
        watchdog.put_off(100.0)
        watchdog.put_off(0.1)
        sum(itertools.repeat(0, 10**13))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.slow
def test_a_worker_ends_whose_main_thread_waits_for_another_that_computes_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STACKS", "GRACE"):
        monkeypatch.setattr(worker, name, 0.1)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    pid = os.fork()
    if pid == 0:
        worker.turning(Settings(worker_silence=0.2, drain_timeout=0.2))()
        computing = threading.Thread(target=lambda: sum(itertools.repeat(0, 10**11)))
        computing.start()
        computing.join()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
