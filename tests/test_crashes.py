"""Handlers that crash on one message: the service goes on, and the log stays readable."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from launch import Launched, launched, wait_for
from pronghorn.slots import AT_ONCE, RATE, Pace
from pronghorn.stacks import SIZE, Stacks

HANDLER = f"{Path(__file__).parent / 'handlers_that_wait.py'}:crashes"


def ask(server: Launched, line: bytes, head: bytes = b"") -> bytes:
    """One answer; empty if the connection was lost."""
    with suppress(OSError), server.connect() as sock:
        sock.settimeout(5)
        sock.sendall(head + line)
        return sock.recv(100)
    return b""


@contextmanager
def attacked(server: Launched, head: bytes = b"") -> Iterator[list[bytes]]:
    """While a peer sends the message that crashes a worker, again and again; what it was answered."""
    over = threading.Event()
    answers: list[bytes] = []

    def attack() -> None:
        while not over.is_set():
            answers.append(ask(server, b"crash\n", head))

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("model", ["epoll", "prefork", "fork"])
def test_one_message_that_crashes_does_not_take_the_service_away(model: str, tmp_path: Path) -> None:
    good: list[bytes] = []

    def answered() -> bool:
        good.append(ask(server, b"hello\n"))
        return good.count(b"HELLO\n") >= 20

    with launched(tmp_path, HANDLER, model=model, workers=2) as server:
        server.ready(2)
        with attacked(server) as attacks:
            wait_for(lambda: len(attacks) > AT_ONCE, "processes that died", 30)
            wait_for(answered, "answers", 30)
        log = server.log
        assert "next attempt in" not in log, "a worker that has served is followed by no growing pause"
        assert 1 <= log.count("Fatal Python error") < 8, "one stack in ten seconds and place"
        assert 1 <= log.count("was killed by SIGABRT") < 8, "and the others are counted"
        assert "in crashes" in log
        assert "supervisor.py" not in log, "frames of the house are left out"
        assert ask(server, b"hello\n") == b"HELLO\n"
        assert server.stop() == 0


def test_a_worker_that_dies_without_serving_is_followed_by_a_growing_pause(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(
        "import os, threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), os.kill(os.getpid(), 6)), daemon=True).start()\n"
        "def handle(conn): pass\n"
    )
    with launched(tmp_path, "dies:handle", model="thread") as server:
        wait_for(lambda: server.log.count("is ready, process id") >= 4, "four workers")
        assert "have to wait" not in server.log


def test_many_may_be_replaced_at_once_and_then_so_many_in_a_second() -> None:
    pace, workers = Pace(), 4
    at = [pace.allows(100.0, workers) for _ in range(2000)]
    assert at[: workers + AT_ONCE] == [100.0] * (workers + AT_ONCE)
    assert at[-1] == pytest.approx(100.0 + (len(at) - 1 - workers - AT_ONCE) / RATE)
    pace.told = True
    assert pace.allows(1000.0, workers) == 1000.0
    assert not pace.told, "after a rest it would be told of again"


def test_stacks_are_bounded_and_only_whole_ones_are_taken() -> None:
    stacks = Stacks()
    try:
        assert stacks.take() == ""
        os.write(stacks.fileno(), b"  File of another\nFatal Python error: Aborted\n\nCurrent thread\n  File x\n")
        assert stacks.take() == "Fatal Python error: Aborted\nCurrent thread\n  File x"
        os.write(stacks.fileno(), b'  File "a fragment"\n')
        assert stacks.take() == ""
        with suppress(OSError):  # the file does not grow
            for _ in range(3 * SIZE // 1024):
                os.write(stacks.fileno(), b"Fatal Python error: \xff" + b"x" * 1003)
        assert os.fstat(stacks.fileno()).st_size == SIZE
        assert len(stacks.take()) <= 1024
        os.lseek(stacks.fileno(), 2**40, os.SEEK_SET)
        assert stacks.take() == "" or len(stacks.take()) <= SIZE
    finally:
        stacks.close()


@pytest.mark.parametrize("end", [signal.SIGSEGV, signal.SIGKILL])
def test_the_end_of_a_connections_process_is_told_with_its_peer(end: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(f"import os\ndef handle(conn):\n    os.kill(os.getpid(), {int(end)})\n")
    with launched(tmp_path, "ends:handle", model="fork") as server:
        assert ask(server, b"x") == b""
        wait_for(lambda: f"was killed by {end.name}" in server.log, "its record")
        assert "The process of a connection from 127.0.0.1 at PORT" in server.log
        assert ("in handle" in server.log) is (end == signal.SIGSEGV)
