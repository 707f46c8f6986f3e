"""Draining, by style and model: who is told, in which words, and that nobody is cut in the middle of an answer."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from contextlib import ExitStack

import pytest

from launch import halt
from pronghorn.connection.closing import FIRST_WORD
from pronghorn.models import registry
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, until

HANDLERS = "draining_under_test"
FLOWS = ("iterative", "fork", "prefork", "thread", "pool", "gevent")
LOOPS = ("select", "poll", "epoll", "kqueue", "asyncio", "uvloop")
EVERY = (*FLOWS, *LOOPS)
HOLDS_ONE = ("iterative", "prefork")


def needs(model: str) -> None:
    missing = registry.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")


STYLES = {
    "message": EVERY,
    "Goodbye": EVERY,
    "AioGoodbye": ("thread", "fork", "epoll", "asyncio", "uvloop"),
    "streams": ("thread", "pool", "fork", "iterative", "select", "poll", "epoll", "asyncio", "uvloop"),
    "message_async": ("thread", "asyncio", "uvloop"),
    "blocking": FLOWS,
    "OldStyle": ("fork", "thread", "gevent"),
}


@pytest.mark.parametrize("model", EVERY)
def test_every_handler_sees_it_and_can_say_goodbye(model: str) -> None:
    """In every style, at a listener of its own: one in the middle of a question, and one that is idle. TERM may come
    before the question is read, or after."""
    needs(model)
    names = [name for name, fit in STYLES.items() if model in fit]
    listeners = [{"name": each, "bind": "127.0.0.1:0", "handler": f"{HANDLERS}:{each}"} for each in names]
    workers = len(names) if model in HOLDS_ONE else 1
    with (
        serving(f"{HANDLERS}:{names[0]}", model=model, workers=workers, listeners=listeners) as server,
        ExitStack() as stack,
    ):
        busy = [stack.enter_context(server.connect(index)) for index in range(len(names))]
        idle = [stack.enter_context(server.connect(index)) for index in range(len(names))]
        for each in busy:
            each.sendall(b"wait\n")
        server.send_signal(signal.SIGTERM)
        for name, each in zip(names, busy, strict=True):
            assert exchange(each) == b"goodbye\n", name
        for name, each in zip(names, idle, strict=True):
            assert exchange(each) == (b"" if name.startswith("message") else b"goodbye\n"), name
        assert server.wait() == 0
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("model", EVERY)
def test_a_protocol_that_asks_to_stay_gets_its_input(model: str) -> None:
    needs(model)
    with serving(f"{HANDLERS}:Stays", model=model) as server, server.connect() as client:
        assert exchange(client, b"hello\n", expect=8) == b"0 HELLO\n"
        server.send_signal(signal.SIGTERM)
        assert exchange(client, expect=5) == b"soon\n"
        for _ in range(3):
            assert exchange(client, b"again\n", expect=8) == b"1 AGAIN\n"
        assert exchange(client, b"quit\n") == b"1 QUIT\n"
        assert server.wait() == 0
        assert "Traceback" not in server.log()


@pytest.mark.slow
@pytest.mark.parametrize("model", EVERY)
def test_one_that_stays_too_long_is_cut_and_told_by_name(model: str) -> None:
    needs(model)
    count = 1 if model in HOLDS_ONE else 12
    handler = "Hold" if model in LOOPS or model == "thread" else "hold"
    with serving(f"{HANDLERS}:{handler}", model=model, workers=1, drain_timeout=0.2) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(count)]
        for client in clients:
            assert exchange(client, expect=4) == b"held"
        peers = [f"127.0.0.1 at PORT {client.getsockname()[1]}" for client in clients]
        assert server.stop() == 6
        (line,) = (line for line in server.log().splitlines() if "did not finish in time" in line)
        connections = "1 connection" if count == 1 else f"{count} connections"
        style = "protocol" if handler == "Hold" else "blocking"
        assert f"cut {connections} of {style} style that did not finish in time: " in line
        assert sum(peer in line for peer in peers) == min(count, 10)
        assert line.endswith(" and 2 more") is (count == 12)


@pytest.mark.parametrize("model", EVERY)
def test_without_any_time_to_finish_conversations_are_cut_and_counted(model: str) -> None:
    needs(model)
    handler = "Hold" if model in LOOPS or model == "thread" else "hold"
    with (
        serving(f"{HANDLERS}:{handler}", model=model, workers=1, drain_timeout=0) as server,
        server.connect() as client,
    ):
        assert exchange(client, expect=4) == b"held"
        assert server.stop() == 6
        assert re.search("cut 1 connection of .* style that did not finish in time: ", server.log())


def is_refused(server: Served) -> bool:
    try:
        server.connect().close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: the listener went just then
        return True
    return False


@pytest.mark.parametrize("model", EVERY)
def test_a_client_who_has_only_just_come_gets_a_moment_for_its_first_word(model: str) -> None:
    needs(model)
    with serving("upper", framing="lines", model=model, workers=1) as server:
        since = time.monotonic()
        with server.connect() as client:
            server.send_signal(signal.SIGTERM)
            until(lambda: is_refused(server), "the queue is empty and the listener gone")
            try:
                answer = exchange(client, b"hello\n")
            except ConnectionResetError as error:
                assert "after 0 bytes" in str(error), error  # then it was refused, which a server that stops may do
            else:
                assert answer in (b"HELLO\n", b"")
                assert answer or time.monotonic() - since > FIRST_WORD
            assert server.wait() == 0


@pytest.mark.parametrize("model", ["epoll", "thread"])
def test_a_client_who_says_nothing_does_not_hold_up_the_drain(model: str) -> None:
    with serving("upper", framing="lines", model=model, workers=1) as server, server.connect() as client:
        server.send_signal(signal.SIGTERM)
        assert exchange(client) == b"", "which has a third of the drain timeout, that is 30 s"
        assert server.wait() == 0


def answered_or_refused(client: socket.socket) -> bytes:
    """What came; nothing if the connection was reset, or never made, before any byte."""
    try:
        return exchange(client, reset_ends=False)
    except ConnectionResetError as error:
        assert "after 0 bytes" in str(error), error
        return b""


def in_flight_and_queued(handler: str, model: str, count: int, **settings: int) -> None:
    with serving(f"{HANDLERS}:{handler}", model=model, workers=1, **settings) as server, ExitStack() as stack:
        (worker,) = server.worker_pids()
        flying = [stack.enter_context(server.connect()) for _ in range(count)]
        for client in flying:
            client.sendall(b"in flight\n")
        halt(worker)
        queued = [stack.enter_context(server.connect()) for _ in range(count)]
        for client in queued:
            client.sendall(b"in the queue\n")
        server.send_signal(signal.SIGTERM)
        until(lambda: "Draining" in server.log(), "the supervisor drains")
        os.kill(worker, signal.SIGCONT)
        assert [answered_or_refused(client) for client in flying] == [b"IN FLIGHT\n"] * count
        assert [answered_or_refused(client) for client in queued] == [b"IN THE QUEUE\n"] * count
        assert server.wait() == 0
        assert "Traceback" not in server.log()


@pytest.mark.slow
@pytest.mark.parametrize("model", EVERY)
def test_term_with_conversations_in_flight_and_in_the_queue(model: str) -> None:
    """Each is answered whole; where there is no room for all at once, one after the other."""
    needs(model)
    count = 4 if model in HOLDS_ONE else 10
    in_flight_and_queued("slow_lines", model, count, max_threads=5, pool_size=5, max_children=5)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["thread", "pool", "epoll", "asyncio", "uvloop"])
def test_term_with_coroutines_in_flight_and_in_the_queue(model: str) -> None:
    needs(model)
    in_flight_and_queued("slow_streams", model, 10, max_threads=5, pool_size=5)
