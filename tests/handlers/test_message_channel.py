"""A channel of a plain message function beside a channel with a MessageProtocol: a peer cannot tell them apart."""

from __future__ import annotations

import asyncio
import contextvars
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pronghorn.connection.asyncio_channel import AsyncioChannel
from pronghorn.connection.asyncio_epoll import loop_of_many
from pronghorn.connection.channel import AnyChannel, Channel
from pronghorn.connection.interfaces import Terms
from pronghorn.connection.own_context import base, made_for
from pronghorn.connection.states import State
from pronghorn.connection.timer_queue import TimerQueue
from pronghorn.framing import Framing, delimited, lines, netstring, prefixed, stream
from pronghorn.handlers import message_channel
from pronghorn.handlers.message_channel import MessageChannel, PlainMessages
from pronghorn.handlers.message_protocol import MessageProtocol
from pronghorn.handlers.messages import MessageStyle
from pronghorn.peers import peer_of, short_peer
from pronghorn.system.drain import connection_number

LIMIT = 12
FRAMINGS = [stream, lines, lines(max=7), lines(keep_ends=True), delimited(b"\r\n"), delimited(b"aa"), netstring]
said: contextvars.ContextVar[bytes] = contextvars.ContextVar("said", default=b"")
Reply = Callable[[bytes], Any]


class ByHand:
    """A loop that turns when the test says so."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.deadlines = TimerQueue()

    def changed(self, channel: AnyChannel) -> None: ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        self.deadlines.add(delay, callback)

    def failed(self, channel: AnyChannel, error: BaseException) -> None:
        self.errors.append(re.sub(r"0x\w+", "", f"{type(error).__name__}: {error}"))

    def turn(self, channel: AnyChannel) -> None:
        if channel.wants_read:
            channel.on_readable()
        if channel.wants_write:
            channel.on_writable()
        if channel.is_closing():
            channel.settle()


class ByLoop(ByHand):
    """An asyncio loop, for the channels that a worker has there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        glue = loop_of_many(loop, self.failed, lambda *_: None, None, lambda call: call())  # type: ignore[arg-type]
        self.changed, self.call_later = glue.changed, glue.call_later  # type: ignore[method-assign]

    def turn(self, channel: AnyChannel) -> None:
        for _ in range(4):  # it is read, its end is settled, the loop is told
            self._loop.run_until_complete(asyncio.sleep(0))


LOOPS = {"asyncio": asyncio.SelectorEventLoop, "uvloop": lambda: pytest.importorskip("uvloop").new_event_loop()}


