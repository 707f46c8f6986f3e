"""Members: the connections of this process that have joined names, and how a message gets to them.

Law: whoever delivers never waits for a connection. A member takes a message at once or refuses it; what it has taken is
written in order, on the connection's own terms (connection/groups.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from pronghorn.bus.joined import JOINED


class Message:
    """What a handler's `on_bus` is called with."""

    __slots__ = ("_answer", "_framed", "_name", "_replied", "payload")

    def __init__(self, name: bytes, payload: bytes, answer: Callable[[bytes | None], None] | None = None) -> None:
        """`answer` is called once, with the answer, or with None if the handler has failed."""
        self._name, self.payload = name, payload
        self._answer = answer
        self._replied: Callable[[], None] | None = None
        self._framed: tuple[object, bytes] = None, b""  # by what, as one value for all threads

    def framed(self, frame: Callable[[bytes], bytes]) -> bytes:
        """The payload in this frame: the same bytes for all connections that have it."""
        by, raw = self._framed
        if by != frame:
            raw = frame(self.payload)
            self._framed = frame, raw
        return raw

    @property
    def name(self) -> str:
        """The name that it was published to."""
        return self._name.decode("utf-8", "surrogateescape")

    @property
    def asked(self) -> bool:
        """Whether somebody waits for `reply`: it was not called yet, and the time of whoever asks is not over."""
        return self._answer is not None

    def reply(self, payload: bytes) -> None:
        """Answer a question, once, from any thread: now, or when the client has answered. Nothing happens where nobody
        has asked, or waits any more. TypeError for what is not bytes."""
        try:
            payload = bytes(memoryview(payload))
        except TypeError:
            kind = type(payload).__name__
            todo = ": encode a str" if kind == "str" else ""
            raise TypeError(f"what on_bus returns, or reply sends, is bytes, not {kind}{todo}") from None
        answer, self._answer = self._answer, None
        if answer is not None:
            answer(payload)
        if self._replied is not None:
            self._replied()

    def when_replied(self, call: Callable[[], None]) -> None:
        """`call` is called after each `reply`, on the thread of that."""
        self._replied = call

    def withdraw(self) -> None:
        """Nobody waits any more."""
        self._answer = None

    def fail(self) -> None:
        """The handler's on_bus has raised an exception: whoever asked is told so."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer(None)

    def __repr__(self) -> str:
        return f"<Message to {self.name!r}, {len(self.payload):,} bytes{', asked' if self.asked else ''}>"


class Taker(Protocol):
    """A connection, as the bus sees it."""

    @property
    def loop(self) -> Any:
        """The loop that has it, on whose thread `write` is called; None if `take` is called in its place."""

    def is_over(self) -> bool: ...
    def answers(self) -> bool:
        """Whether its handler has an on_bus for it."""

    def take(self, message: Message) -> bool:
        """Take a message without a wait; false if it is refused. From any thread."""

    def write(self, message: Message) -> None: ...
    def evict(self) -> None:
        """Its name has gone to another connection: end it. From any thread."""


class Membership:
    """What one connection has joined. `end` is to be called when the connection has ended."""

    __slots__ = ("end", "names", "taker")

    def __init__(self, taker: Taker, end: Callable[[], None]) -> None:
        self.taker, self.end = taker, end
        self.names: dict[bytes, tuple[float, int]] = {}  # since when, and how


class Groups:
    """The names that connections of this process have joined."""

    def __init__(self) -> None:
        self._names: dict[bytes, dict[int, Taker]] = {}
        self._guard = threading.Lock()

    def add(self, number: int, name: bytes, mode: int, taker: Callable[[], Taker], end: Callable[[], None]) -> float:
        """A connection joins; `taker` makes what it is delivered by, if it has none yet. Gives the instant."""
        with self._guard:
            membership = JOINED.get(number)
            if membership is None:
                membership = JOINED[number] = Membership(taker(), end)
            since = time.monotonic()
            membership.names[name] = since, mode
            self._names.setdefault(name, {})[number] = membership.taker
        return since

    def remove(self, number: int, name: bytes) -> bool:
        """It leaves; whether it had joined. An empty name: all."""
        with self._guard:
            membership = JOINED.get(number)
            if membership is None:
                return False
            names = [name] if name else list(membership.names)
            found = False
            for each in names:
                if membership.names.pop(each, None) is not None:
                    found = True
                    takers = self._names[each]
                    del takers[number]
                    if not takers:
                        del self._names[each]
            if not membership.names:
                del JOINED[number]
        return found

    def all(self) -> Iterable[tuple[int, bytes, int, float]]:
        """Number, name, mode and instant of everything that is joined. One that took its name from others has it."""
        with self._guard:
            found = [(number, each.names.copy()) for number, each in JOINED.items()]
        for number, names in found:
            for name, (since, mode) in names.items():
                yield number, name, mode, since

    def takers(self, name: bytes, number: int = 0) -> list[Taker]:
        """Those that have joined, or the one that is meant, if it has."""
        with self._guard:
            takers = self._names.get(name, {})
            if number:
                return [takers[number]] if number in takers else []
            return list(takers.values())


def deliver(takers: Iterable[Taker], message: Message) -> int:
    """Hand a message over to connections; how many have taken it."""
    count = 0
    by_loop: dict[Any, list[Taker]] = {}
    last, some = None, list[Taker]()
    for each in takers:
        loop = each.loop
        if loop is None:
            count += each.take(message)
        elif not each.is_over():
            if loop is not last:
                last, some = loop, by_loop.setdefault(loop, [])
            some.append(each)
    for loop, some in by_loop.items():
        loop.call_soon_threadsafe(Writing(some, message))
        count += len(some)
    return count


class Writing:
    """A message for connections of one loop, to be written on its thread."""

    __slots__ = ("_message", "_takers")

    def __init__(self, takers: list[Taker], message: Message) -> None:
        self._takers, self._message = takers, message

    def __call__(self) -> None:
        for each in self._takers:
            each.write(self._message)
