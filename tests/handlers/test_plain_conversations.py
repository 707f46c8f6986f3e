"""A conversation of a plain message function beside one with a MessageProtocol: a peer cannot tell them apart."""

from __future__ import annotations

import contextvars
import functools
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pronghorn.connection.blocking import Connection, cut, end_reading
from pronghorn.connection.driver import drive
from pronghorn.errors import PeerTimeout
from pronghorn.framing import Framing, delimited, lines, stream
from pronghorn.handlers.message_protocol import MessageProtocol
from pronghorn.handlers.messages import MessageStyle
from pronghorn.handlers.plain_conversations import PlainConversations, PlainProtocol
from pronghorn.system.drain import Drain

LIMIT = 12
FRAMINGS = [stream, lines, lines(max=7), delimited(b"\r\n"), delimited(b"aa")]
Step = bytes | Callable[["Fed"], object]
seen: contextvars.ContextVar[Any] = contextvars.ContextVar("seen")


class Fed(Connection):
    """A connection whose peer does the next of its `steps` just before each read: so that every read is known."""

    __slots__ = ("replies", "steps", "theirs")
    steps: Iterator[Step]
    theirs: socket.socket
    replies: list[bytes]

    def recv(self, size: int, flags: int = 0) -> bytes:
        self.hear()
        step = next(self.steps, lambda conn: conn.theirs.shutdown(socket.SHUT_WR))
        self.theirs.sendall(step) if isinstance(step, bytes) else step(self)
        return super().recv(size, flags)

    def hear(self) -> None:
        """What the peer has received since the last time."""
        try:
            got = self.theirs.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            got = type(error).__name__.encode()
        if got or self.replies[-1:] != [b""]:  # the end is there for ever
            self.replies.append(got)


def held(plain: bool, function: Callable[[bytes], Any], framing: Framing, steps: list[Step]) -> tuple[Any, ...]:
    """All that a peer, a log and the counts can know of one conversation."""
    style = MessageStyle(function, framing, LIMIT, 1000)
    make = functools.partial(MessageProtocol, style)
    ours, theirs = socket.socketpair()
    with theirs, closing(Drain(5.0)) as drain, Fed(ours.family, ours.type, 0, fileno=ours.detach()) as conn:
        conn.steps, conn.theirs, conn.replies = iter(steps), theirs, []
        conn.begin(1, "", drain)
        error: Any = None
        seen.set(conn)
        try:
            if plain:
                PlainConversations(style, function, make).hold(conn)
            else:
                protocol = make()
                drive(protocol, conn, lambda: protocol.partial)
        except Exception as raised:
            error = re.sub(r"0x\w+", "", repr(raised))
        conn.hear()
        ending = (
            repr(conn.gone),
            conn.because(None),
            conn.peer_ended,
            conn.reading_shut,
            conn.partial and conn.partial(),
        )
        return conn.replies, error, ending, conn.bytes_in, conn.bytes_out, conn.messages, conn.unfinished


def alike(function: Callable[[bytes], Any], framing: Framing, steps: list[Step]) -> tuple[Any, ...]:
    plain, ordinary = (held(each, function, framing, steps) for each in (True, False))
    assert plain == ordinary
    return plain


def odd(message: bytes) -> Any:
    """A handler that answers in every way that there is."""
    match message[:1]:
        case b"n":
            return None
        case b"e":
            raise OSError("of the handler's own")
        case b"r":
            raise ConnectionResetError("of the handler's own")
        case b"t":
            return "text"
        case b"b":
            return bytearray(message)
        case b"l":
            return message * 300
        case b"z":
            return b""
    return message.upper()


pieces = st.lists(st.lists(st.sampled_from([*b"nertzblxa\r\n\n"]), max_size=30).map(bytes).filter(bool), max_size=8)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(framing=st.sampled_from(FRAMINGS), pieces=pieces)
@example(lines, [b"x\n", b"l\nl\nl\nl\nl\nx\n", b"x", b"\nx\n"])
@example(lines, [b"x\n", b"x\ne\nx\n"])
@example(lines, [b"x\n", b"r\n"])
@example(stream, [b"x" * (3 * LIMIT), b"b", b"x"])
@example(delimited(b"aa"), [b"xaa", b"xaaa", b"a"])
def test_both_answer_alike(framing: Framing, pieces: list[bytes]) -> None:
    alike(odd, framing, [*pieces])


