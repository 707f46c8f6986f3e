"""Faults of the supervisor's own: told, counted, survived; and a way out that is gone to its end."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec
import psutil
import pytest

from launch import script, wait_for
from pronghorn.events import Event, SupervisorFailed
from pronghorn.observers.log import LogObserver
from pronghorn.supervisor import poller as poller_module
from pronghorn.supervisor.exception_guard import RESERVE, Guard
from pronghorn.supervisor.poller import Poller
from pronghorn.system.processes import resident_memory


def unlucky() -> NoReturn:
    raise ZeroDivisionError("unlucky")


def no_memory() -> NoReturn:
    raise MemoryError


def interrupted() -> NoReturn:
    raise KeyboardInterrupt


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def guard(told: list[Event]) -> Guard:
    guard = Guard(told.append)
    guard.armed = True
    return guard


def test_before_the_server_serves_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError):
        Guard()("try", unlucky)


def test_a_fault_is_told_counted_and_survived(guard: Guard, told: list[Event]) -> None:
    assert guard("add", sum, (1, 2)) and not guard.failed
    assert not guard("try", unlucky)
    (event,) = told
    assert isinstance(event, SupervisorFailed) and event.what == "try"
    assert (guard.failures, guard.failed, guard.last) == (1, True, "failed to try: ZeroDivisionError")
    guard.turn()
    assert not guard.failed and guard.failures == 1


def test_without_memory_a_reserve_is_given_up_and_taken_again(guard: Guard, told: list[Event]) -> None:
    assert not guard("remember", no_memory)
    assert guard._reserve is None and len(told) == 1
    guard.turn()
    assert guard._reserve


def test_a_fault_of_whoever_tells_of_it_is_survived() -> None:
    guard = Guard(lambda event: unlucky())
    guard.armed = True
    assert not guard("try", unlucky)
    assert guard.failures == 2


def test_on_the_way_out_nothing_is_raised(told: list[Event]) -> None:
    guard = Guard(told.append)
    for call in (unlucky, no_memory, interrupted):
        assert not guard.last_step("leave", call)
    assert len(told) == 3


@pytest.mark.parametrize("call", [unlucky, interrupted])
def test_a_child_that_comes_back_ends(guard: Guard, call: Callable[[], NoReturn]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            guard("go astray", call)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_whose_call_fails_rests_and_the_others_are_served(
    guard: Guard, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    poller, called = Poller(), list[str]()
    poller.guard = guard
    pairs = [socket.socketpair() for _ in range(2)]
    for (ours, theirs), call in zip(pairs, (unlucky, lambda: called.append("well")), strict=True):
        poller.add(ours, call)
        theirs.send(b"x")
    for _ in range(50):
        poller.wait(0)
    assert (len(told), len(called)) == (1, 50)
    now[0] += poller_module.REST
    poller.wait(0)
    assert len(told) == 2
    poller.remove(pairs[0][0])
    now[0] += poller_module.REST
    poller.wait(0)
    assert (len(told), len(called)) == (2, 52)
    for pair in pairs:
        for end in pair:
            end.close()


def test_the_log_tells_where_and_not_each_time(capfd: pytest.CaptureFixture[str]) -> None:
    log = LogObserver()
    guard = Guard(log)
    guard.armed = True
    for _ in range(100):
        guard("try", unlucky)
    guard("remember", no_memory)
    log.close()
    told = capfd.readouterr().err
    assert told.count("The supervisor failed to try: ZeroDivisionError: unlucky; it goes on") == 1
    assert "in unlucky" in told and told.count("MemoryError; it goes on") == 1
    assert len(told.splitlines()) < 20


# A real server, of which parts are broken.

BROKEN = """
import os, pronghorn
from pronghorn.supervisor.supervisor import Supervisor
from pronghorn.supervisor.workers import Workers
from pronghorn.beside import Beside

def break_it(kind, name):
    real = getattr(kind, name)
    def broken(*arguments):
        if os.path.exists("go"):
            raise {error}
        return real(*arguments)
    setattr(kind, name, broken)

break_it(Supervisor, "_look_at_certificates")
break_it(Workers, "hear")
break_it(Workers, "hurry_orphans")
break_it(Beside, "_end_autoreload")

@pronghorn.message(pronghorn.lines)
def reply(line):
    return b"%d" % os.getpid()

if __name__ == "__main__":
    pronghorn.serve(
        reply, bind="127.0.0.1:0", workers=1, control_socket=os.path.abspath("ctl"), pid_file="pid", drain_timeout=0.5
    )
"""


@pytest.mark.parametrize("error", ["ZeroDivisionError", "MemoryError"])
def test_a_server_with_faults_serves_replaces_tells_and_stops(tmp_path: Path, error: str) -> None:
    with script(tmp_path, BROKEN.replace("{error}", error)) as server:
        first = int(server.ask(b"x\n"))
        supervisor = psutil.Process(server.pid)
        spent = supervisor.cpu_times()
        assert faults(tmp_path) == 0
        (tmp_path / "go").touch()
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: "failed to" in server.log and server.workers() not in ([], [first]), "another worker")
        wait_for(lambda: faults(tmp_path) > 5, "more faults")
        assert int(server.ask(b"x\n")) != first, "it serves although the supervisor never hears that it is ready"
        used = supervisor.cpu_times()
        assert used.user + used.system - spent.user - spent.system < 1.0
        told = server.log.count("The supervisor failed to")
        assert told < 8, server.log
        left = server.workers()
        server.stop()
        assert not (tmp_path / "ctl").exists() and not (tmp_path / "pid").exists()
        assert not any(psutil.pid_exists(pid) for pid in left)


def faults(folder: Path) -> int:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(f"{folder}/ctl")
        sock.sendall(b'{"command": "status"}\n')
        status = msgspec.json.decode(b"".join(iter(lambda: sock.recv(65536), b"")))["result"]
    assert ("failed to" in (status["last_fault"] or "")) == (status["faults"] > 0)
    return int(status["faults"])


def test_the_reserve_takes_no_memory() -> None:
    before = resident_memory(os.getpid())
    guards = [Guard() for _ in range(8)]
    assert resident_memory(os.getpid()) - before < len(guards) * RESERVE / 4
