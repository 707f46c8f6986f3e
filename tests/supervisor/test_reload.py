"""Reload: a new generation takes over when it is ready, or nothing changes; always over real processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from launch import Launched, halt, launched, wait_for
from pronghorn.errors import MissingExtra
from pronghorn.models.registry import load
from pronghorn.settings.model import MODELS
from pronghorn.supervisor.changes import LettingGo
from pronghorn.supervisor.poller import Poller
from pronghorn.supervisor.workers import Workers

HANDLER = """
import os, pronghorn
@pronghorn.message(pronghorn.lines)
def reply(line):
    return b"%(word)s"
"""


def write(folder: Path, text: str) -> None:
    """As editors do: beside the file, then over it."""
    (folder / "new").write_text(text)
    (folder / "new").rename(folder / "mine.py")


def word(server: Launched) -> bytes:
    return server.ask(b"x\n").strip()


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def reloads(server: Launched) -> int:
    return server.log.count("Reloaded in ")


def failures(server: Launched) -> int:
    return server.log.count("Reload failed, and nothing has changed")


def test_new_code_serves_and_old_conversations_finish(tmp_path: Path) -> None:
    write(tmp_path, HANDLER % {"word": "old"})
    with launched(tmp_path, "mine:reply", workers=2) as server:
        server.ready(2)
        with server.connect() as sock:
            sock.sendall(b"x\nhalf a li")
            assert sock.recv(100) == b"old\n"
            write(tmp_path, HANDLER % {"word": "newer"})
            server.send(signal.SIGHUP)
            wait_for(lambda: reloads(server) == 1, "the reload")
            assert word(server) == b"newer", "who connects after the report meets the new code"
            sock.sendall(b"ne\n")
            assert sock.recv(100) == b"old\n"
        wait_for(lambda: len(server.workers()) == 2, "the end of the old workers")
        assert server.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("model", [name for name in MODELS if name != "auto"])
def test_who_connects_after_the_report_meets_the_new_code(tmp_path: Path, model: str) -> None:
    try:
        load(model)
    except MissingExtra as error:
        pytest.skip(str(error))
    write(tmp_path, HANDLER % {"word": "turn"})
    with launched(tmp_path, "mine:reply", model=model, workers=2) as server:
        for turn in range(1, 6):
            write(tmp_path, HANDLER % {"word": "turn" + "!" * turn})
            server.send(signal.SIGHUP)
            wait_for(lambda turn=turn: reloads(server) == turn, "the reload")  # type: ignore[misc]
            assert {word(server) for _ in range(8)} == {b"turn" + b"!" * turn}
        assert "may still accept" not in server.log


def test_a_worker_that_a_conversation_holds_does_not_hold_up_the_reload(tmp_path: Path) -> None:
    write(tmp_path, HANDLER % {"word": "old"})
    with launched(tmp_path, "mine:reply", model="iterative") as server, server.connect() as sock:
        sock.sendall(b"x\nhalf a li")
        assert sock.recv(100) == b"old\n"
        write(tmp_path, HANDLER % {"word": "new"})
        server.send(signal.SIGHUP)
        wait_for(lambda: reloads(server) == 1, "the reload")
        assert "may still accept" not in server.log, "its second flow of control has let go"
        assert word(server) == b"new"
        sock.sendall(b"ne\n")
        assert sock.recv(100) == b"old\n"


def test_without_old_workers_a_reload_waits_for_nobody() -> None:
    workers = Workers(Poller(), lambda event: None, lambda worker: None, lambda worker, status: None, tuple)
    assert LettingGo(workers, []).due == 0.0


BROKEN = {
    "an import error": "import nothing_of_that_name\n",
    "a syntax error": "def reply(:\n",
    "an exit": "import sys\nsys.exit(3)\n",
    "an end": "import os\nos._exit(0)\n",
    "no such name": "x = 1\n",
    "a hang": "import time\ntime.sleep(60)\n",
    "another style for the model": "def reply(conn):\n    pass\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", BROKEN)
def test_a_reload_that_fails_changes_nothing(tmp_path: Path, fault: str) -> None:
    write(tmp_path, HANDLER % {"word": "old"})
    limit = {"start_timeout": "3s"} if fault == "a hang" else {}
    with launched(tmp_path, "mine:reply", model="epoll", **limit) as server:
        before = server.ready()
        with server.connect() as sock:
            write(tmp_path, BROKEN[fault])
            server.send(signal.SIGHUP)
            wait_for(lambda: failures(server) == 1, "the failure")
            wait_for(lambda: server.workers() == before, "nobody but the old worker")
            sock.sendall(b"x\n")
            assert sock.recv(100) == b"old\n"
        write(tmp_path, HANDLER % {"word": "mended"})
        server.send(signal.SIGHUP)
        wait_for(lambda: reloads(server) == 1, "the reload")
        assert word(server) == b"mended"
        assert server.stop() == 0


def test_a_worker_that_fails_although_the_probe_did_not(tmp_path: Path) -> None:
    write(tmp_path, HANDLER % {"word": "old"})
    with launched(tmp_path, "mine:reply", workers=2) as server:
        before = server.ready(2)
        fails_once_probed = "import os\nopen('count', 'a').write('.')\nif os.path.getsize('count') > 1: 1 / 0\n"
        write(tmp_path, fails_once_probed + HANDLER % {"word": "new"})
        server.send(signal.SIGHUP)
        wait_for(lambda: failures(server) == 1, "the failure")
        assert "ZeroDivisionError" in server.log
        wait_for(lambda: server.workers() == before, "the end of the candidates")
        wait_for(lambda: word(server) == b"old", "an answer of the new code")


@pytest.mark.slow
def test_many_hups_become_two_reloads(tmp_path: Path) -> None:
    write(tmp_path, HANDLER % {"word": "old"})
    with launched(tmp_path, "mine:reply") as server:
        server.ready()
        write(
            tmp_path, "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n" + HANDLER % {"word": "new"}
        )
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reloading" in server.log, "the reload")
        for _ in range(100):
            server.send(signal.SIGHUP)
            time.sleep(0.001)
        (tmp_path / "go").touch()
        wait_for(lambda: reloads(server) == 2, "two reloads")
        assert word(server) == b"new"
        assert server.stop() == 0
        assert server.log.count("Reloading") == 2


def test_term_wins_over_hup(tmp_path: Path) -> None:
    write(tmp_path, HANDLER % {"word": "old"})
    with launched(tmp_path, "mine:reply") as server:
        server.ready()
        write(tmp_path, "import time\ntime.sleep(60)\n")
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reloading" in server.log, "the reload")
        server.send(signal.SIGTERM)
        assert server.exit() == 0, "in less time than the import takes"
        assert not failures(server)


def test_ttin_ttou_and_winch_resize(tmp_path: Path) -> None:
    with launched(tmp_path) as server:
        server.ready()
        server.send(signal.SIGTTIN)
        assert len(server.ready(2)) == 2
        server.send(signal.SIGTTOU)
        wait_for(lambda: len(server.workers()) == 1, "one worker")
        server.send(signal.SIGTTOU)
        server.send(signal.SIGWINCH)
        wait_for(lambda: not server.workers(), "no worker")
        with server.connect() as waiting:
            waiting.sendall(b"x\n")
            server.send(signal.SIGHUP)
            assert waiting.recv(100) == b"X\n", "who waited in the queue is served"
        assert server.stop() == 0


def test_a_resize_takes_those_away_who_do_not_serve(tmp_path: Path) -> None:
    write(tmp_path, HANDLER % {"word": "old"})
    with launched(tmp_path, "mine:reply", workers=2) as server:
        serving = server.ready(2)
        write(tmp_path, BROKEN["an import error"])
        first = int(re.findall(r"Worker 1 is ready, process id (\d+)", server.log)[0])
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: "Worker 1 did not start" in server.log, "a replacement that cannot start")
        server.send(signal.SIGTTOU)
        wait_for(lambda: "Resizing to 1 worker" in server.log, "the resize")
        assert word(server) == b"old"
        assert [pid for pid in serving if pid in server.workers()] == [pid for pid in serving if pid != first]


@pytest.mark.slow
def test_descriptors_of_the_supervisor_stay_the_same(tmp_path: Path) -> None:
    write(tmp_path, HANDLER % {"word": "old"})
    with launched(tmp_path, "mine:reply") as server:
        (worker,) = server.ready()
        mine, workers = descriptors(server.pid), descriptors(worker)
        for turn in range(1, 6):
            server.send(signal.SIGHUP)
            wait_for(lambda turn=turn: reloads(server) == turn, "the reload")  # type: ignore[misc]
            (worker,) = wait_for(lambda: len(now := server.workers()) == 1 and now, "the end of the old worker")
            wait_for(lambda: descriptors(server.pid) == mine, "as many descriptors as before")
        wait_for(lambda: descriptors(worker) == workers, "as many in the worker")


SHUTS = """
import os, pronghorn, socket

