"""The two letters that say what ended a connection, and in which phase."""

from __future__ import annotations

import pytest

from pronghorn.errors import AGE, HANDSHAKE_TIMEOUT, IDLE, WRITE_BUFFER, End, end_of
from pronghorn.serving.end_states import state_of_end, state_of_refusal

NORMAL = {"faulty": False, "cut": False, "sealed": True, "unacknowledged": False}
CASES: list[tuple[str, dict[str, bool], str]] = [
    ("done", {}, "--"),
    ("done", {"unacknowledged": True}, "cL"),
    ("draining", {}, "DD"),
    (AGE, {}, "DD"),
    ("ConnectionResetError", {}, "CD"),
    ("ConnectionResetError", {"sealed": False}, "CT"),
    (IDLE, {}, "cD"),
    (HANDSHAKE_TIMEOUT, {"sealed": False}, "cT"),
    ("HandshakeFailed", {}, "PT"),
    ("ValueError", {"faulty": True}, "HD"),
    ("TimeoutError", {"faulty": True}, "hD"),
    ("TimeoutError", {}, "cD"),
    ("MemoryError", {"faulty": True}, "RD"),
    ("MessageTooLong", {}, "PD"),
    (WRITE_BUFFER, {}, "PD"),
    ("error", {}, "HD"),
    ("aborted", {}, "HD"),
    ("ConnectionAbortedError", {"cut": True}, "KD"),
]


@pytest.mark.parametrize(("detail", "facts", "state"), CASES)
def test_what_ended_a_connection_and_in_which_phase(detail: str, facts: dict[str, bool], state: str) -> None:
    facts = NORMAL | facts
    end = End.ERROR if facts["faulty"] else end_of(detail)
    assert state_of_end(end, detail, **facts) == state


def test_every_end_has_letters() -> None:
    assert all(len(state_of_end(each, each, **NORMAL)) == 2 for each in End)


def test_who_was_refused_and_where() -> None:
    words = "--max-connections-per-source", "no PROXY header in time", "no PROXY header", "no descriptor"
    assert [state_of_refusal(each) for each in words] == ["PA", "cP", "PP", "RA"]
