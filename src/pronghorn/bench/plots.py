"""The plots of a report: throughput, latency, processor time and memory against clients, and whole latency curves.

Law: one figure, one question. Every contender has one colour and one marker in all figures; every figure has a text
that says in words what is seen there. matplotlib is imported here only, and draws without a screen.
"""

from __future__ import annotations

import io
import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from pronghorn.bench import words
from pronghorn.bench.findings import Findings
from pronghorn.bench.results import Cell
from pronghorn.errors import PronghornError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "#0072b2 #d55e00 #009e73 #cc79a7 #e69f00 #56b4e9 #000000 #8c6d31".split()  # Okabe and Ito: all can tell them
MARKERS = "o s ^ D v P X *".split()
SIZE = (5.0, 3.3)  # inches
APART = 30  # times as much: bars of that kind need a logarithmic axis
DOTS = 160  # per inch, of a PNG
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pronghorn",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
}
NINES = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
Value = Callable[[Cell], float | None]


class Plot(msgspec.Struct, frozen=True):
    """One figure: the name of its files, its title, what is seen on it in words, and the figure itself."""

    name: str
    title: str
    alt: str
    figure: Figure

    def drawn(self, kind: str) -> bytes:
        """The figure as `svg` or `png`."""
        import matplotlib

        file = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            metadata = {"Date": None, "Creator": None} if kind == "svg" else {}
            self.figure.savefig(file, format=kind, dpi=DOTS if kind == "png" else "figure", metadata=metadata)
        return file.getvalue()


class _Series(msgspec.Struct, frozen=True):
    """A contender as it is drawn: its cells in the order of clients."""

    name: str
    cells: Sequence[Cell]
    colour: str
    marker: str
    line: str


