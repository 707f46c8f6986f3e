"""Framings with marks, or with none: stream, lines, delimited, marked.

`feed` is on the hot path: one whole message in one read takes the first branch.
"""

from __future__ import annotations

import codecs
import re
from typing import overload

from pronghorn.errors import MessageTooLong
from pronghorn.framing.rule import Cutter, Framing, M, Place, PlaceCutter, begins, check_mark, written

CR = 13
AS_IN_PYTHON = re.compile(r"""b(["']).*\1""", re.DOTALL)


class StreamCutter(Cutter[bytes]):
    """Every read is a message; one over the limit becomes several."""

    __slots__ = ()

    def feed(self, data: bytes) -> list[bytes]:
        if data and len(data) <= self._limit:
            return [data]
        return [data[at : at + self._limit] for at in range(0, len(data), self._limit)]


class Stream(Framing[bytes], frozen=True):
    """No marks: a message is what arrived at once. For handlers that do not care where one ends."""

    @property
    def name(self) -> str:
        return "stream"

    def cutter(self, max_message_size: int) -> Cutter[bytes]:
        return StreamCutter(max_message_size)

    def frame(self, message: bytes) -> bytes:
        return message


class MarkCutter(Cutter[bytes]):
    """Cuts at a mark of one byte or more."""

    __slots__ = ("_mark",)

    def __init__(self, limit: int, mark: bytes) -> None:
        super().__init__(limit)
        self._mark = mark

    def feed(self, data: bytes) -> list[bytes]:
        if self._unfinished is not None:
            return self._resume(self._unfinished, data)
        messages = data.split(self._mark)
        tail = messages.pop()
        if tail or len(data) > self._limit:
            self._settle(messages, tail)
        return messages

    def _settle(self, messages: list[bytes], tail: bytes) -> None:
        for at, message in enumerate(messages):
            if len(message) > self._limit:
                self._too_long(messages[:at])
        if tail:
            self._keep(bytearray(tail), messages)

    def _keep(self, unfinished: bytearray, messages: list[bytes]) -> None:
        if len(unfinished) > self._limit and not self._may_still_fit(unfinished):
            self._too_long(messages)
        self._unfinished = unfinished

    def _may_still_fit(self, unfinished: bytearray) -> bool:
        """Whether a mark may have begun within the limit, and only its end is to come."""
        begins = range(max(0, len(unfinished) - len(self._mark) + 1), self._limit + 1)
        return any(self._mark.startswith(unfinished[at:]) for at in begins)

    def _resume(self, unfinished: bytearray, data: bytes) -> list[bytes]:
        searched = max(0, len(unfinished) - len(self._mark) + 1)
        unfinished += data
        end = unfinished.find(self._mark, searched)
        if end < 0:
            self._keep(unfinished, [])
            return []
        self._unfinished = None
        rest = len(unfinished) - end - len(self._mark)
        del unfinished[end:]
        messages = [bytes(unfinished), *data[len(data) - rest :].split(self._mark)]
        self._settle(messages, messages.pop())
        return messages


class LineCutter(MarkCutter):
    """Cuts at LF; a CR before it, or before the peer's end, is no part of the line."""

    __slots__ = ()

    def feed(self, data: bytes) -> list[bytes]:
        if self._unfinished is not None:
            return self._resume(self._unfinished, data)
        messages = data.split(b"\n")
        tail = messages.pop()
        if 13 in data:  # CR as an int: for bytes, `in` is ten times slower
            messages = [each.removesuffix(b"\r") for each in messages]
        if tail or len(data) > self._limit:
            super()._settle(messages, tail)
        return messages

    def _settle(self, messages: list[bytes], tail: bytes) -> None:
        messages[:] = [each.removesuffix(b"\r") for each in messages]
        super()._settle(messages, tail)

    def _may_still_fit(self, unfinished: bytearray) -> bool:
        return len(unfinished) == self._limit + 1 and unfinished.endswith(b"\r")

    def finish(self) -> list[bytes]:
        unfinished, self._unfinished = self._unfinished, None
        return [] if unfinished is None else [bytes(unfinished).removesuffix(b"\r")]


class AnyLines(Framing[M], frozen=True):
    """What lines of bytes and lines of text share."""

    max: int | None = None
    keep_ends: bool = False

    def __post_init__(self) -> None:
        if self.max is not None and self.max < 1:
            raise ValueError(f"the longest line has at least one byte, not {self.max}")

    @property
    def name(self) -> str:
        return written("lines", self)

    def place(self, data: bytes | bytearray, start: int, searched: int, limit: int) -> Place | None:
        limit = self.at_most(limit)
        end = data.find(b"\n", searched) + 1
        last = end if self.keep_ends else end - 1
        if end and not self.keep_ends and last > start and data[last - 1] == CR:
            last -= 1
        if (last if end else len(data) - (0 if self.keep_ends else 1)) - start > limit:
            raise MessageTooLong(limit)
        return (start, last, end) if end else None

    def at_most(self, limit: int) -> int:
        return limit if self.max is None else min(limit, self.max)

    def rest(self, data: bytes) -> bytes:
        return data if self.keep_ends else data.removesuffix(b"\r")


