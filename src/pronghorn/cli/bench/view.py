"""What `pronghorn bench` shows while it measures, and at the end: a table, and what the table leaves open.

Law: on a terminal the table and the progress are drawn over each other; elsewhere each cell is a line of plain text.
What stands in the table never depends on the width: notes stand below it, as sentences.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pronghorn.bench import words
from pronghorn.bench.findings import Findings
from pronghorn.bench.results import LOAD, Cell
from pronghorn.errors import PronghornError, printable

HEADINGS = ("server", "clients", "msg/s", "p50", "p99", "p99.9", "CPU/msg", "mem/conn", "errors")
AROUND = 8  # lines that the table does not have


class View:
    """The watcher of a Measuring; `live` draws, where there is a terminal."""

    def __init__(self, findings: Findings, console: Console) -> None:
        self._findings, self._console = findings, console
        self._cells: dict[tuple[str, int], Cell] = {}
        self._began = time.monotonic()
        self._now = ""
        self._total, self._cell_seconds = findings.plan.cells, findings.plan.seconds + findings.plan.warm_up
        self._done = 0
        self._before = 0
        self.live: Live | None = None
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[done]}/{task.total:.0f}", markup=False),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task("Starting", total=self._total, done=0)
        self._widths = [max(8, *(len(each.name) for each in findings.plan.contenders)), 7, 9, 8, 8, 8, 8, 9, 6]

    def introduce(self) -> None:
        """What will be measured, and how long it takes at least."""
        plan = self._findings.plan
        seconds = plan.cells * (plan.seconds + plan.warm_up)
        count = f"{plan.cells} measurement{'' if plan.cells == 1 else 's'}"
        told = f"{self._findings.handler}: {count}, {seconds + 1:.0f} s at least."
        self._console.print(told, style="dim")
        self._console.print(f"{self._findings.loop()}.", style="dim")
        for name, why in self._findings.skipped.items():
            self._console.print(f"Not measured: {name}. {why}", style="yellow")

    def _line(self, row: list[str]) -> str:
        cells = [text.rjust(width) for text, width in zip(row, self._widths, strict=True)]
        return " ".join([row[0].ljust(self._widths[0]), *cells[1:]])

    # What a Measuring tells

    def learnt(self, text: str) -> None:
        self._findings.talk = text
        self._console.print(f"Messages: {text}.", style="dim")

    def begins(self, name: str, clients: int) -> None:
        self._now = f"{name}, {words.clients(clients)}"
        self._began, self._before = time.monotonic(), 0
        self._draw()

    def goes_on(self, messages: int) -> None:
        part = min(0.99, (time.monotonic() - self._began) / (self._cell_seconds + 0.5))
        self._bar.update(self._task, completed=self._done + part, description=f"{self._now}: {messages:,} replies")
        self._draw()

    def done(self, cell: Cell) -> None:
        self._cells[cell.name, cell.clients] = cell
        self._done += 1
        self._bar.update(self._task, completed=self._done, done=self._done)
        if self.live is None:
            if self._done == 1:
                self._console.print(self._line(list(headings(self._findings))), soft_wrap=True)
            self._console.print(self._line(row(cell)), soft_wrap=True)
        self._draw()

    def failed(self, name: str, error: PronghornError) -> None:
        text = " ".join(part for part in (error.what, error.why, error.hint) if part)
        self._findings.failed[name] = text
        self._console.print(f"{name}: {printable(text)}", style="red")

    def _draw(self) -> None:
        if self.live is not None:
            self.live.update(self._screen())

    def _screen(self) -> RenderableType:
        """As many of the last rows as fit, and the progress."""
        room = max(3, self._console.height - AROUND)
        self._findings.cells = list(self._cells.values())
        cells = self._findings.ordered()
        return Group(table(self._findings, cells[-room:]), self._bar)

    # The end

    def finish(self) -> None:
        """The whole table, where it does not stand there already, and the notes."""
        findings, console = self._findings, self._console
        if findings.interrupted:
            console.print(f"Interrupted: {self._done} of {self._total} measurements were made.", style="yellow")
        if findings.cells and (console.is_terminal or findings.plan.rounds > 1):
            if console.is_terminal:
                console.print(table(findings, findings.ordered()))
            else:
                console.print(f"Medians of {findings.plan.rounds} rounds:")
                for each in [list(headings(findings)), *map(row, findings.ordered())]:
                    console.print(self._line(each), soft_wrap=True)
        for note in findings.notes():
            console.print(Text(note), style="dim", soft_wrap=not console.is_terminal)
        if findings.advice.sentence:
            console.print(Text(findings.advice.sentence), style="bold", soft_wrap=not console.is_terminal)


def headings(findings: Findings) -> tuple[str, ...]:
    if findings.plan.connect:
        return tuple(each.replace("msg", "conn") for each in HEADINGS)
    return HEADINGS


def row(cell: Cell) -> list[str]:
    """A cell as the table has it; a star: the notes say more of it."""
    star = "*" if cell.limit == LOAD else ""
    errors = cell.error_count + cell.unserved
    return [
        cell.name,
        f"{cell.clients:,}",
        star + words.rate(cell.throughput),
        *(words.duration(cell.quantile(part)) for part in (0.5, 0.99, 0.999)),
        words.duration(cell.cpu),
        words.memory(cell.memory),
        f"{errors:,}" if errors else "-",
    ]


def table(findings: Findings, cells: list[Cell]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for place, word in enumerate(headings(findings)):
        shown.add_column(word, justify="right" if place else "left", no_wrap=True, overflow="ellipsis")
    before = ""
    for cell in cells:
        if before and cell.name != before and len(findings.plan.clients) > 1:
            shown.add_section()
        texts = row(cell)
        bad = texts[-1] != "-"
        best = cell.name == findings.advice.model
        shown.add_row(*texts, style="red" if bad else "bold" if best else "")
        before = cell.name
    return shown


@contextmanager
def view(findings: Findings, on_error: bool) -> Iterator[View]:
    """A View on standard output, or on standard error; it is live on a terminal."""
    plain = partial(Console, highlight=False, markup=False, emoji=False)  # a handler may be called mine.py:bell
    console = plain(file=sys.stderr if on_error else sys.stdout)
    live_too = console.is_terminal and not console.is_dumb_terminal
    if not live_too:
        console = plain(file=console.file, width=200, force_terminal=False)
    shown = View(findings, console)
    if not live_too:
        shown.introduce()
        yield shown
        return
    with Live(console=console, transient=True, refresh_per_second=8, vertical_overflow="ellipsis") as live:
        shown.live = live
        shown.introduce()
        yield shown
