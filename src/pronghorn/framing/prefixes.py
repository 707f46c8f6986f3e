"""Framings with a length in front, as a binary number: prefixed, varint; and fixed, where none is needed."""

from __future__ import annotations

import struct
from typing import Literal

from pronghorn.framing.rule import Cutter, Framing, Place, PlaceCutter, begins, check_mark, written

WIDTHS = (1, 2, 3, 4, 8)
PREFIXES = {1: struct.Struct(">B"), 2: struct.Struct(">H"), 4: struct.Struct(">I"), 8: struct.Struct(">Q")}
LITTLE = {1: struct.Struct("<B"), 2: struct.Struct("<H"), 4: struct.Struct("<I"), 8: struct.Struct("<Q")}
LONGEST_VARINT = 10


class PrefixCutter(Cutter[bytes]):
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


class Prefixed(Framing[bytes], frozen=True):
    """A message goes behind its length: an unsigned number of 1, 2, 4 or 8 bytes, big-endian, the prefix not counted.

    `prefixed` makes this, or a `Header` for all that is not so plain.
    """

    width: int

    @property
    def name(self) -> str:
        return f"prefixed({self.width})"

    def cutter(self, max_message_size: int) -> Cutter[bytes]:
        return PrefixCutter(max_message_size, PREFIXES[self.width])

    def place(self, data: bytes | bytearray, start: int, searched: int, limit: int) -> Place | None:
        return Header(self.width).place(data, start, searched, limit)

    def frame(self, message: bytes) -> bytes:
        """The message behind its length. Raises ValueError if its length does not fit the prefix."""
        try:
            return PREFIXES[self.width].pack(len(message)) + message
        except struct.error:
            raise too_large(self, len(message), 256**self.width - 1) from None


class Header(Framing[bytes], frozen=True):
    """A message has a header with its length; see `prefixed`."""

    width: int
    order: Literal["big", "little"] = "big"
    offset: int | None = None
    adjust: int = 0
    strip: int | None = None
    start: bytes = b""
    trailer: bytes = b""

    def __post_init__(self) -> None:
        if self.width not in WIDTHS:
            raise ValueError(f"a prefix has 1, 2, 3, 4 or 8 bytes, not {self.width!r}")
        if self.order not in ("big", "little"):
            raise ValueError(f"the order of bytes is big or little, not {self.order!r}")
        for mark in (self.start, self.trailer):
            check_mark(mark, may_be_empty=True)
        if self.number_at < len(self.start):
            raise ValueError(f"offset={self.number_at} lies within start, which has {len(self.start)} bytes")
        known = (*range(len(self.start) + 1), *([self.header] if self.number_at == len(self.start) else []))
        if self.stripped not in known:
            may = " or ".join(map(str, known))
            raise ValueError(f"strip={self.strip} takes bytes away that no reply could get back; it may be {may}")

    @property
    def name(self) -> str:
        return written("prefixed", self)

    @property
    def number_at(self) -> int:
        """How many bytes stand before the length."""
        return len(self.start) if self.offset is None else self.offset

    @property
    def header(self) -> int:
        """How many bytes the header has, up to the length and with it."""
        return self.number_at + self.width

    @property
    def stripped(self) -> int:
        """How many bytes of the header the handler does not see."""
        if self.strip is not None:
            return self.strip
        return self.header if self.number_at == len(self.start) else 0

    def cutter(self, max_message_size: int) -> Cutter[bytes]:
        if self.width in PREFIXES and self == Header(self.width, self.order):
            return PrefixCutter(max_message_size, (PREFIXES if self.order == "big" else LITTLE)[self.width])
        return PlaceCutter(self, max_message_size)

    def place(self, data: bytes | bytearray, start: int, searched: int, limit: int) -> Place | None:
        body = start + self.header
        if not begins(data, start, self.start):
            return None
        if len(data) < body:
            return start, start, body
        length = int.from_bytes(data[body - self.width : body], self.order) + self.adjust
        first, last = start + self.stripped, body + length
        if length < 0:
            raise ValueError(f"its length is {length - self.adjust}, and cannot be less than {-self.adjust}")
        if first > last:
            raise ValueError("it ends within its header")
        end = last + len(self.trailer)
        if end <= len(data):
            begins(data, last, self.trailer)
        return first, last, end

    def frame(self, message: bytes) -> bytes:
        """The reply with its length written in; where the header is not stripped, the reply brings its own header, and
        the length in it is written over. Raises ValueError if the length does not fit, or the header is not whole."""
        whole = self.stripped == self.header
        before = self.start + bytes(self.width) if whole else self.start[: self.stripped]
        raw = bytearray(before + message)
        if len(raw) < self.header:
            raise ValueError(f"a reply of {len(message)} bytes lacks the header of {self.name}, or a part of it")
        number, most = len(raw) - self.header - self.adjust, 256**self.width - 1
        if not 0 <= number <= most:
            raise too_large(self, len(message), most + self.adjust + self.header - len(before))
        raw[self.number_at : self.header] = number.to_bytes(self.width, self.order)
        return bytes(raw) + self.trailer


