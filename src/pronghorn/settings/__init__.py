"""Every setting, declared once.

Law: a setting is one field of `Settings`, with its help and its bounds beside it; command-line flags, environment
variables, keys of the settings file, `--help` and the manual are derived by a loop over the fields and never typed
twice. Each panel of `--help` is a class, in a file of the same name; one inherits from the other, since msgspec makes a
Struct of one line of bases only. Nothing here knows sockets or processes. Workers import this package, so what only a
message needs is imported where the message is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from pronghorn.errors import BadSetting, nearest
from pronghorn.settings.bus import Bus
from pronghorn.settings.fields import Field
from pronghorn.settings.listeners import LISTENERS, checked_all
from pronghorn.settings.values import checked

__all__ = ["Settings", "fields", "settle"]


class Settings(Bus, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one server runs with; durations in seconds, sizes in bytes.

    Each field is a flag (`--max-threads`), an environment variable (`PRONGHORN_MAX_THREADS`), a key of the settings
    file and a keyword of `pronghorn.serve`. Make one with `settle`, which converts and checks; the plain constructor
    does neither.
    """

    listeners: tuple[dict[str, Any], ...] = ()
    """Listeners with settings of their own (listeners.py); no flag and no variable gives them."""

    def __repr__(self) -> str:
        """What is not a default, without secrets."""
        set_ones = [each for each in fields() if getattr(self, each.name) != each.default]
        return f"Settings({', '.join(f'{each.name}={each.public(getattr(self, each.name))!r}' for each in set_ones)})"


@cache
def fields() -> tuple[Field, ...]:
    """Every setting, in the order of the manual; those of one panel stand together."""
    from typing import get_type_hints

    hints = get_type_hints(Settings, include_extras=True)
    panels = {name: each.__name__ for each in Settings.__mro__ for name in getattr(each, "__annotations__", ())}
    return tuple(
        Field.of(panels[each.name], each.name, hints[each.name], each.default)
        for each in msgspec.structs.fields(Settings)
        if each.name != LISTENERS
    )


def settle(values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> Settings:
    """Settings from plain values (strings are converted), each checked.

    `origins` says where a value came from (`--workers`, `PRONGHORN_WORKERS`), for the message. Raises BadSetting with
    the setting, the value, the source, and what would be right.
    """
    origins = origins or {}
    known = {field.name: field for field in fields()}
    taken: dict[str, Any] = {}
    for name, value in values.items():
        if name == LISTENERS:
            taken[name] = checked_all(value, known, origins.get(name, name))
            continue
        if name not in known:
            raise BadSetting(f"There is no setting {name!r}.", hint=nearest(name, known))
        taken[name] = checked(known[name], value, origins.get(name, known[name].flag))
    return Settings(**taken)
