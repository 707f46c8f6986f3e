"""What a message handler can do beside answering: its connection's life, timers, other threads, conversations."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import pronghorn
from launch import pairs
from pauses import undisturbed
from pronghorn.errors import BadHandler
from pronghorn.framing import lines, prefixed
from pronghorn.handlers.recognise import recognise
from pronghorn.settings import Settings, settle
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, until

MODULE = "gateway_under_test"
EACH = pairs("Plain/epoll Plain/thread Plain/fork Coroutines/uvloop Coroutines/pool")
FLOODED = 3 * sum(len(b"a %d \n" % number) + 500 for number in range(200))
DEBUG = {"log_level": "debug", "workers": 1, "idle_timeout": 600}


@contextmanager
def served(name: str, model: str, **settings: Any) -> Iterator[Served]:
    with serving(f"{MODULE}:{name}", model=model, **{**DEBUG, **settings}) as server:
        yield server


def notes(server: Served) -> list[str]:
    return re.findall(r"note: (.*)", server.log())


def ends(server: Served) -> dict[int, str]:
    """What the log tells of each connection's end, behind its number."""
    return {int(n): told for n, told in re.findall(r"closed connection \d+-(\d+) from [^:]*: (.*)", server.log())}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model"), pairs("Plain/epoll Plain/thread Plain/fork Coroutines/uvloop Coroutines/pool")
)
def test_a_connection_has_what_a_gateway_needs(name: str, model: str) -> None:
    with served(name, model) as server:
        asked = 0

        def ask(word: bytes, *expected: bytes) -> None:
            nonlocal asked
            asked += 1
            wanted = b"".join(each + b"\n" for each in expected)
            with server.connect() as client:
                assert exchange(client, word + b"\n", expect=len(wanted)) == wanted, word

        ask(b"facts", f"127.0.0.1 True 1 {server.addresses[0][0]}:{server.addresses[0][1]}".encode())  # type: ignore[str-bytes-safe]
        ask(b"cancel", b"cancel", b"later")
        ask(b"timer in a thread", b"RuntimeError")
        for word, reason in ((b"raise later", "error"), (b"idle", "timeout"), (b"close from a thread", "done")):
            asked += 1
            with server.connect() as client:
                exchange(client, word + b"\n")
            until(lambda number=asked, reason=reason: f"{number} {reason}" in notes(server), f"{word!r} ends: {reason}")
        with server.connect() as client:
            got = exchange(
                client, b"flood from threads\n", expect=3 * sum(len(b"a %d \n" % n) + 500 for n in range(200))
            )
        told = [line.split()[:2] for line in got.splitlines()]
        for each in (b"a", b"b", b"c"):
            assert [int(number) for name, number in told if name == each] == list(range(200))
        until(lambda: len(ends(server)) == len(notes(server)) == asked + 1, "all have ended, and were told")
        assert sorted(notes(server)) == sorted(f"{number} {told.split()[0]}" for number, told in ends(server).items())
        assert "device=a\\nb, worker=1" in ends(server)[1]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), pairs("Plain/select Plain/fork Plain/iterative Coroutines/asyncio"))
def test_the_drain_deadline_is_told_too(name: str, model: str) -> None:
    with served(name, model, drain_timeout=0.5) as server, server.connect() as client:
        client.sendall(b"stuck\nhalf" if name == "Coroutines" else b"half")
        until(lambda: ends(server) or server.is_at_rest(), "the worker has read it")
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 6
        assert notes(server) == ["1 aborted"]
        assert ends(server)[1].startswith("aborted")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["asyncio", "thread"])
