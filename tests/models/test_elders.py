"""When children of the fork model are sent the signal that has them keep their deadlines."""

from __future__ import annotations

import math

from pronghorn.models.children import AGAIN, Elders


def test_a_child_is_found_at_its_age_and_once_more() -> None:
    elders = Elders(0.25)
    elders.born(7, 100.0)
    elders.born(8, 100.1)
    assert elders.since(100.2) == set()
    assert elders.since(100.3) == {7}
    assert elders.since(100.4) == {8}
    assert elders.since(100.29 + AGAIN) == set()
    assert elders.since(100.3 + AGAIN) == {7}
    assert elders.since(200.0) == {8}
    assert elders.since(300.0) == set()


def test_a_number_that_comes_again_is_another_child() -> None:
    elders = Elders(0.25)
    elders.born(7, 100.0)
    assert elders.since(100.5) == {7}
    elders.born(7, 101.0)
    assert elders.since(101.25) == {7}
    assert elders.since(101.25 + AGAIN) == {7} and elders.since(300.0) == set()


def test_where_there_is_no_deadline_none_is_found() -> None:
    elders = Elders(math.inf)
    elders.born(7, 100.0)
    assert elders.since(1e9) == set()
