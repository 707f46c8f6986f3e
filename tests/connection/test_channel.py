"""A channel between two ends of a socket pair; the test is its loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pronghorn.connection.asyncio_channel import AsyncioChannel
from pronghorn.connection.channel import Channel
from pronghorn.connection.interfaces import Terms
from pronghorn.connection.states import TRANSITIONS, State, moved
from pronghorn.connection.timer_queue import TimerQueue
from pronghorn.handlers.protocols import Protocol
from pronghorn.system.drain import Drain


class ByHand:
    """A loop that turns when the test says so."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.changes = 0
        self.deadlines = TimerQueue()

    def changed(self, channel: Channel) -> None:
        self.changes += 1

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        self.deadlines.add(delay, callback)

    def failed(self, channel: Channel, error: BaseException) -> None:
        self.errors.append(error)


class Recorder(Protocol):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.stay = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        self.told.append(data)

    def eof_received(self) -> bool:
        self.told.append("eof")
        return self.stay

    def connection_lost(self, exc: BaseException | None) -> None:
        self.told.append(("lost", exc))

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Recorder, socket.socket, ByHand]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(5)
    loop, protocol, drain = ByHand(), Recorder(), Drain(1.0)
    channel = Channel(ours, 1, "peer", Terms(loop, drain, high_water=1000))
    channel.open(protocol)
    yield channel, protocol, theirs, loop
    for each in (ours, theirs, drain):
        each.close()


Pair = tuple[Channel, Recorder, socket.socket, ByHand]


def test_the_table_of_states_allows_no_way_back() -> None:
    assert moved(State.OPEN, State.OPEN) is State.OPEN
    order = list(State)
    steps = [(state, each) for state, onward in TRANSITIONS.items() for each in onward]
    back = [(state, each) for state, each in steps if order.index(each) <= order.index(state)]
    assert back == [(State.OPEN, State.OPENING)], "but for a handshake in the middle of the conversation"
    with pytest.raises(RuntimeError, match="from closed to open"):
        moved(State.CLOSED, State.OPEN)


def test_input_goes_to_the_protocol_and_output_out_at_once(pair: Pair) -> None:
    channel, protocol, theirs, _ = pair
    assert channel.wants_read and not channel.wants_write
    theirs.sendall(b"hello")
    channel.on_readable()
    channel.write(b"HELLO")
    assert protocol.told == ["made", b"hello"]
    assert theirs.recv(100) == b"HELLO"
    assert (channel.bytes_in, channel.bytes_out) == (5, 5)


def test_an_event_without_cause_does_no_harm(pair: Pair) -> None:
    channel, protocol, _, loop = pair
    channel.on_readable()
    channel.on_writable()
    channel.settle()
    assert protocol.told == ["made"] and channel.state is State.OPEN and not loop.errors


def test_a_peer_who_does_not_read_pauses_reading_until_it_does(pair: Pair) -> None:
    channel, protocol, theirs, _ = pair
    chunk = b"x" * 100_000
    while not channel.get_write_buffer_size():
        channel.write(chunk)
    assert channel.wants_write and not channel.wants_read
    assert protocol.told == ["made", "pause"]
    received = 0
    while channel.wants_write:
        received += len(theirs.recv(1 << 20))
        channel.on_writable()
    assert protocol.told[-1] == "resume"
    assert channel.wants_read and not channel.get_write_buffer_size()
    while received < channel.bytes_out:
        received += len(theirs.recv(1 << 20))
    assert received == channel.bytes_out and received % len(chunk) == 0


def test_close_sends_what_is_unsent_then_tells_and_waits_for_the_peer(pair: Pair) -> None:
    channel, protocol, theirs, loop = pair
    while not channel.get_write_buffer_size():
        channel.write(b"x" * 100_000)
    channel.close()
    channel.settle()
    assert protocol.told == ["made", "pause"] and channel.state is State.CLOSING
    received = 0
    while channel.wants_write:
        received += len(theirs.recv(1 << 20))
        channel.on_writable()
    channel.settle()
    assert ("lost", None) in protocol.told
    assert channel.state is State.CLOSING and channel.is_lingering()  # unread bytes are on their way
    theirs.sendall(b"unread input")
    while more := theirs.recv(1 << 20):
        received += len(more)
    assert received == channel.bytes_out
    theirs.close()
    channel.on_readable()
    assert channel.state is State.CLOSED and not channel.wants_read and not loop.errors


