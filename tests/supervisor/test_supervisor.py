"""The supervisor: workers come, die, are replaced, and drain; always over real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from launch import PATIENCE, Launched, gone, halt, launched, script, wait_for
from pronghorn.errors import BadHandler, MissingExtra, PronghornError, from_parts
from pronghorn.models.registry import load
from pronghorn.settings.model import MODELS
from pronghorn.supervisor.generation import FIRST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE_WHEN_KILLED, Slot

HOLD = """
import time
def handle(conn):
    conn.sendall(b"held")
    while True:
        time.sleep(60)
"""
TALK = """
def handle(conn):
    conn.sendall(b"hello")
    while data := conn.recv(1000):
        conn.sendall(data.upper())
"""


def replaced(server: Launched, dead: int, seconds: float = PATIENCE) -> None:
    wait_for(lambda: dead not in (now := server.workers()) and bool(now), "a new worker", seconds)


def zombies(server: Launched) -> list[int]:
    found = psutil.Process(server.pid).children(recursive=True)
    return [each.pid for each in found if each.status() == psutil.STATUS_ZOMBIE]


def refused(server: Launched) -> bool:
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_killed_worker_is_replaced_and_leaves_no_zombie(tmp_path: Path) -> None:
    with launched(tmp_path) as server:
        (first,) = server.workers()
        os.kill(first, signal.SIGKILL)
        replaced(server, first)
        assert server.ask(b"hello\n") == b"HELLO\n"
        wait_for(lambda: not zombies(server), "no zombie")
        assert "was killed by SIGKILL" in server.log
        assert server.stop() == 0


@pytest.mark.slow
def test_twenty_deaths_at_once_are_all_noticed(tmp_path: Path) -> None:
    with launched(tmp_path, workers=8) as server:
        old = server.ready(8)
        halt(server.pid)
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        os.kill(server.pid, signal.SIGCONT)
        wait_for(lambda: len(server.workers()) == 8 and not set(old) & set(server.workers()), "8 new workers")
        wait_for(lambda: not zombies(server), "no zombie")


@pytest.mark.slow
def test_a_worker_that_is_killed_again_and_again_is_back_soon(tmp_path: Path) -> None:
    with launched(tmp_path) as server:
        for turn in range(1, 9):
            (worker,) = server.ready(turn)
            os.kill(worker, signal.SIGKILL)
            replaced(server, worker, 10.0)  # if kills counted as deaths of its own, the last pause would be 12.8 s


def test_the_supervisor_has_one_thread_and_never_imports_the_handler(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, pronghorn\nopen('importers', 'a').write(f'{os.getpid()}\\n')\n"
        "@pronghorn.message(pronghorn.lines)\ndef reply(line):\n    return line\n"
    )
    with launched(tmp_path, "mine:reply") as server:
        assert server.ask(b"x\n") == b"x\n"
        assert psutil.Process(server.pid).num_threads() == 1
        assert str(server.pid) not in (tmp_path / "importers").read_text().split()


def test_workers_leave_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with launched(tmp_path, workers=2) as server:
        workers = server.ready(2)
        os.kill(server.pid, signal.SIGKILL)
        for pid in workers:
            wait_for(partial(gone, pid), f"the end of worker {pid}")
        # A process counts as dead once its first thread is; another may hold the listener for a moment longer.
        wait_for(lambda: refused(server), "the end of the listener")


@pytest.mark.parametrize("model", [name for name in MODELS if name not in ("auto", "prefork")])
def test_an_open_conversation_survives_the_supervisor(tmp_path: Path, model: str) -> None:
    try:
        load(model)
    except MissingExtra as error:
        pytest.skip(str(error))
    with launched(tmp_path, model=model) as server, server.connect() as sock:
        sock.sendall(b"half")
        assert sock.recv(100) == b"HALF"
        (worker,) = server.workers()
        os.kill(server.pid, signal.SIGKILL)
        assert sock.recv(100) == b"", "the server's end is in order"
        sock.close()
        wait_for(lambda: gone(worker), "the worker's end")


@pytest.mark.slow
def test_a_worker_stuck_in_its_handler_leaves_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    (tmp_path / "talk.py").write_text(TALK)
    with launched(tmp_path, "talk:handle", model="iterative") as server, server.connect() as sock:
        assert sock.recv(5) == b"hello"
        (worker,) = server.workers()
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: gone(worker), "the worker's end")


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["epoll", "poll", "asyncio", "uvloop"])
def test_the_end_of_the_line_does_not_spin_a_loop_that_drains(tmp_path: Path, model: str) -> None:
    if model == "uvloop":
        pytest.importorskip("uvloop")
    (tmp_path / "stay.py").write_text(
        "import pronghorn\nclass Stay(pronghorn.Protocol):\n    def connection_made(self, transport):\n"
        "        transport.write(b'x')\n        self.transport = transport\n    def draining(self):\n"
        "        self.transport.write(b'y')\n        return True\n"
    )
    with launched(tmp_path, "stay:Stay", model=model) as server, server.connect() as sock:
        assert sock.recv(1) == b"x"
        (worker,) = server.workers()
        os.kill(server.pid, signal.SIGKILL)
        assert sock.recv(1) == b"y", "draining began"
        before, since = cpu_seconds(worker), time.monotonic()
        wait_for(lambda: time.monotonic() - since > 0.7)
        assert cpu_seconds(worker) - before < 0.2
        assert not gone(worker)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("model", ["epoll", "fork", "thread", "asyncio"])
def test_term_and_int_let_conversations_finish(tmp_path: Path, model: str, number: signal.Signals) -> None:
    at_terminal = model in ("epoll", "fork")
    with launched(tmp_path, model=model, framing="lines", terminal=at_terminal) as server, server.connect() as sock:
        sock.sendall(b"begun")
        sock.sendall(b"\nhalf a li")
        assert sock.recv(100) == b"BEGUN\n"
        os.killpg(server.pid, number)  # as Ctrl-C does
        wait_for(lambda: "Draining" in server.log)
        sock.sendall(b"ne\n")
        assert sock.recv(100) in (b"HALF A LINE\n", b"")
        sock.close()
        assert server.exit() == 0
        assert server.log.count("Draining") == 1


def test_a_second_term_changes_nothing_and_a_second_int_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "hold.py").write_text(HOLD)
    with launched(tmp_path, "hold:handle", model="thread") as server, server.connect() as sock:
        assert sock.recv(4) == b"held"
        server.send(signal.SIGTERM)
        wait_for(lambda: "Draining" in server.log)
        server.send(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            server.exit(0.5)
        server.send(signal.SIGINT)
        assert server.exit() == 130


@pytest.mark.slow
@pytest.mark.parametrize("model", ["epoll", "thread", "fork", "asyncio", "gevent"])
def test_a_signal_to_the_whole_group_is_a_stop_and_no_death(tmp_path: Path, model: str) -> None:
    with launched(tmp_path, model=model, workers=3) as server:
        wait_for(lambda: server.log.count("is ready") == 3)
        server.process.send_signal(signal.SIGSTOP)  # the workers hear it long before
        os.killpg(server.pid, signal.SIGTERM)
        assert server.ask(b"nobody keeps clients out yet\n") == b"NOBODY KEEPS CLIENTS OUT YET\n"
        server.process.send_signal(signal.SIGCONT)
        assert server.exit() == 0
        assert "WARNING" not in server.log and "ERROR" not in server.log
        assert "Draining (SIGTERM)" in server.log


def test_quit_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "hold.py").write_text(HOLD)
    with launched(tmp_path, "hold:handle", model="thread", workers=2) as server, server.connect() as sock:
        assert sock.recv(4) == b"held"
        workers = server.workers()
        os.killpg(server.pid, signal.SIGQUIT)
        assert server.exit() == 128 + signal.SIGQUIT
        assert all(gone(pid) for pid in workers)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["thread", "fork"])
def test_the_drain_deadline_cuts_and_says_how_many(tmp_path: Path, model: str) -> None:
    (tmp_path / "hold.py").write_text(HOLD)
    with launched(tmp_path, "hold:handle", model=model, drain_timeout=0.2) as server:
        socks = [server.connect() for _ in range(3)]
        for sock in socks:
            assert sock.recv(4) == b"held"
        assert server.stop() == 6
        assert "3 cut by the drain deadline" in server.log
        for sock in socks:
            sock.close()


@pytest.mark.slow
def test_a_worker_that_cannot_even_drain_is_killed_and_its_connections_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "spin.py").write_text(
        "import pronghorn\n@pronghorn.message(pronghorn.lines)\ndef spin(line, conn):\n"
        "    conn.write(b'spinning')\n    print(flush=True)\n    while True:\n        pass\n"
    )
    with launched(tmp_path, "spin:spin", model="epoll", drain_timeout=0.1) as server, server.connect() as sock:
        sock.sendall(b"go\n")
        wait_for(lambda: cpu_seconds(server.workers()[0]) > 0.5, "a busy worker")
        assert server.stop() == 6
        assert "1 killed process not counted" in server.log


def test_term_during_the_first_start_ends_it(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, time, pathlib\n"
        "if pathlib.Path('probed').exists():\n    pathlib.Path('importing').touch()\n    time.sleep(60)\n"
        "pathlib.Path('probed').touch()\n"
        "def handle(conn): pass\n"
    )
    command = [sys.executable, "-c", "import pronghorn; pronghorn.serve('slow:handle', bind='127.0.0.1:0')"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        wait_for((tmp_path / "importing").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else process.wait()


@pytest.mark.slow
def test_term_to_a_worker_drains_that_one_and_a_new_one_comes(tmp_path: Path) -> None:
    with launched(tmp_path) as server:
        for turn in range(1, 4):
            (worker,) = server.ready(turn)
            os.kill(worker, signal.SIGTERM)
            replaced(server, worker)
        assert server.ask(b"still there\n") == b"STILL THERE\n"


@pytest.mark.slow
def test_a_term_right_after_fork_is_not_lost(tmp_path: Path) -> None:
    with launched(tmp_path) as server:
        seen: set[int] = set()
        while len(seen) < 6:
            for worker in set(server.workers()) - seen:
                seen.add(worker)
                os.kill(worker, signal.SIGTERM)
                wait_for(partial(gone, worker), "the worker's end")


def test_a_failing_fork_is_no_end(tmp_path: Path) -> None:
    text = """