class Lines(AnyLines[bytes], frozen=True):
    """A message is a line: taken with LF or CRLF, answered with LF. An empty line is an empty message.

    `lines` is this rule; `lines(...)` is one like it. `max`: bytes of the longest line, where that is less than
    `--max-message-size`. `keep_ends`: a line keeps its end, which counts, and a reply brings its own. `encoding`:
    messages and replies are text; it must write LF as one byte. Raises ValueError for a limit or an encoding that
    cannot be.
    """

    def cutter(self, max_message_size: int) -> Cutter[bytes]:
        return LineCutter(self.at_most(max_message_size), b"\n")

    def frame(self, message: bytes) -> bytes:
        return message + b"\n"

    @overload
    def __call__(self, *, max: int | None = ..., keep_ends: bool = ...) -> Lines: ...
    @overload
    def __call__(self, *, max: int | None = ..., keep_ends: bool = ..., encoding: str) -> TextLines: ...
    def __call__(self, *, max: int | None = None, keep_ends: bool = False, encoding: str = "") -> Lines | TextLines:
        if encoding:
            return TextLines(max, keep_ends, encoding)
        return LinesWithEnds(max, True) if keep_ends else Lines(max)


class LinesWithEnds(Lines, frozen=True):
    """A message is a line with its end, and so is a reply."""

    def cutter(self, max_message_size: int) -> Cutter[bytes]:
        return PlaceCutter(self, self.at_most(max_message_size))

    def frame(self, message: bytes) -> bytes:
        return message


class TextLines(AnyLines[str], frozen=True):
    """A message is a line of text, and so is the reply; what is not of the encoding ends the connection."""

    encoding: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            fits = codecs.lookup(self.encoding).encode("\n")[0] == b"\n"
        except (LookupError, TypeError):
            fits = False
        if not fits:
            raise ValueError(f"{self.encoding!r} is no encoding in which LF is one byte, as in utf-8 or latin-1")

    def cutter(self, max_message_size: int) -> Cutter[str]:
        return PlaceCutter(self, self.at_most(max_message_size))

    def message(self, data: bytes) -> str:
        return data.decode(self.encoding)

    def frame(self, message: str) -> bytes:
        raw = message.encode(self.encoding)
        return raw if self.keep_ends else raw + b"\n"


class Delimited(Framing[bytes], frozen=True):
    """A message ends at `mark`. Raises ValueError if that is empty, TypeError if it is not bytes."""

    mark: bytes

    def __post_init__(self) -> None:
        check_mark(self.mark)

    @property
    def name(self) -> str:
        text = repr(self.mark)[2:-1]
        if AS_IN_PYTHON.fullmatch(text):  # it would be taken for what Python writes around a mark
            text = r"\x62" + text[1:]
        return f"delimited({text})"

    def cutter(self, max_message_size: int) -> Cutter[bytes]:
        return MarkCutter(max_message_size, self.mark)

    def frame(self, message: bytes) -> bytes:
        return message + self.mark

    def place(self, data: bytes | bytearray, start: int, searched: int, limit: int) -> Place | None:
        return up_to(self.mark, data, start, searched, limit)


class Marked(Framing[bytes], frozen=True):
    """A message goes between two marks, with nothing between one message and the next: MLLP, for one.

    The payload must not hold the end mark: a protocol of bytes needs a length (`prefixed`). Raises ValueError if a mark
    is empty, TypeError if it is not bytes.
    """

    start: bytes
    end: bytes

    def __post_init__(self) -> None:
        check_mark(self.start)
        check_mark(self.end)

    @property
    def name(self) -> str:
        return written("marked", self)

    def place(self, data: bytes | bytearray, start: int, searched: int, limit: int) -> Place | None:
        first = start + len(self.start)
        if not begins(data, start, self.start):
            return None
        return up_to(self.end, data, first, searched, limit)

    def frame(self, message: bytes) -> bytes:
        return self.start + message + self.end


def up_to(mark: bytes, data: bytes | bytearray, first: int, searched: int, limit: int) -> Place | None:
    """The place of a message that begins at `first` and ends at the mark."""
    end = data.find(mark, max(first, searched - len(mark) + 1))
    if end >= 0:
        return first, end, end + len(mark)
    if len(data) - first >= limit + len(mark):
        raise MessageTooLong(limit)
    return None


stream: Stream = Stream()
lines: Lines = Lines()
delimited = Delimited
marked = Marked
