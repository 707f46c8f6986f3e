"""What systemd is told, over a socket of the test's own in its place."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch import launched, wait_for
from pronghorn import events
from pronghorn.observers.systemd import SystemdObserver
from service_manager import Manager

STARTED = events.ServerStarted("mine:reply", "message", "epoll", "", 2, 10, "")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    if request.param == "abstract" and not os.path.exists("/proc/net/unix"):
        pytest.skip("abstract addresses are Linux's")
    made = Manager(f"@{tmp_path}/notify" if request.param == "abstract" else str(tmp_path / "notify"))
    yield made
    made.socket.close()


def observer(manager: Manager, **more: str) -> tuple[SystemdObserver, dict[str, str], list[float]]:
    environment = {"NOTIFY_SOCKET": manager.address, "HOME": "/", **more}
    clock = [1000.0]
    return SystemdObserver(environment, lambda: clock[0]), environment, clock


def test_nobody_says_a_thing_of_his_own_through_a_name(manager: Manager) -> None:
    tell, _, _ = observer(manager)
    forged = "x.py\nMAINPID=1\r\x1b[2J\udcff"
    for event in (
        events.ServerStarted(forged, "message", "epoll", "", 2, 10, ""),
        events.ReloadStarted(f"{forged} changed"),
        events.ReloadFailed(forged, ""),
        events.UpgradeFailed(forged, ""),
        events.Upgraded(os.getpid()),
    ):
        tell(event)
    said = manager.waiting()
    assert [line for line in said if line.startswith("MAINPID=")] == [f"MAINPID={os.getpid()}"] * 2
    assert all(line.isprintable() for line in said)
    assert r"STATUS=Reloading (x.py\nMAINPID=1\r\x1b[2J\udcff changed)" in said


def test_each_event_in_its_words(manager: Manager) -> None:
    tell, environment, _ = observer(manager)
    assert tell
    assert environment == {"HOME": "/"}
    tell(STARTED)
    assert manager.next() == ["READY=1", f"MAINPID={os.getpid()}", "STATUS=Serving mine:reply under epoll"]
    tell(events.ReloadStarted("SIGHUP"))
    assert manager.next() == ["RELOADING=1", "MONOTONIC_USEC=1000000000", "STATUS=Reloading (SIGHUP)"]
    tell(events.Reloaded(2, 0.5))
    assert manager.next() == ["READY=1", "STATUS=Reloaded: generation 2 serves"]
    tell(events.ReloadFailed("It has\na fault.", "x"))
    assert manager.next() == ["READY=1", "STATUS=Reload failed, and nothing has changed: It has\\na fault."]
    tell(events.WorkerReady(1, 2))
    tell(events.DrainStarted("SIGTERM", 30.0, 0))
    assert manager.next() == ["STOPPING=1", "STATUS=Draining (SIGTERM)"]


def test_after_an_upgrade_the_old_program_is_silent(manager: Manager) -> None:
    tell, _, _ = observer(manager)
    tell(STARTED)
    tell(events.UpgradeStarted())
    tell(events.Upgraded(4242))
    tell(events.DrainStarted("upgraded to process 4242", 30.0, 0))
    assert manager.waiting()[-2:] == ["MAINPID=4242", "STATUS=Serving mine:reply under epoll"]


def test_a_sign_of_life_every_half_of_the_watchdogs_time(manager: Manager) -> None:
    tell, environment, clock = observer(manager, WATCHDOG_USEC="10000000", WATCHDOG_PID=str(os.getpid()))
    assert environment == {"HOME": "/"}
    for silent, signs in ((0, 4), (1, 0), (0, 4)):
        clock[0] += 5.0
        count = 0
        for _ in range(20):
            clock[0] += 1.0
            tell(events.Pulse(2 - silent, silent, 2))
            count += manager.waiting().count("WATCHDOG=1")
        assert count == signs, "so many in twenty seconds, or none when a worker is silent"


def test_a_watchdog_of_another_process(manager: Manager) -> None:
    tell, _, clock = observer(manager, WATCHDOG_USEC="10000000", WATCHDOG_PID="1")
    clock[0] += 100.0
    tell(events.Pulse(2, 0, 2))
    assert manager.waiting() == []
    assert tell.handed == {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": ""}


def test_strength_is_told_when_it_changes(manager: Manager) -> None:
    tell, _, _ = observer(manager)
    for ready in (2, 2, 1, 1):
        tell(events.Pulse(ready, 0, 2))
    assert manager.waiting() == ["STATUS=Serving: 1 of 2 workers"]


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "/nobody/listens/here"])
def test_nobody_listens(address: str) -> None:
    tell = SystemdObserver({"NOTIFY_SOCKET": address})
    tell(STARTED)
    assert bool(tell) == address.startswith("/")


def test_only_the_process_that_read_the_variables_speaks(manager: Manager) -> None:
    tell, _, _ = observer(manager)
    child = os.fork()
    if not child:
        try:
            tell(STARTED)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert manager.waiting() == []


def test_a_whole_service(manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    (tmp_path / "mine.py").write_text(
        "import os, pronghorn\n@pronghorn.message(pronghorn.lines)\n"
        "def reply(line):\n    return str('NOTIFY_SOCKET' in os.environ).encode()\n"
    )
    with launched(tmp_path, "mine:reply") as server:
        assert f"MAINPID={server.pid}" in manager.until("READY=1")
        assert server.ask(b"x\n") == b"False\n"
        manager.until("WATCHDOG=1")
        server.send(signal.SIGHUP)
        assert manager.until("RELOADING=1")[1].startswith("MONOTONIC_USEC=")
        manager.until("READY=1")
        server.send(signal.SIGUSR2)
        (new,) = [line for line in manager.until("READY=1") if line.startswith("MAINPID=")]
        manager.until(new)
        assert server.exit() == 0
        manager.until("WATCHDOG=1")
        assert server.ask(b"x\n") == b"False\n"
        os.kill(int(new.partition("=")[2]), signal.SIGTERM)
        manager.until("STOPPING=1")
        wait_for(lambda: "Stopped" in server.log.rpartition("Draining (SIGTERM)")[2], "the end")
