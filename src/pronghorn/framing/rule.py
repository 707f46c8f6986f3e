"""What every framing is: a rule, and the cutter that follows the rule over one connection.

Law: bytes in, messages out, and back; no sockets, no clock, no handler. A `Framing` is a rule: frozen, shared by all
connections. Its `cutter()` is one connection's memory of the rule: fed whatever arrived, the cutter gives the messages
that are now whole. How the bytes were split on their way never changes the messages, nor whether one is wrong.

What is unfinished waits in one bytearray, so that memory stays near the limit even when a peer sends two bytes at a
time (a list of such pieces takes 28 times as much), and no byte of it is searched twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NoReturn, cast

import msgspec

from pronghorn.errors import BadMessage, MessageTooLong

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    M = TypeVar("M", default=bytes)
    R = TypeVar("R", default=M)
else:
    from typing import TypeVar

    M, R = TypeVar("M"), TypeVar("R")

LONGEST_HEADER = 64 * 1024
"""What may stand around a message: a rule that still knows no end so far beyond the limit finds none."""
Place = tuple[int, int, int]
"""Where a message lies in what has arrived: its first byte, the byte behind its last, and where the next one begins."""


def with_defaults(generic: Any, types: Any) -> tuple[Any, ...]:
    """The types in a generic class's brackets, [M] for [M, M]: until Python 3.13 type variables have no defaults."""
    given = types if isinstance(types, tuple) else (types,)
    return (*given, *given[-1:] * (len(generic.__parameters__) - len(given)))


class Cutter(Generic[M]):
    """One connection's cutter: the base of all. After BadMessage a cutter is spent: its connection is to be closed."""

    __slots__ = ("_limit", "_unfinished")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._unfinished: bytearray | None = None

    @property
    def partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._unfinished is not None

    @property
    def unfinished(self) -> bytes | None:
        """What has come of the message that has begun, as it came: fed to another cutter of the same rule it makes that
        one what this is. None if a cutter of one's own keeps that elsewhere."""
        if self._unfinished is None:
            return None if self.partial else b""
        return bytes(self._unfinished)

    def feed(self, data: bytes) -> list[M]:
        """The messages that `data` completes, without their mark, in order; often none.

        Raises MessageTooLong as soon as a message must exceed the limit, and BadMessage as soon as what came cannot be
        a message; the error's `complete` holds the messages before it.
        """
        raise NotImplementedError

    def finish(self) -> list[M]:
        """The peer has ended: what is unfinished, if this framing delivers it; otherwise it is dropped."""
        self._unfinished = None
        return []

    def _too_long(self, complete: list[bytes]) -> NoReturn:
        self._unfinished = None
        raise MessageTooLong(self._limit, complete)


class Framing(msgspec.Struct, Generic[M, R], frozen=True):
    """A rule that cuts bytes into messages; two with the same rule are equal.

    `Framing[M, R]` makes messages of type M, and writes replies of type R; R is M, and M is bytes, unless said.

    A framing of your own is a subclass with two methods: `place` says where one message lies, and `frame` writes a
    reply. `pronghorn.testing.check_framing` tries it.
    """

    if not TYPE_CHECKING:

        def __class_getitem__(cls, types: Any) -> Any:
            """Framing[M] is Framing[M, M]."""
            return super().__class_getitem__(with_defaults(cls, types))

    @property
    def name(self) -> str:
        """As `--framing` takes it back; for a framing of your own, the name of its class."""
        return type(self).__name__

    def cutter(self, max_message_size: int) -> Cutter[M]:
        """A cutter for one connection; a message may have `max_message_size` bytes, its mark not counted."""
        return PlaceCutter(self, max_message_size)

    def place(self, data: bytes | bytearray, start: int, searched: int, limit: int) -> Place | None:
        """Where the message that begins at `data[start]` lies; None if its length cannot be known yet.

        The place may end beyond `data`, for a message of at least so many bytes: `place` is called again when they are
        there. `searched` is where `data` ended when None was last returned for this message (`start` at first), so that
        no byte needs to be searched twice. How many bytes have arrived must not change what the message is in the end.
        Raises MessageTooLong if the message must exceed `limit`, BadMessage or ValueError if it is wrong. A place whose
        message is longer than `limit` is refused by the caller.
        """
        raise NotImplementedError

    def message(self, data: bytes) -> M:
        """The message that the handler gets for these bytes: the bytes themselves, but for a framing of text."""
        return cast(M, data)

    def rest(self, data: bytes) -> bytes | None:
        """What the peer's end makes of an unfinished message: None if it is dropped, as by most."""
        return None

    def frame(self, message: R) -> bytes:
        """The message with its mark put back, as it goes over the wire; it is not searched for marks of its own."""
        raise NotImplementedError


