"""Open connections as a person reads them: a table, and what is left out of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pronghorn.cli.ctl.tables import BAD, DIM, number, put, say, size, span, text

Column = tuple[str, str, Callable[[Any], str]]
ROOM = 120  # columns of a terminal that has room for everything
SHORT = {"HALF_CLOSED": "HALF", "CLOSING": "CLOSE", "OPENING": "BEGIN"}
COLOURS = {"OPENING": BAD, "HALF_CLOSED": BAD, "CLOSING": DIM}


def show_connections(result: dict[str, Any]) -> None:
    """The rows of `ctl connections`, and what else is to be said."""
    rows = result["connections"]
    if rows:
        _show_table(rows)
    else:
        say("No open connection fits." if result["matched"] or result["silent"] else "No connection is open that fits.")
    for words in remarks(result, len(rows)):
        say(words)


def _show_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console

    wide = not sys.stdout.isatty() or Console().width >= ROOM
    columns = [*COLUMNS, *(MORE if wide else ())]
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for head, key, _ in columns:
        table.add_column(head, justify="left" if key in LEFT else "right", no_wrap=key != "peer", overflow="fold")
    fields = any(row.get("fields") for row in rows)
    if fields:
        table.add_column("Fields", overflow="fold")
    for row in rows:
        cells = [
            text(
                "" if row.get(key) is None else words(row[key]), COLOURS.get(row["state"], "") if key == "state" else ""
            )
            for _, key, words in columns
        ]
        table.add_row(*cells, *([text(in_words(row.get("fields") or {}))] if fields else []))
    put(table)


def remarks(result: dict[str, Any], shown: int) -> list[str]:
    """What a person has to know of the rows that are missing."""
    said = []
    if result["matched"] > shown:
        said.append(f"{shown:,} of {result['matched']:,} that fit are shown. For more: --limit N")
    for worker in result["silent"]:
        said.append(
            f"Worker {worker['worker']} (process {worker['pid']}) has not answered in time; it has {worker['open']:,} "
            f"connection{'s' * (worker['open'] != 1)}. A handler may hold it up: pronghorn ctl workers"
        )
    elsewhere = result.get("elsewhere") or {}
    if count := elsewhere.get("open", 0):
        said.append(
            f"{count:,} more {'are' if count > 1 else 'is'} with the program before an upgrade, which is not asked."
        )
    if count := elsewhere.get("orphans", 0):
        said.append(
            f"{count:,} more {'have' if count > 1 else 'has'} a process that a dead worker has left; it is not asked."
        )
    return said


def in_words(fields: dict[str, str]) -> str:
    """The handler's own fields."""
    return " ".join(f"{name}={value}" for name, value in fields.items())


def _state(state: str) -> str:
    return SHORT.get(state, state)


def _tls(tls: dict[str, Any]) -> str:
    return " ".join(filter(None, (tls["version"], tls["sni"])))


def _span(seconds: float) -> str:
    return span(seconds, short=True)


def _size(count: int) -> str:
    return size(count, short=True)


def _rtt(microseconds: int) -> str:
    return f"{microseconds / 1000:.1f}ms" if microseconds < 99_950 else f"{microseconds / 1000:.0f}ms"


LEFT = {"id", "peer", "state", "tcp_state", "listener", "tls"}
COLUMNS: tuple[Column, ...] = (
    ("Id", "id", str),
    ("Peer", "peer", str),
    ("State", "state", _state),
    ("Age", "age", _span),
    ("Idle", "idle", _span),
    ("In", "bytes_in", _size),
    ("Out", "bytes_out", _size),
    ("Msgs", "messages", number),
)
MORE: tuple[Column, ...] = (
    ("Listener", "listener", str),
    ("Worker", "worker", str),
    ("TCP", "tcp_state", str),
    ("RTT", "rtt_us", _rtt),
    ("Again", "retransmits", number),
    ("SendQ", "send_queue", _size),
    ("RecvQ", "receive_queue", _size),
    ("TLS", "tls", _tls),
)
