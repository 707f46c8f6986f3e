"""What the status page shows, as text: a view, made once a second for all who watch.

Law: facts in, texts out. Every text that a client, a handler or a file may have chosen is made printable and capped
here, so that neither the page nor its script has to know which these are; both set it as text, never as markup.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import msgspec

from pronghorn.admin.page.history import History, Sample
from pronghorn.admin.page.verdict import SILENT, Level, Problem, first_line, level_of, problems
from pronghorn.control.quantities import number, size, span
from pronghorn.errors import printable

LONGEST = 120  # characters of one cell
LONGEST_RECORD = 2000
HALF_A_DAY = 43200.0  # seconds
MOST_ROWS = 200  # of one table
NONE = "\N{EN DASH}"

Cell = str | tuple[str, str]
"""A text; or a text and its tone: good, warn, bad or dim."""

TONES = {"SERVING": "good", "STARTING": "warn", "DRAINING": "warn", "LEAVING": "dim", "ORPHANED": "bad"}


class Row(msgspec.Struct, omit_defaults=True):
    """A row of a table; `ends` is the connection that its button ends."""

    key: str
    cells: list[Cell]
    ends: str = ""


class View(msgspec.Struct):
    """The whole page, but for what stays while the server runs."""

    build: str
    """Of the page's files: a page of another build loads itself anew."""
    level: Level
    verdict: str
    problems: list[Problem]
    about: str
    title: str
    workers: int
    tables: dict[str, list[Row]]
    sample: Sample


class Record(msgspec.Struct, frozen=True):
    """A record of the log."""

    at: float
    """Seconds of the wall clock."""
    level: str
    process: int
    text: str


class Facts(msgspec.Struct):
    """What a view is made of: the results of `ctl status`, `workers` and `connections`, and what was seen before."""

    status: dict[str, Any]
    workers: list[dict[str, Any]]
    connections: dict[str, list[dict[str, Any]]]
    records: list[Record]
    history: History
    sample: Sample
    rates: Mapping[str, Mapping[str, float]]
    why: str = ""
    """Why there is no status."""


def view(facts: Facts, build: str = "") -> View:
    """The page of now."""
    found = problems(facts.status, facts.workers, facts.history, facts.why)
    level, name = level_of(found), text(facts.status.get("name", "pronghorn"))
    words = {"good": "OK", "warn": "LOOK", "bad": "WRONG", "note": "OK"}[level]
    first = first_line(found, facts.status, facts.workers)
    alone = sum(each.level in ("bad", "warn") for each in found) == 1
    return View(
        build=build,
        level=level,
        verdict=first,
        problems=[each for each in found if not (alone and each.level in ("bad", "warn"))],
        about=_about(facts.status),
        title=f"{words} · {name}",
        workers=facts.status.get("workers", {}).get("wanted", 0),
        tables={
            "listeners": _listeners(facts),
            "workers": _workers(facts),
            "generations": _generations(facts),
            **{which: [_connection(each) for each in rows] for which, rows in facts.connections.items()},
            "records": _records(facts.records),
        },
        sample=facts.sample,
    )


def text(value: object, longest: int = LONGEST) -> str:
    """Whatever somebody else has chosen, on one line."""
    return printable(str(value), longest, "")


def _about(status: dict[str, Any]) -> str:
    if not status:
        return ""
    return " · ".join(
        (
            f"{text(status['name'])}, process {status['pid']}",
            f"up {span(status['uptime'])}",
            f"{text(status['handler'])} ({text(status['style'])} style) under {text(status['model'])}",
            f"generation {status['generation']}",
            f"Pronghorn {text(status['version'])}",
            time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        )
    )


def _rate(rates: Mapping[str, float] | None, counter: str) -> str:
    return NONE if rates is None or counter not in rates else rate(rates[counter])


def rate(value: float) -> str:
    """A number a second."""
    return f"{value:.1f}" if 0.0 < value < 9.95 else number(round(value))


def _flow(rates: Mapping[str, float] | None, counter: str) -> str:
    return NONE if rates is None or counter not in rates else size(round(rates[counter]))