def test_there_is_no_protocol_while_nothing_is_to_be_remembered() -> None:
    found = []

    def note(message: bytes) -> bytes:
        found.append(type(seen.get().protocol))
        return message

    held(True, note, lines, [b"one\n", b"two\n", b"thr", b"ee\n", b"four\n"])
    assert found == [PlainProtocol, PlainProtocol, MessageProtocol, MessageProtocol]


def begin_drain(conn: Fed) -> None:
    assert conn.process_drain is not None
    conn.process_drain.begin("the test")


def test_draining_ends_both_behind_the_reply() -> None:
    def then(message: bytes) -> bytes:
        begin_drain(seen.get())
        return message

    replies, _, _, _, _, messages, _ = alike(then, lines, [b"one\n", b"two\n"])
    assert replies[-1] == b"one\n" and messages == 1


def test_draining_waits_for_half_a_message() -> None:
    def half(conn: Fed) -> None:
        begin_drain(conn)
        conn.theirs.sendall(b"tw")

    assert alike(bytes.upper, lines, [b"one\n", half, b"o\n", b"three\n"])[5] == 2


@pytest.mark.parametrize("stays", [False, True])
def test_the_end_of_reading_ends_both(stays: bool) -> None:
    def end(conn: Fed) -> None:
        begin_drain(conn)
        conn.process_drain.deadline = 0.0  # type: ignore[union-attr]  # else one that stays does so
        if stays:
            conn.stay()
        end_reading(conn)

    alike(bytes.upper, lines, [b"one\n", end])


def test_what_cuts_one_cuts_the_other() -> None:
    for fault in (PeerTimeout("idle timeout"), ConnectionAbortedError("at the drain deadline")):
        alike(bytes.upper, lines, [b"one\n", lambda conn, fault=fault: cut(conn, fault)])


def test_a_peer_who_is_gone_is_no_fault_of_the_handler() -> None:
    def leave(conn: Fed) -> None:
        conn.theirs.sendall(b"two\n")
        conn.theirs.close()

    found = alike(bytes.upper, lines, [b"one\n", leave])
    assert found[1] is None and "BrokenPipe" in found[2][0]


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("raises", [False, True])
def test_one_that_joins_a_name_is_driven_from_then_on(elsewhere: bool, raises: bool) -> None:
    def join() -> None:
        assert callable(seen.get().protocol.joins)

    def joins(message: bytes) -> bytes:
        if message == b"join":
            context = contextvars.copy_context()
            other = threading.Thread(target=context.run, args=(join,))
            if elsewhere:
                other.start()
                other.join()
            else:
                join()
            if raises:
                raise ValueError("of the handler's own")
        found.append(type(seen.get().protocol))
        return message

    found: list[type] = []
    alike(joins, lines, [b"one\n", b"join\n", b"two\n"])
    assert found[:3] == ([PlainProtocol, MessageProtocol] if raises else [PlainProtocol, *[MessageProtocol] * 2])


def test_a_name_joined_by_another_thread_waits_for_what_is_being_sent() -> None:
    style = MessageStyle(lambda message: message * 4_000_000, lines, LIMIT, 1000)
    conversations = PlainConversations(style, style.reply_for(None), functools.partial(MessageProtocol, style))  # type: ignore[arg-type]
    ours, theirs = socket.socketpair()
    with theirs, closing(Drain(5.0)) as drain, Connection(ours.family, ours.type, 0, fileno=ours.detach()) as conn:
        conn.begin(1, "", drain)
        talks = threading.Thread(target=conversations.hold, args=(conn,))
        talks.start()
        theirs.sendall(b"x\n")
        first = theirs.recv(1)  # and now the socket is full
        plain = conn.protocol
        joins = threading.Thread(target=lambda: plain.joins)
        joins.start()
        joins.join(0.05)
        assert plain.sends and joins.is_alive()
        with theirs.makefile("rb") as file:
            assert first + file.readline() == b"x" * 4_000_000 + b"\n"
            joins.join(10)
            assert not joins.is_alive() and type(conn.protocol) is MessageProtocol and conn.messages == 1
            theirs.sendall(b"y\n")
            assert file.readline() == b"y" * 4_000_000 + b"\n"
        theirs.shutdown(socket.SHUT_WR)
        talks.join(10)
        assert not talks.is_alive() and conn.messages == 2 and conn.peer_ended
