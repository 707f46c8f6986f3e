"""The columns of `pronghorn top`, and how many of them fit: for the full screen and for plain text alike.

Law: every word that came from the server is made printable, and stands on one line. Where there is no room for all
columns, those of the highest `rank` go first; the first column of a table takes what room is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from pronghorn.cli.ctl.tables import BAD, COLOURS, SILENT, number, size, span
from pronghorn.cli.top.model import PER_SECOND, Row
from pronghorn.errors import printable

UNKNOWN = "-"
LONGEST = 200  # characters of a word
CROWDED = 0.5  # of an accept queue that stands out


class Column(NamedTuple):
    """One column: its head, the key of its value, how that is written, the least and the greatest width, which rank it
    has where there is no room, and by what a server puts connections in order for it."""

    head: str
    key: str
    words: Callable[[Any], str]
    least: int
    most: int
    rank: int = 0
    left: bool = False
    style: Callable[[Row], str] = lambda row: ""
    sort: str = ""


class Grid(NamedTuple):
    """A table as it is shown: the columns that fit, how wide each is, and the cells of each row."""

    columns: list[Column]
    widths: list[int]
    rows: list[list[Text]]


def word(value: object) -> str:
    """One printable line."""
    return printable(str(value), LONGEST, kept="")


def short_size(value: float) -> str:
    return size(round(value), short=True)


def short_span(seconds: float) -> str:
    return span(max(0.0, seconds), short=True)


def rate(value: float) -> str:
    """A number per second, in at most 6 characters."""
    return f"{value:.1f}" if 0 < value < 99.95 else number(round(value))


def percent(value: float) -> str:
    return f"{value:.0f}%"


def microseconds(value: float) -> str:
    """A round-trip time in at most 6 characters: `45us`, `1.2ms`, `340ms`, `2.1s`."""
    if value < 1000:
        return f"{value:.0f}us"
    if value < 1_000_000:
        return f"{value / 1000:.1f}ms" if value < 99_950 else f"{value / 1000:.0f}ms"
    return f"{value / 1e6:.1f}s"


def seconds(value: float) -> str:
    """A time as `microseconds` writes it."""
    return microseconds(value * 1e6)


def queue(value: Row) -> str:
    return f"{number(value['waiting'])}/{number(value['backlog'])}"


def on(value: object) -> str:
    return "" if value in ("off", None, False) else word(value)


def _short_state(value: str) -> str:
    return "HALF" if value == "HALF_CLOSED" else word(value)


def _tls(value: Any) -> str:
    return word(value["version"]) if isinstance(value, dict) and value.get("version") else on(value)


def _crowded(row: Row) -> str:
    queue = row.get("queue")
    return BAD if queue and queue["waiting"] > queue["backlog"] * CROWDED else ""


def _state(row: Row) -> str:
    return COLOURS.get(str(row.get("state")), "")


def _silent(row: Row) -> str:
    return BAD if (row.get("beat_age") or 0) >= SILENT else ""


def _bad(key: str) -> Callable[[Row], str]:
    return lambda row: BAD if row.get(key) else ""


def _fields(value: Row) -> str:
    return " ".join(f"{word(name)}={word(each)}" for name, each in value.items())


LISTENERS = (
    Column("Listener", "title", word, 20, 60, left=True),
    Column("TLS", "tls", _tls, 3, 8, rank=5, left=True),
    Column("Queue", "queue", queue, 7, 13, style=_crowded),
    Column("Open", "open", number, 6, 6),
    Column("New/s", "accepted" + PER_SECOND, rate, 6, 6),
    Column("Msg/s", "messages" + PER_SECOND, rate, 6, 6),
    Column("In/s", "bytes_in" + PER_SECOND, short_size, 6, 6, rank=1),
    Column("Out/s", "bytes_out" + PER_SECOND, short_size, 6, 6, rank=1),
    Column("Refused", "refused", number, 7, 7, rank=2, style=_bad("refused")),
    Column("Errors", "handler_errors", number, 6, 6, rank=3, style=_bad("handler_errors")),
    Column("Accepted", "accepted", number, 8, 8, rank=4),
    Column("Messages", "messages", number, 8, 8, rank=6),
    Column("Handler", "handler", word, 8, 30, rank=7, left=True),
)
WORKERS = (
    Column("Worker", "slot", word, 7, 7),
    Column("State", "state", word, 7, 8, left=True, style=_state),
    Column("PID", "pid", word, 6, 7),
    Column("Gen", "generation", word, 3, 5),
    Column("Silent", "beat_age", short_span, 6, 6, style=_silent),
    Column("CPU", "cpu_percent", percent, 4, 5),
    Column("Memory", "memory", short_size, 6, 6),
    Column("Open", "open", number, 6, 6),
    Column("New/s", "accepted" + PER_SECOND, rate, 6, 6),
    Column("Msg/s", "messages" + PER_SECOND, rate, 6, 6),
    Column("p50", "p50_seconds", seconds, 6, 6, rank=1),
    Column("p99", "p99_seconds", seconds, 6, 6, rank=1),
    Column("In/s", "bytes_in" + PER_SECOND, short_size, 6, 6, rank=2),
    Column("Out/s", "bytes_out" + PER_SECOND, short_size, 6, 6, rank=2),
    Column("Age", "age", short_span, 4, 5, rank=3),
    Column("Accepted", "accepted", number, 8, 8, rank=4),
    Column("Messages", "messages", number, 8, 8, rank=4),
    Column("Refused", "refused", number, 7, 7, rank=5),
)
CONNECTIONS = (
    Column("Peer", "peer", word, 16, 48, left=True, sort="peer"),
    Column("Id", "id", word, 8, 16, left=True, sort="id"),
    Column("State", "state", _short_state, 5, 8, left=True),
    Column("Age", "age", short_span, 4, 5, sort="age"),
    Column("Idle", "idle", short_span, 4, 5, sort="idle"),
    Column("In", "bytes_in", short_size, 5, 6, sort="bytes_in"),
    Column("Out", "bytes_out", short_size, 5, 6, sort="bytes_out"),
    Column("RTT", "rtt_us", microseconds, 5, 6, sort="rtt_us"),
    Column("Retr", "retransmits", number, 4, 6, style=_bad("retransmits"), sort="retransmits"),
    Column("SndQ", "send_queue", short_size, 4, 6, style=_bad("send_queue"), sort="send_queue"),
    Column("RcvQ", "receive_queue", short_size, 4, 6, style=_bad("receive_queue"), sort="receive_queue"),
    Column("Msgs", "messages", number, 5, 6, rank=1, sort="messages"),
    Column("In/s", "bytes_in" + PER_SECOND, short_size, 5, 6, rank=3),
    Column("Out/s", "bytes_out" + PER_SECOND, short_size, 5, 6, rank=3),
    Column("TCP", "tcp_state", word, 11, 12, rank=2, left=True),
    Column("Worker", "worker", word, 6, 6, rank=4),
    Column("Listener", "listener", word, 8, 24, rank=5, left=True),
    Column("TLS", "tls", _tls, 7, 8, rank=7, left=True),
    Column("Fields", "fields", _fields, 8, 60, rank=6, left=True),
)
GAP = 1


def title(listener: Row) -> Row:
    """A listener's row with what it is called: its name, if it has one that is not its address."""
    name, address = listener.get("name"), listener["address"]
    return {**listener, "title": address if not name or name == address else f"{name}: {address}"}


