"""`Line`: how one kind of event is logged, by its level, its format string, and the parts that stand in that string.

Law: a field of a format string is a part of its line, one of PARTS, or an attribute of the event, looked up in this
order. Attributes are escaped and capped; a part escapes the texts that it returns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

from pronghorn.events import Event
from pronghorn.observers.escaping import (
    counted,
    date,
    ending,
    escaped,
    frames,
    indented,
    kind_and_text,
    peer_name,
    trace,
)

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

Part = Callable[[Any], str]


class Line:
    """How one kind of event is logged.

    `most` is the highest level of its records; `level` chooses a lower one. `text` is a format string, or chooses one.
    `flood` says, for a kind that comes in floods, what counts as the same; None where an event is not of a flood.
    """

    __slots__ = ("_flood", "_level", "_parts", "_text", "most")

    def __init__(
        self,
        most: int,
        text: str | Part,
        *,
        level: Callable[[Any], int] | None = None,
        flood: Callable[[Any], object] | None = None,
        **parts: Part,
    ) -> None:
        self.most = most
        self._text = text
        self._level = level
        self._flood = flood
        self._parts = PARTS | parts

    def level(self, event: Event) -> int:
        return self.most if self._level is None else self._level(event)

    def text(self, event: Event) -> str:
        """One record; the lines of a traceback follow, indented."""
        text = self._text if isinstance(self._text, str) else self._text(event)
        return text.format_map(_Fields(event, self._parts))

    def flood(self, event: Event) -> Hashable:
        """What the record counts as if it is one of a flood, else None."""
        same = None if self._flood is None else self._flood(event)
        return None if same is None else (type(event), same)


class _Fields:
    """What stands in the fields of a format string. Numbers stay numbers, for their format; with a noun in the field,
    as in `{open connection}`, a number is told with it: `1 connection`, `2 connections`."""

    __slots__ = ("_event", "_parts")

    def __init__(self, event: Event, parts: dict[str, Part]) -> None:
        self._event = event
        self._parts = parts

    def __getitem__(self, name: str) -> str | int | float:
        if part := self._parts.get(name):
            return part(self._event)
        name, _, noun = name.partition(" ")
        value = getattr(self._event, name)
        if noun:
            return counted(value, noun)
        return value if isinstance(value, (int, float)) else escaped(value)


PARTS: dict[str, Part] = {
    "at": lambda event: f" to {escaped(event.listener)}" if event.listener else "",
    "connection": lambda event: escaped(event.id or event.number, 64),
    "ending": lambda event: ending(event.status),
    "error": lambda event: kind_and_text(event.error),
    "frames": lambda event: frames(event.stack),
    "peer": lambda event: peer_name(event.peer),
    "our_trace": lambda event: trace(event.error, ours=True),
    "reasons": lambda event: "".join(reason_of(event.why, event.what)),
    "trace": lambda event: trace(event.error),
    "until": lambda event: date(event.until),
}


def reason_of(why: str, what: str = "") -> tuple[str, str]:
    """A reason of several lines in one record: the first line and the last; and all after the first, indented."""
    first, *rest = why.splitlines() or [what]
    last = f" {escaped(rest[-1])}" if rest else ""
    return escaped(first) + last, indented(rest) if len(rest) > 1 else ""
