"""Upgrade: a new program takes the listeners over; always over real processes."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import psutil
import pytest

from launch import Launched, launched, wait_for

HANDLER = """
import os, pronghorn
@pronghorn.message(pronghorn.lines)
def reply(line):
    return b"%d" % os.getppid()
"""


def supervisors(server: Launched) -> list[int]:
    """Who answers: the parents of workers."""
    return [int(server.ask(b"x\n"))]


@pytest.fixture
def followed() -> list[int]:
    """Process ids of new programs; they are in the group of the first, which the launcher ends."""
    return []


def upgraded(server: Launched, old: int) -> int:
    """The process id of the new supervisor, once it alone answers."""
    server.send(signal.SIGUSR2)
    wait_for(lambda: "Upgraded: process" in server.log, "the upgrade")
    return wait_for(lambda: (pid := int(server.ask(b"x\n"))) != old and pid, "the new supervisor's answer")


def test_a_new_program_serves_and_the_old_one_leaves(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HANDLER)
    with launched(tmp_path, "mine:reply") as server:
        server.ready()
        with server.connect() as sock:
            sock.sendall(b"half a li")
            new = upgraded(server, server.pid)
            sock.sendall(b"ne\n")
            assert int(sock.recv(100)) == server.pid, "the old one finishes what it has begun"
        assert server.exit() == 0
        assert int(server.ask(b"x\n")) == new
        os.kill(new, signal.SIGTERM)
        wait_for(lambda: not psutil.pid_exists(new) or psutil.Process(new).status() == "zombie", "the end")
        with pytest.raises(ConnectionRefusedError):
            server.connect()


def test_the_number_of_workers_stays_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HANDLER)
    with launched(tmp_path, "mine:reply") as server:
        server.ready()
        server.send(signal.SIGTTIN)
        server.ready(2)
        new = upgraded(server, server.pid)
        wait_for(lambda: len(psutil.Process(new).children()) == 2, "two workers")
        assert re.search(rf"\[{new}\] \[INFO\] Serving mine:reply .*: 2 workers", server.log)
        os.kill(new, signal.SIGTERM)


def test_three_upgrades_in_a_row(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HANDLER)
    with launched(tmp_path, "mine:reply") as server:
        server.ready()
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


@pytest.mark.parametrize("fault", BROKEN)
def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, fault: str) -> None:
    (tmp_path / "mine.py").write_text(HANDLER)
    with launched(tmp_path, "mine:reply", start_timeout="1s") as server:
        (before,) = server.ready()
        (tmp_path / "mine.py").write_text(BROKEN[fault])
        server.send(signal.SIGUSR2)
        wait_for(lambda: "Upgrade failed, and nothing has changed" in server.log, "the failure")
        wait_for(lambda: server.workers() == [before], "nobody but the old worker")
        assert int(server.ask(b"x\n")) == server.pid
        (tmp_path / "mine.py").write_text(HANDLER)
        assert upgraded(server, server.pid) != server.pid


def test_term_during_an_upgrade_ends_both(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HANDLER)
    with launched(tmp_path, "mine:reply") as server:
        server.ready()
        (tmp_path / "mine.py").write_text("import time\ntime.sleep(60)\n")
        server.send(signal.SIGUSR2)
        wait_for(lambda: "Upgrading" in server.log, "the upgrade")
        server.send(signal.SIGTERM)
        assert server.exit() == 0
        assert not [each for each in psutil.process_iter() if _group(each.pid) == server.pid]


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def test_the_path_of_a_unix_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    (tmp_path / "mine.py").write_text(HANDLER)
    with launched(tmp_path, "mine:reply", bind=f"unix:{path}") as server:
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
