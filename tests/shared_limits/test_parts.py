"""Which part of a rate each host has, and what a record may be."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronghorn.shared_limits import records
from pronghorn.shared_limits.parts import KEPT, part
from pronghorn.shared_limits.records import LONGEST, MOST_SOURCES, packed, unpacked

SERVER = "0123456789abcdef"
demands = st.lists(st.floats(0, 1e6), min_size=1, max_size=30)


def parts(rate: float, demands: list[float]) -> list[float]:
    return [part(rate, each, demands[:place] + demands[place + 1 :]) for place, each in enumerate(demands)]


@given(st.integers(1, 100_000), demands)
def test_all_parts_together_are_the_rate_and_who_wants_more_has_no_less(rate: int, demands: list[float]) -> None:
    found = parts(rate, demands)
    assert sum(found) == pytest.approx(1.0)
    for mine, wanted in zip(found, demands, strict=True):
        assert mine * rate >= min(wanted, rate / len(demands)) * (1 - 1 / KEPT) - 1e-6, "nobody is starved by another"
        assert mine * rate >= rate / KEPT / len(demands) * (1 - 1e-9)
    ordered = [mine for _, mine in sorted(zip(demands, found, strict=True))]
    assert ordered == pytest.approx(sorted(ordered))


def test_what_nobody_needs_is_spread_and_what_there_is_too_little_of_is_shared() -> None:
    assert part(100, 0, []) == 1.0
    assert parts(100, [0, 0]) == [0.5, 0.5]
    assert parts(100, [60, 10]) == pytest.approx([0.75, 0.25])
    assert parts(100, [1000, 30]) == pytest.approx([0.7, 0.3])
    assert parts(100, [1000, 30, 1000]) == pytest.approx([0.35, 0.3, 0.35])


def test_a_record_comes_back_as_it_was_and_of_too_many_sources_the_largest() -> None:
    many = {source: 1 + source % 7 for source in range(MOST_SOURCES + 100)}
    raw = packed(SERVER, 12.5, many)
    record = unpacked(raw)
    assert record is not None and len(raw) <= LONGEST
    assert len(record.sources) == MOST_SOURCES and record.demand == 12.5
    assert sum(record.sources.values()) == sum(sorted(many.values())[-MOST_SOURCES:])
    assert unpacked(packed(SERVER, 0.0, {-(2**63): 5, 2**32 - 1: 2**24})) is not None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1" * 20,
        b"x" * (LONGEST + 1),
        msgspec.msgpack.encode([2, SERVER, 1.0, {}]),
        msgspec.msgpack.encode([1, "short", 1.0, {}]),
        msgspec.msgpack.encode([1, SERVER, float("nan"), {}]),
        msgspec.msgpack.encode([1, SERVER, 1.0, {1: 0}]),
        msgspec.msgpack.encode([1, SERVER, 1.0, {1: 2**24 + 1}]),
        msgspec.msgpack.encode([1, SERVER, 1.0, {2**63: 1}]),
        msgspec.msgpack.encode([1, SERVER, 1.0, {"a": 1}]),
        msgspec.msgpack.encode([1, SERVER, 1.0, dict.fromkeys(range(MOST_SOURCES + 1), 1)]),
    ],
)
def test_what_is_no_record_is_none(raw: bytes) -> None:
    assert unpacked(raw) is None


def test_a_record_of_a_server_that_ends_is_told_from_others() -> None:
    record = records.unpacked(packed(SERVER, -1.0, {}))
    assert record is not None and record.demand < 0
