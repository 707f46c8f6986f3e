"""The status page's words and HTML: what is wrong comes first, and nobody else's text is markup."""

from __future__ import annotations

import math
import time
from html.parser import HTMLParser
from typing import Any

import pytest

from pronghorn.admin.page import page
from pronghorn.admin.page.history import SECONDS, History, Rates
from pronghorn.admin.page.view import Facts, Record, View, view

HOSTILE = "<script>alert(1)</script>\"'&\u202e\x1b[31m\n<img src=x onerror=alert(1)>"


def status(**changed: Any) -> dict[str, Any]:
    listener = {"name": "plain", "listening": ["127.0.0.1:8000"], "accept_queue": [{"waiting": 0, "backlog": 128}]}
    counts = {"open": 1234, "accepted": 5000, "refused": 0, "messages": 99}
    return {
        "state": "SERVING",
        "name": "mine",
        "pid": 4711,
        "version": "1.0",
        "uptime": 100.0,
        "generation": 2,
        "handler": "mine:handler",
        "style": "message",
        "model": "epoll",
        "workers": {"wanted": 2, "ready": 2, "draining": 0},
        "listeners": [{**listener, "handler": "mine:handler", "style": "message", "tls": "off", **counts}],
        **counts,
        **changed,
    }


def worker(**changed: Any) -> dict[str, Any]:
    row = {"slot": 1, "pid": 4712, "generation": 2, "state": "SERVING", "age": 90.0, "open": 617, "beat_age": 0.2}
    return {**row, "accepted": 2500, "messages": 50, "bytes_in": 1, "bytes_out": 2, "memory": 30 << 20, **changed}


def connection(**changed: Any) -> dict[str, Any]:
    row = {"id": "4712-37", "peer": "192.0.2.1:5555", "listener": "plain", "age": 60.0, "idle": 1.0, "state": "OPEN"}
    return {**row, "messages": 3, "bytes_in": 10, "bytes_out": 20, "fields": {}, "tls": None, **changed}


def seen(
    status: dict[str, Any],
    workers: list[dict[str, Any]] | None = None,
    samples: list[dict[str, float | None]] | None = None,
    **changed: Any,
) -> View:
    history = History()
    for each in samples or []:
        history.add(each)
    facts = Facts(status, [worker()] if workers is None else workers, {"longest": []}, [], history, {}, {})
    for name, value in changed.items():
        setattr(facts, name, value)
    return view(facts)


def test_all_is_well() -> None:
    shown = seen(status())
    assert (shown.level, shown.problems) == ("good", [])
    assert shown.verdict == "All is well: 2 of 2 workers serve 1,234 connections"
    assert shown.title == "OK · mine"


@pytest.mark.parametrize(
    ("changed", "workers", "samples", "level", "said"),
    [
        ({"state": "DRAINED"}, None, [], "bad", "pronghorn ctl resize"),
        ({"state": "STOPPING", "drains_in": 4.2}, None, [], "warn", "drains in 4 s"),
        ({"state": "STARTING"}, None, [], "warn", "starting"),
        ({"workers": {"wanted": 3, "ready": 2}}, None, [], "warn", "1 of 3 workers is not ready"),
        ({"workers": {"wanted": 3, "ready": 0}}, None, [], "bad", "3 of 3 workers are not ready"),
        ({"last_reload": {"ok": False, "why": "no module\n'x'"}}, None, [], "warn", "no module 'x'"),
        ({"faults": 2, "last_fault": "KeyError"}, None, [], "warn", "KeyError"),
        ({}, [worker(beat_age=5.0)], [], "warn", "no sign of life for 5.0 s"),
        ({}, [worker(beat_age=50.0)], [], "bad", "Worker 1 (process 4712)"),
        ({}, None, [{"ended.killed": 3.0}], "bad", "3 connections were lost with a process that died"),
        ({}, None, [{"ended.error": 1.0}], "warn", "1 connection was ended by errors of the handler"),
        ({}, None, [{"refused.--accept-rate": 2.0}], "warn", "(2 --accept-rate)"),
        ({}, None, [{"overflows": 2.0}], "warn", "dropped 2 clients"),
    ],
)
def test_what_is_wrong_stands_in_the_first_line(
    changed: dict[str, Any], workers: Any, samples: Any, level: str, said: str
) -> None:
    shown = seen(status(**changed), workers, samples)
    assert (shown.level, said in shown.verdict) == (level, True), shown.verdict


def test_a_full_accept_queue_is_told() -> None:
    told = status()
    told["listeners"][0]["accept_queue"] = [{"waiting": 128, "backlog": 128}]
    shown = seen(told)
    assert shown.level == "bad" and "128 of 128 clients" in shown.verdict


