"""Every setting, declared once.

Law: a setting is one field of `Settings`, with its help, its panel and its bounds beside it; command-line flags,
environment variables, keys of the settings file and the manual are derived by a loop over the fields and never typed
twice. Each panel has a file; one inherits from the other, since msgspec makes a Struct of one line of bases only.
Nothing here knows sockets or processes. Workers import this room, so what only a message needs is imported where the
message is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from pronghorn.errors import BadSetting
from pronghorn.settings.fields import (
    CHECKS,
    ENVIRONMENT_PREFIX,
    HOLDS,
    TRUTH,
    UNITS_OF_SIZE,
    UNITS_OF_TIME,
    Field,
    quantity,
)
from pronghorn.settings.lifecycle import AN_HOUR
from pronghorn.settings.process import LOG_FORMATS, LOG_LEVELS, Process
from pronghorn.settings.serving import MODELS, STYLES
from pronghorn.settings.sockets import DEFAULT_BIND

__all__ = [
    "DEFAULT_BIND", "ENVIRONMENT_PREFIX", "LOG_FORMATS", "LOG_LEVELS", "MODELS", "STYLES", "Field", "Settings",
    "fields", "nearest", "quantity", "settle",
]  # fmt: skip


SHORT = 2.0  # seconds that old workers may go on where code changes every few minutes


class Settings(Process, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one server runs with; durations in seconds, sizes in bytes.

    Each field is a flag (`--max-threads`), an environment variable (`PRONGHORN_MAX_THREADS`), a key of the settings
    file and a keyword of `pronghorn.serve`. Make one with `settle`, which converts and checks; the plain constructor
    does neither.
    """

    @property
    def old_workers_timeout(self) -> float:
        """Seconds that workers before a reload may go on; infinite if for ever."""
        if self.reload and self.reload_drain_timeout == AN_HOUR:
            return SHORT
        return self.reload_drain_timeout or math.inf

    def effective_workers(self, model: str) -> int:
        """The number of workers: what was set, or the model's own default."""
        if self.workers is not None:
            return self.workers
        return 8 if model == "prefork" else 1


_fields: list[Field] = []


def fields() -> list[Field]:
    """Every setting, in the order of the manual."""
    if not _fields:
        from typing import get_type_hints

        hints = get_type_hints(Settings, include_extras=True)
        _fields.extend(Field(each.name, hints[each.name], each.default) for each in msgspec.structs.fields(Settings))
    return list(_fields)


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
    if isinstance(right, tuple) and not (all(right) and (right or not field.default)):
        raise _wrong(field, value, origin)
    if field.unit in CHECKS:
        try:
            for text in right if isinstance(right, tuple) else filter(None, [right]):
                CHECKS[field.unit](text)
        except ValueError as error:
            raise _wrong(field, value, origin, f"{error}. ") from None
    return right


def _wrong(field: Field, value: Any, origin: str, why: str = "") -> BadSetting:
    default = field.shown(field.default)
    hint = f"{field.flag}: {field.help}" + (f" Default: {default}." if default else "")
    close = nearest(str(value), field.choices) if field.choices else ""
    return BadSetting(
        f"{origin} cannot be {value!r}.", f"{why}It takes {field.takes}.", close if "Did" in close else hint
    )


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