class PlaceCutter(Cutter[M]):
    """Cuts by asking the rule where each message lies."""

    __slots__ = ("_least", "_rule", "_searched")

    def __init__(self, rule: Framing[M, Any], limit: int) -> None:
        super().__init__(limit)
        self._rule = rule
        self._least = 0  # bytes that the unfinished message has at least
        self._searched = 0

    def feed(self, data: bytes) -> list[M]:
        messages: list[M] = []
        unfinished = self._unfinished
        if unfinished is not None:
            unfinished += data
            if len(unfinished) < self._least:
                return messages
        try:
            at = self._walk(data if unfinished is None else unfinished, messages)
        except BadMessage as error:
            self._unfinished = None
            error.complete = messages
            raise
        if unfinished is None:
            self._unfinished = bytearray(memoryview(data)[at:]) if at < len(data) else None
        elif at == len(unfinished):
            self._unfinished = None
        else:
            del unfinished[:at]
        return messages

    def _walk(self, data: bytes | bytearray, messages: list[M]) -> int:
        """Cut what is whole; where the unfinished message begins."""
        at, searched = 0, self._searched
        self._least = self._searched = 0
        while at < len(data):
            place = self._ask(data, at, searched)
            if place is None:
                self._searched = len(data) - at
                if self._searched > self._limit + LONGEST_HEADER:
                    raise MessageTooLong(self._limit)
                break
            first, last, end = place
            if end > len(data):
                self._least = end - at
                break
            self._add(data[first:last] if isinstance(data, bytes) else bytes(memoryview(data)[first:last]), messages)
            at = searched = end
        return at

    def _ask(self, data: bytes | bytearray, at: int, searched: int) -> Place | None:
        try:
            place = self._rule.place(data, at, searched, self._limit)
        except ValueError as error:
            raise self._wrong(error) from error
        if place is not None:
            if place[1] - place[0] > self._limit:
                raise MessageTooLong(self._limit)
            if not at <= place[0] <= place[1] <= place[2] != at:
                raise RuntimeError(f"{self._rule.name} has the message at {at} lie at {place}, which is not in order")
        return place

    def _add(self, data: bytes, messages: list[M]) -> None:
        try:
            messages.append(self._rule.message(data))
        except ValueError as error:
            raise self._wrong(error) from error

    def _wrong(self, error: ValueError) -> BadMessage:
        return BadMessage(f"what came is no message of {self._rule.name}: {error}")

    def finish(self) -> list[M]:
        unfinished, self._unfinished = self._unfinished, None
        rest = None if unfinished is None else self._rule.rest(bytes(unfinished))
        messages: list[M] = []
        if rest is not None:
            if len(rest) > self._limit:
                raise MessageTooLong(self._limit)
            self._add(rest, messages)
        return messages


def begins(data: bytes | bytearray, at: int, mark: bytes) -> bool:
    """Whether `mark` stands at `at`, whole; false if it may yet come. Raises ValueError if something else is there."""
    found = bytes(data[at : at + len(mark)])
    if found == mark:
        return True
    if mark.startswith(found):
        return False
    raise ValueError(f"{mark!r} is expected, and {found!r} came")


def check_mark(mark: object, *, may_be_empty: bool = False) -> None:
    """Raises TypeError unless `mark` is bytes, ValueError if it is empty and must not be."""
    if not isinstance(mark, bytes):
        raise TypeError(f"a mark is bytes, not {type(mark).__name__}")
    if not mark and not may_be_empty:
        raise ValueError("a mark has at least one byte")


def written(word: str, rule: Framing[Any, Any]) -> str:
    """A rule as `--framing` takes it: its word, and in brackets what it needs and what is not as usual."""
    parts = []
    for field in msgspec.structs.fields(rule):
        value = getattr(rule, field.name)
        if field.required or value != field.default:
            text = escaped(value) if isinstance(value, bytes) else "yes" if value is True else str(value)
            parts.append(text if field.required else f"{field.name}={text}")
    return f"{word}({', '.join(parts)})" if parts else word


def escaped(mark: bytes) -> str:
    """A mark in the brackets of a name, where commas and spaces part, and `=` follows a name."""
    text = repr(mark)[2:-1]
    for each in ",= ":
        text = text.replace(each, f"\\x{ord(each):02x}")
    return r"\x62" + text[1:] if text[:1] == "b" else text
