"""`--fail-if`: bounds of what was measured, as they are typed, and which of them the cells break.

Law: what cannot be judged, because nothing was measured, breaks the bound too: a check in CI that checks nothing would
be taken for one that passes.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pronghorn.bench.results import PERCENTILES, Cell
from pronghorn.bench.words import duration, memory, rate
from pronghorn.errors import BadSetting, nearest
from pronghorn.settings.values import UNITS

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
WRITTEN = re.compile(
    r"(?:(?P<name>[^:<>]+):)?\s*(?P<what>[\w.]+)\s*(?P<op>[<>]=?)\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[^\d\s]*)"
)
TIMES = {"": 1.0, "ns": 1e-9, "us": 1e-6, "µs": 1e-6, **UNITS["time"]}
COUNTS = {"": 1.0, "/s": 1.0, "k": 1e3, "k/s": 1e3}


class Quantity(NamedTuple):
    """What a bound can be of: its value in a cell, the units that it takes, and how it is written."""

    value: Callable[[Cell], float | None]
    units: dict[str, float]
    written: Callable[[float], str]


def _quantile(part: float) -> Callable[[Cell], float | None]:
    return lambda cell: cell.quantile(part)


def _count(value: float) -> str:
    return f"{value:,.0f}"


QUANTITIES = {
    "throughput": Quantity(lambda cell: cell.throughput, COUNTS, rate),
    **{name: Quantity(_quantile(part), TIMES, duration) for name, part in PERCENTILES},
    "cpu": Quantity(lambda cell: cell.cpu, TIMES, duration),
    "memory": Quantity(lambda cell: cell.memory, UNITS["size"], memory),
    "errors": Quantity(lambda cell: float(cell.error_count + cell.unserved), {"": 1.0}, _count),
    "behind": Quantity(lambda cell: cell.behind, TIMES, duration),
}
EXAMPLE = "For example: --fail-if 'p99>20ms', --fail-if 'throughput<50k', --fail-if 'epoll:cpu>15us'."


class Bound(NamedTuple):
    """One `--fail-if`: `name` is the contender that it is for; empty: all."""

    text: str
    name: str
    what: str
    op: str
    limit: float


def parse(text: str, names: Iterable[str]) -> Bound:
    """A bound as it was typed. Raises BadSetting."""
    match = WRITTEN.fullmatch(text.strip())
    if match is None:
        why = "It takes [NAME:]QUANTITY, then <, <=, > or >=, then a number with or without a unit."
        raise BadSetting(f"--fail-if cannot be {text!r}.", why, EXAMPLE)
    name, what, unit = (match["name"] or "").strip(), match["what"].lower(), match["unit"].lower()
    if what not in QUANTITIES:
        raise BadSetting(f"--fail-if cannot be {text!r}.", f"{what!r} is not measured.", nearest(what, QUANTITIES))
    if name and name not in names:
        raise BadSetting(f"--fail-if cannot be {text!r}.", f"{name!r} is not measured.", nearest(name, names))
    units = QUANTITIES[what].units
    if unit not in units or (units is TIMES and not unit and float(match["number"])):
        taken = ", ".join(filter(None, units))
        raise BadSetting(
            f"--fail-if cannot be {text!r}.", f"{what} takes {f'a unit: {taken}' if taken else 'no unit'}."
        )
    return Bound(text.strip(), name, what, match["op"], float(match["number"]) * units[unit])


def broken(bounds: Iterable[Bound], cells: Iterable[Cell]) -> list[str]:
    """A sentence for each bound that a cell breaks."""
    cells, found = list(cells), []
    for bound in bounds:
        quantity, judged = QUANTITIES[bound.what], False
        for cell in cells:
            if bound.name not in ("", cell.name):
                continue
            value = quantity.value(cell)
            if value is None:
                continue
            judged = True
            if OPERATORS[bound.op](value, bound.limit):
                clients = f"{cell.clients:,} client{'s' if cell.clients != 1 else ''}"
                found.append(f"{bound.text}: {cell.name} with {clients} has {bound.what} {quantity.written(value)}")
        if not judged:
            found.append(f"{bound.text}: cannot be judged, {bound.what} was not measured")
    return found
