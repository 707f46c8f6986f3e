"""The scoreboard: rows that are taken and given back, sums that outlive workers, and counts per source."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pronghorn.errors import ENDS, End, PronghornError, end_of
from pronghorn.peers import Peer
from pronghorn.scoreboard import board as whole
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.scoreboard.counts import (
    BYTES_IN,
    CLOSED_WORD,
    COUNTERS,
    MESSAGES,
    OPEN,
    Counts,
)
from pronghorn.scoreboard.map import FILE_SIZE, H_CHANGES
from pronghorn.scoreboard.row import DRAINING, SERVING, SILENT, STARTING, Row
from pronghorn.scoreboard.sources import buckets, count_everywhere, network


def source_count(board: Scoreboard, peer: Peer) -> int:
    return count_everywhere(board.source_tables(), board.key, peer)


def in_a_child(call: Callable[[], object]) -> int:
    """What `call` leaves in the shared map is all that is seen of it; the process id of the child, which has ended."""
    pid = os.fork()
    if pid == 0:
        try:
            call()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return pid


# Rows.


def test_a_row_is_taken_served_and_given_back(board: Scoreboard) -> None:
    row = board.take(slot=3, generation=2)
    assert (row.slot, row.generation, row.supervisor, row.pid) == (3, 2, os.getpid(), 0)
    assert row.state == STARTING
    assert abs(row.started - time.monotonic()) < 5
    pid = in_a_child(lambda: (row.now_serving(os.getpid()), row.tick(123.5)))
    assert (row.pid, row.state, row.beat) == (pid, SERVING, 123.5)
    assert [each.index for each in board.rows()] == [row.index]
    board.release(row.index)
    assert board.rows() == []
    assert (row.state, row.pid, row.beat, row.open) == (0, 0, 0.0, 0)
    assert board.take(1, 1).index == row.index


def test_rows_do_not_touch_each_other(board: Scoreboard) -> None:
    first, second = board.take(1, 1), board.take(2, 1)
    first.words[MESSAGES] = 7
    second.state = DRAINING
    assert (second.messages, first.messages) == (0, 7)
    assert (first.state, second.state) == (STARTING, DRAINING)
    assert len({row.index for row in board.rows()}) == 2
    assert 0 not in {row.index for row in board.rows()}, "row 0 is for those that are gone"


def test_totals_span_the_living_and_the_gone(board: Scoreboard) -> None:
    for number in (1, 2):
        row = board.take(number, 1)
        in_a_child(lambda row=row: count(row))  # type: ignore[misc]
    assert board.totals()["open"] == 2
    board.release(row.index)
    totals = board.totals()
    assert totals["open"] == 1, "gauges of a dead worker are cleared"
    assert (totals["messages"], totals["bytes_in"]) == (10, 200), "its counters are not"
    assert totals["closed"] == {**dict.fromkeys(End, 0), "reset": 2}


def count(row: Row) -> None:
    row.words[OPEN] += 1
    row.words[MESSAGES] += 5
    row.words[BYTES_IN] += 100
    row.words[CLOSED_WORD[end_of("ConnectionResetError")]] += 1


def test_a_full_board_is_an_error_that_passes(board: Scoreboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "ROWS", 3)
    first = board.take(1, 1)
    board.take(2, 1)
    with pytest.raises(BlockingIOError, match="room for 2 workers"):
        board.take(3, 1)
    board.release(first.index)
    assert board.take(3, 1).index == first.index


def test_a_row_whose_supervisor_and_worker_are_dead_is_taken_again(board: Scoreboard) -> None:
    in_a_child(lambda: count(board.take(1, 1)))
    (orphan,) = board.rows()
    assert board.totals()["messages"] == 5
    row = board.take(2, 1)
    assert row.index == orphan.index
    assert row.messages == 0
    assert board.totals()["messages"] == 5, "its counters went to those of the gone"
    assert board.totals()["open"] == 0


def test_a_row_whose_worker_outlives_its_supervisor_stays(board: Scoreboard) -> None:
    in_a_child(lambda: board.take(1, 1).now_serving(os.getppid()))  # this very process, which lives
    assert board.take(2, 1).index == 2
    assert len(board.rows()) == 2


def test_two_supervisors_never_take_the_same_row(board: Scoreboard) -> None:
    def take_many() -> None:
        for slot in range(40):
            board.take(slot, 1).now_serving(os.getppid())

    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                take_many()
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    rows = board.rows()
    assert len(rows) == 160
    assert {row.supervisor for row in rows} == set(pids)


def test_a_supervisor_that_died_in_the_middle_leaves_no_lock(board: Scoreboard) -> None:
    def die() -> None:
        fcntl.lockf(board.fileno(), fcntl.LOCK_EX)
        board.words[H_CHANGES] |= 1
        os._exit(1)

    in_a_child(die)
    row = board.take(1, 1)
    row.words[MESSAGES] = 3
    assert board.words[H_CHANGES] % 2 == 0
    assert board.totals()["messages"] == 3


def test_totals_are_told_even_while_a_change_never_ends(board: Scoreboard) -> None:
    board.take(1, 1).words[MESSAGES] = 3
    board.words[H_CHANGES] |= 1
    assert board.totals()["messages"] == 3


def test_counters_move_and_the_gauge_stays() -> None:
    ours, theirs = Counts(), Counts()
    theirs.words[OPEN] = -1
    for index in range(1, COUNTERS):
        theirs.words[index] = index
    ours.messages = 100
    ours.take(theirs)
    assert ours.words.tolist() == [0, *(index + 100 * (index == MESSAGES) for index in range(1, COUNTERS))]
    assert theirs.words.tolist() == [-1] + [0] * (COUNTERS - 1)


def test_every_reason_has_a_word_of_its_own() -> None:
    assert len(set(CLOSED_WORD.values())) == len(End)
    assert max(CLOSED_WORD.values()) < COUNTERS
    assert end_of("done") == "done"
    assert end_of("BrokenPipeError") == "reset"
    assert end_of("ValueError") == "error"
    assert set(ENDS.values()) == set(End)


# Fairness: who is crowded.


def test_crowded_is_who_has_two_more_than_the_emptiest(board: Scoreboard) -> None:
    mine, other = board.take(1, 1), board.take(2, 1)
    for row in (mine, other):
        row.now_serving(os.getpid())
    for ours, theirs, crowded in ((0, 0, False), (1, 0, False), (2, 0, True), (17, 16, False), (18, 16, True)):
        mine.open, other.open = ours, theirs
        assert mine.crowded() is crowded, (ours, theirs)
        assert not other.crowded()


def test_nobody_waits_for_a_worker_that_does_not_accept(board: Scoreboard) -> None:
    mine = board.take(1, 1)
    mine.open = 50
    assert not mine.crowded(), "never with one worker"
    other = board.take(2, 1)
    assert not mine.crowded(), "it is not ready"
    other.now_serving(os.getpid())
    assert mine.crowded()
    other.state = DRAINING
    assert not mine.crowded()
    other.state = SERVING
    other.tick(time.monotonic() - SILENT - 0.1)
    assert not mine.crowded(), "it is silent"
    third = board.take(3, 1)
    third.now_serving(os.getpid())
    assert mine.crowded(), "but another one is not"
    board.release(third.index)
    assert not mine.crowded()


# The file.


def test_the_board_survives_an_exec(board: Scoreboard) -> None:
    row = board.take(1, 1)
    row.words[MESSAGES] = 41
    row.sources.add(("192.0.2.1", 1))
    assert not os.get_inheritable(board.fileno())
    os.set_inheritable(board.fileno(), True)
    program = (
        "import os, sys\nfrom pronghorn.scoreboard.board import Scoreboard\n"
        "board = Scoreboard.adopt(int(sys.argv[1]))\n"
        "assert not os.get_inheritable(board.fileno())\nboard.rows()[0].words[3] += 1\n"
        "other = board.take(2, 5)\nassert other.index == 2\nother.sources.add(('192.0.2.1', 2))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(board.fileno())], pass_fds=[board.fileno()], check=True)
    assert row.messages == 42
    assert source_count(board, ("192.0.2.1", 3)) == 2


@pytest.mark.parametrize(("offset", "why"), [(0, "is no scoreboard"), (8, "cannot be shared")])
def test_what_is_no_scoreboard_or_another_format_is_refused(board: Scoreboard, offset: int, why: str) -> None:
    os.pwrite(board.fileno(), (99).to_bytes(8, sys.byteorder), offset)
    with pytest.raises(PronghornError, match=why) as error:
        Scoreboard.adopt(board.fileno())
    assert error.value.why and error.value.hint


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "empty", "w+b") as file, pytest.raises(PronghornError, match="is no scoreboard"):
        Scoreboard.adopt(file.fileno())


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only a memfd can be sealed")
def test_nobody_can_cut_it_short(board: Scoreboard) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(board.fileno(), 0)


def test_it_works_without_memfd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    board = Scoreboard.create()
    in_a_child(lambda: count(board.take(1, 1)))
    assert board.totals()["messages"] == 5
    assert list(tmp_path.iterdir()) == [], "its name is gone"


@pytest.mark.skipif(sys.platform != "linux", reason="st_blocks of a sparse memfd is Linux")
def test_what_nobody_uses_takes_no_memory(board: Scoreboard) -> None:
    row = board.take(1, 1)
    for _ in range(10):
        board.totals()
    assert os.fstat(board.fileno()).st_size == FILE_SIZE
    assert os.fstat(board.fileno()).st_blocks * 512 <= 128 * 1024
    row.sources.add(("192.0.2.1", 1))
    assert os.fstat(board.fileno()).st_blocks * 512 <= 512 * 1024


def test_all_its_descriptors_are_known(board: Scoreboard) -> None:
    same = [fd for fd in map(int, os.listdir("/dev/fd")) if is_same(fd, board.fileno())]
    assert sorted(board.descriptors()) == sorted(same)


def is_same(fd: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(fd, other)
    except OSError:
        return False


# Sources.


@pytest.mark.parametrize(
    ("host", "same"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("2001:db8:0:7::1", "2001:db8:0:7:ffff::9"),
        ("fe80::1%eth0", "fe80::2"),
    ],
)
def test_what_is_one_source(host: str, same: str) -> None:
    assert network(host) == network(same)


@pytest.mark.parametrize(("host", "other"), [("192.0.2.1", "192.0.2.2"), ("2001:db8:0:7::1", "2001:db8:0:8::1")])
def test_what_is_another_source(host: str, other: str) -> None:
    assert network(host) != network(other)


def test_no_address_at_all() -> None:
    with pytest.raises(ValueError, match="is no address in figures"):
        network("localhost")


def test_buckets_depend_on_the_key_and_stay_in_their_rows() -> None:
    first, second = buckets(b"one", "192.0.2.1")
    assert 0 <= first < 16384 <= second < 32768
    assert buckets(b"two", "192.0.2.1") != (first, second)


def test_sources_are_counted_over_all_workers(board: Scoreboard) -> None:
    one, two = board.take(1, 1), board.take(2, 1)
    peer, other = ("192.0.2.1", 1), ("198.51.100.7", 1)
    for row in (one, one, two):
        row.sources.add(peer)
    two.sources.add(other)
    assert (source_count(board, peer), source_count(board, other)) == (3, 1)
    one.sources.remove(peer)
    assert source_count(board, peer) == 2
    board.release(two.index)
    assert (source_count(board, peer), source_count(board, other)) == (1, 0)
    for _ in range(3):  # more than there were: below nothing there is nothing
        one.sources.remove(peer)
    assert source_count(board, peer) == 0


def test_a_unix_socket_has_no_source(board: Scoreboard) -> None:
    row = board.take(1, 1)
    row.sources.add("/run/some.sock")
    row.sources.remove("/run/some.sock")
    assert source_count(board, "/run/some.sock") == 0


def test_a_thousand_sources_hardly_disturb_each_other(board: Scoreboard) -> None:
    row = board.take(1, 1)
    peers = [(f"10.0.{high}.{low}", 1) for high in range(4) for low in range(250)]
    for peer in peers:
        row.sources.add(peer)
    counts = [source_count(board, peer) for peer in peers]
    assert min(counts) == 1
    assert counts.count(1) >= 980