@pytest.mark.parametrize(
    ("days", "level", "said"),
    [(30, "good", "All is well"), (3, "warn", "mine.example at plain expires in 2 d"), (-1, "bad", "has expired")],
)
def test_a_certificate_that_ends_soon_is_told(days: int, level: str, said: str) -> None:
    told = status()
    told["listeners"][0]["certificates"] = [{"name": "mine.example", "until": time.time() + days * 86400 - 9}]
    shown = seen(told)
    assert shown.level == level and said in shown.verdict


def test_of_several_the_worst_comes_first() -> None:
    shown = seen(status(faults=1, state="DRAINED"), [worker(beat_age=5.0)])
    assert shown.verdict.startswith("3 things are wrong; the worst: The server is drained")
    assert [each.level for each in shown.problems] == ["bad", "warn", "warn"]


def test_a_supervisor_that_does_not_answer_is_told_beside_what_was_seen_last() -> None:
    shown = seen({}, why="no answer came in time")
    assert shown.level == "bad" and "does not answer" in shown.verdict and len(shown.tables["workers"]) == 1


def test_deadlines_and_changes_under_way_are_no_alarm() -> None:
    shown = seen(status(under_way="reload"), None, [{"ended.timeout": 4.0}])
    assert shown.level == "good" and shown.verdict.startswith("All is well") and len(shown.problems) == 2


class Elements(HTMLParser):
    """The elements of a page, its attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_no_text_of_others_becomes_markup() -> None:
    told = status(name=HOSTILE, handler=HOSTILE, style=HOSTILE, model=HOSTILE, version=HOSTILE, last_fault=HOSTILE)
    told |= {"last_reload": {"ok": False, "why": HOSTILE}, "faults": 1, "under_way": HOSTILE}
    told["listeners"][0] |= {"name": HOSTILE, "handler": HOSTILE, "listening": [HOSTILE], "tls": HOSTILE}
    rows = [connection(peer=HOSTILE, listener=HOSTILE, id=HOSTILE, proxy=HOSTILE, state=HOSTILE)]
    rows += [connection(fields={HOSTILE: HOSTILE}, tls={"version": HOSTILE, "sni": HOSTILE})]
    records = [Record(1.0, HOSTILE, 1, HOSTILE)]
    plain = seen(status(), connections={"longest": [connection()] * 2}, records=[Record(1.0, "x", 1, "y")])
    shown = seen(told, [worker(state=HOSTILE)], connections={"longest": rows}, records=records, why=HOSTILE)
    html = page(shown, History(), {HOSTILE: HOSTILE}, write=False).decode()
    found, usual = Elements(html), Elements(page(plain, History(), {"a": "b"}, write=False).decode())
    assert "script" in found.tags and found.tags.count("script") == usual.tags.count("script") == 1
    assert "img" not in found.tags and not any(name.startswith("on") for name, _ in found.attributes)
    assert {name for name, _ in found.attributes} == {name for name, _ in usual.attributes}
    assert not any(each in html for each in "\u202e\x1b")
    assert not any(each in str(shown) for each in "\u202e\x1b")


def test_of_very_many_workers_the_rest_is_counted() -> None:
    shown = seen(status(), [worker(slot=slot, pid=5000 + slot) for slot in range(500)])
    assert len(shown.tables["workers"]) == 201 and shown.tables["workers"][-1].cells[1] == "and 300 more"
    assert b"and 300 more" in page(shown, History(), {}, write=False)


def test_a_page_has_buttons_only_with_write() -> None:
    shown = seen(status(), connections={"longest": [connection()]})
    assert b"<button" not in page(shown, History(), {}, write=False)
    assert page(shown, History(), {}, write=True).count(b"data-action") == 3


def test_a_history_has_a_value_a_second_and_forgets() -> None:
    history = History()
    for second in range(SECONDS + 100):
        history.add({"open": float(second), **({"late": 1.0} if second >= SECONDS + 90 else {})})
    columns = history.columns()
    assert len(columns["open"]) == len(columns["late"]) == SECONDS + 1
    assert columns["open"][-1] == SECONDS + 99 and columns["late"].count(1.0) == 10
    assert (history.lately("late"), history.lately("late", 5), history.lately("none")) == (10.0, 5.0, 0.0)


def test_a_history_is_bounded_in_series() -> None:
    history = History()
    for number in range(1000):
        history.add({f"refused.{number}": 1.0})
    assert len(history.columns()) < 100


def test_rates_are_of_the_same_owner_and_never_negative() -> None:
    rates = Rates()
    rates.see(10.0, [("a", {"n": 5})])
    rates.see(12.0, [("a", {"n": 25}), ("b", {"n": 100})])
    assert rates.rates == {"a": {"n": 10.0}}
    rates.see(13.0, [("a", {"n": 1}), ("b", {"n": 100})])
    assert rates.rates == {"a": {"n": 0.0}, "b": {"n": 0.0}}
    rates.see(math.inf, [("a", {"n": 1})])
    assert rates.rates == {}
