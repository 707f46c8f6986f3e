"""Latencies: the buckets, quantiles beside those of the sorted values, and what is added up."""

from __future__ import annotations

import math
import random

import pytest

from pronghorn.bench.latencies import Latencies, bound_of, place_of


def counted(values: list[int]) -> Latencies:
    found = Latencies()
    for each in values:
        found.note(each)
    return found


def test_buckets_follow_each_other_and_are_narrow() -> None:
    least = -1
    for place in range(128 * 40):
        bound = bound_of(place)
        assert place_of(least + 1) == place_of(bound) == place
        assert bound - least - 1 <= (least + 1) / 128
        least = bound


def test_quantiles_are_those_of_the_values_or_a_little_more() -> None:
    chance = random.Random(7)
    values = sorted(int(chance.lognormvariate(11, 2)) for _ in range(20_000))
    found = counted(values)
    assert found.count == len(values)
    for part in (0.0, 0.5, 0.9, 0.99, 0.999, 1.0):
        true = values[max(1, math.ceil(part * len(values))) - 1] / 1e9
        assert true <= found.quantile(part) <= true * 1.008 + 1e-9
    assert found.quantile(1.0) == values[-1] / 1e9


def test_the_usual_percentiles_of_a_thousand_even_values() -> None:
    found = counted([each * 1000 for each in range(1, 1001)])  # 1 to 1000 us
    assert [round(found.quantile(part) * 1e6) for part in (0.5, 0.99, 0.999)] == pytest.approx(
        [500, 990, 999], rel=0.01
    )


def test_counts_of_several_are_added_and_travel_as_json() -> None:
    one, other = counted([1, 5_000, 5_000]), counted([5_000, 9_000_000])
    one.add(Latencies(other.plain()["counts"], other.plain()["greatest"]))  # type: ignore[arg-type]
    assert one.plain() == counted([1, 5_000, 5_000, 5_000, 9_000_000]).plain()
    assert one.steps()[-1] == (1.0, 0.009)


def test_none_have_no_quantile_and_a_clock_that_steps_back_is_zero() -> None:
    assert math.isnan(Latencies().quantile(0.5))
    assert counted([-5]).quantile(0.5) == 0.0
