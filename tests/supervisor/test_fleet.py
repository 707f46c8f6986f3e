"""Fleet: workers that hang or are worn out are replaced, and nobody else; always over real processes."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from launch import Launched, launched, wait_for
from pronghorn.settings.model import MODELS
from pronghorn.supervisor.debuggers import debugger

STUCK = """
import pronghorn
@pronghorn.message(pronghorn.lines)
def reply(line):
    if line == b"stick":
        while True:
            pass
    return line.upper()
"""
DEBUGGED = """
import os, pdb, time
import pronghorn
def handle(line):
    if line == b"debug":
        with open(os.open("typed", os.O_RDWR)) as typed, open(os.devnull, "w") as screen:
            pdb.Pdb(stdin=typed, stdout=screen).set_trace()
    if line == b"stick":
        time.sleep(1000)
    return line.upper()
reply = pronghorn.message(pronghorn.lines)(handle)
"""
LONG = """
import time
def handle(conn):
    while data := conn.recv(100):
        conn.sendall(data.upper())
"""


def replaced(server: Launched, dead: int) -> int:
    """The worker that came for another, once it serves."""
    return wait_for(lambda: (now := server.workers()) and dead not in now and now[-1], "a new worker")


@pytest.mark.slow
def test_a_worker_that_hangs_writes_its_stacks_and_is_replaced(tmp_path: Path) -> None:
    """Under each kind of loop, and where the worker was stopped, side by side: what it takes is the silence."""
    with ExitStack() as stack:
        served = []
        for model in ("epoll", "asyncio", "iterative"):
            folder = tmp_path / model
            folder.mkdir()
            (folder / "stuck.py").write_text(STUCK)
            server = stack.enter_context(launched(folder, "stuck:reply", model=model, worker_silence="3s"))
            (worker,) = server.ready()
            stack.enter_context(server.connect()).sendall(b"stick\n")
            served.append((model, server, worker))
        stopped = stack.enter_context(launched(tmp_path, worker_silence="3s"))
        (worker,) = stopped.ready()
        os.kill(worker, signal.SIGSTOP)
        for model, server, hung in served:
            replaced(server, hung)
            assert "no sign of life" in server.log, model
            assert re.search(r'stuck.py", line [67] in reply', server.log), model
            assert server.ask(b"x\n") == b"X\n", model
            assert server.stop() == 0, model
        replaced(stopped, worker)
        assert stopped.ask(b"x") == b"X"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not say which signals are caught")
def test_a_worker_in_which_a_debugger_waits_is_not_killed_for_silence(tmp_path: Path) -> None:
    """Under each model whose heartbeat stops then, via PR 4."""
    with ExitStack() as stack:
        served = []
        for model in ("epoll", "asyncio", "iterative", "prefork"):
            folder = tmp_path / model
            folder.mkdir()
            os.mkfifo(folder / "typed")
            (folder / "bug.py").write_text(DEBUGGED)
            server = stack.enter_context(launched(folder, "bug:reply", model=model, workers=1, worker_silence="3s"))
            (worker,) = server.ready()
            sock = stack.enter_context(server.connect())
            sock.sendall(b"debug\n")
            served.append((model, server, worker, sock, folder))
        for _, server, _, _, _ in served:
            wait_for(lambda server=server: "A debugger waits in worker 1" in server.log, "the record")
        time.sleep(4)  # what is tested is that time passes
        for model, server, worker, sock, folder in served:
            assert server.workers() == [worker], model
            assert server.log.count("A debugger waits") == 1, model
            (folder / "typed").write_text("c\n")
            assert sock.recv(100) == b"DEBUG\n", model
            assert "no sign of life" not in server.log, model
            sock.sendall(b"stick\n")
        for model, server, worker, _, _ in served:
            wait_for(lambda server=server: "(--worker-silence): its stacks" in server.log, f"its end under {model}")
            replaced(server, worker)
            assert 'bug.py", line' in server.log, model


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ptrace(2) differs")
def test_a_worker_that_is_traced_is_not_killed_for_silence(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    seize, detach, nothing = 0x4206, 17, ctypes.c_void_p(0)
    with launched(tmp_path, worker_silence="3s") as server:
        (worker,) = server.ready()
        if libc.ptrace(seize, worker, nothing, nothing) != 0:
            pytest.skip("no process may be traced here")
        os.kill(worker, signal.SIGSTOP)
        wait_for(lambda: f"process {os.getpid()} traces it" in server.log, "the record")
        assert libc.ptrace(detach, worker, nothing, nothing) == 0
        os.kill(worker, signal.SIGCONT)
        assert server.ask(b"x") == b"X"
        assert server.workers() == [worker]


@pytest.mark.parametrize(
    ("file", "function", "words"),
    [
        ("/usr/lib/python3.12/pdb.py", "interaction", "pdb is"),
        ("/x/site-packages/debugpy/_vendored/pydevd/pydevd.py", "_do_wait_suspend", "debugpy is"),
        ("/x/site-packages/pudb/debugger.py", "interaction", "pudb is"),
        ("/usr/lib/python3.12/code.py", "interact", "an interactive interpreter"),
        ("/srv/app/mypdb.py", "f", ""),
        ("/srv/app/pdbs/x.py", "bdb", ""),
    ],
)
def test_debuggers_are_known_by_their_frames(file: str, function: str, words: str) -> None:
    stacks = f'Thread 0x00007f (most recent call first):\n  File "{file}", line 12 in {function}\n'
    found = debugger(stacks)
    assert words in found if words else not found


@pytest.mark.slow
def test_a_stopped_machine_murders_nobody(tmp_path: Path) -> None:
    with launched(tmp_path, workers=2, worker_silence="3s") as server:
        workers = server.ready(2)
        everybody = [server.pid, *workers]
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(5)  # what is tested is that time passes
        os.kill(server.pid, signal.SIGCONT)
        time.sleep(0.2)
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        time.sleep(1.5)
        assert sorted(server.workers()) == sorted(workers)
        assert "no sign of life" not in server.log


@pytest.mark.slow
def test_an_idle_client_is_no_hang_under_any_model(tmp_path: Path) -> None:
    own_flow = ("iterative", "prefork", "fork", "thread", "pool", "gevent")
    with ExitStack() as stack:
        served = []
        for model in (each for each in MODELS if each not in ("auto", "kqueue")):
            folder = tmp_path / model
            folder.mkdir()
            (folder / "long.py").write_text(LONG)
            handler = "long:handle" if model in own_flow else "upper"
            server = stack.enter_context(launched(folder, handler, model=model, workers=1, worker_silence="3s"))
            sock = stack.enter_context(server.connect())
            sock.sendall(b"x")
            assert sock.recv(100) == b"X"
            served.append((model, server, sock, server.workers()))
        time.sleep(4.5)  # what is tested is that time passes
        for model, server, sock, workers in served:
            sock.sendall(b"y")
            assert sock.recv(100) == b"Y", model
            assert server.workers() == workers, model


@pytest.mark.slow
def test_a_worn_out_worker_goes_once_its_successor_is_ready(tmp_path: Path) -> None:
    with launched(tmp_path, max_connections_per_worker=5) as server:
        (worker,) = server.ready()
        with server.connect() as kept:
            kept.sendall(b"x")
            assert kept.recv(10) == b"X"
            for _ in range(10):
                assert server.ask(b"hello") == b"HELLO"
            wait_for(lambda: "gets a successor: it has accepted" in server.log, "the successor")
            wait_for(lambda: len(server.workers()) == 2, "two workers")
            kept.sendall(b"y")
            assert kept.recv(10) in (b"Y", b"")
        assert replaced(server, worker)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [{"max_worker_age": "500ms"}, {"max_worker_memory": "1MiB"}])
def test_age_and_memory_wear_a_worker_out(tmp_path: Path, limit: dict[str, str]) -> None:
    with launched(tmp_path, workers=2, **limit) as server:
        before = server.ready(2)
        for dead in before:
            wait_for(lambda dead=dead: not psutil.pid_exists(dead), "its end")  # type: ignore[misc]
        assert server.ask(b"x") == b"X"
        assert server.stop() == 0
