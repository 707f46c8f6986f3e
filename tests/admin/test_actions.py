"""Who may change the server by the status page, and what an order may say."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pronghorn.admin.actions import ALL_TRIES, TRIES, WINDOW, Gate, Order, Refused, obey, parsed
from pronghorn.admin.supervisor_line import NoAnswer
from pronghorn.errors import PronghornError

TOKEN = b"correct-horse-battery"
RIGHT = {
    "host": "127.0.0.1:9000",
    "content-type": "application/json",
    "authorization": f"Bearer {TOKEN.decode()}",
}


def refusal(gate: Gate, source: str = "192.0.2.1", **changed: str) -> int:
    """The status with which a request is refused, whose headers are right but for these; 0 if it is let in."""
    headers = {**RIGHT, **{name.replace("_", "-"): value for name, value in changed.items()}}
    try:
        gate.check(headers, source)
    except Refused as refused:
        assert TOKEN.decode() not in refused.why and "guess" not in refused.why
        return refused.status
    return 0


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def gate(clock: list[float]) -> Gate:
    return Gate(TOKEN, lambda: clock[0])


def test_the_right_token_is_let_in(gate: Gate) -> None:
    assert refusal(gate) == 0
    assert refusal(gate, content_type="application/json; charset=utf-8") == 0
    assert refusal(gate, authorization=f"bearer {TOKEN.decode()}") == 0


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer guess",
        f"Basic {TOKEN.decode()}",
        TOKEN.decode(),
        f"Bearer {TOKEN.decode()}x",
        "Bearer é",
    ],
)
def test_another_token_is_not(gate: Gate, said: str) -> None:
    assert refusal(gate, authorization=said) == 401


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("sec_fetch_site", "cross-site", 403),
        ("sec_fetch_site", "same-site", 403),
        ("sec_fetch_site", "same-origin", 0),
        ("origin", "http://127.0.0.1:9000", 0),
        ("origin", "https://127.0.0.1:9000", 0),
        ("origin", "http://evil.example", 403),
        ("origin", "http://127.0.0.1:9001", 403),
        ("origin", "null", 403),
        ("origin", "http://[", 403),
        ("content_type", "text/plain", 415),
        ("content_type", "application/x-www-form-urlencoded", 415),
        ("content_type", "", 415),
    ],
)
def test_a_request_of_another_site_or_form_is_refused_before_its_token_is_looked_at(
    gate: Gate, name: str, value: str, status: int
) -> None:
    assert refusal(gate, **{name: value}) == status


def test_tries_are_bounded_for_each_source_and_in_all(gate: Gate, clock: list[float]) -> None:
    assert [refusal(gate, authorization="Bearer guess") for _ in range(TRIES + 1)] == [401] * TRIES + [429]
    assert refusal(gate) == 429, "even the right one, which might be the last guess"
    assert refusal(gate, "192.0.2.2") == 0
    for number in range(ALL_TRIES):
        refusal(gate, f"192.0.2.{10 + number}", authorization="Bearer guess")
    assert refusal(gate, "192.0.2.2") == 429
    clock[0] += WINDOW
    assert refusal(gate) == 0


def test_no_token_is_no_guess(gate: Gate) -> None:
    assert [refusal(gate, authorization="") for _ in range(2 * TRIES)] == [401] * 2 * TRIES
    assert refusal(gate) == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"action": "stop"}',
        b'{"action": "drain", "more": 1}',
        b'{"action": "resize"}',
        b'{"action": "resize", "count": 0}',
        b'{"action": "resize", "count": 100000}',
        b'{"action": "resize", "count": "3"}',
        b'{"action": "end"}',
        b'{"action": "end", "connection": "1"}',
        b'{"action": "end", "connection": "1-2; 3"}',
        b"[" * 4000,
        b"\xff",
    ],
)
def test_what_is_no_order_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parsed(body)
    assert refused.value.status == 400


def test_an_order_becomes_a_command() -> None:
    asked: list[dict[str, Any]] = []

    async def ask(request: dict[str, Any], seconds: float) -> dict[str, Any]:
        asked.append(request)
        return {"generation": 2, "workers": 3, "ended": ["12-1"], "late": ["12-2"]}

    def said(body: bytes) -> str:
        return asyncio.run(obey(parsed(body), ask))

    assert "right" in said(b'{"action": "check"}') and not asked
    assert "generation 2" in said(b'{"action": "reload"}')
    assert "3" in said(b'{"action": "resize", "count": 3}')
    assert "ended" in said(b'{"action": "end", "connection": "12-1"}')
    with pytest.raises(PronghornError, match="not ended yet"):
        said(b'{"action": "end", "connection": "12-2"}')
    with pytest.raises(PronghornError, match="gone"):
        said(b'{"action": "end", "connection": "12-3"}')
    assert asked[:2] == [{"command": "reload"}, {"command": "resize", "count": 3}]
    assert asked[2] == {"command": "kill-connection", "ids": ["12-1"]}


def test_what_takes_longer_goes_on() -> None:
    async def ask(request: dict[str, Any], seconds: float) -> dict[str, Any]:
        raise NoAnswer

    assert "goes on" in asyncio.run(obey(Order("drain"), ask))
