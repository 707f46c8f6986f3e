"""The plots of a run, as small SVG files: how cost grows, and what each design of a server costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from measuring import Results
from tables import median

Sweeps = dict[str, dict[str, list[tuple[float, float]]]]
AXES = {  # file, title, x, y, and whether each axis is logarithmic
    "by-connections": ("scale-connections", "Cost of a message", "active connections", "CPU µs/message", "xy"),
    "by-idle": ("scale-idle", "64 clients beside idle connections", "idle connections", "CPU µs/message", "xy"),
    "memory-by-connections": ("scale-memory", "Memory of the server's processes", "idle connections", "MiB", ""),
    "by-workers": ("scale-workers", "A handler that computes for 1 ms", "workers", "messages a second", ""),
    "by-handler-time": (
        "scale-handler-time",
        "A handler that waits, 64 clients",
        "wait, ms",
        "messages a second",
        "y",
    ),
}
GREY, OURS, FAST = "#9aa5b1", "#c2571a", "#7a2e8e"


def draw(sweeps: Sweeps, runs: dict[str, Results], folder: Path) -> list[Path]:
    """Write the plots into `folder`; none without matplotlib. The paths of those that were written."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "bench", "font.family": "sans-serif"}
    matplotlib.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}
    matplotlib.rcParams |= {"grid.color": "#e3e7eb", "figure.facecolor": "white"}
    found = [curves(*AXES[name], sweeps[name], folder) for name in AXES if sweeps.get(name)]
    if "messages" in runs and "connections" in runs:
        found.append(designs(runs, folder))
    return found


def curves(name: str, title: str, x: str, y: str, logarithmic: str, data: Any, folder: Path) -> Path:
    import matplotlib.ticker
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for label, points in data.items():
        style = "-" if label.startswith(("pronghorn", "compiled")) else "--"
        axes.plot(*zip(*points, strict=True), style, marker="o", markersize=3.5, label=label)
    places = sorted({point[0] for points in data.values() for point in points})
    if "x" in logarithmic:
        axes.set_xscale("symlog", linthresh=max(1, min(filter(None, places), default=1)))
    if "x" in logarithmic or name == "scale-workers":
        axes.set_xticks(places, [f"{place:,.0f}" for place in places], minor=False)
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    if "y" in logarithmic:
        axes.set_yscale("log")
        plain(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return save(figure, folder / f"{name}.svg")


def designs(runs: dict[str, Results], folder: Path) -> Path:
    """Two rows of bars: every server by message, and by connection."""
    from matplotlib import pyplot

    names = [name for name in runs["messages"] if median(runs["messages"], name) is not None]
    figure, both = pyplot.subplots(1, 2, figsize=(11, 0.24 * len(names) + 1.4), gridspec_kw={"wspace": 0.45})
    for axes, scenario, word in zip(both, ("messages", "connections"), ("message", "connection"), strict=True):
        costs = {name: value for name in names if (value := median(runs[scenario], name)) is not None}
        ordered = sorted(costs, key=lambda name: costs[name], reverse=True)
        axes.barh(ordered, [costs[name] for name in ordered], color=[color(name) for name in ordered])
        axes.set_xscale("log")
        plain(axes.xaxis, (1, 3))
        axes.tick_params(axis="y", labelsize=8)
        axes.grid(axis="y", visible=False)
        axes.set(title=f"CPU µs a {word}")
    return save(figure, folder / "scale-designs.svg")


def plain(axis: Any, subs: tuple[int, ...] = (1, 2, 5)) -> None:
    """Numbers as people write them, at these multiples of each power of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def color(name: str) -> str:
    return OURS if name.startswith("pronghorn ") else FAST if name.startswith("compiled ") else GREY


def save(figure: Any, path: Path) -> Path:
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    from matplotlib import pyplot

    pyplot.close(figure)
    return path