def test_a_conversation_has_the_limits_of_messages(model: str) -> None:
    frame = prefixed(2).frame
    with served("talk", model, max_message_size=1000, drain_quiet=0.1) as server:
        with server.connect() as client:  # what came before a message that is too long is answered
            assert exchange(client, frame(b"one") + frame(b"two") + b"\xff\xff") == frame(b"ONE") + frame(b"TWO")
        with server.connect() as client:
            assert len(exchange(client, frame(b"big"), expect=64 * 60_002)) == 64 * 60_002
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
        with server.connect() as client:
            assert exchange(client, frame(b"last"), expect=6) == frame(b"LAST")
            server.send_signal(signal.SIGTERM)
            assert client.recv(1) == b""
        assert server.wait() == 0
        assert server.log().count("talk returned bytes, which goes nowhere") == 1
        assert notes(server) == ["1 MessageTooLong", "2 ended, draining False False", "3 ended, draining True True"]
        assert [told.split(" after")[0] for told in ends(server).values()] == [
            "error (MessageTooLong)",
            "done",
            "draining",
        ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), pairs("publish/asyncio Publisher/thread"))
def test_a_coroutine_that_only_sends_ends_with_its_client_and_holds_up_nobody(name: str, model: str) -> None:
    undisturbed(lambda: one_is_silent_and_one_leaves(name, model))


def one_is_silent_and_one_leaves(name: str, model: str) -> None:
    with served(name, model, write_timeout=0.5) as server:
        with server.connect() as silent, server.connect() as leaves:
            assert silent.recv(1) and leaves.recv(1)
            leaves.close()
            until(lambda: len(notes(server)) == 2, "both ends are told")
        with server.connect() as later:
            assert later.recv(1)
        until(lambda: len(ends(server)) == 3, "the log tells of three ends")
        assert {told.split(" (")[0] for told in ends(server).values()} == {"timeout", "reset"}
        told = {"timeout", "reset"} if name == "Publisher" else {"PeerTimeout", "ConnectionResetError"}
        assert {each.split()[1] for each in notes(server)[:2]} == told


@pytest.mark.slow
def test_what_a_coroutine_sends_goes_out_at_once() -> None:
    with served("Coroutines", "asyncio") as server, server.connect() as client:
        assert exchange(client, b"progress\n", expect=8) == b"working\n"
        server.send_signal(signal.SIGTERM)
        assert exchange(client, expect=9) == b"progress\n"


@pytest.mark.slow
def test_a_connection_with_timers_stays_unless_its_class_starts_them_anew() -> None:
    with served("Moved", "epoll", on_reload="handover") as server, server.connect() as stays, server.connect() as moves:
        exchange(stays, b"timer\n", expect=1)
        before = exchange(moves, b"facts\n", expect=10).split(b" ", 1)
        server.send_signal(signal.SIGHUP)
        until(lambda: "generation 2 serves" in server.log(), "the reload")
        after = exchange(moves, b"again\n", expect=10).split(b" ", 1)
        assert after[0] != before[0] and after[1] == before[1] == b"{'device': 'tracker'} 77\n"
        assert "it has timers" in server.log()
        assert exchange(stays, b"here\n", expect=5).split(b" ")[0] == before[0]


# Without a server.


def test_what_is_no_conversation_is_refused() -> None:
    with pytest.raises(TypeError, match="needs a framing"):
        pronghorn.conversation(b"\n")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="async def handle"):
        pronghorn.conversation(lines)(bytes.upper)  # type: ignore[type-var]

    @pronghorn.conversation(lines)
    async def two(conn: Any, more: Any) -> None: ...  # type: ignore[type-var]

    with pytest.raises(BadHandler, match="given the connection"):
        recognise(two, settle({}))


@pytest.mark.parametrize("hook", ["connected", "closed"])
def test_a_hook_that_cannot_be_called_is_refused(hook: str) -> None:
    kind = type("Wrong", (), {"__call__": lambda self, line: line, hook: lambda self, a, b, c: None})
    with pytest.raises(BadHandler, match=rf"has a {hook}\(\) that cannot be called"):
        recognise(pronghorn.message(lines)(kind), Settings())


def test_one_method_that_is_a_coroutine_makes_the_style() -> None:
    async def closed(self: Any, reason: str) -> None: ...

    plain = {"__call__": lambda self, line: line}
    for more, style in (({}, "message"), ({"closed": closed}, "asyncio"), ({"connected": True}, "message")):
        kind = type("Kind", (), {**plain, **more})
        assert recognise(pronghorn.message(lines)(kind), Settings()).facts.style == style
