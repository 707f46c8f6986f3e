"""Framings: the rules that cut a stream of bytes into messages (stream, lines, delimited, length-prefixed).

Law: bytes in, messages out, and back; no sockets, no clock, no handler. A `Framing` is a rule: frozen, shared by all
connections. Its `cutter()` is one connection's memory of the rule: fed whatever arrived, it gives the messages that
are now whole. How the bytes were split on their way never changes the messages, nor whether one is too long.

`feed` is on the hot path: one whole message in one read takes the first branch. What is unfinished waits in one
bytearray, so that memory stays near the limit even when a peer sends two bytes at a time (a list of such pieces takes
28 times as much), and no byte of it is searched twice.
"""

from __future__ import annotations

import re
import struct
from typing import NoReturn

import msgspec

from pronghorn.errors import BadSetting, MessageTooLong, nearest

AS_IN_PYTHON = re.compile(r"""b(["']).*\1""", re.DOTALL)
PREFIXES = {1: struct.Struct(">B"), 2: struct.Struct(">H"), 4: struct.Struct(">I")}


class Cutter:
    """One connection's cutter: the base of all.

    After MessageTooLong a cutter is spent: its connection is to be closed.
    """

    __slots__ = ("_limit", "_unfinished")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._unfinished: bytearray | None = None

    @property
    def partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._unfinished is not None

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes, without their mark, in order; often none.

        Raises MessageTooLong as soon as a message must exceed the limit; its `complete` holds those before it.
        """
        raise NotImplementedError

    def finish(self) -> list[bytes]:
        """The peer has ended: what is unfinished, if this framing delivers it; otherwise it is dropped."""
        self._unfinished = None
        return []

    def _too_long(self, complete: list[bytes]) -> NoReturn:
        self._unfinished = None
        raise MessageTooLong(self._limit, complete)


class Framing(msgspec.Struct, frozen=True):
    """A rule that cuts bytes into messages; two with the same rule are equal."""

    @property
    def name(self) -> str:
        """As `--framing` takes it back."""
        raise NotImplementedError

    def cutter(self, max_message_size: int) -> Cutter:
        """A cutter for one connection; a message may have `max_message_size` bytes, its mark not counted."""
        raise NotImplementedError

    def frame(self, message: bytes) -> bytes:
        """The message with its mark put back, as it goes over the wire; it is not searched for marks of its own."""
        raise NotImplementedError


class StreamCutter(Cutter):
    """Every read is a message; one over the limit becomes several."""

    __slots__ = ()

    def feed(self, data: bytes) -> list[bytes]:
        if data and len(data) <= self._limit:
            return [data]
        return [data[at : at + self._limit] for at in range(0, len(data), self._limit)]


class Stream(Framing, frozen=True):
    """No marks: a message is what arrived at once. For handlers that do not care where one ends."""

    @property
    def name(self) -> str:
        return "stream"

    def cutter(self, max_message_size: int) -> Cutter:
        return StreamCutter(max_message_size)

    def frame(self, message: bytes) -> bytes:
        return message


class MarkCutter(Cutter):
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


class Lines(Framing, frozen=True):
    """A message is a line: taken with LF or CRLF, answered with LF. An empty line is an empty message."""

    @property
    def name(self) -> str:
        return "lines"

    def cutter(self, max_message_size: int) -> Cutter:
        return LineCutter(max_message_size, b"\n")

    def frame(self, message: bytes) -> bytes:
        return message + b"\n"


class Delimited(Framing, frozen=True):
    """A message ends at `mark`. Raises ValueError if that is empty, TypeError if it is not bytes."""

    mark: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.mark, bytes):
            raise TypeError(f"a mark is bytes, not {type(self.mark).__name__}")
        if not self.mark:
            raise ValueError("a mark has at least one byte")

    @property
    def name(self) -> str:
        text = repr(self.mark)[2:-1]
        if AS_IN_PYTHON.fullmatch(text):  # it would be taken for what Python writes around a mark
            text = r"\x62" + text[1:]
        return f"delimited({text})"

    def cutter(self, max_message_size: int) -> Cutter:
        return MarkCutter(max_message_size, self.mark)

    def frame(self, message: bytes) -> bytes:
        return message + self.mark


class PrefixCutter(Cutter):
    """Cuts by the length before each message; `_whole` counts both for the unfinished one, 0 if not yet known."""

    __slots__ = ("_prefix", "_whole")

    def __init__(self, limit: int, prefix: struct.Struct) -> None:
        super().__init__(limit)
        self._prefix = prefix
        self._whole = 0

    def feed(self, data: bytes) -> list[bytes]:
        width = self._prefix.size
        if self._unfinished is None and len(data) >= width:
            length = self._prefix.unpack_from(data)[0]
            if length == len(data) - width and length <= self._limit:
                return [data[width:]]
        messages: list[bytes] = []
        self._walk(self._refill(data, messages), messages)
        return messages

    def _refill(self, data: bytes, messages: list[bytes]) -> bytes:
        """Feed the unfinished message first; what is left of `data` begins with a prefix."""
        unfinished = self._unfinished
        if unfinished is None:
            return data
        if not self._whole:
            self._unfinished = None
            return bytes(unfinished) + data
        missing = self._whole - len(unfinished)
        unfinished += data[:missing]
        if len(data) >= missing:
            self._unfinished = None
            messages.append(bytes(memoryview(unfinished)[self._prefix.size :]))
        return data[missing:]

    def _walk(self, data: bytes, messages: list[bytes]) -> None:
        width = self._prefix.size
        at = whole = 0
        while len(data) - at >= width:
            length = self._prefix.unpack_from(data, at)[0]
            if length > self._limit:
                self._too_long(messages)
            if len(data) - at < width + length:
                whole = width + length
                break
            messages.append(data[at + width : at + width + length])
            at += width + length
        if at < len(data):
            self._unfinished = bytearray(data[at:])
            self._whole = whole


class Prefixed(Framing, frozen=True):
    """A message goes behind its length: an unsigned number of `width` bytes, big-endian, the prefix not counted.

    Raises ValueError unless `width` is 1, 2 or 4.
    """

    width: int

    def __post_init__(self) -> None:
        if self.width not in PREFIXES:
            raise ValueError(f"a prefix has 1, 2 or 4 bytes, not {self.width!r}")

    @property
    def name(self) -> str:
        return f"prefixed({self.width})"

    def cutter(self, max_message_size: int) -> Cutter:
        return PrefixCutter(max_message_size, PREFIXES[self.width])

    def frame(self, message: bytes) -> bytes:
        """The message behind its length. Raises ValueError if its length does not fit the prefix."""
        try:
            return PREFIXES[self.width].pack(len(message)) + message
        except struct.error:
            most = 256**self.width - 1
            reason = f"a reply of {len(message)} bytes does not fit {self.name}, which takes {most} at most"
            raise ValueError(reason) from None


stream = Stream()
lines = Lines()
delimited = Delimited
prefixed = Prefixed

NAMES = ("stream", "lines", "delimited", "prefixed")
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\", "'": "'"}
ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.?))", re.DOTALL)


def parse(text: str) -> Framing:
    r"""The framing that a command line names: `stream`, `lines`, `delimited(\r\n)`, `prefixed(4)`.

    A mark may hold \n \r \t \0 \\ and \xNN, and may also be written as in Python: `delimited(b"\r\n")`.
    Raises BadSetting with the nearest right word.
    """
    match = re.fullmatch(r"\s*(\w*)\s*(?:\((.*)\)\s*)?", text, re.DOTALL)
    word, argument = match.groups() if match else (text, None)
    what = f"--framing is {text!r}."
    if word not in NAMES:
        raise BadSetting(what, f"There is no framing {word!r}.", nearest(word, NAMES))
    if word in ("stream", "lines"):
        if argument is not None:
            raise BadSetting(what, f"{word} takes nothing in brackets.", f"Write {word}.")
        return stream if word == "stream" else lines
    argument = argument or ""
    if word == "prefixed":
        if argument.strip() not in ("1", "2", "4"):
            raise BadSetting(what, "A prefix has 1, 2 or 4 bytes.", "Write prefixed(1), prefixed(2) or prefixed(4).")
        return prefixed(int(argument))
    try:
        return delimited(_unescaped(argument))
    except ValueError as error:
        hint = r"Write the mark in brackets, as in delimited(\r\n); \n \r \t \0 \\ and \xNN are known."
        raise BadSetting(what, f"This is no mark: {error}.", hint) from None


def _unescaped(text: str) -> bytes:
    if AS_IN_PYTHON.fullmatch(text):
        text = text[2:-1]
    mark, at = b"", 0
    for escape in ESCAPE.finditer(text):
        digits, letter = escape.groups()
        if digits is None and letter not in ESCAPES:
            raise ValueError(f"{escape[0]} is unknown")
        mark += text[at : escape.start()].encode() + (bytes.fromhex(digits) if digits else ESCAPES[letter].encode())
        at = escape.end()
    return mark + text[at:].encode()
