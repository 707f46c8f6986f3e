"""The counters of a server as a person reads them: in all, a second, by listener, worker and reason."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pronghorn.cli.ctl.tables import BAD, number, put, say, size, span, text

ROWS = (
    ("Accepted", "accepted", False),
    ("Refused", "refused", False),
    ("Messages", "messages", False),
    ("Bytes in", "bytes_in", True),
    ("Bytes out", "bytes_out", True),
    ("Handler errors", "handler_errors", False),
)
TIMES = (
    ("Connections last", "duration"),
    ("To the first byte", "first_byte"),
    ("A message takes", "service"),
)


def show_stats(result: dict[str, Any]) -> None:
    """Tables on standard output."""
    totals, rates = result["totals"], result["rates"]
    say(f"{totals['open']:,} open, up {span(result['uptime'])}; rates over {result['seconds']:g} s")
    put(_whole(totals, rates))
    if listeners := result["listeners"]:
        put(_table("Listener", listeners, "name"))
    put(_table("Worker", result["workers"], "pid"))
    if result["times"]:
        put(_times(result["times"]))


def _whole(totals: dict[str, Any], rates: dict[str, Any]) -> Table:
    table = _headed("", "In all", "A second")
    for head, name, is_size in ROWS:
        style = BAD if name == "handler_errors" and totals[name] else ""
        table.add_row(text(head), text(_count(totals[name], is_size), style), text(_rate(rates.get(name), is_size)))
    for reason, count in totals["closed"].items():
        if count:
            table.add_row(
                text(f"Ended: {reason}"), text(number(count)), text(_rate(rates["closed"].get(reason), False))
            )
    return table


def _table(head: str, rows: list[dict[str, Any]], key: str) -> Table:
    cpu = any((row["rates"] or {}).get("cpu_seconds") is not None for row in rows)
    table = _headed(
        head, "Open", "Accepted", "a second", "Messages", "a second", "In/s", "Out/s", *(["CPU"] if cpu else [])
    )
    for row in rows:
        rates = row["rates"] or {}
        cells = [
            number(row["open"]),
            number(row["accepted"]),
            _rate(rates.get("accepted"), False),
            number(row["messages"]),
            _rate(rates.get("messages"), False),
            _rate(rates.get("bytes_in"), True),
            _rate(rates.get("bytes_out"), True),
        ]
        if cpu:
            share = rates.get("cpu_seconds")
            cells.append("" if share is None else f"{share:.0%}")
        table.add_row(text(str(row[key])), *map(text, cells))
    return table


def _times(times: dict[str, Any]) -> Table:
    table = _headed("", "Half within", "90 %", "99 %", "Of")
    for head, name in TIMES:
        if (values := times.get(name)) is not None:
            cells = [_time(values[each]) for each in ("p50", "p90", "p99")]
            table.add_row(text(head), *map(text, cells), text(number(values["count"])))
    return table


def _headed(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for each in others:
        table.add_column(each, justify="right", no_wrap=True)
    return table


def _count(value: int, is_size: bool) -> str:
    return size(value) if is_size else number(value)


def _rate(value: float | None, is_size: bool) -> str:
    if value is None:
        return ""
    if is_size:
        return size(round(value), short=True)
    return f"{value:.1f}" if value < 100 else number(round(value))


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "longer"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else span(seconds)
