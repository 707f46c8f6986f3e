"""Message handlers, spoken to through a transport that only records."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest

import pronghorn
from pronghorn.connection.transport import check_bytes
from pronghorn.errors import MessageTooLong
from pronghorn.framing import Framing, lines, prefixed, stream
from pronghorn.handlers.message_connection import MessageConnection
from pronghorn.handlers.message_protocol import MessageProtocol
from pronghorn.handlers.messages import FRAMING, MessageStyle, message


class Wire:
    """A transport that keeps what is written; `slow` is a peer who does not read."""

    number, peer, draining = 7, ("203.0.113.1", 4711), False

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = self.slow = False

    def write(self, data: bytes) -> None:
        check_bytes(data)
        if not self.closed:
            self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.writes)) if self.slow else 0


def conversation(
    handler: Callable[..., Any], framing: Framing = lines, high_water: int = 1000
) -> tuple[MessageProtocol, Wire]:
    protocol, wire = MessageProtocol(MessageStyle(handler, framing, 100, high_water)), Wire()
    protocol.connection_made(wire)
    return protocol, wire


def test_all_messages_of_one_read_are_answered_by_one_write() -> None:
    protocol, wire = conversation(bytes.upper)
    protocol.data_received(b"a\nb\r\nc")
    assert wire.writes == [b"A\nB\n"] and protocol.partial
    protocol.data_received(b"c\n")
    assert wire.writes[1:] == [b"CC\n"] and not protocol.partial
    assert protocol.messages == 3


def test_a_handlers_object_goes_with_its_connection_whoever_holds_the_rest() -> None:
    class Knows:
        def __init__(self, conn: MessageConnection) -> None:
            self.conn = conn

        def __call__(self, line: bytes) -> bytes:
            return line

    protocol, _ = conversation(Knows)
    made = weakref.ref(protocol.object)
    protocol.connection_lost(None)
    assert made() is None


def test_none_is_no_reply_and_empty_is_one() -> None:
    protocol, wire = conversation(lambda line: b"" if line == b"empty" else None)
    protocol.data_received(b"x\nempty\ny\n")
    assert wire.writes == [b"\n"]


def test_what_is_unfinished_is_answered_at_the_end_and_the_end_closes() -> None:
    protocol, wire = conversation(bytes.upper)
    protocol.data_received(b"one\ntw")
    assert protocol.eof_received() is True  # it closes by itself
    assert wire.writes == [b"ONE\n", b"TW\n"] and wire.closed


def test_draining_waits_for_the_message_that_has_begun() -> None:
    protocol, wire = conversation(bytes.upper)
    protocol.data_received(b"half")
    protocol.draining()
    assert not wire.closed
    protocol.data_received(b" done\n")
    assert wire.writes == [b"HALF DONE\n"] and wire.closed


def test_draining_closes_an_idle_conversation() -> None:
    protocol, wire = conversation(bytes.upper)
    protocol.draining()
    assert wire.closed


def test_messages_before_one_that_is_too_long_are_answered() -> None:
    protocol, wire = conversation(bytes.upper)
    with pytest.raises(MessageTooLong):
        protocol.data_received(b"fine\n" + b"x" * 101)
    assert wire.writes == [b"FINE\n"]


def test_replies_before_one_that_raises_are_sent() -> None:
    def reply(line: bytes) -> bytes:
        if line == b"bad":
            raise ValueError(line)
        return line

    protocol, wire = conversation(reply)
    with pytest.raises(ValueError):
        protocol.data_received(b"good\nbad\nnever\n")
    assert wire.writes == [b"good\n"]


def test_small_questions_with_large_answers_wait_for_a_peer_who_does_not_read() -> None:
    answered: list[bytes] = []

    def reply(line: bytes) -> bytes:
        answered.append(line)
        return b"x" * 600

    protocol, wire = conversation(reply)
    wire.slow = True
    protocol.data_received(b"".join(b"%d\n" % n for n in range(50)))
    assert len(answered) == 2, "more than the high-water mark is unsent: the others wait"
    assert protocol.partial
    protocol.eof_received()
    assert not wire.closed
    sent = len(wire.writes)
    wire.slow = False
    protocol.resume_writing()
    assert len(answered) == 50 and len(wire.writes) > sent
    assert wire.closed and sum(map(len, wire.writes)) == 50 * 601


def test_a_function_may_take_the_connection() -> None:
    def reply(line: bytes, conn: MessageConnection) -> bytes | None:
        if line == b"who":
            return f"{conn.number} {conn.peer[0]} {conn.draining}".encode()
        if line == b"bye":
            conn.send(b"one")
            conn.write(b"raw")
            conn.close()
            return b"last"
        return None

    protocol, wire = conversation(reply)
    protocol.data_received(b"who\n")
    assert wire.writes == [b"7 203.0.113.1 False\n"]
    protocol.data_received(b"bye\nwho\n")
    assert wire.writes[1:] == [b"one\nrawlast\n"], "in order, and nothing behind the end"
    assert wire.closed


def test_a_class_is_made_once_per_connection() -> None:
    class Count:
        def __init__(self) -> None:
            self.seen = 0

        def __call__(self, line: bytes) -> bytes:
            self.seen += 1
            return b"%d" % self.seen

    class Know:
        def __init__(self, conn: MessageConnection) -> None:
            self.conn = conn

        def __call__(self, line: bytes) -> bytes:
            return b"%d" % self.conn.number

    style = MessageStyle(Count, lines, 100, 1000)
    for _ in range(2):
        protocol, wire = MessageProtocol(style), Wire()
        protocol.connection_made(wire)
        protocol.data_received(b"a\nb\n")
        assert wire.writes == [b"1\n2\n"]
    protocol, wire = conversation(Know)
    protocol.data_received(b"a\n")
    assert wire.writes == [b"7\n"]


def test_a_class_may_greet_as_soon_as_it_is_made() -> None:
    class Greets:
        def __init__(self, conn: MessageConnection) -> None:
            conn.send(f"hello {conn.peer[0]}".encode())

        def __call__(self, line: bytes) -> None: ...

    _, wire = conversation(Greets)
    assert wire.writes == [b"hello 203.0.113.1\n"]


def test_a_reply_that_does_not_fit_its_prefix_is_the_handlers_fault() -> None:
    protocol, wire = conversation(lambda _: b"x" * 256, prefixed(1))
    with pytest.raises(ValueError):
        protocol.data_received(b"\1a")
    assert wire.writes == []


def test_the_mark_leaves_the_function_as_it_was() -> None:
    @pronghorn.message(pronghorn.lines)
    def reply(line: bytes) -> bytes:
        return line[::-1]

    assert reply(b"abc") == b"cba" and getattr(reply, FRAMING) is lines
    assert getattr(message()(lambda data: data), FRAMING) is stream
    with pytest.raises(TypeError, match=r"@message\(lines\)"):
        message(reply)  # type: ignore[arg-type]


@pytest.mark.parametrize("others", ["", ", conn"])
@pytest.mark.parametrize("framing", [stream, lines, prefixed(2), pronghorn.netstring, pronghorn.fixed(5)])
def test_a_reply_that_is_no_message_is_named_with_what_to_do(framing: Framing, others: str) -> None:
    handler = eval(f"lambda message{others}: 'hello'")
    protocol, wire = conversation(handler, framing)
    with pytest.raises(TypeError, match=r"answers with str, 'hello'; .* are bytes: encode a str"):
        protocol.data_received(framing.frame(b"12345"))
    assert not wire.writes
    known = MessageConnection(protocol)
    with pytest.raises(TypeError, match=r"answers with str, 'hello'; .* are bytes: encode a str"):
        known.send("hello")


def test_bytes_in_the_place_of_text_are_named_too_and_a_rule_of_ones_own_speaks_for_itself() -> None:
    protocol, _ = conversation(str.encode, lines(encoding="utf-8"))
    with pytest.raises(TypeError, match=r"encode answers with bytes, b'hi'; .* are text: give it a str"):
        protocol.data_received(b"hi\n")

    class Mine(Framing[bytes], frozen=True):
        def place(self, data: Any, start: int, searched: int, limit: int) -> Any:
            return (start, len(data), len(data)) if data else None

        def frame(self, message: Any) -> bytes:
            raise TypeError("a list, please")

    protocol, _ = conversation(bytes.decode, Mine())
    with pytest.raises(TypeError, match=r"^a list, please$"):
        protocol.data_received(b"hi")
