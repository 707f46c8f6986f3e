"""EpollLoop: many channels are one descriptor to an asyncio loop, and what was closed does not keep it turning."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pronghorn.connection.channel import CLOSED, OPEN

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="epoll is a call of Linux")
COUNT = 20


class Thing:
    """What a loop watches: a socket that echoes, and does as it is told."""

    wants_write, state = False, OPEN

    def __init__(self, loop: Any, told: Callable[[Thing], object]) -> None:
        self.sock, self.client = socket.socketpair()
        self.sock.setblocking(False)
        self.wants_read = True
        self._loop, self._told = loop, told
        self.calls = 0
        self.cut_by: list[BaseException] = []

    def fileno(self) -> int:
        return self.sock.fileno()

    def is_closing(self) -> bool:
        return self.state is CLOSED

    def is_own(self) -> bool:
        return True

    def on_readable(self) -> None:
        self.calls += 1
        self._told(self)

    def on_writable(self) -> None:
        pass

    def settle(self) -> None:
        pass

    def cut(self, error: BaseException) -> None:
        self.cut_by.append(error)
        self.end()

    def end(self) -> None:
        self.wants_read, self.state = False, CLOSED
        self._loop.changed(self)


@contextmanager
def serving(kind: str, told: Callable[[Thing], object]) -> Iterator[tuple[Any, Any, list[Thing], list[Any]]]:
    """A loop, its EpollLoop, things that it watches, and what it lets go of."""
    from pronghorn.connection.asyncio_epoll import EpollLoop

    loop = pytest.importorskip("uvloop").new_event_loop() if kind == "uvloop" else asyncio.SelectorEventLoop()
    released: list[Any] = []

    def guarded(call: Callable[[], object]) -> None:
        call()

    watching = EpollLoop(loop, lambda *_: None, lambda *each: released.append(each), None, guarded)  # type: ignore
    things = [Thing(watching, told) for _ in range(COUNT)]
    for each in things:
        watching.changed(each)
    try:
        yield loop, watching, things, released
    finally:
        loop.close()
        for each in things:
            each.sock.close()
            each.client.close()


def turn(loop: Any, condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    loop.run_until_complete(asyncio.wait_for(wait(), 20))


def watched_by(loop: Any) -> int:
    """How many descriptors the kernel's set of a loop has."""
    number = loop._get_backend_id() if hasattr(loop, "_get_backend_id") else loop._selector.fileno()
    with open(f"/proc/self/fdinfo/{number}") as file:
        return file.read().count("tfd:")


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_all_channels_are_one_descriptor_to_the_loop(kind: str) -> None:
    with serving(kind, lambda thing: thing.sock.send(thing.sock.recv(100))) as (loop, _, things, _):
        for each in things:
            each.client.send(b"hello")
        turn(loop, lambda: all(each.calls for each in things))
        assert [each.client.recv(100) for each in things] == [b"hello"] * COUNT
        assert watched_by(loop) < 5  # it has a pipe of its own to be woken by


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_those_who_are_ended_by_another_one_in_the_same_turn_are_let_go_of_once(kind: str) -> None:
    def end_all(_: Thing) -> None:
        for each in things:
            each.end()

    with serving(kind, end_all) as (loop, watching, things, released):
        for each in things:
            each.client.send(b"x")
        kernels = watching._set
        turn(loop, lambda: len(released) == COUNT)
        assert {thing for thing, _ in released} == {*things}
        assert all(proven for _, proven in released)
        assert watching._set is kernels  # nothing was in doubt


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_set_that_tells_of_what_was_closed_is_made_anew(kind: str) -> None:
    with serving(kind, lambda thing: thing.sock.recv(100)) as (loop, watching, things, released):
        lost, kernels = things[0], watching._set
        copy = os.dup(lost.fileno())
        descriptor = lost.sock.detach()
        os.close(descriptor)
        lost.fileno = lambda: descriptor  # type: ignore[method-assign]  # a channel keeps the number
        lost.client.send(b"for ever readable")
        lost.end()
        turn(loop, lambda: watching._set is not kernels)
        things[1].client.send(b"x")
        turn(loop, lambda: things[1].calls)
        assert [thing for thing, _ in released] == [lost]
        os.close(copy)