import errno, os
fork, count = os.fork, 0
def failing():
    global count
    count += 1
    if count in (2, 3):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
    return fork()
os.fork = failing
import pronghorn
pronghorn.serve(bind="127.0.0.1:0")
"""
    with script(tmp_path, text) as server:
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        replaced(server, worker)
        assert server.ask(b"alive\n") == b"ALIVE\n"
        assert server.log.count("did not start: fork: Resource temporarily unavailable") == 2
        assert server.stop() == 0


def test_a_fork_that_fails_at_the_first_start_is_tried_again_until_the_start_timeout(tmp_path: Path) -> None:
    text = """
import errno, os, pronghorn
def failing():
    raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
os.fork = failing
pronghorn.serve(bind="127.0.0.1:0", start_timeout=0.5)
"""
    with script(tmp_path, text) as server:
        assert server.exit() == 3
        assert "No worker could be started." in server.log


def test_a_handler_that_breaks_later_does_not_end_the_server(tmp_path: Path) -> None:
    module = tmp_path / "mine.py"
    good = "def handle(conn):\n    conn.sendall(b'good')\n"
    module.write_text(good)
    with launched(tmp_path, "mine:handle", workers=2) as server:
        workers = server.ready(2)
        module.write_text("raise RuntimeError('broken now')\n")
        os.kill(workers[0], signal.SIGKILL)
        wait_for(lambda: server.log.count("did not start") >= 2, "two attempts")
        assert "RuntimeError: broken now" in server.log
        assert server.ask(b"") == b"good"
        module.write_text(good)
        wait_for(lambda: len(server.workers()) == 2 and server.log.count("is ready") >= 3, "a new worker")
        assert server.stop() == 0


LATER = """
import os, pathlib
if pathlib.Path("probed").exists():
    {then}
