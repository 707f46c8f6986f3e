"""The directory of the bus, and its frames: pure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pronghorn.bus import directory
from pronghorn.bus.directory import Directory
from pronghorn.bus.wire import (
    DELIVER,
    FIELDS,
    JOIN,
    LISTING,
    LONGEST,
    REFUSE,
    REPLACE,
    RESULT,
    SHARED,
    BadFrame,
    Reader,
    frame,
)

A, B, C = (1, 1), (1, 2), (2, 1)


def test_members_stand_in_the_order_in_which_they_joined() -> None:
    known = Directory()
    for place, each in enumerate((B, A, C)):
        assert known.join(each, b"room", SHARED, place) == []
    assert list(known.members(b"room")) == [B, A, C]
    known.join(B, b"room", SHARED, 5.0)  # once more: it is the latest now
    assert list(known.members(b"room")) == [A, C, B]
    known.leave(C, b"room")
    known.leave(C, b"room")
    assert list(known.members(b"room")) == [A, B]
    assert known.groups(b"", 10) == [(b"room", 2)]


def test_the_order_is_that_of_the_clock_when_links_come_back() -> None:
    known = Directory()
    for each, since in ((C, 3.0), (A, 1.0), (B, 2.0)):
        known.join(each, b"room", SHARED, since)
    assert list(known.members(b"room")) == [A, B, C]


def test_one_that_wants_a_name_alone_has_it() -> None:
    known = Directory()
    known.join(A, b"device", SHARED, 1.0)
    assert known.join(B, b"device", REFUSE, 2.0) is None
    assert known.join(B, b"device", REPLACE, 2.0) == [A]
    assert list(known.members(b"device")) == [B]
    assert known.join(B, b"device", REFUSE, 3.0) == [], "it is the one that has it"
    assert known.join(C, b"device", REPLACE, 4.0) == [B]
    assert known.join(B, b"device", REPLACE, 2.0) == [B], "its link comes back: another has the name since"
    assert list(known.members(b"device")) == [C]


def test_who_has_joined_after_the_one_that_wants_it_alone_stays_in_whatever_order_links_come_back() -> None:
    live, again = Directory(), Directory()
    assert live.join(A, b"room", REPLACE, 1.0) == [] and live.join(C, b"room", SHARED, 2.0) == []
    assert again.join(C, b"room", SHARED, 2.0) == []
    assert again.join(A, b"room", REPLACE, 1.0) == []
    assert list(again.members(b"room")) == list(live.members(b"room")) == [A, C]


def test_what_a_link_had_is_gone_with_it() -> None:
    known = Directory()
    for each in (A, B, C):
        known.join(each, b"room", SHARED, 1.0)
        known.join(each, b"own:%d:%d" % each, SHARED, 1.0)
    known.leave(B, b"")
    assert known.groups(b"own", 10) == [(b"own:1:1", 1), (b"own:2:1", 1)]
    known.lose(1)
    assert known.groups(b"", 10) == [(b"own:2:1", 1), (b"room", 1)]
    known.lose(2)
    known.lose(2)
    assert len(known) == 0
    assert not known._joined and not known._held


def test_one_link_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MOST_NAMES", 3)
    known = Directory()
    assert [known.join(A, b"%d" % each, SHARED, 1.0) for each in range(5)] == [[], [], [], None, None]
    assert known.join(C, b"0", SHARED, 1.0) == [], "another link has its own room"
    known.leave(A, b"0")
    assert known.join(B, b"9", SHARED, 1.0) == []


EXAMPLES: dict[type, Any] = {
    int: st.integers(-(2**31), 2**31),
    bytes: st.binary(max_size=300),
    bool: st.booleans(),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=50),
    list: st.lists(st.tuples(st.binary(max_size=20), st.integers(0, 9)).map(list), max_size=3),
}
frames = st.sampled_from(sorted(FIELDS)).flatmap(
    lambda kind: st.tuples(st.just(kind), *(EXAMPLES[each] for each in FIELDS[kind]))
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(frames, max_size=5), st.data())
def test_frames_come_out_as_they_went_in_however_they_are_cut(sent: list[tuple[Any, ...]], data: st.DataObject) -> None:
    raw, reader, got = b"".join(frame(*each) for each in sent), Reader(), []
    while raw:
        cut = data.draw(st.integers(1, len(raw)))
        got += reader.feed(raw[:cut])
        raw = raw[cut:]
    assert [tuple(each) for each in got] == sent


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_no_frame(raw: bytes) -> None:
    try:
        for each in Reader().feed(raw):
            assert each[0] in FIELDS
    except BadFrame:
        pass


@pytest.mark.parametrize(
    "raw",
    [
        (LONGEST + 1).to_bytes(4, "big"),
        frame(99),
        frame(RESULT),
        frame(RESULT, 1),
        frame(RESULT, 1, "2"),
        frame(RESULT, True, 2),
        frame(DELIVER, 1, "text", b"", 0),
        frame(JOIN, 1, 1, b"", 0, 1),
        frame(LISTING, 1, None),
        b"\0\0\0\1\xc0",
        b"\0\0\0\0",
    ],
)
def test_what_is_no_frame_is_refused(raw: bytes) -> None:
    with pytest.raises(BadFrame):
        Reader().feed(raw)