@pronghorn.message(pronghorn.stream)
def reply(said):
    for number in os.listdir("/dev/fd") if said == b"shut" else ():
        try:
            other = socket.socket(fileno=os.dup(int(number)))
        except OSError:
            continue
        if other.family == socket.AF_INET and other.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            other.shutdown(socket.SHUT_RDWR)
    return said.upper()
"""


def shut(server: Launched) -> None:
    """Has a worker shut the listener down, for everybody."""
    with server.connect() as sock:
        sock.sendall(b"shut")
        assert sock.recv(100) == b"SHUT", "who is inside stays there"


@pytest.mark.parametrize(
    "model", ["epoll", *(pytest.param(name, marks=pytest.mark.slow) for name in ("asyncio", "thread", "prefork"))]
)
def test_a_listener_that_was_shut_down_is_opened_anew_where_it_was(tmp_path: Path, model: str) -> None:
    (tmp_path / "mine.py").write_text(SHUTS)
    with launched(tmp_path, "mine:reply", model=model, workers=2) as server:
        server.ready(2)
        shut(server)
        wait_for(lambda: reloads(server) == 1, "the new listener")
        where = f"127.0.0.1:{server.address[1]}"
        assert server.log.count(f"Listening at: tcp://{where}") == 2
        assert f"Reloading (nobody listens at {where})" in server.log
        assert server.ask(b"again") == b"AGAIN"
        wait_for(lambda: len(server.workers()) == 2, "the end of the old workers")
        assert server.stop() == 0


@pytest.mark.slow
def test_a_listener_whose_address_is_taken_meanwhile_is_told_of_and_the_others_serve(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SHUTS)
    path = f"{tmp_path}/other"
    with launched(tmp_path, "mine:reply", model="epoll", bind=["127.0.0.1:0", f"unix:{path}"]) as server:
        server.ready()
        halt(server.pid)
        shut(server)
        with socket.create_server(server.address):
            server.send(signal.SIGCONT)
            wait_for(lambda: failures(server) == 1, "the failure")
            assert f"Process {os.getpid()} (" in server.log, server.log
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.sendall(b"hello")
            assert sock.recv(100) == b"HELLO"
        assert server.stop() == 0


def asked(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b"hello")
        return sock.recv(100)


@pytest.mark.slow
@pytest.mark.parametrize("gone", [["path"], ["path", "path.lock"]])
def test_a_unix_socket_whose_path_was_removed_is_there_again(tmp_path: Path, gone: list[str]) -> None:
    path = tmp_path / "path"
    with launched(tmp_path, "upper", bind=f"unix:{path}", unix_mode="600") as server:
        server.ready()
        assert asked(path) == b"HELLO"
        for name in gone:
            (tmp_path / name).unlink()
        wait_for(lambda: reloads(server) == 1, "the new socket")
        assert asked(path) == b"HELLO"
        assert path.stat().st_mode & 0o777 == 0o600
        assert server.stop() == 0
        assert not path.exists() and not Path(f"{path}.lock").exists()


@pytest.mark.slow
def test_a_path_that_another_server_has_taken_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "path"
    with launched(tmp_path, "upper", bind=f"unix:{path}") as server, socket.socket(socket.AF_UNIX) as other:
        server.ready()
        halt(server.pid)
        path.unlink()
        other.bind(str(path))
        other.listen()
        server.send(signal.SIGCONT)
        wait_for(lambda: failures(server) == 1, "the failure")
        (failure,) = (line for line in server.log.splitlines() if "Reload failed" in line)
        assert f"Process {os.getpid()} (" in failure, failure
        assert "pronghorn:" not in failure, "the socket that we still have there is in nobody's way"
        assert server.stop() == 0
        assert path.exists(), "it is not ours to remove"
