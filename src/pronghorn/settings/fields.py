"""A setting as flags, variables and manuals need it: its type, help, panel, unit and bounds.

Law: nothing here knows any setting by name.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import msgspec

from pronghorn.settings.broker_url import hidden

ENVIRONMENT_PREFIX = "PRONGHORN_"

WORKERS = "workers"
"""After a reload the new workers have the new value, and older workers keep the old one."""
NOW = "now"
"""The supervisor, or what all workers share, has the new value as soon as the reload has succeeded."""
RESTART = "restart"
"""The new value counts from the next start on; a reload names the setting in `later` if it has changed."""

BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": ("at least", operator.ge),
    "gt": ("more than", operator.gt),
    "le": ("at most", operator.le),
}
TAKES = {
    "time": "a duration (500ms, 30s, 2m, 1h; a plain number is seconds)",
    "size": "a size (65536, 64KiB, 1MiB, 10MB; a plain number is bytes)",
    "access log format": "text, json, or a text with fields between braces",
    "mode": "three figures from 0 to 7, such as 027",
    "broker": "local, off, or the URL of a broker (redis://HOST, nats://HOST)",
}
METAVARS = {"time": "DURATION", "size": "SIZE"}
BINARY = (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """What stands beside a field's type and help.

    `unit` is "time" or "size" for a number whose text may carry a unit, a kind of text that `values.CHECKS` knows, or
    empty. `at` says what a reload does with a new value: WORKERS, NOW or RESTART. `own`: a listener may have a value of
    its own (listeners.py). The bounds `ge`, `gt` and `le` are not msgspec's, which refuses them on `int | None`.
    """

    short: str = ""
    metavar: str = ""
    unit: str = ""
    choices: tuple[str, ...] = ()
    at: str = WORKERS
    own: bool = False
    ge: float | None = None
    gt: float | None = None
    le: float | None = None


class Field(Option, frozen=True, kw_only=True):
    """One setting. `type` is the plain type of its values."""

    name: str
    panel: str
    type: Any
    default: Any
    help: str

    @classmethod
    def of(cls, panel: str, name: str, hint: Any, default: Any) -> Field:
        """The field whose annotation is `hint`: Annotated, with a type, a help text, and an Option or none."""
        help, option = (*hint.__metadata__, Option())[:2]
        about = msgspec.structs.asdict(option)
        if not option.metavar:
            number = "N" if hint.__origin__ in (int, int | None) else ""
            about["metavar"] = "NAME" if option.choices else METAVARS.get(option.unit, number)
        return cls(name=name, panel=panel, type=hint.__origin__, default=default, help=help, **about)

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def bounds(self) -> dict[str, float]:
        return {key: limit for key in BOUNDS if (limit := getattr(self, key)) is not None}

    @property
    def words(self) -> tuple[str, ...]:
        """Texts that stand for a value beside numbers, such as `auto`."""
        return tuple(word for each in get_args(self.type) if get_origin(each) is Literal for word in get_args(each))

    @property
    def splits(self) -> bool:
        """Whether a comma always parts two values, in a list too: not where it may be part of a path or an address."""
        return self.metavar in ("NETWORK", "NAME", "MODULE")

    @property
    def takes(self) -> str:
        """What a right value is, in words: `a whole number, at least 1`."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        words = TAKES.get(self.unit) or {bool: "yes or no", str: "text"}.get(self.type, "a whole number")
        if self.type == tuple[str, ...]:
            words = f"one {self.metavar} or more, separated by commas"
        limits = [f"{BOUNDS[key][0]} {self.shown(limit)}" for key, limit in self.bounds.items()]
        return ", ".join([words, *limits, *(f"or {word}" for word in self.words)])

    def hides(self, value: Any) -> bool:
        """Whether something in a value, right or wrong, is secret."""
        return self.unit == "broker" and isinstance(value, str) and hidden(value) != value

    def public(self, value: Any) -> Any:
        """The same value, or a text with *** in the place of what is secret."""
        return hidden(value) if self.hides(value) else value

    def shown(self, value: Any) -> str:
        """A value as a person would write it: `30s`, `1MiB`, `on`; empty when there is none. No secret is in it."""
        if isinstance(value, bool):
            return "on" if value else "off"
        if value is None or isinstance(value, str):
            return self.public(value) or ""
        if isinstance(value, tuple):
            return ",".join(value)
        if self.unit == "time" and value:
            return f"{value:.15g}s" if value >= 1 else f"{value * 1000:.15g}ms"
        if self.unit == "size":
            for unit, size in BINARY:
                if value and value % size == 0:
                    return f"{value // size}{unit}"
        return f"{value}" if isinstance(value, int) else f"{value:.15g}"
