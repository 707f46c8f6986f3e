"""Upgrade: a new program takes the listeners over; always over real processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from boards import reach
from launch import Launched, gone, launched_code, wait_for

HANDLER = """
import os, pronghorn
@pronghorn.message(pronghorn.lines)
def reply(line):
    return b"%d" % os.getppid()
"""


def supervisors(server: Launched) -> list[int]:
    """Who answers: the parents of workers."""
    return [int(server.ask(b"x\n"))]


def upgraded(server: Launched, old: int) -> int:
    """The process id of the new supervisor, once it answers; a worker of the old one may still accept for a moment."""
    server.send(signal.SIGUSR2)
    wait_for(lambda: "Upgraded: process" in server.log, "the upgrade")
    return wait_for(lambda: (pid := int(server.ask(b"x\n"))) != old and pid, "the new supervisor's answer")


def begun(sock: socket.socket) -> int:
    """The program whose worker has taken the connection, which has said half a line more since."""
    sock.sendall(b"x\nhalf a li")
    return int(sock.recv(100))


def connection_of(server: Launched, program: int) -> socket.socket | None:
    """An open connection, if it is this program that answers on it."""
    sock = server.connect()
    sock.sendall(b"x\n")
    if int(sock.recv(100)) == program:
        return sock
    sock.close()
    return None


def test_a_new_program_serves_and_the_old_one_leaves(tmp_path: Path) -> None:
    with launched_code(tmp_path, HANDLER, "reply") as server:
        with server.connect() as sock:
            assert begun(sock) == server.pid
            new = upgraded(server, server.pid)
            sock.sendall(b"ne\n")
            assert int(sock.recv(100)) == server.pid, "the old one finishes what it has begun"
        assert server.exit() == 0
        assert int(server.ask(b"x\n")) == new
        os.kill(new, signal.SIGTERM)
        wait_for(lambda: gone(new), "the end")
        with pytest.raises(ConnectionRefusedError):
            server.connect()


def test_the_number_of_workers_stays_and_is_told(tmp_path: Path) -> None:
    with launched_code(tmp_path, HANDLER, "reply") as server:
        server.send(signal.SIGTTIN)
        server.ready(2)
        new = upgraded(server, server.pid)
        wait_for(lambda: len(psutil.Process(new).children()) == 2, "two workers")
        told = rf"\[{new}\] \[INFO\] Serving mine:reply .*: 2 workers"
        wait_for(lambda: re.search(told, server.log) is not None, "the new program's word")
        os.kill(new, signal.SIGTERM)


def test_at_a_stop_the_old_program_tells_of_its_own_connections(tmp_path: Path) -> None:
    with launched_code(tmp_path, HANDLER, "reply") as server, server.connect() as stays:
        assert begun(stays) == server.pid
        new = upgraded(server, server.pid)
        with wait_for(lambda: connection_of(server, new), "a connection that the new program takes"):
            reach(server, open=2)  # connections whose clients have left may count for a moment longer
            os.kill(new, signal.SIGTERM)
            for pid, count in ((new, "2 open connections have"), (server.pid, "1 open connection has")):
                told = rf"\[{pid}\] \[INFO\] Draining \(SIGTERM\): {count}"
                wait_for(lambda told=told: re.search(told, server.log) is not None, "the beginning of the drain")  # type: ignore[misc]


@pytest.mark.slow
def test_three_upgrades_in_a_row(tmp_path: Path) -> None:
    with launched_code(tmp_path, HANDLER, "reply") as server:
        pid = server.pid
        for turn in range(3):
            before = server.log.count("Upgraded: process")
            assert before == turn
            os.kill(pid, signal.SIGUSR2)
            wait_for(lambda turn=turn: server.log.count("Upgraded: process") == turn + 1, "the upgrade")  # type: ignore[misc]
            old = pid
            pid = wait_for(lambda old=old: (now := int(server.ask(b"x\n"))) != old and now, "another supervisor")  # type: ignore[misc]
        os.kill(pid, signal.SIGTERM)


BROKEN = {
    "an import error": "import nothing_of_that_name\n",
    "an end": "import os\nos._exit(0)\n",
    "a hang": "import time\ntime.sleep(60)\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", BROKEN)
def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, fault: str) -> None:
    limit = {"start_timeout": "3s"} if fault == "a hang" else {}
    with launched_code(tmp_path, HANDLER, "reply", **limit) as server:
        (before,) = server.ready()
        (tmp_path / "mine.py").write_text(BROKEN[fault])
        server.send(signal.SIGUSR2)
        wait_for(lambda: "Upgrade failed, and nothing has changed" in server.log, "the failure")
        wait_for(lambda: server.workers() == [before], "nobody but the old worker")
        assert int(server.ask(b"x\n")) == server.pid
        (tmp_path / "mine.py").write_text(HANDLER)
        assert upgraded(server, server.pid) != server.pid


@pytest.mark.slow
def test_term_during_an_upgrade_ends_both(tmp_path: Path) -> None:
    with launched_code(tmp_path, HANDLER, "reply") as server:
        (tmp_path / "mine.py").write_text("import time\ntime.sleep(60)\n")
        server.send(signal.SIGUSR2)
        wait_for(lambda: "Upgrading" in server.log, "the upgrade")
        server.send(signal.SIGTERM)
        assert server.exit() == 0
        group = [each for each in psutil.pids() if _group(each) == server.pid]
        wait_for(lambda: all(map(gone, group)), "the end of both")


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


@pytest.mark.slow
def test_the_path_of_a_unix_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with launched_code(tmp_path, HANDLER, "reply", bind=f"unix:{path}") as server:
        inode = path.stat().st_ino
        server.send(signal.SIGUSR2)
        assert server.exit() == 0
        assert path.stat().st_ino == inode
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"x\n")
            new = int(sock.recv(100))
        os.kill(new, signal.SIGTERM)
        wait_for(lambda: not path.exists(), "the removal of the path")


def test_a_script_cannot_be_upgraded(tmp_path: Path) -> None:
    from launch import script

    with script(tmp_path, "import pronghorn\npronghorn.serve(bind='127.0.0.1:0')\n") as server:
        server.send(signal.SIGUSR2)
        wait_for(lambda: "A script holds its handler" in server.log, "the refusal")
        assert server.ask(b"x") == b"X"
        assert server.stop() == 0


WAITS = """
import os, time
while not os.path.exists("go"):
    open("waiting", "w").close()
    time.sleep(0.01)
