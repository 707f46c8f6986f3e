"""A channel that holds still, leaves, or begins anew in another loop."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from pronghorn.connection import moving
from pronghorn.connection.channel import CLOSED, OPEN, Channel
from pronghorn.connection.interfaces import Terms
from pronghorn.connection.socket_facts import Seen
from pronghorn.errors import MOVED
from pronghorn.handlers.protocols import Protocol


class Loop:
    """Notes what channels tell it; as a holder it gives back what `answer` says."""

    def __init__(self, answer: bool = True) -> None:
        self.told: list[Any] = []
        self.answer, self.asked = answer, 0

    def changed(self, thing: Any) -> None:
        self.told.append(thing)

    def call_later(self, delay: float, callback: Any) -> None: ...
    def failed(self, conn: Any, error: BaseException) -> None: ...

    def have_back(self, channel: Any) -> bool:
        self.asked += 1
        if self.answer:
            moving.go_on(channel, LOOP)
        else:
            moving.leave(channel, LOOP)
        return self.answer


LOOP = Loop()


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    channel = Channel(ours, 7, "", Terms(LOOP, None, 1 << 30, 1 << 20))  # type: ignore[arg-type]
    channel.open(Protocol())
    yield channel, theirs
    channel.sock.close()
    theirs.close()


def test_a_write_has_the_channel_back_before_it_is_sent(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    holder = Loop()
    moving.hold_still(channel, holder)  # type: ignore[arg-type]
    assert not channel.wants_read and channel.state is OPEN and type(channel).__name__ == "StillChannel"
    channel.write(b"hello")
    assert theirs.recv(10) == b"hello" and holder.asked == 1
    assert type(channel) is Channel and channel.wants_read and channel.loop is LOOP


def test_a_channel_that_has_left_drops_writes_and_leaves_the_connection_alone(
    pair: tuple[Channel, socket.socket],
) -> None:
    channel, theirs = pair
    copy = channel.sock.dup()
    moving.hold_still(channel, Loop(answer=False))  # type: ignore[arg-type]
    channel.write(b"lost")
    assert channel.state is CLOSED and channel.reason is MOVED
    channel.write(b"too late")
    channel.cut(RuntimeError())
    channel.settle()
    channel.release()
    assert channel.fileno() == -1
    copy.sendall(b"another process's")
    assert theirs.recv(100) == b"another process's"
    copy.close()


def test_facts_travel_as_bytes_and_make_the_other_channel_the_same(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    channel.stays, channel.opened, channel.bytes_in = True, 5.0, 11
    channel.seen = Seen(5.0)
    channel.seen.partial, channel.seen.heard = 8.0, 9.0
    sent = 0
    while channel._backlog is None:  # the peer does not read
        channel.write(b"x" * 65536)
        sent += 65536
    moving.hold_still(channel, Loop())  # type: ignore[arg-type]
    channel.log["device"], channel.first_sent = 4711, 1.5
    facts = msgspec.msgpack.decode(msgspec.msgpack.encode(moving.facts_of(channel)), type=moving.Facts)
    other = Channel(channel.sock.dup(), 1, "", Terms(LOOP, None, 1 << 30, 1 << 20))  # type: ignore[arg-type]
    moving.restore(other, facts)
    assert other.log == {"device": "4711"} and other.first_sent == 1.5
    other.set_protocol(Protocol())
    other.write(b"end")  # before it is ours: it waits
    assert (other.stays, other.opened, other.bytes_in, other.bytes_out) == (True, 5.0, 11, channel.bytes_out)
    assert other.seen is not None and (other.seen.partial, other.seen.heard) == (8.0, 9.0)
    moving.begin(other, LOOP)  # type: ignore[arg-type]
    assert other.wants_write and other.wants_read
    got = b""
    while not got.endswith(b"end"):
        got += theirs.recv(1 << 20)
        other.on_writable()
    assert len(got) == sent + 3 and not other.wants_write
    other.sock.close()
