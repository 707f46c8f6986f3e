"""What a setting is: its help, its panel, its unit and its bounds, beside its type; and how its value is written.

Law: nothing here knows any setting by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Meta

from pronghorn.peers import UNIX, network

ENVIRONMENT_PREFIX = "PRONGHORN_"

WORKERS = "workers"
"""A reload gives the setting to the workers that it starts; those before them keep what they have."""
NOW = "now"
"""The supervisor acts on it, or what all workers share has it, from the moment that the reload has succeeded."""
RESTART = "restart"
"""It has been acted on; a reload names it in `later` if it has changed."""


def option(
    help: str,
    panel: str,
    *,
    short: str = "",
    metavar: str = "",
    unit: str = "",
    of: Iterable[str] = (),
    at: str = WORKERS,
    **bounds: float,
) -> Meta:
    """What stands beside a field's type: its help, the panel of `--help`, a short flag, its choices and its bounds.

    `unit` is "time" or "size" for a number whose string may carry units, a kind of text that `CHECKS` can tell, or
    empty. `at` is who has a new value after a
    reload. The bounds (`ge`, `gt`, `le`) are ours to check: msgspec refuses them on `int | None`.
    """
    extra = {"panel": panel, "short": short, "metavar": metavar, "unit": unit, "choices": tuple(of), "bounds": bounds}
    extra["at"] = at
    return Meta(description=help, extra=extra)


class Field:
    """One setting as flags and manuals see it."""

    __slots__ = ("at", "bounds", "choices", "default", "help", "metavar", "name", "panel", "short", "type", "unit")

    def __init__(self, name: str, hint: Any, default: Any) -> None:
        meta = next(part for part in hint.__metadata__ if part.extra)
        extra = meta.extra
        self.name = name
        self.type = hint.__origin__
        self.default = default
        self.help: str = meta.description
        self.panel: str = extra["panel"]
        self.short: str = extra["short"]
        self.unit: str = extra["unit"]
        self.choices: tuple[str, ...] = extra["choices"]
        self.bounds: dict[str, float] = extra["bounds"]
        self.at: str = extra["at"]
        self.metavar: str = extra["metavar"] or self._metavar()

    def _metavar(self) -> str:
        if self.choices:
            return "NAME"
        return {"time": "DURATION", "size": "SIZE"}.get(self.unit, "N" if self.type in (int, int | None) else "")

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def takes(self) -> str:
        """What a right value is, in words: `a whole number, at least 1`."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        words = {"time": "a duration (500ms, 30s, 2m, 1h; a plain number is seconds)",
                 "size": "a size (65536, 64KiB, 1MiB, 10MB; a plain number is bytes)",
                 "mode": "three figures from 0 to 7, such as 027"}.get(self.unit)  # fmt: skip
        if words is None:
            words = {bool: "yes or no", str: "text"}.get(self.type, "a whole number")
            if self.type == tuple[str, ...]:
                words = f"one {self.metavar} or more, separated by commas"
        return ", ".join([words, *(f"{BOUNDS[key]} {self.shown(limit)}" for key, limit in self.bounds.items())])

    def shown(self, value: Any) -> str:
        """A value as a person would write it: `30s`, `1MiB`, `on`; empty when there is none."""
        if isinstance(value, bool):
            return "on" if value else "off"
        if value is None or isinstance(value, str):
            return value or ""
        if isinstance(value, tuple):
            return ",".join(value)
        if self.unit == "time" and value:
            return f"{value:.15g}s" if value >= 1 else f"{value * 1000:.15g}ms"
        if self.unit == "size":
            for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
                if value and value % size == 0:
                    return f"{value // size}{unit}"
        return f"{value}" if isinstance(value, int) else f"{value:.15g}"


def _mode(text: str) -> None:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ValueError(f"{text!r} is no mode")


def _network(text: str) -> None:
    network(text)


def _network_or_unix(text: str) -> None:
    if text != UNIX:
        network(text)


CHECKS: dict[str, Callable[[str], None]] = {
    "mode": _mode, "network": _network, "network or unix": _network_or_unix,
}  # fmt: skip
"""What a text must be, by its unit; each raises ValueError, which says why it is not."""

BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most"}
HOLDS = {"ge": lambda value, limit: value >= limit, "gt": lambda value, limit: value > limit,
         "le": lambda value, limit: value <= limit}  # fmt: skip

UNITS_OF_TIME = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
UNITS_OF_SIZE = {
    "": 1, "b": 1,
    "k": 1000, "kb": 1000, "kib": 1024,
    "m": 1000**2, "mb": 1000**2, "mib": 1024**2,
    "g": 1000**3, "gb": 1000**3, "gib": 1024**3,
}  # fmt: skip
QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
TRUTH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def quantity(text: str, units: Mapping[str, float]) -> float:
    """A number with a unit, as in `30s`, `2m`, `64KiB`; ValueError names the units there are."""
    match = QUANTITY.fullmatch(text)
    unit = match[2].lower() if match else ""
    if match is None or unit not in units:
        names = ", ".join(filter(None, units))
        raise ValueError(f"expected a number, with or without a unit ({names})" if names else "expected a number")
    return float(match[1]) * units[unit]