def too_large(rule: Framing[bytes], size: int, most: int) -> ValueError:
    return ValueError(f"a reply of {size} bytes does not fit {rule.name}, which takes {most} at most")


def prefixed(
    width: int,
    order: Literal["big", "little"] = "big",
    *,
    offset: int | None = None,
    adjust: int = 0,
    strip: int | None = None,
    start: bytes = b"",
    trailer: bytes = b"",
) -> Prefixed | Header:
    """A message has its length in front: an unsigned number of `width` bytes (1, 2, 3, 4 or 8).

    `start`: the bytes that every message begins with; another beginning ends the connection. `offset`: how many bytes
    stand before the number (those of `start`, if nothing else is said). `adjust` is added to the number to get the
    count of bytes behind it: -2 if the number counts itself too, and has two bytes; 2 if a checksum of two bytes
    follows that it does not count. `trailer`: the bytes behind every message, neither counted nor given to the handler.
    `strip`: how many bytes of the header the handler does not see. If nothing is said, that is the whole header where a
    reply can get it back (`start` and the number); where other fields stand before the number, nothing is stripped, and
    the handler writes the header of its reply, in which the length is filled in.

    Raises ValueError for what cannot be, TypeError for a mark that is not bytes.
    """
    rule = Header(width, order, offset, adjust, strip, start, trailer)
    return Prefixed(width) if width in PREFIXES and rule == Header(width) else rule


class Varint(Framing[bytes], frozen=True):
    """A message goes behind its length as a base-128 varint, lowest seven bits first, as protocol buffers are sent."""

    @property
    def name(self) -> str:
        return "varint"

    def place(self, data: bytes | bytearray, start: int, searched: int, limit: int) -> Place | None:
        length = 0
        for count, byte in enumerate(data[start : start + LONGEST_VARINT]):
            length |= (byte & 0x7F) << 7 * count
            if byte < 0x80:
                first = start + count + 1
                return first, first + length, first + length
        if len(data) - start >= LONGEST_VARINT:
            raise ValueError(f"its length has more than {LONGEST_VARINT} bytes")
        return None

    def frame(self, message: bytes) -> bytes:
        length, prefix = len(message), bytearray()
        while length > 0x7F:
            prefix.append(length & 0x7F | 0x80)
            length >>= 7
        prefix.append(length)
        return bytes(prefix) + message


class Fixed(Framing[bytes], frozen=True):
    """Every message has the same size, in bytes. Raises ValueError if that is less than one."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a message has at least one byte, not {self.size!r}")

    @property
    def name(self) -> str:
        return f"fixed({self.size})"

    def place(self, data: bytes | bytearray, start: int, searched: int, limit: int) -> Place | None:
        return start, start + self.size, start + self.size

    def frame(self, message: bytes) -> bytes:
        """The message as it is. Raises ValueError if it has another size."""
        if len(message) != self.size:
            raise ValueError(f"a reply of {len(message)} bytes is no message of {self.name}")
        return message


varint: Varint = Varint()
fixed = Fixed
