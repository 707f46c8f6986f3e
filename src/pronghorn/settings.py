"""Every setting, declared once.

Law: a setting is one field of `Settings`, with its help, its panel and its bounds beside it; command-line flags,
environment variables and the manual are derived by a loop over the fields and never typed twice. Nothing here knows
sockets or processes. Workers import this file, so what only a message needs is imported where the message is made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pronghorn.errors import BadSetting

MODELS = tuple("auto iterative fork prefork thread pool select poll epoll kqueue asyncio uvloop gevent".split())
STYLES = tuple("auto message protocol asyncio blocking program".split())
LOG_LEVELS = tuple("debug info warning error".split())
DEFAULT_BIND = "127.0.0.1:8000"
ENVIRONMENT_PREFIX = "PRONGHORN_"


def option(
    help: str,
    panel: str,
    *,
    short: str = "",
    metavar: str = "",
    unit: str = "",
    of: Iterable[str] = (),
    **bounds: float,
) -> Meta:
    """What stands beside a field's type: its help, the panel of `--help`, a short flag, its choices and its bounds.

    `unit` is "time", "size" or empty, and says which units a string may carry. The bounds (`ge`, `gt`, `le`) are ours
    to check: msgspec refuses them on `int | None`.
    """
    extra = {"panel": panel, "short": short, "metavar": metavar, "unit": unit, "choices": tuple(of), "bounds": bounds}
    return Meta(description=help, extra=extra)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one server runs with; durations in seconds, sizes in bytes.

    Each field is a flag (`--max-threads`), an environment variable (`PRONGHORN_MAX_THREADS`) and a keyword of
    `pronghorn.serve`. Make one with `settle`, which converts and checks; the plain constructor does neither.
    """

    bind: Annotated[
        tuple[str, ...],
        option(
            "Address to listen on: HOST:PORT, [IPV6]:PORT, :PORT (every interface, IPv4 and IPv6) or unix:PATH. "
            "May be given more than once. Port 0 takes a free port and says which.",
            "Sockets",
            short="-b",
            metavar="ADDRESS",
        ),
    ] = (DEFAULT_BIND,)
    backlog: Annotated[
        int,
        option(
            "Connections that may wait in the kernel's queue to be accepted; 0 is the system's maximum.",
            "Sockets",
            ge=0,
            le=2**31 - 1,
        ),
    ] = 0
    reuse_address: Annotated[
        bool,
        option("Set SO_REUSEADDR: bind at once after a restart, while old connections are in TIME_WAIT.", "Sockets"),
    ] = True
    reuse_port: Annotated[
        bool, option("Set SO_REUSEPORT: other servers of the same user may share the port.", "Sockets")
    ] = False

    model: Annotated[
        str,
        option(
            "How one worker serves many connections; auto chooses by the handler's style. "
            "'pronghorn models' tells them apart.",
            "Model",
            short="-k",
            of=MODELS,
        ),
    ] = "auto"
    workers: Annotated[
        int | None, option("Worker processes. Without this, 1; under prefork, 8.", "Model", short="-w", ge=1)
    ] = None
    pool_size: Annotated[int, option("Threads per worker under the pool model.", "Model", ge=1)] = 16
    max_threads: Annotated[int, option("Most threads per worker under the thread model.", "Model", ge=1)] = 1000
    max_children: Annotated[int, option("Most children per worker under the fork model.", "Model", ge=1)] = 200

    style: Annotated[str, option("Convention that the handler follows; auto recognises it.", "Handler", of=STYLES)] = (
        "auto"
    )
    framing: Annotated[
        str,
        option(
            "Rule that cuts bytes into messages: stream (as they come), lines, delimited(MARK), or prefixed(1), "
            "prefixed(2), prefixed(4): a length of so many bytes first.",
            "Handler",
            metavar="RULE",
        ),
    ] = ""
    max_message_size: Annotated[
        int,
        option("Longest message, its mark or prefix not counted; a longer one ends its connection.", "Handler",
               unit="size", ge=1),
    ] = 1024 * 1024  # fmt: skip
    factory: Annotated[
        bool, option("HANDLER is called once in each worker, and what it returns is the handler.", "Handler")
    ] = False

    write_high_water: Annotated[
        int,
        option("Unsent bytes of one connection at which reading from it pauses.", "Lifecycle and limits",
               unit="size", ge=1),
    ] = 64 * 1024  # fmt: skip
    drain_timeout: Annotated[
        float,
        option("Time that open connections get to finish when the server stops.", "Lifecycle and limits",
               unit="time", ge=0),
    ] = 30.0  # fmt: skip
    start_timeout: Annotated[
        float, option("Time that a worker gets to become ready.", "Lifecycle and limits", unit="time", gt=0)
    ] = 60.0

    log_level: Annotated[str, option("Least important record that is logged.", "Logs", of=LOG_LEVELS)] = "info"

    def effective_workers(self, model: str) -> int:
        """The number of workers: what was set, or the model's own default."""
        if self.workers is not None:
            return self.workers
        return 8 if model == "prefork" else 1


