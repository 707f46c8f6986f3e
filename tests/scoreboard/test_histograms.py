"""Histograms against exact percentiles, and what is added up of them."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pronghorn.scoreboard import histograms
from pronghorn.scoreboard.histograms import BOUNDS, BUCKETS, OF_CONNECTIONS, WIDEST, Histogram, place_of

seconds = st.floats(min_value=2e-6, max_value=9e5)


def of(values: list[float]) -> Histogram:
    counts = [0] * BUCKETS
    for value in values:
        counts[place_of(value)] += 1
    return Histogram(counts, math.fsum(values))


@given(st.lists(seconds, min_size=1, max_size=200), st.floats(min_value=0.01, max_value=1.0))
def test_a_quantile_is_never_less_and_an_eighth_more_at_most(values: list[float], part: float) -> None:
    exact = sorted(values)[max(1, math.ceil(part * len(values))) - 1]
    assert exact <= of(values).quantile(part) <= exact * (1 + WIDEST) * (1 + 1e-12)


@given(st.lists(seconds, max_size=50), st.lists(seconds, max_size=50))
def test_two_that_are_added_are_one_of_all_values(one: list[float], two: list[float]) -> None:
    both, whole = of(one), of(one + two)
    both.add(of(two))
    assert both.counts == whole.counts and math.isclose(both.sum, whole.sum, abs_tol=1e-9)


@given(st.lists(st.one_of(seconds, st.sampled_from(OF_CONNECTIONS)), max_size=100))
def test_what_is_exported_is_exact(values: list[float]) -> None:
    for bound, count in of(values).up_to(OF_CONNECTIONS):
        assert count == sum(value <= bound for value in values)


def test_buckets_ascend_and_none_is_wider_than_said() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS))
    assert max(two / one - 1 for one, two in pairwise(BOUNDS)) <= WIDEST + 1e-12
    assert (BOUNDS[0], BOUNDS[-1]) == (1e-6, 1e6)


def test_what_cannot_be_true_counts_as_nothing() -> None:
    counts = [0] * BUCKETS
    counts[3], counts[4], counts[5] = -1, 2**62, 7
    found = Histogram(counts, math.nan)
    assert (found.count, found.sum) == (7, 0.0)
    assert Histogram(counts, -1.0).sum == Histogram(counts, math.inf).sum == 0.0
    assert math.isnan(Histogram().quantile(0.5))
    assert of([1e9]).quantile(0.5) == math.inf
    assert histograms.place_of(0.0) == 0
