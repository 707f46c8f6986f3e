"""The supervisor's one place to wait at: who is called, and who is not any more."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from select import POLLOUT

import pytest

from pronghorn.supervisor.poller import Poller

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made = [socket.socketpair() for _ in range(2)]
    yield made
    for pair in made:
        for end in pair:
            end.close()


def test_who_is_ready_is_called_each_time(pairs: list[Pair]) -> None:
    poller, called = Poller(), list[str]()
    (ours, theirs), (quiet, _) = pairs
    poller.add(ours, lambda: called.append("ours"))
    poller.add(quiet.fileno(), lambda: called.append("quiet"))
    theirs.send(b"x")
    poller.wait(5)
    poller.wait(5)
    assert called == ["ours", "ours"]
    assert poller.descriptors() == [ours.fileno(), quiet.fileno()]


def test_it_waits_no_longer_than_asked() -> None:
    began = time.monotonic()
    Poller().wait(-1)
    Poller().wait(0.02)
    assert time.monotonic() - began < 5


def test_a_hang_up_is_told_to_who_asked_for_nothing(pairs: list[Pair]) -> None:
    poller, called = Poller(), list[str]()
    (ours, theirs), _ = pairs
    poller.add(ours, lambda: called.append("hang-up"), 0)
    theirs.send(b"x")
    theirs.shutdown(socket.SHUT_WR)
    poller.wait(0)
    assert called == []
    theirs.close()
    poller.wait(5)
    assert called == ["hang-up"]


def test_to_add_again_is_to_replace(pairs: list[Pair]) -> None:
    poller, called = Poller(), list[str]()
    (ours, _), _ = pairs
    poller.add(ours, lambda: called.append("read"))
    poller.add(ours, lambda: called.append("write"), POLLOUT)
    poller.wait(5)
    assert called == ["write"]


def test_what_is_removed_in_a_batch_is_not_called(pairs: list[Pair]) -> None:
    """Nor is whoever has its number now."""
    poller, called = Poller(), list[int]()
    (one, feeds_one), (two, feeds_two) = pairs

    def first(number: int, other: socket.socket) -> None:
        called.append(number)
        poller.remove(other)
        poller.add(other, lambda: called.append(99))

    poller.add(one, lambda: first(1, two))
    poller.add(two, lambda: first(2, one))
    feeds_one.send(b"x")
    feeds_two.send(b"x")
    poller.wait(5)
    assert called in ([1], [2])


def test_to_remove_twice_is_no_error(pairs: list[Pair]) -> None:
    poller = Poller()
    (ours, _), _ = pairs
    poller.add(ours, lambda: None)
    poller.remove(ours)
    poller.remove(ours)
    assert poller.descriptors() == []
