"""Reads of whole messages, cut in one pass without a cutter: for framings whose messages end at a mark, and `stream`.

Law: what is cut here is what the framing's own cutter would have cut; where that takes a memory (a message that goes
on, or is too long), None says so, and the cutter is fed. A framing of another class, a subclass too, is its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pronghorn.framing.marks import Delimited, Lines, Stream
from pronghorn.framing.rule import Framing

Found = bytes | list[bytes] | None
"""What a read holds: one message, several, or (None) what a cutter has to be fed with."""


class Cut(NamedTuple):
    """How reads of one framing are cut."""

    whole: Callable[[bytes, int], Found] | None
    """What a read holds, if its messages are whole, and of so many bytes at most; None: the read is the message."""
    mark: bytes
    """What a reply ends with."""
    most: int
    """The longest message, in bytes."""


def lines_of(data: bytes, most: int) -> Found:
    """The lines of a read."""
    first, mark, rest = data.partition(b"\n")
    if not rest:
        if 13 in first:  # CR as an int: for bytes, `in` is ten times slower
            first = first.removesuffix(b"\r")
        return first if mark and len(first) <= most else None
    if rest[-1] != 10:
        return None
    messages = data.split(b"\n")
    messages.pop()
    if 13 in data:
        messages = [each.removesuffix(b"\r") for each in messages]
    return messages if len(data) <= most or max(map(len, messages)) <= most else None


def up_to(mark: bytes) -> Callable[[bytes, int], Found]:
    """What cuts a read at marks."""

    def whole(data: bytes, most: int) -> Found:
        messages = data.split(mark)
        if messages.pop() or (len(data) > most and max(map(len, messages)) > most):
            return None
        return messages if len(messages) > 1 else messages[0]

    return whole


def never(data: bytes, most: int) -> Found:
    """Of a framing that only its cutter knows."""
    return None


def cut_of(framing: Framing[Any, Any], most: int) -> Cut:
    """How reads of this framing are cut, its messages having `most` bytes at most."""
    kind = type(framing)
    if kind is Stream:
        return Cut(None, b"", most)
    if isinstance(framing, Lines) and kind is Lines and not framing.keep_ends:
        return Cut(lines_of, b"\n", framing.at_most(most))
    if isinstance(framing, Delimited) and kind is Delimited:
        return Cut(up_to(framing.mark), framing.mark, most)
    return Cut(never, b"", most)