"""


def said(server: Launched, pid: int, text: str) -> bool:
    return bool(re.search(rf"\[{pid}\] \[\w+\] {text}", server.log))


@pytest.mark.slow
def test_what_is_asked_for_during_an_upgrade_is_done_by_the_new_program(tmp_path: Path) -> None:
    with launched_code(tmp_path, HANDLER, "reply", control_socket=str(tmp_path / "control")) as server:
        (tmp_path / "mine.py").write_text(WAITS + HANDLER)
        server.send(signal.SIGUSR2)
        wait_for(lambda: (tmp_path / "waiting").exists(), "the new program")
        for number in (signal.SIGTTIN, signal.SIGHUP, signal.SIGUSR2):
            server.send(number)
            wait_for(lambda: not Path(f"/proc/{server.pid}").exists() or not pending(server.pid), "its arrival")
        wait_for(lambda: "An upgrade is under way" in server.log, "the refusal of a second upgrade")
        resize = [sys.executable, "-m", "pronghorn", "ctl", "resize", "3", "--socket", str(tmp_path / "control")]
        refused = subprocess.run(resize, capture_output=True, text=True, timeout=30)
        assert refused.returncode and "under way" in refused.stderr
        with server.connect() as held:
            assert begun(held) == server.pid
            (tmp_path / "go").touch()
            wait_for(lambda: "Upgraded: process" in server.log, "the upgrade")
            new = int(re.findall(r"Upgraded: process (\d+)", server.log)[0])
            wait_for(lambda: said(server, new, r"Reloaded in .*: generation \d+ serves"), "the reload")
            wait_for(lambda: said(server, new, "Worker 2 is ready"), "one worker more")
            server.send(signal.SIGHUP)  # the old program still drains: it passes that on
            wait_for(lambda: server.log.count(f"[{new}] [INFO] Reloading (SIGHUP)") == 2, "the second reload")
        os.kill(new, signal.SIGTERM)


def test_an_upgrade_that_is_asked_for_during_a_reload_comes_after_it(tmp_path: Path) -> None:
    with launched_code(tmp_path, HANDLER, "reply", control_socket=str(tmp_path / "control")) as server:
        (tmp_path / "mine.py").write_text(WAITS + HANDLER)
        server.send(signal.SIGHUP)
        wait_for(lambda: (tmp_path / "waiting").exists(), "the reload")
        server.send(signal.SIGUSR2)
        wait_for(lambda: not pending(server.pid), "its arrival")
        (tmp_path / "go").touch()
        wait_for(lambda: "Upgraded: process" in server.log, "the upgrade")
        assert server.log.index("Reloaded in") < server.log.index("Upgraded: process")
        os.kill(int(re.findall(r"Upgraded: process (\d+)", server.log)[0]), signal.SIGTERM)


def pending(pid: int) -> bool:
    """Whether a signal has not been taken by its process yet."""
    text = Path(f"/proc/{pid}/status").read_text()
    return any(int(value, 16) for value in re.findall(r"^S..Pnd:\s+(\w+)", text, re.MULTILINE))


def test_what_was_asked_for_during_an_upgrade_that_failed_is_done_here(tmp_path: Path) -> None:
    with launched_code(tmp_path, HANDLER, "reply") as server:
        (tmp_path / "mine.py").write_text(WAITS + "raise ValueError\n")
        server.send(signal.SIGUSR2)
        wait_for(lambda: (tmp_path / "waiting").exists(), "the new program")
        server.send(signal.SIGTTIN)
        wait_for(lambda: not pending(server.pid), "its arrival")
        (tmp_path / "go").touch()
        wait_for(lambda: "Upgrade failed" in server.log, "the failure")
        wait_for(lambda: "workers from now on: 2" in server.log or "2 workers" in server.log, "one more")
