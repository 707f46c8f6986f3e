"""Signals from the first moment of a server to its last: they kill nobody, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from launch import PATIENCE, launched, started, wait_for

SERVE = ["-m", "pronghorn", "serve"]
SLOW = """
import pathlib, time
pathlib.Path("imported").touch()
time.sleep(0.3)
from pronghorn.handlers.builtin import upper
"""


def flood(process: subprocess.Popen[bytes], number: signal.Signals) -> int:
    """Send a signal until the process is gone; its exit status."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None:
        assert time.monotonic() < deadline
        process.send_signal(number)
        time.sleep(0.0005)
    return process.returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_to_the_very_end(tmp_path: Path, number: signal.Signals) -> None:
    with launched(tmp_path, bind="unix:sock", pid_file="pid") as server:
        wait_for((tmp_path / "pid").exists)
        server.send(signal.SIGTERM)
        assert flood(server.process, number) == 0, server.log
        assert not (tmp_path / "pid").exists()
        assert not (tmp_path / "sock").exists()


def test_signals_to_the_end_of_a_script(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("""
import pronghorn, signal
told = []
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    pronghorn.serve("upper", bind="unix:sock", pid_file="pid")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
""")
    with started(tmp_path, ["script.py"], []) as server:
        wait_for((tmp_path / "pid").exists)
        server.send(signal.SIGTERM)
        assert flood(server.process, signal.SIGTERM) == 0, server.log
        assert not (tmp_path / "pid").exists()
        assert not (tmp_path / "sock").exists()


@pytest.mark.slow
def test_what_comes_while_a_server_starts_waits(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    with started(tmp_path, [*SERVE, "slow.py:upper", "--bind", "127.0.0.1:0"], []) as server:
        wait_for(lambda: b"SigBlk" in status(server.pid) and blocked(server.pid, signal.SIGHUP), "the first line")
        deadline = time.monotonic() + PATIENCE
        while " Serving " not in server.log:
            assert server.process.poll() is None and time.monotonic() < deadline
            for number in (signal.SIGUSR1, signal.SIGCHLD):
                server.send(number)
            if not (tmp_path / "imported").exists():
                server.send(signal.SIGHUP)
                server.send(signal.SIGTTIN)
            time.sleep(0.01)
        wait_for(lambda: "Reloaded" in server.log, "the reload that was asked for")
        wait_for(lambda: len(server.workers()) >= 2, "the worker that was asked for")
        assert server.stop() == 0


def status(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return b""


def blocked(pid: int, number: signal.Signals) -> bool:
    mask = next(line for line in status(pid).splitlines() if line.startswith(b"SigBlk")).split()[1]
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells which signals are blocked")
@pytest.mark.parametrize("moment", ["first", "import"])
def test_term_while_a_server_starts_is_a_stop_in_order(tmp_path: Path, moment: str) -> None:
    (tmp_path / "slow.py").write_text(SLOW.replace("0.3", "60"))
    with started(tmp_path, [*SERVE, "slow.py:upper", "--bind", "unix:sock", "--pid-file", "pid"], []) as server:
        if moment == "first":
            wait_for(lambda: b"SigBlk" in status(server.pid) and blocked(server.pid, signal.SIGHUP), "the first line")
        else:
            wait_for((tmp_path / "imported").exists)
        server.send(signal.SIGTERM)
        assert flood(server.process, signal.SIGTERM) == 0, server.log
        assert "Traceback" not in server.log
        assert sorted(os.listdir(tmp_path)) in (["slow.py", "stderr"], ["imported", "slow.py", "stderr"])


TAKING = """
import contextlib, signal, pronghorn

def mine(*_):
    with open("heard", "a") as file:
        file.write("heard")

signal.signal(signal.SIGCHLD, mine)
signal.signal(signal.SIGTERM, mine)

@contextlib.contextmanager
def life():
    signal.signal(signal.SIGINT, mine)
    yield

@pronghorn.lifespan(life)
@pronghorn.message(pronghorn.lines)
def handler(line):
    if line == b"again":
        signal.signal(signal.SIGTERM, mine)
    return line
"""


@pytest.mark.parametrize("model", ["epoll", "asyncio", "fork"])
def test_a_handler_that_takes_signals_is_told_of_and_costs_no_drain(tmp_path: Path, model: str) -> None:
    (tmp_path / "taking.py").write_text(TAKING)
    with launched(tmp_path, "taking.py:handler", model=model) as server:
        assert "had taken SIGTERM and SIGINT" in server.log
        assert ("had taken SIGCHLD" in server.log) is (model == "fork")
        for question in [b"one\n", b"two\n", *[b"again\n"] * (model != "fork")]:
            assert server.ask(question) == question
        if model == "fork":
            wait_for(lambda: not psutil.Process(server.workers()[0]).children(), "the children's burial")
        began = time.monotonic()
        assert server.stop() == 0, server.log
        assert time.monotonic() - began < 15


FORKS = """
import os, signal, time
from pronghorn.system.signals import keep_signals_in_forks

keep_signals_in_forks()
mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
for _ in range(10):
    if not (pid := os.fork()):
        time.sleep(3)
        os._exit(1)
    os.kill(pid, signal.SIGTERM)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def test_no_child_of_a_worker_loses_the_signal_of_its_first_moment() -> None:
    told = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=False)
    assert told.stdout.split() == ["7"] * 10, told.stderr
