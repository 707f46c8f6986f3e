"""`pronghorn top --plain`: frames of plain text, drawn over each other on a terminal, one after the other in a pipe.

Law: needs nothing but rich. On a terminal a frame is as high as the terminal at most; in a pipe, and on a terminal that
cannot move its cursor (TERM=dumb), there is no escape sequence. A server that is gone is told once, and waited for.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import msgspec
import rich_click as click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from pronghorn.cli.ctl import request
from pronghorn.cli.top.asking import Asking
from pronghorn.cli.top.columns import CONNECTIONS, GAP, LISTENERS, WORKERS, Column, grid, head, title
from pronghorn.cli.top.model import Frame, Row, View
from pronghorn.cli.top.summary import shown, summary
from pronghorn.errors import PronghornError, printable
from pronghorn.serving.connection_inquiry import ASCENDING

PIPE = 160  # columns
FEW = 4  # rows of listeners, and of workers, that a small terminal has room for


def print_frames(asking: Asking, interval: float, text: str, *, once: bool, as_json: bool) -> None:
    """Frames until the end of the command; with `once` one, after two answers. Raises PronghornError if the first
    question is not answered, with `once` the second too."""
    frame = asking.frame(lambda: request.waiting("Waiting for the server's answer"))
    if once:
        time.sleep(interval)
        frame = asking.frame()
    with _output(as_json) as put:
        put(frame, asking.view, text)
        missing = False
        while not once:
            time.sleep(interval)
            try:
                put(asking.frame(), asking.view, text)
                missing = False
            except PronghornError as error:
                if not missing:
                    click.echo(gone(error), err=True)
                missing = True


def gone(error: PronghornError) -> str:
    """What is said of a server that does not answer any more."""
    return f"{' '.join(printable(part, kept='') for part in (error.what, error.why) if part)} Waiting for it."


@contextlib.contextmanager
def _output(as_json: bool) -> Iterator[Callable[[Frame, View, str], None]]:
    if as_json:
        yield lambda frame, view, text: click.echo(msgspec.json.encode(frame.plain()))
        return
    console = Console(highlight=False, markup=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _pages
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:

        def put(frame: Frame, view: View, text: str) -> None:
            lines = page(frame, view, text, console.width, console.height - 1)
            live.update(Group(*lines), refresh=True)

        yield put


def _pages(frame: Frame, view: View, text: str) -> None:
    """One after the other, each with a blank line behind it."""
    lines = page(frame, view, text, PIPE)
    sys.stdout.write("".join(f"{line.plain.rstrip()}\n" for line in (*lines, Text())))
    sys.stdout.flush()


def page(frame: Frame, view: View, text: str, width: int, height: int = 0) -> list[Text]:
    """The lines of a frame; of `height` lines at most, if that is not 0."""
    lines = summary(frame, width)
    room = max(3, height - len(lines) - 7) if height else 10**6  # 7: heads, and blank lines
    few = max(1, min(FEW, room // 3)) if height else 10**6
    listeners = [title(each) for each in frame.listeners]
    lines += [Text(), *table(LISTENERS, listeners, width, few)]
    workers = max(few, room - min(few, len(listeners)) - max(5, min(len(frame.connections), room)))
    lines += [Text(), *table(WORKERS, frame.workers, width, workers)]
    lines += [Text(), Text(shown(frame, view, text), "dim", no_wrap=True)]
    if frame.connections:
        lines += table(
            CONNECTIONS, frame.connections, width, max(1, height - len(lines) - 1) if height else 10**6, view
        )
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines[:height] if height else lines


def table(columns: tuple[Column, ...], rows: list[Row], width: int, most: int, view: View | None = None) -> list[Text]:
    """Head and rows; of more than `most` the last line says how many more there are."""
    left = max(0, len(rows) - most)
    left += bool(left and view is None)
    drawn = grid(columns, rows[: len(rows) - left], width)
    pairs = zip(drawn.columns, drawn.widths, strict=True)
    heads = [head(each, wide, _marked(each, view)) for each, wide in pairs]
    gap = " " * GAP
    lines = [Text(gap.join(heads), "bold", no_wrap=True)]
    lines += [Text(gap, no_wrap=True).join(row) for row in drawn.rows]
    return [*lines, Text(f"... and {left:,} more", "dim")] if left and view is None else lines


def _marked(column: Column, view: View | None) -> str:
    if view is None or not column.sort or column.sort != view.sort:
        return ""
    return mark(view.reverse is (view.sort in ASCENDING))


def mark(descending: bool) -> str:
    """Behind the head of the column that rows are sorted by."""
    return "\u2193" if descending else "\u2191"
