"""The local bus in a worker: its link, what its connections have joined, and what is published from here.

Law: nothing of it is there before it is used: no thread, no descriptor. `identity.bus` says how the hub is reached, and
is set in workers; a forked process begins anew. What is asked here and cannot be had raises a BusError, and says so in
words.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from pronghorn import identity
from pronghorn.bus.errors import (
    BadBusMessage,
    BusError,
    BusLost,
    CannotAnswer,
    NameTaken,
    NoAnswer,
    NobodyThere,
)
from pronghorn.bus.joined import JOINED, place_of_bus
from pronghorn.bus.link import Link, result_of
from pronghorn.bus.members import Groups, Message, Taker, deliver
from pronghorn.bus.wire import (
    ANSWER,
    ANSWERED,
    ASK,
    DELIVER,
    EVICT,
    FAILED,
    JOIN,
    LATE,
    LEAVE,
    LONGEST_NAME,
    LONGEST_QUESTION,
    MUTE,
    NOBODY,
    PUBLISH,
    QUESTION,
    REACHED,
    REFUSE,
    REPLACE,
    SHARED,
    TOO_LONG,
    frame,
)

JOIN_PATIENCE = 1.0
"""Seconds that `join` waits for the hub."""
PATIENCE = 5.0
"""Seconds that `publish` and `ask` wait, unless they are told otherwise."""

Name = str | bytes
Payload = bytes | bytearray | memoryview


def name_of(name: Name) -> bytes:
    """A name as the bus carries it. Raises BadBusMessage, TypeError."""
    try:
        raw = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else bytes(memoryview(name))
    except TypeError:
        raise TypeError(f"a name on the bus is a str or bytes, not {type(name).__name__}") from None
    if not 0 < len(raw) <= LONGEST_NAME:
        hint = "Take a shorter name." if raw else "Take a name that is not empty."
        raise BadBusMessage(
            f"A name on the bus has from 1 to {LONGEST_NAME} bytes.", f"This one has {len(raw):,}.", hint
        )
    return raw


def seconds_of(timeout: float) -> float:
    """How long an answer may take, as the bus has it. Raises ValueError, TypeError."""
    if not hasattr(timeout, "__float__"):  # a str has none
        raise TypeError(f"a timeout is a number of seconds, not {type(timeout).__name__}")
    if not 0 < timeout <= LONGEST_QUESTION:
        raise ValueError(f"a timeout is in seconds, more than 0 and at most {LONGEST_QUESTION:,}; got {timeout!r}")
    return float(timeout)


def payload_of(payload: Payload, longest: int) -> bytes:
    """A payload as the bus carries it. Raises BadBusMessage, TypeError."""
    try:
        raw = bytes(memoryview(payload))
    except TypeError:
        raise TypeError(f"a payload is bytes, not {type(payload).__name__}: encode a str") from None
    if len(raw) > longest:
        raise BadBusMessage(
            f"A payload on the bus has {len(raw):,} bytes.",
            f"--bus-max-message allows {longest:,}.",
            "Send less at once, or raise that.",
        )
    return raw


def shown(name: bytes) -> str:
    """A name, for messages."""
    return name.decode("utf-8", "backslashreplace")


def one_of(to: str) -> bool:
    """What `to` says. Raises ValueError."""
    if to not in ("all", "one"):
        raise ValueError(f"to is 'all' or 'one'; got {to!r}")
    return to == "one"


def count_of(result: Sequence[int]) -> int:
    """How many connections were reached. Raises BadBusMessage."""
    if result[0] < 0:
        raise too_long()
    return result[0]


def too_long() -> BadBusMessage:
    why = "--bus-max-message of the server allows less."
    return BadBusMessage("The payload is too long.", why, "Send less at once, or raise that.")


def answer_of(name: bytes, status: int, payload: bytes, seconds: float) -> bytes:
    """The answer to a question, or the error that says why there is none."""
    if status == ANSWERED:
        return payload
    told = shown(name)
    errors: dict[int, BusError] = {
        NOBODY: NobodyThere(told),
        MUTE: CannotAnswer(told, "Its handler has no on_bus."),
        FAILED: CannotAnswer(told, "Its handler raised an exception; the server's log has it."),
        LATE: NoAnswer(told, seconds),
        TOO_LONG: too_long(),
    }
    raise errors.get(status) or BusLost("Its connection has ended before it answered.")


class LocalBus:
    """The bus of this process, which is a worker or its child."""

    def __init__(self, place: identity.BusPlace) -> None:
        self.longest = place.longest
        self._groups = Groups()
        self._undecided: set[tuple[int, bytes]] = set()  # names that the hub may refuse to these connections
        self._link = Link(place.connect, self._again, self._hear)

    # Joining.

    def join(self, number: int, name: Name, exclusive: bool | str, taker: Callable[[], Taker]) -> None:
        """See Connection.join."""
        raw, mode = name_of(name), mode_of(exclusive)
        if mode == REFUSE:
            return self._join_if_free(number, raw, taker)
        since = self._groups.add(number, raw, mode, taker, partial(self._ended, number))
        link = self._link
        try:
            if link.late:
                link.tell(JOIN, 0, number, raw, mode, since)  # it has the rest when the hub is back
                return
            (joined,) = link.request(JOIN_PATIENCE, JOIN, number, raw, mode, since)
        except BusError:
            return  # the link says it again
        if not joined:
            self._groups.remove(number, raw)
            raise NameTaken(shown(raw))

    def _join_if_free(self, number: int, name: bytes, taker: Callable[[], Taker]) -> None:
        """What the hub has not decided yet the link does not say again: a new link would take the name."""
        self._undecided.add((number, name))
        since, joined = self._groups.add(number, name, REFUSE, taker, partial(self._ended, number)), 0
        try:
            (joined,) = self._link.request(JOIN_PATIENCE, JOIN, number, name, REFUSE, since)
        except BusError:
            self._link.tell(LEAVE, number, name)
            raise
        finally:
            self._undecided.discard((number, name))
            if not joined:
                self._groups.remove(number, name)
        if not joined:
            raise NameTaken(shown(name))

    def leave(self, number: int, name: Name) -> None:
        """See Connection.leave."""
        raw = name_of(name)
        if self._groups.remove(number, raw):
            self._link.tell(LEAVE, number, raw)

    def _ended(self, number: int) -> None:
        """A connection has ended."""
        if self._groups.remove(number, b""):
            self._link.tell(LEAVE, number, b"")

    # Publishing and asking.

    def publish(self, name: Name, payload: Payload, to: str, seconds: float) -> int:
        raw = name_of(name)
        fields = raw, payload_of(payload, self.longest), one_of(to)
        return count_of(self._link.request(seconds, PUBLISH, *fields))

    def ask(self, name: Name, payload: Payload, seconds: float) -> bytes:
        raw = name_of(name)
        fields = raw, payload_of(payload, self.longest), seconds_of(seconds)
        status, answer = self._link.request(seconds + PATIENCE, ASK, *fields)  # the hub says when it is over
        return answer_of(raw, status, answer, seconds)

    async def apublish(self, name: Name, payload: Payload, to: str, seconds: float) -> int:
        raw = name_of(name)
        fields = raw, payload_of(payload, self.longest), one_of(to)
        return count_of(await result_of(self._link, seconds, PUBLISH, *fields))

    async def aask(self, name: Name, payload: Payload, seconds: float) -> bytes:
        raw = name_of(name)
        fields = raw, payload_of(payload, self.longest), seconds_of(seconds)
        status, answer = await result_of(self._link, seconds + PATIENCE, ASK, *fields)
        return answer_of(raw, status, answer, seconds)

    # What the hub says, on the link's thread.

    def _again(self) -> Iterator[bytes]:
        for number, name, mode, since in self._groups.all():
            if (number, name) in self._undecided:
                continue
            yield frame(JOIN, 0, number, name, REPLACE if mode == REFUSE else mode, since)

    def _hear(self, fields: Sequence[Any]) -> None:
        kind = fields[0]
        if kind == DELIVER:
            _, delivery, name, payload, number = fields
            count = deliver(self._groups.takers(name, number), Message(name, payload))
            self._link.tell(REACHED, delivery, count)
        elif kind == QUESTION:
            _, delivery, name, payload, number = fields
            self._ask_here(delivery, name, payload, number)
        elif kind == EVICT:
            _, number, name = fields
            takers = self._groups.takers(name, number)
            self._groups.remove(number, name)
            for each in takers:
                each.evict()

    def _ask_here(self, delivery: int, name: bytes, payload: bytes, number: int) -> None:
        takers = self._groups.takers(name, number)
        status = NOBODY
        if takers and not takers[0].answers():
            status = MUTE
        elif takers:
            message = Message(name, payload, lambda raw: self._answer(delivery, raw))
            if deliver(takers, message):
                return
        self._link.tell(ANSWER, delivery, status, b"")

    def _answer(self, delivery: int, raw: bytes | None) -> None:
        if raw is None:
            self._link.tell(ANSWER, delivery, FAILED, b"")
        else:
            self._link.tell(ANSWER, delivery, ANSWERED, payload_of(raw, self.longest))

    def forget(self) -> None:
        """In a forked process: the parent's link is not its own."""
        sock = self._link._sock
        if sock is not None:
            sock.close()


def mode_of(exclusive: bool | str) -> int:
    """What `exclusive` says. Raises ValueError."""
    if isinstance(exclusive, str):
        if exclusive != "refuse":
            raise ValueError(f"exclusive is False, True or 'refuse'; got {exclusive!r}")
        return REFUSE
    return REPLACE if exclusive else SHARED


dropped = 0
"""Messages for connections that did not read, which were dropped."""


def note_dropped() -> None:
    """A message that a connection had taken was dropped."""
    global dropped
    dropped += 1


_guard = threading.Lock()
_bus: LocalBus | None = None


def here() -> LocalBus:
    """The bus of this process. Raises BusUnavailable where there is none."""
    global _bus
    if _bus is None:
        place = place_of_bus()
        with _guard:
            if _bus is None:
                _bus = LocalBus(place)
    return _bus


def _begin_anew() -> None:
    global _bus, _guard
    JOINED.clear()
    if _bus is not None:
        _bus.forget()
    _bus, _guard = None, threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)