class Beside:
    """One of the two, with its peer."""

    def __init__(
        self,
        plain: bool,
        reply: Reply,
        framing: Framing,
        ours: socket.socket,
        notes: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        style = MessageStyle(reply, framing, LIMIT, 1000)
        self.loop = ByHand() if loop is None else ByLoop(loop)
        self.contexts, self.open = base(), dict[int, AnyChannel]()
        terms = Terms(self.loop, None, high_water=1000, notes_first=notes)  # type: ignore[arg-type]
        if plain:
            shared = PlainMessages(lambda: MessageProtocol(style), terms, self.contexts, self.open)
            self.channel: Any = MessageChannel(ours, 1, ("192.0.2.1", 7), shared, None)
            self.channel.begin()
        else:
            ordinary = Channel if loop is None else AsyncioChannel
            self.channel = ordinary(ours, 1, ("192.0.2.1", 7), terms, None, self.contexts.copy())
            made = self.channel.context.run(made_for, 1, lambda: MessageProtocol(style))
            self.channel.open(made)
        self.open[1] = self.channel

    def turn(self) -> None:
        self.loop.turn(self.channel)

    def facts(self) -> tuple[Any, ...]:
        channel = self.channel
        return channel.bytes_in, channel.messages, channel.unfinished, channel.reason


@contextmanager
def beside(
    reply: Reply, framing: Framing, notes: bool = False, loop: asyncio.AbstractEventLoop | None = None
) -> Iterator[list[tuple[Beside, socket.socket]]]:
    pairs = [socket.socketpair() for _ in range(2)]
    for ours, theirs in pairs:
        ours.setblocking(False)
        theirs.setblocking(False)
    yield [(Beside(i == 0, reply, framing, ours, notes, loop), theirs) for i, (ours, theirs) in enumerate(pairs)]
    if loop is not None:
        loop.close()
    for pair in pairs:
        for each in pair:
            each.close()


def received(theirs: socket.socket) -> bytes:
    try:
        return theirs.recv(1 << 20)
    except BlockingIOError:
        return b"nothing"
    except ConnectionError:
        return b"reset"


def odd(message: bytes) -> Any:
    """A handler that answers in every way that there is."""
    said.set(said.get() + message[:1])
    match message[:1]:
        case b"n":
            return None
        case b"e":
            raise OSError("of the handler's own")
        case b"t":
            return "text"
        case b"b":
            return bytearray(message)
        case b"l":
            return message * 300
        case b"v":
            return memoryview(message)
    return said.get() + message.upper()


pieces = st.lists(st.lists(st.sampled_from([*b"nebtlvxa7:,\r\n\n"]), max_size=30).map(bytes), max_size=8)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(framing=st.sampled_from(FRAMINGS), pieces=pieces, ends=st.booleans(), notes=st.booleans())
@example(lines, [b"x\nl\nl\nl\nl\nl\nx\n", b"x"], True, False)
@example(lines, [b"x\ne\nx\n"], False, False)
@example(lines, [b"x\nt\nx\n"], False, True)
@example(stream, [b"x" * (3 * LIMIT), b"v", b"x"], False, False)
@example(delimited(b"aa"), [b"xaa", b"xaaa", b"a"], False, False)
def test_both_answer_alike(framing: Framing, pieces: list[bytes], ends: bool, notes: bool) -> None:
    answer_alike(framing, pieces, ends, notes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOOPS)
@settings(max_examples=60, deadline=None)
@given(framing=st.sampled_from(FRAMINGS), pieces=pieces, ends=st.booleans(), notes=st.booleans())
@example(lines, [b"x\nl\nl\nl\nl\nl\nx\n", b"x"], True, False)
@example(lines, [b"x\ne\nx\n"], False, False)
@example(stream, [b"x" * (3 * LIMIT), b"v", b"x"], False, False)
def test_both_answer_alike_on_asyncios_loops(
    kind: str, framing: Framing, pieces: list[bytes], ends: bool, notes: bool
) -> None:
    answer_alike(framing, pieces, ends, notes, LOOPS[kind]())


def answer_alike(
    framing: Framing,
    pieces: list[bytes],
    ends: bool,
    notes: bool,
    loop: asyncio.AbstractEventLoop | None = None,
) -> None:
    with beside(odd, framing, notes, loop) as both:
        for piece in [*pieces, None if ends else b"", b""]:
            seen = []
            for one, theirs in both:
                if piece is None:
                    theirs.shutdown(socket.SHUT_WR)
                elif piece and not one.channel.is_closing():
                    theirs.sendall(piece)
                one.turn()
                seen.append((received(theirs), one.facts(), one.loop.errors, one.channel.bytes_out))
            assert seen[0] == seen[1], piece


def test_a_peer_who_does_not_read_holds_up_its_messages_and_loses_none() -> None:
    with beside(lambda message: message * 20_000, lines) as both:
        sums = []
        for one, theirs in both:
            theirs.sendall(b"abc\n" * 40)
            got = 0
            one.turn()
            assert one.channel.messages < 40 and one.channel.get_write_buffer_size()
            while got < 40 * 60_001:
                one.turn()
                more = received(theirs)
                got += len(more) if more != b"nothing" else 0
            sums.append((got, one.channel.messages))
        assert sums == [(40 * 60_001, 40)] * 2


def test_an_idle_connection_keeps_no_protocol_and_no_context_and_goes_on_as_it_was() -> None:
    with beside(lambda message: b"%d" % connection_number.get(), lines) as ((one, theirs), _):
        channel = one.channel
        theirs.sendall(b"half")
        one.turn()
        assert channel._protocol is not None and channel.unfinished
        channel.cool()
        assert channel._protocol is not None, "half a message is held"
        theirs.sendall(b" a line\n")
        one.turn()
        channel.cool()
        assert channel._protocol is None and channel._context is None and channel.messages == 1
        assert channel.peer == ("192.0.2.1", 7)
        theirs.sendall(b"one more\n")
        one.turn()
        assert received(theirs) == b"1\n1\n" and channel.messages == 2


def test_what_a_function_has_set_in_its_context_stays() -> None:
    def count(message: bytes) -> bytes:
        said.set(said.get() + b"x")
        return said.get()

    with beside(count, stream) as ((one, theirs), _):
        for _ in range(3):
            theirs.sendall(b"?")
            one.turn()
            one.channel.cool()
        assert received(theirs) == b"xxxxxx"


def test_those_that_were_silent_for_long_lose_their_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_channel, "WARM", 0)
    with beside(bytes.upper, stream) as ((one, theirs), _):
        theirs.sendall(b"x")
        one.turn()
        for _ in range(3):
            one.channel._plain.warmed(one.channel)
        assert one.channel._context is None and received(theirs) == b"X"


def test_its_peer_gone_is_no_fault_of_the_handler() -> None:
    with beside(bytes.upper, prefixed(2)) as both:
        for one, theirs in both:
            theirs.sendall(b"\0\1x")
            theirs.close()
            one.turn()
            one.turn()
            assert not one.loop.errors and one.channel.state in (State.CLOSING, State.CLOSED)


@pytest.mark.parametrize("peer", [("192.0.2.1", 65535), ("0.0.0.0", 0), ("::1", 5), "", "/run/peer", ("name", 1)])
def test_a_peer_as_a_number(peer: Any) -> None:
    short = short_peer(peer)
    assert (peer_of(short) if isinstance(short, int) else short) == peer
