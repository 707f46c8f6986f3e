"""`Event`, the base of all records, and what an observer is."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Event(msgspec.Struct, frozen=True):
    """The base of all records."""


Observer = Callable[[Event], None]
