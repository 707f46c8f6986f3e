"""Deadlines: order, and the clock as an argument."""

from __future__ import annotations

import math

from pronghorn.connection.deadlines import Deadlines


def test_they_fall_due_in_order_and_not_before() -> None:
    seen: list[str] = []
    deadlines = Deadlines()
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
    deadlines = Deadlines()

    def again() -> None:
        seen.append("again")
        deadlines.add(0.0, again)

    deadlines.add(0.0, again)
    deadlines.run(5.0)
    assert seen == ["again"]
    deadlines.run(5.0)
    assert seen == ["again", "again"]
