"""Long-lived connections are spread over the workers; and nobody waits for a worker that does not come."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from boards import ask, board_of, serving_rows
from launch import halt, launched, wait_for
from pauses import undisturbed
from pronghorn.models.registry import load
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.scoreboard.row import Row
from pronghorn.serving import admission
from pronghorn.serving.admission import FAIR_PAUSES
from pronghorn.serving.context import Context
from pronghorn.serving.gate import ALONE_PAUSE
from pronghorn.settings import Settings
from pronghorn.system.drain import Drain

linux = pytest.mark.skipif(sys.platform != "linux", reason="the test finds a server's scoreboard in /proc")
WORKERS, CLIENTS = 4, 64
MODELS = ("epoll", "asyncio", "thread")


def shares(rows: list[Row]) -> list[int]:
    return sorted(row.open for row in rows)


@contextmanager
def crowd(rows: list[Row]) -> Iterator[ExitStack]:
    """For clients of one trial: afterwards the workers know that they have gone. How they are shared out is a matter of
    which worker the machine lets run, so a trial is one of several."""
    before = shares(rows)
    try:
        with ExitStack() as stack:
            yield stack
    finally:
        wait_for(lambda: shares(rows) == before, "the end of a trial's connections")


@linux
@pytest.mark.parametrize("burst", [False, True], ids=["one after another", "in a burst"])
@pytest.mark.parametrize("model", MODELS)
def test_connections_that_stay_are_shared_out(model: str, burst: bool, tmp_path: Path) -> None:
    undisturbed(lambda: shared_out(model, burst, tmp_path))  # a worker that is paused for a burst gets none of it


def shared_out(model: str, burst: bool, folder: Path) -> None:
    """By a server of its own: one whose connections have just ended takes others for such as come and go."""
    with launched(folder, model=model, workers=WORKERS) as server, ExitStack() as stack:
        rows = serving_rows(board_of(server), WORKERS)
        clients = []
        for _ in range(CLIENTS):
            clients.append(stack.enter_context(server.connect()))
            if not burst:
                ask(clients[-1])
        for client in clients:
            assert ask(client) == b"HELLO\n"
        fewest, *_, most = shares(rows)
        assert sum(shares(rows)) == CLIENTS
        assert most <= 1.5 * fewest, shares(rows)


@linux
def test_a_new_worker_is_filled_first(tmp_path: Path) -> None:
    with launched(tmp_path, model="epoll", workers=1) as server, ExitStack() as stack:
        board = board_of(server)
        for _ in range(10):
            ask(stack.enter_context(server.connect()))
        server.send(signal.SIGTTIN)
        rows = serving_rows(board, 2)

        def trial() -> None:
            with crowd(rows) as more:
                for _ in range(10):
                    ask(more.enter_context(server.connect()))
                assert shares(rows)[0] >= 8, shares(rows)

        undisturbed(trial)


@pytest.mark.slow
@linux
def test_the_successor_of_a_dead_worker_is_filled_one_by_one(tmp_path: Path) -> None:
    """Its first connections may bring what its predecessor died of, so it rests for a moment after each, and another
    worker takes some of those that come meanwhile."""
    undisturbed(lambda: filled_one_by_one(tmp_path))


def filled_one_by_one(folder: Path) -> None:
    with launched(folder, model="epoll", workers=2) as server, ExitStack() as stack:
        board = board_of(server)
        serving_rows(board, 2)
        lost = [stack.enter_context(server.connect()) for _ in range(20)]
        for client in lost:
            ask(client)
        victim = board.rows()[0].pid
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: victim not in {row.pid for row in board.rows()}, "the victim's end")
        rows = serving_rows(board, 2)
        for _ in range(10):
            ask(stack.enter_context(server.connect()))
            time.sleep(1.5 * ALONE_PAUSE)
        assert shares(rows)[0] >= 8, shares(rows)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("model", ["epoll", "thread"])
def test_nobody_waits_long_for_a_worker_that_is_stuck(model: str, tmp_path: Path) -> None:
    with launched(tmp_path, model=model, workers=2) as server, ExitStack() as stack:
        rows = serving_rows(board_of(server), 2)
        for _ in range(8):
            ask(stack.enter_context(server.connect()))
        stuck = min(rows, key=lambda row: row.open)
        halt(stuck.pid)
        started = time.monotonic()
        for _ in range(30):
            ask(stack.enter_context(server.connect()))
        assert time.monotonic() - started < 10
        assert sum(shares(rows)) == 38


# By a clock that is an argument.


@pytest.fixture
def context() -> Iterator[Context]:
    with closing(Scoreboard.create()) as board, closing(Drain(1.0)) as drain:
        yield filled(board, drain)


def filled(board: Scoreboard, drain: Drain) -> Context:
    mine, other = board.take(1, 1), board.take(2, 1)
    for row in (mine, other):
        row.now_serving(os.getpid())
    mine.open = 10
    settings = Settings()
    return Context(
        offers=[],
        settings=settings,
        model=load("epoll"),
        drain=drain,
        observe=lambda _: None,
        row=mine,
    )


class Clock:
    """A monotonic clock that is set by hand, from now on."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def monotonic(self) -> float:
        return self.now


def test_after_some_pauses_in_a_row_it_takes_one(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(admission, "time", clock)
    given = []
    for _ in range(2 * FAIR_PAUSES + 2):
        given.append(context.gives_way())
        clock.now += admission.FAIR_PAUSE
    assert given == [*[True] * FAIR_PAUSES, False] * 2


def test_pauses_that_are_not_in_a_row_do_not_add_up(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(admission, "time", clock)
    for _ in range(10 * FAIR_PAUSES):
        assert context.gives_way()
        clock.now += 10 * FAIR_PAUSES * admission.FAIR_PAUSE
    context.row.open = 1
    assert not context.gives_way()


def test_a_busy_machine_does_not_have_sums_written_seldom(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    folds = []

    def fold() -> None:
        time.sleep(0.05)  # others have the processor
        folds.append(1)

    monkeypatch.setattr(context, "fold", fold)
    now = time.monotonic()
    context.tick(now)
    context.tick(now + 5)
    assert len(folds) == 2, "the sums wait for two hundred times what others took"