pathlib.Path("probed").touch()
def handle(conn): pass
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("then", "code", "words"),
    [
        ("raise ValueError('not twice')", 4, "ValueError: not twice"),
        ("os._exit(7)", 3, "ended with exit status 7"),
        ("os.kill(os.getpid(), 11)", 3, "was killed by signal 11"),
        ("import time; time.sleep(60)", 3, "was not ready within 3 s"),
    ],
)
def test_the_first_start_fails_fast(tmp_path: Path, then: str, code: int, words: str) -> None:
    (tmp_path / "later.py").write_text(LATER.format(then=then))
    limit = {"start_timeout": 3} if "ready" in words else {}
    with launched(tmp_path, "later:handle", workers=2, **limit) as server:
        assert server.exit() == code
        assert words in server.report["error"]["why"]
        assert server.report["error"]["exit_code"] == code
        assert words in server.log


@pytest.mark.slow
@pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="no list of children here")
@pytest.mark.parametrize("finishes", [True, False])
def test_what_a_killed_fork_worker_leaves_behind_finishes_by_the_drain_deadline(tmp_path: Path, finishes: bool) -> None:
    (tmp_path / "talk.py").write_text(TALK if finishes else HOLD)
    deadline = {} if finishes else {"drain_timeout": 1}
    with launched(tmp_path, "talk:handle", model="fork", **deadline) as server, server.connect() as sock:
        assert sock.recv(5)
        (worker,) = server.ready()
        (orphan,) = psutil.Process(worker).children()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: orphan.pid in server.workers(), "the adoption")
        if finishes:
            sock.sendall(b"still there?")
            assert sock.recv(100) == b"STILL THERE?"
        assert server.stop() == (0 if finishes else 6)
        assert gone(orphan.pid)


