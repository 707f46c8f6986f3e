"""The full screen of `pronghorn top`, with the package textual.

Law: the server is asked in threads that nothing waits for: keys answer at once, however slow the server is. The colours
are the terminal's own, and NO_COLOR is obeyed. The terminal is as before at every end, SIGTERM and SIGHUP included. A
server that is gone is waited for, and it is said how old the numbers are.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from typing import Any, ClassVar, TypeVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget
from textual.widgets import DataTable, Footer, Input, Static

from pronghorn.cli.ctl import request
from pronghorn.cli.ctl.tables import span
from pronghorn.cli.top import filters
from pronghorn.cli.top.asking import Asking, Turns
from pronghorn.cli.top.columns import CONNECTIONS, GAP, LISTENERS, WORKERS, Column, grid, head, title
from pronghorn.cli.top.dialogs import Details, Help, Question
from pronghorn.cli.top.model import Frame, Row, in_order
from pronghorn.cli.top.plain import gone, mark
from pronghorn.cli.top.summary import shown, summary
from pronghorn.errors import PronghornError, printable
from pronghorn.serving.connection_inquiry import ASCENDING

Part = TypeVar("Part", bound=Widget)
LATE = 3.0  # seconds after which it is said that no answer has come
SHOWN = 10.0  # seconds that it is told what has been done
THEMES = ("ansi-dark", "textual-ansi")  # the name since textual 8, and before
FEWEST = 4  # connections that have room, whatever else there is


def show(asking: Asking, interval: float, text: str) -> int:
    """Runs until it is left; returns the exit status. Raises PronghornError if the first question is not answered."""
    frame = asking.frame(lambda: request.waiting("Waiting for the server's answer"))
    top = Top(asking, interval, text, frame)
    return top.run() or top.return_code or 0


class Answered(Message):
    """The server has answered, or has not."""

    def __init__(self, found: Frame | PronghornError) -> None:
        super().__init__()
        self.found = found


class Told(Message):
    """Something that was asked for has been done, or could not be."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words


class Table(DataTable[Text]):
    """A table that is filled anew with each frame, and keeps its place; `keys` are what its rows are known by."""

    def __init__(self, columns: tuple[Column, ...], name: str) -> None:
        super().__init__(id=name, cursor_type="row", cell_padding=0, zebra_stripes=False)
        self.shown_columns: list[Column] = []
        self._all = columns
        self._drawn: list[tuple[str, int]] = []
        self._keys: list[str] = []

    @property
    def current(self) -> str:
        """What the row under the cursor is known by; empty without a row."""
        return self._keys[self.cursor_row] if 0 <= self.cursor_row < len(self._keys) else ""

    def fill(self, rows: list[Row], room: int, key: str, sort: str, descending: bool) -> None:
        """Shows these rows, known by their `key`, `room` of them at once; the cursor stays with its row, or its place
        where that is gone."""
        keys = [str(row.get(key)) for row in rows]
        drawn = grid(self._all, rows, self.app.size.width - (len(rows) > room))
        self.shown_columns = drawn.columns
        heads = [
            (
                head(each, wide, mark(descending) if sort and sort in (each.sort, each.key) else "") + " " * GAP,
                wide + GAP,
            )
            for each, wide in zip(drawn.columns, drawn.widths, strict=True)
        ]
        before, place, offset = self.current, self.cursor_row, self.scroll_offset.y
        if heads != self._drawn:
            self.clear(columns=True)
            for words, wide in heads:
                self.add_column(Text(words, no_wrap=True), width=wide)
            self._drawn = heads
        else:
            self.clear()
        self.add_rows(drawn.rows)
        self._keys = keys
        if keys:
            row = keys.index(before) if before in keys else min(place, len(keys) - 1)
            self.move_cursor(row=max(0, row), animate=False, scroll=False)
            self.scroll_to(y=offset, animate=False, force=True)


