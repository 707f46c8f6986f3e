"""What a handler object takes along when its connection moves: pickled, with the server's own objects as references."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import pytest

from pronghorn import lifespans
from pronghorn.framing import lines, prefixed
from pronghorn.handlers.message_connection import MessageConnection
from pronghorn.handlers.messages import message
from pronghorn.handlers.moved_state import CannotMove, depart, movable, read, written
from pronghorn.handlers.protocols import Protocol
from pronghorn.handlers.recognise import recognise
from pronghorn.settings import Settings
from pronghorn.system.drain import Drain
from pronghorn.testing.transport import FakeTransport


class Place(FakeTransport):
    """A transport that a state is taken from, and given to."""

    def __init__(self, handler: Any) -> None:
        super().__init__(lifespan=lifespans.current_lifespan())
        self.drain = self.own_drain = self.process_drain = Drain(1.0)
        self.protocol = handler.protocol()
        self.protocol.connection_made(self)

    def call_later(self, delay: float, call: Any) -> Any:
        return threading.Timer(delay, call)  # which is never started

    def ended_by(self, error: Any) -> str:
        return "done"

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol


def handler_of(found: Any) -> Any:
    return recognise(found, Settings())


def moved(found: Any, then: Any = None, feed: bytes = b"") -> tuple[Any, Any]:
    """A handler's protocol that was fed some bytes, and the one in another place, of the same code or of new."""
    before, after = handler_of(found), handler_of(then or found)
    old = Place(before)
    if feed:
        old.protocol.data_received(feed)
    new = Place(after)
    new.take()
    return old.protocol, read(after, new, written(before, old))


class Counter:
    """Refers to its connection in three ways, and to the lifespan's value."""

    def __init__(self, conn: MessageConnection) -> None:
        self.conn, self.pool = conn, conn.lifespan
        self.seen: list[bytes] = []
        self.also = {"conn": conn, "self": self, "send": self.say}
        conn.send(b"welcome")

    def say(self, text: bytes) -> None:
        self.conn.send(text)

    def __call__(self, line: bytes) -> bytes:
        self.seen.append(line)
        return b"%d" % len(self.seen)


message(lines)(Counter)


def test_the_state_moves_and_what_is_the_servers_is_the_new_place_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifespans, "_value", pool := threading.Lock())
    old, new = moved(Counter, feed=b"one\ntwo\nthr")
    counter = new.object
    assert counter is not old.object and counter.seen == [b"one", b"two"] and new.messages == 2
    assert counter.pool is pool and counter.also["self"] is counter and counter.conn._protocol is new
    assert new.transport.take() == b"" and old.transport.written[:8] == b"welcome\n"  # it is not greeted twice
    new.data_received(b"ee\n")
    counter.also["send"](b"bye")
    assert counter.seen[-1] == b"three" and new.transport.take() == b"3\nbye\n"


class Slotted(Protocol):
    __slots__ = ("count", "transport")

    def connection_made(self, transport: Any) -> None:
        self.transport, self.count = transport, 0

    def data_received(self, data: bytes) -> None:
        self.count += len(data)


class Versioned(Protocol):
    def __getstate__(self) -> Any:
        return {"name": "of old"}

    def __setstate__(self, state: Any) -> None:
        self.name = state["name"]

    def handed_over(self, conn: Any, state: Any) -> None:
        self.told = conn, state


def test_a_protocol_moves_by_slots_or_by_its_own_methods_and_is_told() -> None:
    _, new = moved(Slotted, feed=b"12345")
    assert new.count == 5 and isinstance(new.transport, Place)
    _, new = moved(Versioned)
    assert new.name == "of old" and new.told[1] == {"name": "of old"} and isinstance(new.told[0], Place)


def test_the_class_is_that_of_the_new_code_whatever_its_name() -> None:
    class Newer(Counter):
        def handed_over(self, conn: MessageConnection, state: dict[str, Any]) -> None:
            conn.send(b"v2 of %d" % len(state["seen"]))

    _, new = moved(Counter, message(lines)(Newer), feed=b"one\n")
    assert type(new.object) is Newer and new.transport.take() == b"v2 of 1\n"


def test_a_function_needs_no_state_and_what_has_come_of_a_message_moves() -> None:
    @message(prefixed(2))
    def reply(text: bytes) -> bytes:
        return text.upper()

    _, new = moved(reply, feed=b"\0\3ab")
    new.data_received(b"c\0\1")
    assert new.transport.take() == b"\0\3ABC" and new.unfinished


def test_with_another_framing_a_connection_stays() -> None:
    @message(prefixed(1))
    def before(text: bytes) -> None: ...
    @message(lines)
    def after(text: bytes) -> bytes:
        return text

    with pytest.raises(CannotMove, match=r"its framing is prefixed\(1\), and that of the new handler lines"):
        moved(before, after, feed=b"\x09a\nb\nc")


class Timed:
    """Is told of its begin and its end, and has a timer, which it starts again where it has moved to."""

    told: ClassVar[list[str]] = []

    def __init__(self, conn: MessageConnection) -> None:
        self.conn = conn

    def connected(self) -> None:
        self.told.append("connected")
        self.timer = self.conn.every(10, self.told.append, "tick")

    def __call__(self, line: bytes) -> None: ...

    def closed(self, reason: str) -> None:
        self.told.append("closed")

    def handed_over(self, conn: MessageConnection, state: Any) -> None:
        self.told.append("handed over")


def test_the_old_object_hears_nothing_and_its_timers_end_there() -> None:
    Timed.told.clear()
    old, new = moved(message(lines)(Timed))
    assert old.has_timers and not new.has_timers
    assert old.object.timer.active and not new.object.timer.active
    new.object.timer.cancel()
    depart(old)
    old.connection_lost(None)
    assert not old.has_timers and "closed" not in Timed.told and Timed.told[-1] == "handed over"
    new.connection_lost(None)
    assert Timed.told[-1] == "closed"
    Timed.handed_over = None  # type: ignore[assignment,method-assign]
    assert "handed_over is None" in movable(handler_of(Timed))
    del Timed.handed_over
    with pytest.raises(CannotMove, match="it has timers"):
        moved(Timed)


class Locked(Protocol):
    def connection_made(self, transport: Any) -> None:
        self.lock = threading.Lock()


class Refuses(Protocol):
    handed_over = None


class Bare:
    def __call__(self, text: bytes) -> bytes:
        return text


def test_what_cannot_move_says_why() -> None:
    with pytest.raises(
        CannotMove, match=r"does not pickle: cannot pickle '_thread\.lock' object, in its attribute 'lock'"
    ):
        moved(Locked)
    assert movable(handler_of(Refuses)) == "Refuses.handed_over is None" and movable(handler_of(Slotted)) == ""
    assert "blocking" in movable(handler_of(lambda conn: None))
    with pytest.raises(CannotMove, match="the new handler is no class"):
        moved(message(lines)(Bare), message(lines)(lambda text: text))
    with pytest.raises(CannotMove, match="only one is a class"):
        moved(message(lines)(lambda text: text), Bare)
    with pytest.raises(CannotMove, match="another style"):
        moved(Slotted, message(lines)(Bare))
