"""A callback that holds up a loop: named while it lasts, with its stack and its connection, and counted."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from boards import board_of
from launch import launched_code, wait_for
from pronghorn.events import Event, SlowCallback, SlowCallbackEnded
from pronghorn.models import registry
from pronghorn.serving.callback_frames import PAGES
from pronghorn.serving.slow_callbacks import Clocks, Watcher, _counted

linux = pytest.mark.skipif(sys.platform != "linux", reason="the test reads /proc")

HANDLERS = """
import asyncio, os
import pronghorn

def hold_up():
    os.close(os.open("go", os.O_RDONLY))  # until somebody writes to the pipe

@pronghorn.message(pronghorn.lines)
def message(line):
    hold_up()
    return line

async def coroutine(reader, writer):
    line = await reader.readline()
    await asyncio.sleep(0)
    hold_up()
    writer.write(line)

def blocking(conn):
    line = conn.recv(100)
    hold_up()
    conn.sendall(line)
"""
SERVED = {
    "select": "message",
    "poll": "message",
    "epoll": "message",
    "kqueue": "message",
    "asyncio": "message",
    "uvloop": "coroutine",
    "gevent": "blocking",
}


@pytest.mark.slow
@pytest.mark.parametrize("model", SERVED)
def test_a_callback_that_holds_up_the_loop_is_named_while_it_does(model: str, tmp_path: Path) -> None:
    if missing := registry.page(model).missing():
        pytest.skip(f"{model}: {missing}")
    os.mkfifo(tmp_path / "go")
    with launched_code(
        tmp_path, HANDLERS, SERVED[model], model=model, workers=1, slow_callback=0.1, bind="127.0.0.1:0,name=front"
    ) as server:
        (worker,) = server.workers()
        with server.connect() as sock:
            sock.sendall(b"hello\n")
            wait_for(lambda: "holds up" in server.log, "the callback in the log")
            host, port = sock.getsockname()
            whose = f"Connection {worker}-1 from {host} at PORT {port} to front: a callback"
            assert f"{whose} holds up this worker's loop, for " in server.log
            assert f"at {tmp_path}/mine.py:6 in hold_up\n" in server.log
            assert 'mine.py", line 6, in hold_up\n      os.close(os.open("go", os.O_RDONLY))' in server.log
            assert "src/pronghorn" not in server.log
            assert "in all" not in server.log
            (tmp_path / "go").write_bytes(b"")
            assert sock.recv(100) == b"hello\n"
            wait_for(lambda: f"{whose} has held up this worker's loop for about" in server.log, "the end of it")
            assert server.log.count("holds up") == 1
        if sys.platform == "linux":
            assert board_of(server).totals()["slow_callbacks"] == 1


threads_at_fork: list[int] = []
if sys.platform == "linux":  # before a watcher does it: the last that was registered is called first
    os.register_at_fork(before=lambda: threads_at_fork.append(len(os.listdir("/proc/self/task"))))

# The watcher alone, beside a loop in this process.

PAGE = """
def serve(calls):
    for call in calls:
        call()
"""


@pytest.fixture
def serve() -> Callable[[Any], None]:
    """What stands where the function of a page stands in the stack."""
    page: dict[str, Any] = {}
    exec(compile(PAGE, os.path.join(PAGES, "page.py"), "exec"), page)
    return page["serve"]  # type: ignore[no-any-return]


class Watched:
    """A context that keeps what it observes, and counts."""

    def __init__(self, slow_callback: float) -> None:
        self.settings = SimpleNamespace(slow_callback=slow_callback)
        self.open: dict[int, Any] = {1: None}
        self.observed: list[Event] = []
        self.observe = self.observed.append
        self.row = SimpleNamespace(add=lambda word: None)


def watched(context: Watched, turn: Callable[[], float]) -> Watcher:
    return Watcher(context, turn)  # type: ignore[arg-type]


def busy(seconds: float) -> Callable[[], None]:
    def call() -> None:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    return call


@pytest.mark.slow
def test_many_short_callbacks_in_one_turn_are_not_one_slow_callback(serve: Callable[[Any], None]) -> None:
    context = Watched(slow_callback=0.1)
    watcher = watched(context, lambda: 1.0)
    watcher.start()
    try:
        serve([busy(0.01)] * 30)
        assert context.observed == []
        serve([busy(0.01), busy(0.3), busy(0.01)])
        wait_for(lambda: len(context.observed) == 2, "the end of the callback")
    finally:
        watcher.stop()
    slow, ended = context.observed
    assert isinstance(slow, SlowCallback) and isinstance(ended, SlowCallbackEnded)
    assert slow.place.endswith("in call") and (slow.number, slow.peer) == (0, "")
    assert 0.1 <= slow.seconds <= ended.seconds


def test_one_frame_in_many_turns_is_not_one_slow_callback(serve: Callable[[Any], None]) -> None:
    turns = iter(range(1000))
    context = Watched(slow_callback=0.04)
    watcher = watched(context, lambda: float(next(turns)))
    watcher.start()
    try:
        serve([busy(0.15)])
    finally:
        watcher.stop()
    assert context.observed == []


def test_a_debugger_in_the_stack_is_no_slow_callback(serve: Callable[[Any], None]) -> None:
    names: dict[str, Any] = {"wait": busy(0.15)}
    exec(compile("def interaction():\n    wait()", "/usr/lib/python3/pdb.py", "exec"), names)
    context = Watched(slow_callback=0.04)
    watcher = watched(context, lambda: 1.0)
    watcher.start()
    try:
        serve([names["interaction"]])
    finally:
        watcher.stop()
    assert context.observed == []


@linux
def test_the_thread_is_gone_while_the_process_forks(serve: Callable[[Any], None]) -> None:
    before = len(os.listdir("/proc/self/task"))
    watcher = watched(Watched(slow_callback=0.1), lambda: 1.0)
    watcher.start()
    try:
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        assert threads_at_fork[-1] <= before, "fewer where a thread of an earlier test has ended meanwhile"
        assert watcher._watches
    finally:
        watcher.stop()
    wait_for(lambda: len(os.listdir("/proc/self/task")) <= before, "the end of the thread")


BEFORE = Clocks(now=10.0, used=1.0, queued=1.0, waits=10)


@pytest.mark.parametrize(
    ("clocks", "counted", "locked"),
    [
        (Clocks(10.1, 1.1, 1.0, 11), 0.1, 0.0),  # it computes
        (Clocks(10.1, 1.0, 1.0, 11), 0.1, 0.0),  # it sleeps
        (Clocks(10.1, 1.0, 1.08, 11), 0.02, 0.0),  # the machine is loaded
        (Clocks(13.0, 1.0, 1.0, 11), 0.1, 0.0),  # the process was stopped
        (Clocks(13.0, 3.9, 1.0, 590), 2.9, 2.9),  # C code kept the interpreter lock
        (Clocks(13.0, 1.0, 1.0, 590), 0.1, 0.0),  # another thread kept it
        (Clocks(13.0, 3.9, 1.0, 11), 2.9, 0.0),  # who kept it is not known: it counts for what was seen before
    ],
)
def test_what_time_counts(clocks: Clocks, counted: float, locked: float) -> None:
    assert _counted(BEFORE, clocks, rest=0.1) == pytest.approx((counted, locked))
