"""What stands in front of the screen of `pronghorn top`: one connection in detail, a question, the keys."""

from __future__ import annotations

from typing import ClassVar

from rich.table import Table as Grid
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from pronghorn.cli.top.columns import word
from pronghorn.cli.top.model import Row
from pronghorn.cli.top.summary import details

KEYS = (
    ("up, down, ...", "choose a connection"),
    ("Enter", "all that is known of it"),
    ("k, F9", "end it, after a question"),
    ("/, F4", "filter: all words have to fit; none shows all"),
    ("", "addresses, networks, listener=NAME, worker=SLOT,"),
    ("", "state=open, age>10m, idle>30s, and NAME=VALUE"),
    ("", "for what the handler has set"),
    ("<, >", "sort by another column, or click on its head;"),
    ("", "of workers, where they have the focus"),
    ("r, I", "the other way round"),
    ("p, Space", "hold the picture still, and go on"),
    ("Tab", "go to the next table"),
    ("q, Ctrl-C", "leave"),
)


GONE = ("no longer shown", "it has ended, or others come first; this was known last")


class Box(ModalScreen[bool]):
    """A frame in the middle, which Esc closes."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q,question_mark", "close", "Close")]
    DEFAULT_CSS = """
    Box { align: center middle; background: transparent; }
    Box > #box {
        width: 90%; max-width: 100; height: auto; max-height: 100%; padding: 0 1;
        border: round ansi_default; background: ansi_default;
    }
    Box #content { width: 100%; height: auto; }
    """

    def __init__(self, content: Text | Grid) -> None:
        super().__init__()
        self._content = content

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="box"):
            yield Static(self._content, id="content", markup=False)

    def action_close(self) -> None:
        self.dismiss(False)


class Help(Box):
    """The keys."""

    def __init__(self) -> None:
        super().__init__(_pairs([*KEYS]))


class Details(Box):
    """One connection, as long as it is among those that are asked for."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("k,f9", "end", "End")]

    def __init__(self, row: Row) -> None:
        super().__init__(_pairs(details(row)))
        self._id, self._row = row.get("id"), row

    def renew(self, rows: list[Row]) -> None:
        """The newest that is known of it."""
        row = next((each for each in rows if each.get("id") == self._id), None)
        self._row = row or self._row
        if self.is_mounted:
            lines = details(self._row)
            self.query_one("#content", Static).update(_pairs(lines if row else [GONE, *lines]))

    def action_end(self) -> None:
        self.dismiss(True)


class Question(Box):
    """A question that only `y` says yes to."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("y", "yes", "Yes"), Binding("n", "close", "No")]

    def __init__(self, words: str) -> None:
        super().__init__(Text(f"{word(words)}\n\ny: yes    n, Esc: no"))

    def action_yes(self) -> None:
        self.dismiss(True)


def _pairs(lines: list[tuple[str, str]]) -> Grid:
    table = Grid.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, words in lines:
        table.add_row(Text(name), Text(words))
    return table
