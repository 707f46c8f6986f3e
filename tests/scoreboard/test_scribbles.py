"""Whatever a worker writes into shared memory, nobody who reads there raises, and what can be mended is."""

from __future__ import annotations

import os
import time
from array import array

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pronghorn.control.commands import Commands
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.scoreboard.connection_limits import Bucket, Limits
from pronghorn.scoreboard.counts import ENTRY_WORDS, MOST, OPEN, ChildCounts, Counts
from pronghorn.scoreboard.map import DIRECTORY, FIRST, ROW_WORDS, ROWS
from pronghorn.scoreboard.sources import count_everywhere
from pronghorn.settings import Settings
from pronghorn.system.processes import lives

PEER = ("192.0.2.1", 5)
ODD = [0, 1, -1, 2**31, 2**53, 2**62, 2**63 - 1, -(2**63), 0x7FF8000000000000, 0x7FF0000000000000, os.getpid()]
numbers = st.one_of(st.sampled_from(ODD), st.integers(-(2**63), 2**63 - 1))
scribbles = st.lists(numbers, min_size=1, max_size=40)
LIMITS = Settings(max_connections=10, max_connections_per_source=5, accept_rate=100)


def scribble(board: Scoreboard, noise: list[int], whole: bool) -> None:
    """All over the head, the directory and the first rows, or in some words of them."""
    for start, length in ((0, ROW_WORDS), (DIRECTORY, FIRST - DIRECTORY), (FIRST, 4 * ROW_WORDS)):
        pattern = array("q", noise * (length // len(noise) + 1))[:length]
        if whole:
            board.words[start : start + length] = pattern
        else:
            for place, value in enumerate(noise):
                board.words[start + abs(value + place * 7919) % length] = value
    board.table(1)[:] = array("I", [abs(noise[0]) % 2**32] * len(board.table(1)))


class Host:
    """As much of a supervisor as `ctl workers` reads."""

    def __init__(self, board: Scoreboard) -> None:
        self.fleet = self.serving = self.plan = self
        self.board = board


@pytest.mark.slow
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(scribbles, st.booleans())
def test_readers_live_with_whatever_stands_there(board: Scoreboard, noise: list[int], whole: bool) -> None:
    mine, other = board.take(1, 1), board.take(2, 1)
    mine.now_serving(os.getpid())
    board.born(mine, os.getpid())
    limits = Limits(LIMITS, mine)
    mine.add(OPEN, 3)
    scribble(board, noise, whole)
    for _ in range(2):
        limits.reserve()
        limits.refusal(PEER)
        connected = mine.connected()
        connected.add(7)
        connected.remove(7)
        connected.open()
        board.connected()
        limits.left(PEER)
        limits.refused()
        limits.reached()
        mine.crowded()
        count_everywhere(board.source_tables(), board.key, PEER)
        Bucket(100, board).take()
        totals = board.totals()
        assert all(0 <= each <= MOST for each in [*totals["closed"].values(), totals["open"], totals["accepted"]])
        Commands(Host(board), "name").workers(lambda answer: None)  # type: ignore[arg-type]
        assert 0.0 <= mine.beat < 2**40 and 0.0 <= mine.started < 2**40
        third = board.take(3, 1)
        assert third.index not in (mine.index, other.index)
        assert board.release(third.index) >= 0
    board.mend()
    mine.tick(time.monotonic())
    other.tick(time.monotonic())
    assert not board.mend(), "all is as it should be"
    assert not Limits(LIMITS, other)._refused.holds(7)
    assert sorted(each.index for each in board.rows()) == sorted((mine.index, other.index))
    assert (mine.slot, mine.pid, mine.supervisor, mine.state) == (1, os.getpid(), os.getpid(), 2)
    assert (mine.open, board.totals()["open"]) == (mine.own[OPEN], mine.own[OPEN])
    again = Scoreboard.adopt(os.dup(board.fileno()))
    assert again.key == board.key
    again.close()
    board.release(mine.index)
    board.release(other.index)


def test_after_a_scribble_nobody_is_refused_for_long(board: Scoreboard) -> None:
    now = [10**12]
    _, other = board.take(1, 1), board.take(2, 1)
    bucket = Bucket(10, board, lambda: now[0])
    for value in ODD:
        scribble(board, [value], whole=True)
        board.mend()
        other.tick(time.monotonic())
        taken = 0
        for _ in range(40):
            now[0] += 10**8
            taken += bucket.take()
        assert taken >= 30, value


def test_no_row_is_given_twice_and_none_is_lost(board: Scoreboard) -> None:
    taken = {board.take(slot, 1).index for slot in range(20)}
    board.words[DIRECTORY : DIRECTORY + ROWS] = array("q", [0] * ROWS)
    assert board.take(20, 1).index not in taken
    board.words[DIRECTORY : DIRECTORY + ROWS] = array("q", [1] * ROWS)  # a process that lives, and is no supervisor
    row = board.take(21, 1)
    assert row.index not in taken
    board.words[DIRECTORY : DIRECTORY + ROWS] = array("q", [os.getpid()] * ROWS)
    row = board.take(22, 1)
    assert board.mend() and len(board.rows()) == 23


def test_a_supervisor_of_an_upgrade_is_believed(board: Scoreboard) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            time.sleep(30)
        finally:
            os._exit(0)
    try:
        board.share(pid)
        board.words[DIRECTORY + 7] = pid
        board.mend()
        assert board.taken() == [7]
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    board.mend()
    assert board.taken() == []


@pytest.mark.slow
def test_somebody_who_keeps_the_lock_is_not_waited_for(board: Scoreboard) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            import fcntl

            fcntl.lockf(board.fileno(), fcntl.LOCK_EX)
            os.write(writer, b"x")
            time.sleep(30)
        finally:
            os._exit(0)
    try:
        os.read(reader, 1)
        board.release(board.take(1, 1).index)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


@settings(deadline=None)
@given(st.lists(numbers, min_size=ENTRY_WORDS, max_size=ENTRY_WORDS))
def test_what_a_child_left_is_taken_as_far_as_it_can_be_true(noise: list[int]) -> None:
    shared, row = ChildCounts(1), Counts()
    for _ in range(3):
        lent = shared.lend()
        lent.words[:] = array("q", noise)
        shared.settle(lent, row)
    assert row.open == 0 and row.own[OPEN] == -3
    assert all(0 <= each <= MOST for each in row.own[1:])


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**40, -(2**63)])
def test_a_number_that_is_no_process_does_not_live(pid: int) -> None:
    assert not lives(pid) and lives(os.getpid())