class Top(App[int]):
    """The screen."""

    CSS = """
    Screen { layout: vertical; }
    #summary, #notice, #title { height: auto; max-height: 5; }
    #notice { display: none; text-style: bold; }
    #title { height: 1; text-style: dim; }
    Table { overflow-x: hidden; scrollbar-size-vertical: 1; background: transparent; }
    Table > .datatable--header, Table:ansi > .datatable--header {
        text-style: reverse; background: transparent; color: ansi_default;
    }
    Table > .datatable--cursor { background: transparent; color: ansi_default; text-style: none; }
    Table:focus { background-tint: transparent; }
    Table:focus > .datatable--cursor { text-style: reverse; background: transparent; color: ansi_default; }
    Table > .datatable--hover { background: transparent; }
    #connections { height: 1fr; }
    #filter { display: none; height: 1; border: none; padding: 0; }
    #filter:focus { border: none; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "leave", "Quit"),
        Binding("ctrl+c", "leave", "Quit", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", "Suspend", show=False),
        Binding("question_mark,h,f1", "help", "Help", key_display="?"),
        Binding("slash,f4", "filter", "Filter", key_display="/"),
        Binding("less_than_sign,comma", "sort(-1)", "Sort", key_display="< >"),
        Binding("greater_than_sign,full_stop", "sort(1)", "Sort", show=False),
        Binding("r,I", "reverse", "Reverse", key_display="r"),
        Binding("k,f9", "end", "End", key_display="k"),
        Binding("p,space", "pause", "Pause", key_display="p"),
        Binding("tab", "app.focus_next", "Table", key_display="Tab"),
    ]

    def __init__(self, asking: Asking, interval: float, text: str, frame: Frame) -> None:
        super().__init__(ansi_color=True)
        self._asking, self._interval, self._text = asking, interval, text
        self._frame, self._answered = frame, time.monotonic()
        self._turns = Turns(asking, interval, self._deliver)
        self._trouble = self._told = ""
        self._told_until = 0.0
        self._paused = False
        self._workers_by, self._workers_reverse = "", False

    def compose(self) -> ComposeResult:
        yield Static(id="summary", markup=False)
        yield Static(id="notice", markup=False)
        yield Table(LISTENERS, "listeners")
        yield Table(WORKERS, "workers")
        yield Static(id="title", markup=False)
        yield Table(CONNECTIONS, "connections")
        yield Input(id="filter", placeholder=filters.HINT)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.theme = next((each for each in THEMES if each in self.available_themes), self.theme)
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not the main thread
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self.exit, 128 + number)
        self._table("connections").focus()
        self.set_interval(1.0, self._notice)
        self.call_after_refresh(self._draw)
        self._turns.start()

    def on_unmount(self) -> None:
        self._turns.end()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def _deliver(self, found: Frame | PronghornError) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.post_message(Answered(found))

    def on_answered(self, message: Answered) -> None:
        if isinstance(message.found, PronghornError):
            self._trouble = gone(message.found)
        else:
            self._trouble, self._answered = "", time.monotonic()
            if not self._paused:
                self._frame = message.found
                self._draw()
        self._notice()

    def on_told(self, message: Told) -> None:
        self._say(message.words)
        self._turns.now()

    def _notice(self) -> None:
        """What is wrong, or has been done."""
        age = time.monotonic() - self._answered
        words, style = self._trouble, "red"
        if not words and age > LATE + self._interval:
            words = "The server does not answer: its supervisor is stopped, or the machine is very busy."
        if words and age > 1:
            words += f" These numbers are {span(age)} old."
        elif self._told and time.monotonic() < self._told_until:
            words, style = self._told, ""
        notice = self._one("#notice", Static)
        notice.update(Text(words, style))
        notice.display = bool(words)

    def _table(self, name: str) -> Table:
        return self._one(f"#{name}", Table)

    def _one(self, name: str, kind: type[Part]) -> Part:
        """A part of the main screen, whatever stands in front of it."""
        return self.screen_stack[0].query_one(name, kind)

    def _draw(self) -> None:
        """The frame, as large as the terminal."""
        if len(self.screen_stack) > 1 and isinstance(self.screen, Details):
            self.screen.renew(self._frame.connections)
        frame, view, width = self._frame, self._asking.view, self.size.width
        lines = summary(frame, width)
        if self._paused:
            lines[0].append("  PAUSED", "bold")
        self._one("#summary", Static).update(Text("\n").join(lines))
        self._one("#title", Static).update(Text(shown(frame, view, self._text), no_wrap=True, overflow="ellipsis"))
        listeners = [title(each) for each in frame.listeners]
        workers = frame.workers
        if self._workers_by:
            workers = in_order(workers, self._workers_by, self._workers_reverse)
        rooms = self._heights(len(lines), len(listeners), len(workers), len(frame.connections))
        descending = view.reverse is (view.sort in ASCENDING)
        self._table("listeners").fill(listeners, rooms[0], "address", "", False)
        self._table("workers").fill(workers, rooms[1], "pid", self._workers_by, self._workers_reverse)
        self._table("connections").fill(frame.connections, rooms[2], "id", view.sort, descending)

    def _heights(self, lines: int, listeners: int, workers: int, connections: int) -> tuple[int, int, int]:
        """Shares the lines: listeners and workers have what they need, if connections keep a part. How many rows each
        table shows at once."""
        room = self.size.height - lines - 6  # 6: heads, title, notice, keys
        least = min(max(FEWEST, room // 3), max(connections, 1))
        listeners = min(listeners, max(1, (room - least) // 2))
        workers = min(workers, max(1, room - least - listeners))
        self._table("listeners").styles.height = listeners + 1
        self._table("workers").styles.height = workers + 1
        return listeners, workers, room - listeners - workers

    def action_leave(self) -> None:
        self.exit(0)

    def action_help(self) -> None:
        self.push_screen(Help())

    def action_pause(self) -> None:
        self._paused = not self._paused
        self._draw()
        self._turns.now()

    def action_filter(self) -> None:
        line = self._one("#filter", Input)
        line.value, line.display = self._text, True
        line.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        try:
            found = filters.parsed(event.value)
        except PronghornError as error:
            self._say(f"{error.what} {error.hint}")
            return
        self._text = event.value.strip()
        self._say("")
        self._ask_for(filters=found)
        self._close_filter()

    def on_key(self, event: Any) -> None:
        if event.key == "escape" and self._one("#filter", Input).display:
            self._say("")
            self._close_filter()

    def _close_filter(self) -> None:
        self._one("#filter", Input).display = False
        self._table("connections").focus()

    def _ask_for(self, **changes: Any) -> None:
        """Connections in another order, or others."""
        self._asking.view = self._asking.view._replace(**changes)
        self._paused = False
        self._draw()
        self._turns.now()

    def action_sort(self, step: int) -> None:
        """The next column, or the one before, of workers if their table has the focus."""
        workers = self.focused is self._table("workers")
        table = self._table("workers" if workers else "connections")
        keys = [each.key if workers else each.sort for each in table.shown_columns]
        keys = [each for each in keys if each] or ["age"]
        now = self._workers_by if workers else self._asking.view.sort
        after = keys[(keys.index(now) + step) % len(keys)] if now in keys else keys[0]
        self._sort(workers, after)

    def _sort(self, workers: bool, key: str) -> None:
        if workers:
            numbers = key not in ("slot", "state", "pid", "generation")
            self._workers_by, self._workers_reverse = key, numbers
            self._draw()
        else:
            self._ask_for(sort=key, reverse=False)

    def action_reverse(self) -> None:
        if self.focused is self._table("workers"):
            self._workers_by, self._workers_reverse = self._workers_by or "slot", not self._workers_reverse
            self._draw()
        else:
            self._ask_for(reverse=not self._asking.view.reverse)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        table = event.data_table
        if not isinstance(table, Table) or table.id == "listeners":
            return
        column = table.shown_columns[event.column_index]
        workers = table.id == "workers"
        key = column.key if workers else column.sort
        table.focus()
        if key == (self._workers_by if workers else self._asking.view.sort):
            self.action_reverse()
        elif key:
            self._sort(workers, key)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if event.data_table.id == "connections" and (row := self._chosen()):
            self.push_screen(Details(row), lambda end: self._question(row) if end else None)

    def _chosen(self) -> Row | None:
        chosen = self._table("connections").current
        return next((row for row in self._frame.connections if str(row.get("id")) == chosen), None)

    def action_end(self) -> None:
        """Asks, and ends the connection under the cursor: the one that was there when the key was pressed."""
        if row := self._chosen():
            self._question(row)
        else:
            self._say("No connection is chosen.")

    def _question(self, row: Row) -> None:
        name, peer = str(row.get("id")), row.get("peer")
        self.push_screen(Question(f"End connection {name} of {peer}?"), lambda yes: self._end(name) if yes else None)

    def _end(self, name: str) -> None:
        def run() -> None:
            try:
                told = Told(self._asking.end(name))
            except PronghornError as error:
                told = Told(" ".join(printable(str(error), kept="\n").split()))
            with contextlib.suppress(RuntimeError):
                self.post_message(told)

        threading.Thread(target=run, name="end", daemon=True).start()

    def _say(self, words: str) -> None:
        self._told, self._told_until = words, time.monotonic() + SHOWN
        self._notice()

    def _fatal_error(self) -> None:
        """A fault of this program: one line, and not the stack with all its values."""
        error = self._exception
        words = f"The screen has failed: {type(error).__name__}: {printable(str(error))}."
        words += " Without it: pronghorn top --plain"
        self._exit_renderables.append(Text(words))
        self._close_messages_no_wait()
