"""From a text to the value of a setting: conversion, checks, and the error for what cannot be.

Law: nothing here knows any setting by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from pronghorn.errors import BadSetting, nearest
from pronghorn.peers import UNIX, network
from pronghorn.settings import broker_url
from pronghorn.settings.access_format import check_format
from pronghorn.settings.fields import BOUNDS, Field

THOUSANDS = (("", 1000), ("b", 1000), ("ib", 1024))
SIZES = {f"{letter}{end}": step**power for power, letter in enumerate("kmg", 1) for end, step in THOUSANDS}
UNITS: dict[str, dict[str, float]] = {
    "time": {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600},
    "size": {"": 1, "b": 1, **SIZES},
}
QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*([A-Za-z]*)\s*")
COMMA = re.compile(r",(?![^()]*\))")  # that stands in no brackets
TRUTH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def quantity(text: str, unit: str) -> float:
    """A number whose unit is a `unit` (a key of UNITS, or empty: a plain number), as in `30s`, `2m`, `64KiB`.

    ValueError names the units there are.
    """
    units = UNITS.get(unit, {"": 1})
    match = QUANTITY.fullmatch(text)
    written = match[2].lower() if match else ""
    if match is None or written not in units:
        names = ", ".join(filter(None, units))
        raise ValueError(f"expected a number, with or without a unit ({names})" if names else "expected a number")
    return float(match[1]) * units[written]


def checked(field: Field, value: Any, origin: str) -> Any:
    """`value`, a text or a plain value, as the setting has it. Raises BadSetting, which names the `origin`."""
    try:
        right = msgspec.convert(_converted(field, value), type=field.type)
    except (ValueError, OverflowError, msgspec.ValidationError):
        raise _wrong(field, value, origin) from None
    why = _objection(field, right)
    if why is not None:
        raise _wrong(field, value, origin, why)
    return right


def _objection(field: Field, right: Any) -> str | None:
    """Why a setting cannot have a value of the right type, empty where what it takes says enough; None if it can."""
    if right in field.words:
        return None
    if field.choices and right not in field.choices:
        return ""
    if isinstance(right, float) and not math.isfinite(right):
        return ""
    if right is not None and not all(BOUNDS[key][1](right, limit) for key, limit in field.bounds.items()):
        return ""
    if isinstance(right, tuple) and not (all(right) and (right or not field.default)):
        return ""
    try:
        for text in right if isinstance(right, tuple) else filter(None, [right]):
            CHECKS.get(field.unit, str)(text)
    except ValueError as error:
        return f"{error}. "
    return None


def _wrong(field: Field, value: Any, origin: str, why: str = "") -> BadSetting:
    default = field.shown(field.default)
    hint = f"{field.flag}: {field.help}" + (f" Default: {default}." if default else "")
    close = nearest(str(value), field.choices) if field.choices else ""
    what = f"{origin} cannot be {field.public(value)!r}."
    return BadSetting(what, f"{why}It takes {field.takes}.", close if "Did" in close else hint)


def _converted(field: Field, value: Any) -> Any:
    if field.type == tuple[str, ...]:
        parts = re.split(COMMA, value) if isinstance(value, str) else value
        if not isinstance(parts, Iterable):
            return value
        if field.unit == "address" and isinstance(value, str):
            parts = _with_settings_behind(parts)
        if field.splits and not isinstance(
            value, str
        ):  # given once or more, as a person does: --allow 10.0.0.1,10.0.0.2
            parts = [part for each in parts for part in (re.split(COMMA, each) if isinstance(each, str) else [each])]
        return tuple(part.strip() if isinstance(part, str) else part for part in parts)
    if field.choices and isinstance(value, bool | int | float):
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
    if field.unit == "broker" and value is False:  # YAML's and TOML's own word for off
        return "off"
    if not isinstance(value, str) or field.type is str:
        return value
    if value.strip().lower() in field.words:
        return value.strip().lower()
    if field.type is bool:
        return TRUTH.get(value.strip().lower(), value)
    number = quantity(value, field.unit)
    if field.type is float:
        return number
    return int(number) if number == int(number) else value


def _with_settings_behind(parts: Iterable[str]) -> list[str]:
    """Addresses of one text, each with the KEY=VALUE that stand behind it."""
    found: list[str] = []
    for part in parts:
        if found and re.match("[ ]*[A-Za-z][A-Za-z0-9_-]*=", part):
            found[-1] += "," + part.strip()
        else:
            found.append(part)
    return found


def _mode(text: str) -> None:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ValueError(f"{text!r} is no mode")


def _network_or_unix(text: str) -> None:
    if text != UNIX:
        network(text)


def _broker(text: str) -> None:
    if text not in ("local", "off"):
        broker_url.parse(text)


CHECKS: dict[str, Callable[[str], object]] = {
    "mode": _mode,
    "network": network,
    "network or unix": _network_or_unix,
    "access log format": check_format,
    "broker": _broker,
}
"""What a text must be, by its unit; each raises ValueError, which says why the text is not that."""
