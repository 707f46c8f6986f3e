"""The tables of the status page: their columns, and a table as HTML.

Law: every text of a row is escaped where it is put in; heads, captions and titles are ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from pronghorn.admin.page.view import Cell, Row

# Of a table: its columns, each a head, its classes, and what the head means.
Columns = tuple[tuple[str, str, str], ...]
N, C, W = "number", "code", "words"
LISTENERS = (
    ("Listener", C, ""),
    ("Open", N, "connections that are open now"),
    ("New/s", N, "connections accepted a second"),
    ("Messages/s", N, "messages that a framing cut, a second"),
    ("Queue", N, "clients that wait in the kernel's accept queue, of how many can"),
    ("Accepted", N, "since the start"),
    ("Refused", N, "accepted and closed unserved, since the start"),
    ("TLS", "", ""),
    ("Handler", "", ""),
    ("Addresses", C, ""),
)
WORKERS = (
    ("Slot", N, "the place in the supervisor: a worker that dies is replaced in its slot"),
    ("State", "", ""),
    ("Process", N, ""),
    ("Gen", N, "generation: which reload or upgrade it came with"),
    ("Open", N, "connections that are open now"),
    ("New/s", N, "connections accepted a second"),
    ("Messages/s", N, ""),
    ("CPU", N, "of one processor"),
    ("Memory", N, "resident"),
    ("Silent", N, "since the last heartbeat of the loop that serves"),
    ("Age", N, ""),
    ("In/s", N, "bytes received a second"),
    ("Out/s", N, "bytes sent a second"),
)
GENERATIONS = (("Generation", N, ""), ("State", "", ""), ("Workers", N, ""), ("Open", N, ""), ("Age", N, ""))
CONNECTIONS = (
    ("Connection", C, "process id and number: what the log calls it"),
    ("Peer", C, ""),
    ("Age", N, ""),
    ("Idle", N, "since a byte came or went"),
    ("State", "", ""),
    ("Listener", C, ""),
    ("Messages", N, ""),
    ("In", N, "bytes received"),
    ("Out", N, "bytes sent"),
    ("Unsent", N, "bytes that the peer has not acknowledged"),
    ("Round trip", N, "as the kernel measures it"),
    ("TLS", "", ""),
    ("Fields", W, "server name (SNI), and what the handler says of it (conn.log)"),
)
RECORDS = (("UTC", C, ""), ("Level", "", ""), ("Process", N, ""), ("Record", f"{W} {C}", ""))


def table(
    id: str, caption: str, columns: Columns, rows: Iterable[Row], nothing: str, *, ends: bool = False, kind: str = ""
) -> str:
    """A table that may be scrolled sideways; beside it what stands there when it is empty. With `ends` each row has a
    place for its button."""
    wordy = any(W in classes for _, classes, _ in columns)
    facts = ' class="wordy"' * wordy + ' data-ends="yes"' * ends
    body = "".join(_row(row, columns) for row in rows)
    full, empty = ("", " hidden") if body else (" hidden", "")
    return (
        f'<div class="scroll {kind}" role="region" aria-label="{caption}" tabindex="0"><table id="{id}"{facts}{full}>'
        f"<thead><tr>{''.join(map(_head, columns))}{'<th></th>' * ends}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="nothing"{empty}>{nothing}</p>'
    )


def _head(column: tuple[str, str, str]) -> str:
    head, classes, about = column
    title = f' title="{about}"' if about else ""
    return f'<th scope="col" class="{classes}"{title}>{head}</th>'


def _row(row: Row, columns: Columns) -> str:
    cells = "".join(
        _cell(cell, column[1], "th" if place == 0 else "td")
        for place, (cell, column) in enumerate(zip(row.cells, columns, strict=True))
    )
    return f'<tr data-key="{escape(row.key)}">{cells}</tr>'


def _cell(cell: Cell, classes: str, name: str) -> str:
    said, tone = (cell, "") if isinstance(cell, str) else cell
    scope = ' scope="row"' if name == "th" else ""
    return f'<{name}{scope} class="{f"{classes} {tone}".strip()}">{escape(said)}</{name}>'