def grid(columns: tuple[Column, ...], rows: list[Row], width: int) -> Grid:
    """The table in `width` columns of a terminal. Columns that nothing is known for are left out, but for the first of
    rank 0."""
    known = [each for each in columns if each.rank == 0 or any(_filled(row, each) for row in rows)]
    cells = {each: [_words(row, each) for row in rows] for each in known}
    widths = {each: min(each.most, max(each.least, len(each.head), *map(cell_len, cells[each]), 0)) for each in known}
    first = known[0]
    while sum(widths.values()) - widths[first] + first.least + GAP * (len(known) - 1) > width:
        last = max(reversed(known[1:]), key=lambda each: each.rank, default=None)
        if last is None or (last.rank == 0 and len(known) <= 3):
            break
        known.remove(last)
        del widths[last]
    others = sum(widths.values()) - widths[first] + GAP * (len(known) - 1)
    widths[first] = max(1, min(widths[first] if first.left else first.most, width - others))
    shown = [[_cell(row, each, widths[each]) for each in known] for row in rows]
    return Grid(known, [widths[each] for each in known], shown)


def head(column: Column, width: int, mark: str = "") -> str:
    """The head of a column, with a mark behind it where the rows are in its order."""
    words = (column.head + mark) if len(column.head) < width or not mark else column.head[: width - 1] + mark
    return words.ljust(width) if column.left else words.rjust(width)


def _filled(row: Row, column: Column) -> bool:
    value = row.get(column.key.removesuffix(PER_SECOND))  # a rate comes with the second answer
    return value not in (None, {}, "", "off")


def _words(row: Row, column: Column) -> str:
    value = row.get(column.key)
    if value is None:
        return "" if column.left else UNKNOWN
    return column.words(value)


def _cell(row: Row, column: Column, width: int) -> Text:
    words = _words(row, column)
    wide = cell_len(words)
    if wide > width:
        words = set_cell_size(words, width - 1) + "…" if width > 1 else "…"
    else:
        words = words + " " * (width - wide) if column.left else " " * (width - wide) + words
    return Text(words, column.style(row), no_wrap=True, end="")
