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
from pronghorn.bus import requests
from pronghorn.bus.errors import BusError, BusUnavailable, NameTaken
from pronghorn.bus.joined import JOINED, Exclusive, place_of_bus
from pronghorn.bus.link import Link
from pronghorn.bus.members import Groups, Message, Taker, deliver
from pronghorn.bus.requests import Name, Payload, To, name_of, payload_of, shown
from pronghorn.bus.wire import (
    ANSWER,
    ANSWERED,
    CANCEL,
    DELIVER,
    EVICT,
    FAILED,
    GRANTED,
    JOIN,
    LEAVE,
    MUTE,
    NOBODY,
    QUESTION,
    REACHED,
    REFUSE,
    REPLACE,
    SHARED,
    UNDECIDED,
    frame,
)

JOIN_PATIENCE = 1.0
"""Seconds that `join` waits for the hub."""


class LocalBus:
    """The bus of this process, which is a worker or its child."""

    def __init__(self, place: identity.BusPlace) -> None:
        self.longest = place.longest
        self._groups = Groups()
        self._undecided: set[tuple[int, bytes]] = set()  # names that the hub may refuse to these connections
        self._open: dict[int, tuple[int, Message]] = {}
        """Questions that are not answered yet, each with the connection that was asked."""
        self._link = Link(place.connect, self._again, self._hear)

    # Joining.

    def join(self, number: int, name: Name, exclusive: Exclusive, taker: Callable[[], Taker]) -> None:
        """See Connection.join."""
        raw, mode = name_of(name), mode_of(exclusive)
        if mode == REFUSE:
            return self._join_if_free(number, raw, taker)
        since = self._groups.add(number, raw, mode, taker, partial(self._ended, number))
        link = self._link
        try:
            if link.late:
                link.tell_later(JOIN, 0, number, raw, mode, since)  # it has the rest when the hub is back
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
            self._link.tell_later(LEAVE, number, name)
            raise
        finally:
            self._undecided.discard((number, name))
            if joined != GRANTED:
                self._groups.remove(number, name)
        if joined == UNDECIDED:
            raise BusUnavailable("The broker is away, and another host may have the name.", "Join again later.")
        if not joined:
            raise NameTaken(shown(name))

    def leave(self, number: int, name: Name) -> None:
        """See Connection.leave."""
        raw = name_of(name)
        if self._groups.remove(number, raw):
            self._link.tell_later(LEAVE, number, raw)

    def _ended(self, number: int) -> None:
        """A connection has ended: on a loop's thread, which waits for nobody."""
        if self._groups.remove(number, b""):
            self._link.tell_later(LEAVE, number, b"")

    # Publishing and asking.

    def _linked(self) -> Link:
        return self._link

    def publish(self, name: Name, payload: Payload, to: To, seconds: float) -> int:
        return requests.publish(self._linked, self.longest, name, payload, to, seconds)

    def ask(self, name: Name, payload: Payload, seconds: float) -> bytes:
        return requests.ask(self._linked, self.longest, name, payload, seconds)

    async def apublish(self, name: Name, payload: Payload, to: To, seconds: float) -> int:
        return await requests.apublish(self._linked, self.longest, name, payload, to, seconds)

    async def aask(self, name: Name, payload: Payload, seconds: float) -> bytes:
        return await requests.aask(self._linked, self.longest, name, payload, seconds)

    # What the hub says, on the link's thread.

    def _again(self) -> Iterator[bytes]:
        for delivery in list(self._open):  # another hub has other numbers for its questions
            self._withdraw(delivery)
        yield b""
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
        elif kind == CANCEL:
            self._withdraw(fields[1])
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
            message = Message(name, payload, partial(self._answer, delivery))
            self._open[delivery] = number, message
            if deliver(takers, message):
                return
            self._open.pop(delivery, None)
        self._link.tell(ANSWER, delivery, status, b"")

    def _withdraw(self, delivery: int) -> None:
        _, message = self._open.pop(delivery, (0, None))
        if message is not None:
            message.withdraw()

    def asks(self, number: int) -> bool:
        """Whether somebody waits for an answer of this connection."""
        return any(each == number for each, _ in list(self._open.values()))

    def _answer(self, delivery: int, raw: bytes | None) -> None:
        if self._open.pop(delivery, None) is None:
            return
        status, payload = FAILED, b""
        try:
            if raw is not None:
                payload = payload_of(raw, self.longest)
                status = ANSWERED
        finally:
            self._link.tell_later(ANSWER, delivery, status, payload)

    def forget(self) -> None:
        """In a forked process: the parent's link is not its own."""
        self._link.let_go()


def mode_of(exclusive: Exclusive) -> int:
    """What `exclusive` says. Raises ValueError."""
    if isinstance(exclusive, str) and exclusive == "refuse":
        return REFUSE
    if exclusive in (False, True):
        return REPLACE if exclusive else SHARED
    raise ValueError(f"exclusive is False, True or 'refuse'; got {exclusive!r}")


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


def asks(number: int) -> bool:
    """Whether somebody waits for an answer of this connection, which has joined something."""
    return _bus is not None and _bus.asks(number)


def _begin_anew() -> None:
    global _bus, _guard
    JOINED.clear()
    if _bus is not None:
        _bus.forget()
    _bus, _guard = None, threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)
