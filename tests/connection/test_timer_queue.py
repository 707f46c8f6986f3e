"""TimerQueue: order, and the clock as an argument."""

from __future__ import annotations

import math

from pronghorn.connection.timer_queue import TimerQueue


def test_they_fall_due_in_order_and_not_before() -> None:
    seen: list[str] = []
    deadlines = TimerQueue()
    assert deadlines.next == math.inf
    for when, name in ((3.0, "c"), (1.0, "a"), (2.0, "b"), (2.0, "b again")):
        deadlines.add(when, lambda name=name: seen.append(name))  # type: ignore[misc]
    assert deadlines.next == 1.0
    deadlines.run(0.9)
    assert seen == []
    deadlines.run(2.0)
    assert seen == ["a", "b", "b again"]
    assert len(deadlines) == 1 and deadlines.next == 3.0


def test_what_is_added_meanwhile_waits_for_the_next_run() -> None:
    seen: list[str] = []
    deadlines = TimerQueue()

    def again() -> None:
        seen.append("again")
        deadlines.add(0.0, again)

    deadlines.add(0.0, again)
    deadlines.run(5.0)
    assert seen == ["again"]
    deadlines.run(5.0)
    assert seen == ["again", "again"]


def test_what_is_cancelled_is_not_called_and_fills_no_memory() -> None:
    seen: list[int] = []
    deadlines = TimerQueue()
    entries = [deadlines.add(10.0 + number, lambda number=number: seen.append(number)) for number in range(1000)]  # type: ignore[misc]
    for number, entry in enumerate(entries):
        if number % 100:
            entry.cancel()
            entry.cancel()
    assert len(deadlines) == 10 and len(deadlines._heap) < 200
    deadlines.run(2000.0)
    assert seen == list(range(0, 1000, 100)) and not len(deadlines) and deadlines.next == math.inf
    entries[0].cancel()
    assert len(deadlines) == 0


def test_one_that_is_due_may_cancel_another_that_is() -> None:
    seen: list[str] = []
    deadlines = TimerQueue()
    deadlines.add(1.0, lambda: other.cancel())
    other = deadlines.add(2.0, lambda: seen.append("never"))
    last = deadlines.add(9.0, lambda: None)
    deadlines.run(5.0)
    assert not seen and len(deadlines) == 1 and deadlines.next == 9.0
    last.cancel()
    assert deadlines.next == math.inf