def _listeners(facts: Facts) -> list[Row]:
    rows = []
    for each in facts.status.get("listeners", ())[:MOST_ROWS]:
        counts = each if "open" in each else facts.status  # a server's only listener is not counted for itself
        rates = facts.rates.get(f"listener {each['name']}", facts.rates.get("server") if counts is not each else None)
        queues = [queue for queue in each.get("accept_queue", ()) if queue]
        waiting = ", ".join(f"{queue['waiting']:,} of {queue['backlog']:,}" for queue in queues) or NONE
        name = text(each["name"])
        places = ", ".join(text(one) for one in each["listening"])
        rows.append(
            Row(
                name,
                [
                    name,
                    number(counts["open"]),
                    _rate(rates, "accepted"),
                    _rate(rates, "messages"),
                    (waiting, "warn") if any(queue["waiting"] for queue in queues) else waiting,
                    number(counts["accepted"]),
                    (number(counts["refused"]), "warn") if counts["refused"] else "0",
                    {"off": NONE, "on": "yes"}.get(str(each["tls"]), text(each["tls"])),
                    text(each["handler"]),
                    places,
                ],
            )
        )
    return rows


def _workers(facts: Facts) -> list[Row]:
    rows = []
    for each in facts.workers[:MOST_ROWS]:
        rates = facts.rates.get(f"worker {each['pid']}")
        processor = None if rates is None or "cpu_seconds" not in rates else rates["cpu_seconds"]
        rows.append(
            Row(
                f"{each['slot']} {each['pid']}",
                [
                    str(each["slot"]),
                    (text(each["state"]), TONES.get(each["state"], "")),
                    str(each["pid"]),
                    str(each["generation"]),
                    number(each["open"]),
                    _rate(rates, "accepted"),
                    _rate(rates, "messages"),
                    NONE if processor is None else (f"{processor:.0%}", "warn" if processor > 0.9 else ""),
                    size(each["memory"]),
                    (span(each["beat_age"]), "bad" if each["beat_age"] >= SILENT else ""),
                    span(each["age"]),
                    _flow(rates, "bytes_in"),
                    _flow(rates, "bytes_out"),
                ],
            )
        )
    if more := len(facts.workers) - len(rows):
        rows.append(Row("more", ["", f"and {more:,} more", *[""] * (len(rows[0].cells) - 2)]))
    return rows


def _generations(facts: Facts) -> list[Row]:
    by: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for each in facts.workers:
        by[each["generation"]].append(each)
    serving, rows = facts.status.get("generation", 0), []
    for which, members in sorted(by.items(), reverse=True):
        state: Cell = ("serves", "good") if which == serving else "old" if which < serving else "starts"
        rows.append(
            Row(
                str(which),
                [
                    str(which),
                    state if serving else NONE,
                    str(len(members)),
                    number(sum(each["open"] for each in members)),
                    span(max(each["age"] for each in members)),
                ],
            )
        )
    return rows


def _connection(row: dict[str, Any]) -> Row:
    """A row of `ctl connections`."""
    tls = row.get("tls") or {}
    about = [f"SNI {text(tls['sni'], 80)}"] if tls.get("sni") else []
    about += [f"{text(name, 40)}={text(value, 80)}" for name, value in (row.get("fields") or {}).items()]
    peer = text(row["peer"]) + (f" by {text(row['proxy'])}" if row.get("proxy") else "")
    idle, trip = row.get("idle"), row.get("rtt_us")
    state = text(row["state"]) + (", draining" if row.get("draining") else "")
    return Row(
        text(row["id"]),
        [
            text(row["id"]),
            peer,
            span(row["age"]),
            NONE if idle is None else span(idle),
            state,
            text(row["listener"]),
            number(row["messages"]),
            size(row["bytes_in"]),
            size(row["bytes_out"]),
            NONE if row.get("send_queue") is None else size(row["send_queue"]),
            NONE if trip is None else f"{trip} µs" if trip < 1000 else f"{trip / 1000:.1f} ms",
            text(tls.get("version", NONE)),
            ", ".join(about)[:LONGEST_RECORD] or NONE,
        ],
        ends=text(row["id"]),
    )


def _records(records: list[Record]) -> list[Row]:
    """The newest first."""
    rows = []
    for each in reversed(records[-MOST_ROWS:]):
        level = text(each.level).upper()
        said = printable(each.text, LONGEST_RECORD)
        today = abs(time.time() - each.at) < HALF_A_DAY
        when = time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", time.gmtime(each.at))
        tone = "bad" if level in ("ERROR", "CRITICAL") else "warn"
        rows.append(Row(f"{each.at} {each.process} {hash(said)}", [when, (level, tone), str(each.process), said]))
    return rows