def test_lingering_ends_when_the_peer_has_taken_everything(pair: Pair) -> None:
    channel, _, theirs, loop = pair
    channel.write(b"goodbye")
    channel.close()
    channel.settle()
    assert channel.state is State.CLOSING
    assert theirs.recv(100) == b"goodbye"
    loop.deadlines.run(float("inf"))
    assert channel.state is State.CLOSED


def test_the_peers_end_closes_unless_the_protocol_stays(pair: Pair) -> None:
    channel, protocol, theirs, _ = pair
    protocol.stay = True
    theirs.shutdown(socket.SHUT_WR)
    channel.on_readable()
    channel.settle()
    assert protocol.told == ["made", "eof"] and channel.state is State.HALF_CLOSED
    assert not channel.wants_read
    channel.write(b"late")
    assert theirs.recv(100) == b"late"
    channel.close()
    channel.settle()
    assert channel.state is State.CLOSED and protocol.told[-1] == ("lost", None)


def test_write_eof_half_closes_after_the_last_byte(pair: Pair) -> None:
    channel, _, theirs, _ = pair
    channel.write(b"last")
    channel.write_eof()
    assert theirs.recv(100) == b"last" and theirs.recv(100) == b""
    with pytest.raises(RuntimeError):
        channel.write(b"more")
    theirs.sendall(b"still")
    channel.on_readable()
    assert channel.state is State.HALF_CLOSED


def test_nothing_is_told_from_within_close(pair: Pair) -> None:
    channel, protocol, _, _ = pair
    channel.close()
    channel.close()
    assert protocol.told == ["made"]
    channel.settle()
    channel.settle()
    assert protocol.told == ["made", ("lost", None)]


def test_what_a_protocol_raises_is_reported_once_and_closes(pair: Pair) -> None:
    channel, protocol, theirs, loop = pair
    error = SystemExit("mine")

    def broken(data: bytes) -> None:
        raise error

    protocol.data_received = broken  # type: ignore[method-assign]
    theirs.sendall(b"x")
    channel.on_readable()
    assert loop.errors == [error] and channel.is_closing()


def test_a_reset_is_the_end_and_no_error_of_the_handler() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listening.getsockname())
    ours, peer = listening.accept()
    ours.setblocking(False)
    loop, protocol = ByHand(), Recorder()
    channel = Channel(ours, 1, peer, Terms(loop, Drain(1.0), high_water=1000))
    channel.open(protocol)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    channel.on_readable()
    channel.settle()
    assert channel.state is State.CLOSED and not loop.errors
    assert isinstance(protocol.told[-1][1], ConnectionResetError)
    assert channel.reason == "ConnectionResetError"
    ours.close()
    listening.close()


def test_a_protocol_with_a_buffer_of_its_own_is_filled(pair: Pair) -> None:
    channel, _, theirs, _ = pair
    got = bytearray()

    class Buffered(asyncio.BufferedProtocol):
        buffer = bytearray(4)

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            got.extend(self.buffer[:nbytes])

    channel.set_protocol(Buffered())
    theirs.sendall(b"more than four")
    channel.on_readable()
    assert got == b"more than four"


def test_what_came_before_draining_is_read_out(pair: Pair) -> None:
    plain, protocol, theirs, loop = pair
    channel = AsyncioChannel(plain.sock, 2, "peer", Terms(loop, plain.drain))
    channel.open(protocol)
    theirs.sendall(b"before")
    channel.read_out()
    channel.feed_eof()
    assert protocol.told == ["made", "made", b"before", "eof"] and channel.is_closing()
    channel.settle()
    assert channel.state is State.CLOSED, "nothing was sent that the peer could lose"


def test_cut_ends_at_once(pair: Pair) -> None:
    channel, protocol, _, _ = pair
    channel.write(b"x" * 10_000_000)
    channel.cut(ConnectionAbortedError())
    channel.settle()
    assert channel.state is State.CLOSED and isinstance(protocol.told[-1][1], ConnectionAbortedError)