def test_a_slot_backs_off_up_to_thirty_seconds_and_forgives() -> None:
    slot = Slot(1)
    pauses = [slot.rest(now=100.0) for _ in range(12)]
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE
    assert slot.retry_at == 100.0 + LONGEST_PAUSE
    slot.forgive(0.0)
    assert slot.rest(now=0.0) == FIRST_PAUSE


def test_a_slot_whose_worker_is_killed_backs_off_half_a_second_at_most() -> None:
    slot = Slot(1)
    assert max(slot.rest(now=0.0, killed=True) for _ in range(50)) == LONGEST_PAUSE_WHEN_KILLED
    assert slot.rest(now=0.0) == FIRST_PAUSE, "kills do not count as deaths of its own"


def test_an_error_crosses_the_line_as_what_it_was() -> None:
    error = from_parts(BadHandler("what", "why", "hint").parts(kind=True))
    assert type(error) is BadHandler and (error.what, error.why, error.hint) == ("what", "why", "hint")
    assert type(from_parts({"kind": "os", "what": "what"})) is PronghornError
    assert type(from_parts({"kind": "PeerTimeout", "what": "what"})) is PronghornError, "which is made of other things"
    assert str(from_parts({"kind": ["DescriptorLost"], "what": 7, "hint": None, "exit_code": "x"})) == "7"
    told = from_parts({"what": "\x1b[2J" + "x" * 10**6, "why": "two\nlines"})
    assert told.what.startswith("\\x1b[2J") and len(told.what) < 5000 and told.why == "two\nlines"
