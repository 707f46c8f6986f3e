"""Quantities as people read them, in tables and on the status page: counts, sizes, spans of time.

Law: numbers in, text out; every table and page of the server writes them in this way.
"""

from __future__ import annotations


def number(value: int) -> str:
    """A count in at most 6 characters: `1,234`, `56.7k`, `89.0M`."""
    if value < 10_000:
        return f"{value:,}"
    return scaled(value, 1000, "kMGTPE")


def size(value: int | None, short: bool = False) -> str:
    """Bytes, as `12 B`, `3.4 KiB`; short in at most 6 characters, as `3.4K`."""
    if value is None:
        return "?"
    if value < 1024:
        return f"{value}" if short else f"{value} B"
    text = scaled(value, 1024, "KMGTPE")
    return text if short else f"{text[:-1]} {text[-1]}iB"


def scaled(value: float, step: int, units: str) -> str:
    """A number with the unit that makes it short: 99.9k, 100k."""
    power = 0
    while value >= step - 0.05 and power < len(units):
        value /= step
        power += 1
    return f"{value:.1f}{units[power - 1]}" if value < 99.95 else f"{value:.0f}{units[power - 1]}"


def span(seconds: float, short: bool = False) -> str:
    """A time as `0.4 s`, `3 min 12 s`, `2 d 3 h`; short as `3m`."""
    if seconds < 9.95 and not short:
        return f"{seconds:.1f} s"
    left = round(seconds)
    for unit, length, part, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if left >= length:
            whole = f"{left // length}"
            return f"{whole}{unit[0]}" if short else f"{whole} {unit} {left % length // smaller} {part}"
    return f"{left}s" if short else f"{left} s"
