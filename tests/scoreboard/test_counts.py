"""What the scoreboard says of connections, under every model: opened, closed and why, bytes, messages, errors."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import psutil
import pytest

from boards import ask, board_of, reach, serving_rows, staying
from launch import launched, wait_for
from pronghorn.models import registry
from pronghorn.scoreboard.counts import BYTES_IN, CLOSED_WORD, MESSAGES, OPEN, ChildCounts, Counts
from pronghorn.settings.source import Source

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the tests find a server's scoreboard in /proc")

HANDLERS = Path(__file__).parents[1] / "handlers_that_wait.py"
MODELS = ("iterative", "fork", "prefork", "thread", "pool", "select", "poll", "epoll", "asyncio", "uvloop", "gevent")


def needs(model: str) -> str:
    missing = registry.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")
    return model


@pytest.mark.parametrize("model", MODELS)
def test_what_ended_is_counted(model: str, tmp_path: Path) -> None:
    with launched(tmp_path, model=needs(model), workers=1) as server:
        for _ in range(3):
            assert server.ask(b"hello") == b"HELLO"
        reach(server, open=0, accepted=3, closed={"done": 3}, bytes_in=15, bytes_out=15, messages=3, handler_errors=0)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_open_is_counted(model: str, tmp_path: Path) -> None:
    alone = model in ("iterative", "prefork")
    with launched(tmp_path, model=needs(model), workers=1) as server, staying(server, 1 if alone else 3) as clients:
        for client in clients:
            assert ask(client) == b"HELLO\n"
        reach(server, open=len(clients), accepted=len(clients), closed={})
        if model != "fork":  # whose children count in one sum, at their end
            reach(server, bytes_in=6 * len(clients), bytes_out=6 * len(clients), messages=len(clients))
        for client in clients:
            client.close()
        reach(server, open=0, accepted=len(clients), messages=len(clients), bytes_in=6 * len(clients))


@pytest.mark.parametrize("model", MODELS)
def test_errors_of_handlers_are_counted(model: str, tmp_path: Path) -> None:
    with launched(tmp_path, f"{HANDLERS}:raises", model=needs(model), workers=1) as server:
        for _ in range(2):
            assert server.ask(b"hello\n") == b""
        reach(server, open=0, handler_errors=2, closed={"error": 2}, bytes_in=12)


@pytest.mark.parametrize("model", ["iterative", "fork", "thread", "gevent"])
def test_bytes_of_blocking_handlers_are_the_kernels(model: str, tmp_path: Path) -> None:
    with launched(tmp_path, f"{HANDLERS}:receives", model=needs(model), workers=1) as server:
        assert server.ask(b"hello") == b"hello"
        reach(server, bytes_in=5, bytes_out=5, messages=0)


def test_refused_is_accepted_and_never_open(tmp_path: Path) -> None:
    source = Source(name=f"{HANDLERS.parent / 'handlers_under_test.py'}:fork_fails_once")
    with launched(tmp_path, source, model="fork", factory=True) as server:
        assert server.refuses()
        assert server.ask(b"hello") == b"HELLO"
        reach(server, accepted=2, refused=1, open=0, closed={"done": 1})


def test_a_child_that_was_killed_is_open_no_more(tmp_path: Path) -> None:
    with launched(tmp_path, model="fork", max_children=2) as server:
        (row,) = serving_rows(board_of(server))
        for round in range(1, 4):  # its block is lent again and again
            with staying(server, 2) as clients:
                for client in clients:
                    ask(client)
                reach(server, open=2)
                for child in psutil.Process(row.pid).children():
                    os.kill(child.pid, signal.SIGKILL)
                reach(server, open=0, accepted=2 * round, closed={"killed": 2 * round})
        assert server.ask(b"hello") == b"HELLO"
        reach(server, open=0, accepted=7, closed={"killed": 6, "done": 1}, messages=1)


@pytest.mark.parametrize("model", ["epoll", "thread", "fork"])
def test_what_a_killed_worker_counted_stays(model: str, tmp_path: Path) -> None:
    with launched(tmp_path, model=model, workers=1) as server:
        board = board_of(server)
        assert server.ask(b"hello") == b"HELLO"
        reach(server, messages=1)
        with staying(server, 2) as clients:
            for client in clients:
                ask(client)
            (row,) = serving_rows(board)
            reach(server, open=2)
            os.kill(row.pid, signal.SIGKILL)
            reach(server, open=2 if model == "fork" else 0, accepted=3)  # whose children live on
        serving_rows(board)
        assert server.ask(b"hello") == b"HELLO"
        totals = reach(server, accepted=4, open=0)
        assert totals["messages"] >= 2


@pytest.mark.parametrize(
    ("model", "end"),
    [("iterative", signal.SIGKILL), ("thread", signal.SIGABRT), ("epoll", b"crash\n"), ("asyncio", b"crash\n")],
)
def test_connections_of_a_killed_worker_are_closed_and_told(
    model: str, end: signal.Signals | bytes, tmp_path: Path
) -> None:
    alone = model == "iterative"
    with launched(tmp_path, f"{HANDLERS}:crashes", model=model, workers=1) as server:
        board = board_of(server)
        assert server.ask(b"hello\n") == b"HELLO\n"
        reach(server, open=0, closed={"done": 1})  # its client knows of the end before it is counted
        with staying(server, 1 if alone else 2) as clients:
            for client in clients:
                ask(client)
            (row,) = serving_rows(board)
            if isinstance(end, bytes):
                clients[0].sendall(end)
            else:
                os.kill(row.pid, end)
            count = len(clients)
            reach(server, open=0, accepted=1 + count, closed={"done": 1, "killed": count})
            wait_for(lambda: f"; {count} connection{'s'[: count - 1]} ended with it" in server.log, "the cost")


# Blocks of counters.


def test_a_child_that_says_why_it_ended_is_not_counted_as_killed() -> None:
    shared, row = ChildCounts(2), Counts()
    row.words[OPEN] = 2
    first, second = shared.lend(), shared.lend()
    first.words[CLOSED_WORD["done"]] = 1
    first.words[OPEN] = -1  # a child counts as its worker would
    first.words[MESSAGES] = 3
    second.words[BYTES_IN] = 9
    for counts in (first, second):
        shared.settle(counts, row)
    assert row.open == 0
    assert (row.messages, row.bytes_in) == (3, 9)
    assert {reason: count for reason, count in row.closed.items() if count} == {"done": 1, "killed": 1}
    assert not any(shared.lend().words), "what is lent again is empty"


def test_what_a_child_counts_is_there_after_its_death() -> None:
    shared, row = ChildCounts(1), Counts()
    counts = shared.lend()
    pid = os.fork()
    if pid == 0:
        counts.words[MESSAGES] = 7
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    shared.settle(counts, row)
    assert row.messages == 7


@pytest.mark.parametrize("model", ["epoll", "thread", "fork", "asyncio"])
def test_log_and_counters_say_the_same_of_an_end(model: str, tmp_path: Path) -> None:
    with launched(tmp_path, f"{HANDLERS}:fails_at_fail", model=model, log_level="debug", idle_timeout=0.5) as server:
        assert server.ask(b"fine\n") == b"FINE\n"
        server.ask(b"fail\n")
        with server.connect() as mute:
            assert mute.recv(100) == b""
        reach(server, open=0, closed={"done": 1, "error": 1, "timeout": 1})
        line = re.compile(r"closed connection [\d-]+ from \S+ at PORT \d+: (\w+)(?: \((\w+)\))? after")
        wait_for(lambda: len(line.findall(server.log)) == 3, "the lines of the three ends")
        told = line.findall(server.log)
        assert sorted(told) == [("done", ""), ("error", told[1][1]), ("timeout", "idle")]