class Field:
    """One setting as flags and manuals see it."""

    __slots__ = ("bounds", "choices", "default", "help", "metavar", "name", "panel", "short", "type", "unit")

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
                 "size": "a size (65536, 64KiB, 1MiB, 10MB; a plain number is bytes)"}.get(self.unit)  # fmt: skip
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
            return f"{value:g}s" if value >= 1 else f"{value * 1000:g}ms"
        if self.unit == "size":
            for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
                if value and value % size == 0:
                    return f"{value // size}{unit}"
        return f"{value}" if isinstance(value, int) else f"{value:g}"


BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most"}
HOLDS = {"ge": lambda value, limit: value >= limit, "gt": lambda value, limit: value > limit,
         "le": lambda value, limit: value <= limit}  # fmt: skip
_fields: list[Field] = []


def fields() -> list[Field]:
    """Every setting, in the order of the manual."""
    if not _fields:
        from typing import get_type_hints

        hints = get_type_hints(Settings, include_extras=True)
        _fields.extend(Field(each.name, hints[each.name], each.default) for each in msgspec.structs.fields(Settings))
    return list(_fields)


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


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint that names the nearest right word, or all of them."""
    from difflib import get_close_matches

    words = list(words)
    close = get_close_matches(word.lower(), words, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Choose one of: {', '.join(words)}."


def settle(values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> Settings:
    """Settings from plain values (strings are converted), each checked.

    `origins` says where a value came from (`--workers`, `PRONGHORN_WORKERS`), for the message. Raises BadSetting with
    the setting, the value, the source, and what would be right.
    """
    origins = origins or {}
    known = {field.name: field for field in fields()}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise BadSetting(f"There is no setting {name!r}.", hint=nearest(name, known))
        checked[name] = _checked(known[name], value, origins.get(name, known[name].flag))
    return Settings(**checked)


def _checked(field: Field, value: Any, origin: str) -> Any:
    try:
        right = msgspec.convert(_converted(field, value), type=field.type)
    except (ValueError, OverflowError, msgspec.ValidationError):
        raise _wrong(field, value, origin) from None
    if field.choices and right not in field.choices:
        raise _wrong(field, value, origin)
    if isinstance(right, float) and not math.isfinite(right):
        raise _wrong(field, value, origin)
    if right is not None and not all(HOLDS[key](right, limit) for key, limit in field.bounds.items()):
        raise _wrong(field, value, origin)
    if isinstance(right, tuple) and not (right and all(right)):
        raise _wrong(field, value, origin)
    return right


def _wrong(field: Field, value: Any, origin: str) -> BadSetting:
    default = field.shown(field.default)
    hint = f"{field.flag}: {field.help}" + (f" Default: {default}." if default else "")
    close = nearest(str(value), field.choices) if field.choices else ""
    return BadSetting(f"{origin} cannot be {value!r}.", f"It takes {field.takes}.", close if "Did" in close else hint)


def _converted(field: Field, value: Any) -> Any:
    if field.type == tuple[str, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, Iterable):
            return value
        return tuple(part.strip() if isinstance(part, str) else part for part in parts)
    if not isinstance(value, str) or field.type is str:
        return value
    if field.type is bool:
        return TRUTH.get(value.strip().lower(), value)
    units: dict[str, Mapping[str, float]] = {"time": UNITS_OF_TIME, "size": UNITS_OF_SIZE}
    number = quantity(value, units.get(field.unit, {"": 1}))
    if field.type is float:
        return number
    return int(number) if number == int(number) else value