def draw(findings: Findings) -> list[Plot]:
    """All figures for which something was measured."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib

    what = findings.counted
    loop = "open loop: from when each message was due" if findings.plan.rate else "closed loop"
    cells = findings.ordered()
    series = []
    for place, name in enumerate(findings.names):
        its = [cell for cell in cells if cell.name == name]
        line = ("-", "--", ":")[place // len(COLOURS) % 3]
        series.append(_Series(name, its, COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], line))
    with matplotlib.rc_context(STYLE):
        found = [
            _against_clients(
                "throughput", f"{what.capitalize()} a second", series, lambda cell: cell.throughput, words.rate
            ),
            _latency("Latency: p50 and p99", loop, series),
            _against_clients(
                "cpu", f"CPU of the server, per {what[:-1]}", series, lambda cell: cell.cpu, words.duration
            ),
            _percentiles("Latency by percentile", loop, series),
            _memory(series),
        ]
    return [each for each in found if each is not None]


def save(plots: Iterable[Plot], folder: str) -> list[str]:
    """Writes each figure as NAME.svg and NAME.png; the paths. Raises PronghornError."""
    paths = []
    try:
        os.makedirs(folder, exist_ok=True)
        for plot in plots:
            for ending in ("svg", "png"):
                path = os.path.join(folder, f"{plot.name}.{ending}")
                with open(path, "wb") as file:
                    file.write(plot.drawn(ending))
                paths.append(path)
    except OSError as error:
        raise PronghornError(f"The plots cannot be written to {folder}.", f"{error.strerror}.") from None
    return paths


def _figure(title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _points(series: _Series, value: Value) -> list[tuple[int, float]]:
    return [(cell.clients, found) for cell in series.cells if (found := value(cell)) is not None]


def _said(series: Iterable[_Series], value: Value, written: Callable[[float | None], str]) -> str:
    """What each contender has with its most clients, in words."""
    told = []
    for each in series:
        if points := _points(each, value):
            told.append(f"{each.name} {written(points[-1][1])} with {words.clients(points[-1][0])}")
    return "; ".join(told)


def _by_clients(axes: Axes, series: Sequence[_Series]) -> bool:
    """The axis of clients; False where there is only one number of them."""
    numbers = sorted({cell.clients for each in series for cell in each.cells})
    if len(numbers) < 2:
        return False
    axes.set_xscale("log")
    axes.set_xticks(numbers, [f"{each:,}" for each in numbers])
    axes.minorticks_off()
    axes.set_xlabel("clients")
    return True


def _as_words(axis: Any, written: Callable[[float | None], str]) -> None:
    axis.set_major_formatter(lambda value, _: "0" if not value else _short(written(value)))


def _short(text: str) -> str:
    """`10.0 ms` as `10 ms`: ticks are round."""
    number, _, unit = text.partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}".strip()


def _bars(axes: Axes, series: Sequence[_Series], value: Value, written: Callable[[float | None], str]) -> None:
    """A bar for each contender, with its number, the first on top."""
    shown = [(each, points[-1][1]) for each in reversed(series) if (points := _points(each, value))]
    bars = axes.barh([each.name for each, _ in shown], [height for _, height in shown])
    for bar, (each, _) in zip(bars, shown, strict=True):
        bar.set_color(each.colour)
    axes.bar_label(bars, [written(height) for _, height in shown], padding=3, fontsize=8)
    heights = [height for _, height in shown if height > 0]
    if heights and max(heights) > APART * min(heights):
        axes.set_xscale("log")
        axes.set_xlim(left=min(heights) / 2)
        axes.set_xlabel("logarithmic")
    axes.margins(x=0.25)
    axes.grid(visible=False)
    axes.minorticks_off()
    axes.set_xticks([])  # each bar has its number


def _against_clients(
    name: str, title: str, series: Sequence[_Series], value: Value, written: Callable[[float | None], str]
) -> Plot | None:
    if not any(_points(each, value) for each in series):
        return None
    figure, axes = _figure(title)
    if _by_clients(axes, series):
        for each in series:
            if points := _points(each, value):
                axes.plot(*zip(*points, strict=True), each.line, color=each.colour, marker=each.marker, label=each.name)
        axes.set_ylim(bottom=0)
        _as_words(axes.yaxis, written)
        figure.legend(loc="outside lower center", ncols=min(4, len(series)))
    else:
        _bars(axes, series, value, written)
    return Plot(name, title, f"{title}: {_said(series, value, written)}.", figure)


def _latency(title: str, loop: str, series: Sequence[_Series]) -> Plot | None:
    def p99(cell: Cell) -> float | None:
        return cell.quantile(0.99)

    if not any(_points(each, p99) for each in series):
        return None
    figure, axes = _figure(title)
    if _by_clients(axes, series):
        for each in series:
            middle, high = _points(each, lambda cell: cell.quantile(0.5)), _points(each, p99)
            if high:
                axes.plot(*zip(*high, strict=True), each.line, color=each.colour, marker=each.marker, label=each.name)
                axes.plot(
                    *zip(*middle, strict=True), ":", color=each.colour, marker=each.marker, markerfacecolor="white"
                )
        axes.set_yscale("log")
        _as_words(axes.yaxis, words.duration)
        axes.set_ylabel("p99 filled, p50 hollow")
        axes.set_xlabel(f"clients ({loop})")
        figure.legend(loc="outside lower center", ncols=min(4, len(series)))
    else:
        title = title.replace("p50 and ", "")
        _bars(axes, series, p99, words.duration)
        axes.set_title(title)
        axes.set_xlabel(f"{axes.get_xlabel()} ({loop})".strip())
    return Plot("latency", title, f"{title} ({loop}). p99: {_said(series, p99, words.duration)}.", figure)


def _percentiles(title: str, loop: str, series: Sequence[_Series]) -> Plot | None:
    """The whole distribution with most clients; the axis is as wide between two nines as between the next two."""
    figure, axes = _figure(title)
    rarest = 1.0
    for each in series:
        steps = each.cells[-1].latencies.steps()
        xs = [-math.log10(max(1 - part, 1e-9)) for part, _ in steps[:-1]]
        if xs:
            axes.plot(xs, [seconds for _, seconds in steps[:-1]], each.line, color=each.colour, label=each.name)
            rarest = min(rarest, 1 - steps[-2][0])
    if rarest == 1.0:
        return None
    shown = [part for part in NINES if 1 - part >= rarest * 0.99]
    axes.set_xticks([-math.log10(1 - part) for part in shown], [f"p{100 * part:.6g}" for part in shown])
    axes.set_xlim(left=0)
    axes.set_yscale("log")
    _as_words(axes.yaxis, words.duration)
    most = max(each.cells[-1].clients for each in series)
    axes.set_xlabel(f"with {words.clients(most)} ({loop})")
    figure.legend(loc="outside lower center", ncols=min(4, len(series)))
    said = _said(series, lambda cell: cell.quantile(0.999), words.duration)
    return Plot("percentiles", title, f"{title} ({loop}). p99.9: {said}.", figure)


def _memory(series: Sequence[_Series]) -> Plot | None:
    def value(cell: Cell) -> float | None:
        return cell.memory

    if not any(_points(each, value) for each in series):
        return None
    title = "Server memory per connection"
    figure, axes = _figure(title)
    _bars(axes, series, value, words.memory)
    return Plot("memory", title, f"{title}: {_said(series, value, words.memory)}.", figure)
