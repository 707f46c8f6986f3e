"""Details: what is counted beside the rows, by workers that die, children that share, and supervisors."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from pronghorn import metrics
from pronghorn.metrics import COUNTER, GAUGE, HISTOGRAM, Description
from pronghorn.scoreboard import details, own_metrics
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.scoreboard.details import AT_ONCE, DURATION, FIRST_BYTE, Details, Shared
from pronghorn.scoreboard.map import LISTENER_WORDS, LISTENERS, REGION, REGIONS
from pronghorn.scoreboard.own_metrics import MOST_SERIES, Own, OwnReader, OwnStore

ORDERS = Description(COUNTER, "orders_total", "Orders.", ("kind",))
LOAD = Description(GAUGE, "load", "Load.")
SIZES = Description(HISTOGRAM, "sizes", "Sizes.", (), (1.0, 10.0))


@pytest.fixture
def words(board: Scoreboard) -> Iterator[Callable[[int], memoryview]]:
    """Maps the region of a row; the map stays, as in a worker."""
    kept = []

    def region(index: int) -> memoryview:
        kept.append(details.region(board.fileno(), index)[0])
        return kept[-1]

    return region  # type: ignore[return-value]


def read(board: Scoreboard, index: int = 0) -> details.Counted:
    found = details.read(board.fileno(), index)
    assert found is not None
    return found


def own(board: Scoreboard, index: int = 0) -> dict[str, list[float]]:
    found = OwnReader().read(board.fileno(), index)
    return {} if found is None else told(found)


def told(found: Own) -> dict[str, list[float]]:
    return {metric.name + "".join(labels): values for metric, labels, values in found.series}


def forked(call: Callable[[], object], end: int = 0) -> None:
    """A child that calls this, and then ends, by a signal if one is given."""
    if not (pid := os.fork()):
        try:
            call()
            if end:
                os.kill(os.getpid(), end)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def test_nobody_counts_and_nothing_is_there(board: Scoreboard) -> None:
    row = board.take(1, 1)
    board.release(row.index)
    assert details.read(board.fileno(), row.index) is None
    assert details.read(board.fileno(), 0) is None
    assert os.fstat(board.fileno()).st_blocks * 512 < REGION


def test_what_a_dead_worker_has_counted_is_kept(board: Scoreboard, words: Callable[[int], memoryview]) -> None:
    for _ in range(2):
        row = board.take(1, 1)
        counting = Details(words(row.index))
        counting.observe(DURATION, 0.25)
        counting.observe(DURATION, 3.0)
        counting.add(details.WORD["refused_rate"], 5)
        counting.connection(2, 0, 2.0, None)
        counting.copy()
        row.words[LISTENERS + 3 * LISTENER_WORDS] = 2  # open at the third listener
        board.release(row.index)
        assert details.read(board.fileno(), row.index) is None, "the next worker of this row begins at nothing"
    gone = read(board)
    assert gone["refused_rate"] == 10
    found = gone.histogram(DURATION)
    assert (found.count, found.sum) == (6, 10.5)
    assert gone.ends_at(2)["done"] == 2
    assert gone.ends_at(3)["killed"] == 4


def test_connections_are_counted_together_and_none_is_left_out(
    board: Scoreboard, words: Callable[[int], memoryview]
) -> None:
    row = board.take(1, 1)
    counting = Details(words(row.index))
    for number in range(AT_ONCE + 3):
        counting.connection(number % 2, 0, 0.25, 0.125 if number % 2 else None)
    counting.connection(-1, 0, 1.0, -1e-9)
    counting.copy()
    found = read(board, row.index)
    assert found.ends_at(0)["done"] == AT_ONCE // 2 + 2 and found.ends_at(1)["done"] == AT_ONCE // 2 + 1
    lasted, first = found.histogram(DURATION), found.histogram(FIRST_BYTE)
    assert (lasted.count, lasted.sum) == (AT_ONCE + 4, (AT_ONCE + 3) * 0.25 + 1.0)
    assert (first.count, first.sum) == (AT_ONCE // 2 + 2, (AT_ONCE // 2 + 1) * 0.125)


def test_supervisors_count_and_mend(board: Scoreboard) -> None:
    board.count("reload_done")
    board.count("reload_done")
    assert read(board)["reload_done"] == 2
    os.pwrite(board.fileno(), b"\xff" * 1024, REGIONS + 64)
    assert board.mend()
    assert read(board)["reload_done"] == 2
    assert not board.mend()
    assert Scoreboard.adopt(os.dup(board.fileno())) and read(board)["reload_done"] == 2


def test_what_logs_drop_is_counted_once(board: Scoreboard, words: Callable[[int], memoryview]) -> None:
    row = board.take(1, 1)
    counting = Details(words(row.index))
    for dropped in ({"log": 0, "access": 2}, {"log": 0, "access": 2}, {"log": 1, "access": 5}):
        counting.drops(dropped)
    counting.copy()
    assert [read(board, row.index)[f"{log}_dropped"] for log in ("log", "access")] == [1, 5]


def test_a_program_after_an_upgrade_goes_on(board: Scoreboard, words: Callable[[int], memoryview]) -> None:
    row = board.take(1, 1)
    OwnStore(words(row.index)).add(OwnStore(words(row.index)).place(ORDERS, ("new",)), 3.0)
    board.count("upgrade_done")
    board.release(row.index)

    def next_program() -> None:
        after = Scoreboard.adopt(os.dup(board.fileno()))
        after.count("upgrade_done")

    board.share(os.getpid())
    forked(next_program)
    board.count("upgrade_done")
    assert read(board)["upgrade_done"] == 3
    assert own(board) == {"orders_totalnew": [3.0]}


def test_children_share_a_region(board: Scoreboard, words: Callable[[int], memoryview]) -> None:
    row = board.take(1, 1)
    lock = details.lock_of(board.fileno(), row.index)
    counting, store = Shared(words(row.index), lock), OwnStore(words(row.index), lock)

    def work() -> None:
        for index in range(200):
            store.add(store.place(ORDERS, (str(index % 3),)), 1.0)
            counting.observe(DURATION, 0.5)

    for _ in range(4):
        forked(work, signal.SIGKILL)
    assert sum(values[0] for values in own(board, row.index).values()) == 800
    assert read(board, row.index).histogram(DURATION).count == 800
    assert store.get(store.place(ORDERS, ("0",))) == 4 * 67
    board.release(row.index)
    assert sum(values[0] for values in own(board).values()) == 800


def test_own_metrics_of_dead_workers_add_up_and_gauges_end(
    board: Scoreboard, words: Callable[[int], memoryview]
) -> None:
    for kind in ("new", "new", "old"):
        row = board.take(1, 1)
        store = OwnStore(words(row.index))
        store.add(store.place(ORDERS, (kind,)), 2.0)
        store.set(store.place(LOAD, ()), 7.0)
        sizes = store.place(SIZES, ())
        store.observe(sizes, 1, 3, 5.0)
        assert own(board, row.index)["load"] == [7.0]
        board.release(row.index)
    assert own(board) == {"orders_totalnew": [4.0], "orders_totalold": [2.0], "sizes": [0.0, 3.0, 0.0, 15.0]}


def test_series_are_bounded(board: Scoreboard, words: Callable[[int], memoryview]) -> None:
    row = board.take(1, 1)
    store = OwnStore(words(row.index))
    places = [store.place(ORDERS, (str(each),)) for each in range(MOST_SERIES + 5)]
    assert places.count(-1) == 5 and len(own(board, row.index)) == MOST_SERIES
    board.release(row.index)
    found = OwnReader().read(board.fileno(), 0)
    assert found is not None and found.dropped == 5


@pytest.mark.parametrize("noise", [b"\xff", b"\x00\x10S[0,[],8]", b"\x04\x00Mnul", b"M"])
def test_a_directory_of_garbage_is_none(board: Scoreboard, words: Callable[[int], memoryview], noise: bytes) -> None:
    row = board.take(1, 1)
    store = OwnStore(words(row.index))
    store.add(store.place(ORDERS, ("new",)), 1.0)
    start = REGIONS + row.index * REGION
    os.pwrite(board.fileno(), (noise * 70000)[:65000], start + own_metrics.DIRECTORY)
    os.pwrite(board.fileno(), b"\xff\xff\x00\x00\x00\x00\x00\x00" * 4, start + details.OWN * 8)
    assert own(board, row.index) == {}
    store.copy()
    assert own(board, row.index) == {"orders_totalnew": [1.0]}
    board.release(row.index)
    assert own(board) == {"orders_totalnew": [1.0]}


def test_values_that_cannot_be_true(board: Scoreboard, words: Callable[[int], memoryview]) -> None:
    row = board.take(1, 1)
    region = words(row.index)
    store = OwnStore(region)
    place = store.place(ORDERS, ("new",))
    floats = region.cast("B").cast("d")
    for value in (float("nan"), float("inf"), -5.0):
        floats[details.OWN + place] = value
        assert own(board, row.index) == {"orders_totalnew": [0.0]}


def test_a_handlers_metrics_move_to_a_worker(board: Scoreboard, words: Callable[[int], memoryview]) -> None:
    kinds = metrics.counter("moved", "Moved.", labels=("kind",))
    kinds.labels("a").inc(5)
    row = board.take(1, 1)
    try:
        metrics.attach(OwnStore(words(row.index)))
        kinds.labels("a").inc()
        kinds.labels(kind="b").inc(2)
        assert own(board, row.index) == {"moved_totala": [1.0], "moved_totalb": [2.0]}
        forked(lambda: (metrics.detach(), kinds.labels("a").inc()))
        assert own(board, row.index)["moved_totala"] == [1.0]
    finally:
        metrics.detach()
