"""Waiting for clients where one of several threads or processes takes each."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import Mock

import pytest

from launch import halt
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, until

if sys.platform != "linux":
    pytest.skip("epoll(7) is Linux's", allow_module_level=True)

from pronghorn.serving.polls import EpollSet, Polled, SharedPlaces


def told(server: Served) -> bytes:
    with server.connect() as client:
        return exchange(client, b"hello", expect=5)


def test_a_descriptor_that_was_closed_before_it_was_taken_out_is_reported_no_more() -> None:
    ours, theirs = socket.socketpair()
    other, quiet = socket.socketpair()
    with ours, theirs, other, quiet:
        held = EpollSet()
        held.register(ours, select.POLLIN)
        held.register(quiet, select.POLLIN)
        theirs.send(b"x")
        copy = os.dup(ours.fileno())  # as another process has one
        number = ours.detach()
        os.close(number)
        assert [fd for fd, _ in held.poll(0)] == [number], "the kernel goes on"
        held.unregister(number)
        assert held.poll(0) == []
        other.send(b"x")
        assert [fd for fd, _ in held.poll(1000)] == [quiet.fileno()], "the others are watched as before"
        os.close(copy)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    halt(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_a_process_that_was_woken_and_does_not_accept_takes_no_client_along() -> None:
    with serving("upper", model="prefork", workers=3) as server:
        for pid in server.worker_pids():
            with stopped(pid):  # also the one that the kernel wakes first
                assert [told(server) for _ in range(2)] == [b"HELLO"] * 2


@pytest.mark.slow
def test_threads_of_a_pool_that_all_wait_take_a_client_each_at_once() -> None:
    with serving("upper", model="pool", pool_size=8) as server, ExitStack() as stack:
        for _ in range(3):
            clients = [stack.enter_context(server.connect()) for _ in range(8)]
            assert [exchange(client, b"hello", expect=5) for client in clients] == [b"HELLO"] * 8
            for client in clients:
                client.close()


@pytest.mark.slow
@pytest.mark.parametrize("factory", ["no_epoll", "upper_made"])
def test_a_pool_serves_several_listeners_and_systems_without_epoll(factory: str) -> None:
    several = {"bind": ("127.0.0.1:0", "127.0.0.1:0")} if factory == "upper_made" else {}
    with serving(f"handlers_under_test:{factory}", factory=True, model="pool", pool_size=2, **several) as server:
        for index in range(6):
            with server.connect(index % len(server.addresses)) as client:
                assert exchange(client, b"hello", expect=5) == b"HELLO"
        server.stop()


OF_ITS_OWN = {"bind": ("127.0.0.1:0,max-connections=1,name=a",)}  # of the listener, and not of the server


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "workers", "limit"),
    [("pool", 1, {"max_connections": 1}), ("prefork", 3, {"max_connections": 1}), ("pool", 1, OF_ITS_OWN)],
)
def test_a_client_beyond_the_limit_is_served_as_soon_as_another_leaves(
    model: str, workers: int, limit: dict[str, Any]
) -> None:
    with (
        serving("upper", model=model, workers=workers, **limit) as server,
        server.connect() as first,
        server.connect() as second,
    ):
        assert exchange(first, b"hello", expect=5) == b"HELLO"
        second.sendall(b"hello")
        until(lambda: "--max-connections" in server.log(), "the log says that a client waits")
        first.close()
        assert exchange(second, expect=5) == b"HELLO"
        second.close()
        assert told(server) == b"HELLO", "and again"


def test_a_full_listener_may_be_found_full_again_while_it_is_left_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        listener = Mock(fileno=sock.fileno)
        poller = select.poll()
        polled = Polled(poller, poller, [listener], {})
        polled.look(True, 0.0)
        polled.leave_out(sock.fileno(), 0.0)
        polled.leave_out(sock.fileno(), 0.05)  # a TLS client had spoken, and those behind it were looked for
        polled.look(True, 0.12)
        assert not polled.listeners.keys() - polled.full.keys()
        polled.look(True, 1.0)
        poller.unregister(sock)  # it is there again, once
        with pytest.raises(KeyError):
            poller.unregister(sock)


def test_a_thread_that_finds_the_listener_taken_away_waits() -> None:
    places = SharedPlaces()
    taken: list[int] = []

    class Late:
        """The listener is taken away while a thread is about to accept."""

        def acquire(self, blocking: bool = True) -> bool:
            places._listener = -1
            return True

        def release(self) -> None:
            pass

    places.take = lambda fd: taken.append(fd)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        places.register(listener.fileno(), select.POLLIN)
        places._taking = Late()  # type: ignore[assignment]
        given = object()
        places.give(given)  # type: ignore[arg-type]
        assert places.next() is given
    assert taken == []


def test_a_thread_that_looks_again_while_the_listener_is_taken_away_stays() -> None:
    class Going(SharedPlaces):
        """The accepting flow takes the listener away between two looks of a thread at it."""

        looks = 0

        @property
        def _listener(self) -> int:  # type: ignore[override]
            self.looks += 1
            return fd if self.looks == 1 else -1

        @_listener.setter
        def _listener(self, fd: int) -> None:
            pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        places = Going()
        places.register(fd, select.POLLIN)
        places.look_again()
