"""Rounds as tables: medians, their spread, and ratios to the base, for a terminal and for Markdown."""

from __future__ import annotations

import statistics
import sys

from measuring import Results
from scenarios import Scenario

RATES = {"rate": "per second", "p50": "p50 µs", "p99": "p99 µs", "client": "client µs"}
UNITS = {  # by what is measured: the cost, and what is shown beside it
    "messages": ("CPU µs/message", RATES),
    "connections": ("CPU µs/connection", RATES),
    "memory": ("bytes/connection", {"idle": "connections", "worker": "worker MiB"}),
    "start": ("ms to accept", {"reply": "ms to reply"}),
}
Table = list[list[str]]


def median(results: Results, name: str, key: str = "cost") -> float | None:
    """Over the rounds that have it; None without any."""
    values = [row[key] for row in results.get(name, []) if key in row]
    return statistics.median(values) if values else None


def ratio(results: Results, name: str, other: str) -> float | None:
    """The median of the rounds' ratios: a noisy moment strikes both."""
    pairs = zip(results.get(name, []), results.get(other, []), strict=False)
    ratios = [row["cost"] / beside["cost"] for row, beside in pairs if row and beside and beside["cost"]]
    return statistics.median(ratios) if ratios else None


def summary(scenario: Scenario, results: Results) -> Table:
    """A heading, then a line for each server, the cheapest first."""
    cost, others = UNITS[scenario.measure]
    lines = []
    for name, rows in results.items():
        middle = median(results, name)
        if middle is None:
            continue
        costs = [row["cost"] for row in rows if row]
        base = scenario.base_of(name)
        beside = ratio(results, name, base)
        line = [name, figure(middle), f"{figure(min(costs))}-{figure(max(costs))}"]
        line.append(f"{beside:.2f} {base}" if beside is not None and base != name else "")
        line += [figure(median(results, name, key) or 0.0) for key in others]
        lines.append((middle, line))
    return [["server", cost, "min-max", "ratio to", *others.values()], *(line for _, line in sorted(lines))]


def experiment(results: Results, heading: str = "CPU µs/message") -> Table:
    """A heading, then a line for each name, in the order of the experiment."""
    lines = []
    for name, rows in results.items():
        if costs := [row["cost"] for row in rows if row]:
            lines.append([name, figure(statistics.median(costs)), f"{figure(min(costs))}-{figure(max(costs))}"])
    return [["server", heading, "min-max"], *lines]


def sweep(curves: dict[str, list[tuple[float, float]]]) -> Table:
    """A line for each server, a column for each x."""
    places = sorted({x for curve in curves.values() for x, _ in curve})
    lines = []
    for name, curve in curves.items():
        found = dict(curve)
        lines.append([name, *(figure(found[x]) if x in found else "" for x in places)])
    return [["server", *(f"{x:,.0f}" for x in places)], *lines]


def figure(value: float) -> str:
    """A number with about three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def show(title: str, table: Table) -> None:
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table as Shown
    except ImportError:
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        print(title, *("  ".join(map(str.ljust, line, widths)).rstrip() for line in table), sep="\n")
        return
    shown = Shown(box=box.SIMPLE_HEAD)
    for number, word in enumerate(table[0]):
        shown.add_column(word, justify="right" if number else "left", no_wrap=True)
    for line in table[1:]:
        shown.add_row(*line)
    print(title)
    Console(width=None if sys.stdout.isatty() else 140).print(shown)


def markdown(table: Table) -> str:
    rule = ["---", *["---:"] * (len(table[0]) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in [table[0], rule, *table[1:]])
