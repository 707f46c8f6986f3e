"""Measured quantities as people read them: throughput, times down to a nanosecond, and memory.

Law: three figures that count, so that no noise is shown; what was not measured is a dash.
"""

from __future__ import annotations

import math

from pronghorn.control.quantities import size

NONE = "-"
MOMENT = 0.001  # seconds that a person is told of


def figure(value: float) -> str:
    """A number with three figures that count, thousands grouped."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def rate(value: float | None) -> str:
    """Messages a second: `950`, `14,300`, `1.32M`."""
    if value is None:
        return NONE
    if value >= 999_500:
        return f"{figure(value / 1e6)}M"
    digits = max(0, len(str(int(value))) - 3)
    return f"{round(value, -digits):,.0f}" if value >= 99.95 else figure(value)


def duration(seconds: float | None) -> str:
    """A time with its unit: `7.36 µs`, `1.20 ms`, `3.00 s`."""
    if seconds is None or math.isnan(seconds):
        return NONE
    for unit, step in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= 0.9995 * step:
            return f"{figure(seconds / step)} {unit}"
    return f"{figure(seconds / 1e-6)} µs" if seconds else "0 µs"


def memory(value: float | None) -> str:
    """Bytes with their unit: `974 B`, `10.8 KiB`."""
    return NONE if value is None else size(round(value))


def clients(count: int) -> str:
    return f"{count:,} client{'' if count == 1 else 's'}"
