"""A handler that closes its own descriptor, or raises what it should not, hurts nobody but its own client."""

from __future__ import annotations

import contextlib
import functools
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from launch import pairs
from pronghorn.models import registry
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import until

PATIENCE = 20.0
STYLES = [
    *(("Callbacks", name) for name in ("select", "poll", "epoll")),
    *(("AsyncioCallbacks", name) for name in ("select", "uvloop", "thread")),
    *(("streams", name) for name in ("asyncio", "fork")),
    *(("blocking", name) for name in ("iterative", "thread", "gevent")),
]
QUICK = {("Callbacks", "epoll"), ("AsyncioCallbacks", "uvloop"), ("streams", "asyncio"), ("blocking", "thread")}
EACH = [pytest.param(*each, marks=[] if each in QUICK else [pytest.mark.slow]) for each in STYLES]
OF_PYTHON = "SystemExit KeyboardInterrupt GeneratorExit StopIteration RecursionError MemoryError"
ERRORS = (*OF_PYTHON.split(), "CancelledError", "Mute")


def ask(client: socket.socket, line: bytes = b"who\n") -> int:
    client.sendall(line)
    return int(client.recv(100) or 0)


@contextlib.contextmanager
def served(handler: str, model: str, **settings: object) -> Iterator[Served]:
    missing = registry.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")
    with serving(f"breakers_under_test:{handler}", model=model, workers=1, **settings) as server:  # type: ignore[arg-type]
        yield server


@contextlib.contextmanager
def undisturbed(server: Served, model: str) -> Iterator[None]:
    """Another connection is open meanwhile, and its answer stays the same; one of iterative would hold up the rest."""
    if model == "iterative":
        yield
        return
    with server.connect() as client:
        known = ask(client)
        yield
        assert ask(client) == known


def worker_of(server: Served) -> int:
    (pid,) = server.worker_pids()[:1]
    return pid


@pytest.mark.slow
@pytest.mark.parametrize(("handler", "model"), EACH)
def test_a_descriptor_that_was_closed_behind_our_back_costs_its_connection_and_no_other(
    handler: str, model: str
) -> None:
    with served(handler, model, worker_silence=5) as server:
        pid, closes = worker_of(server), 0
        with contextlib.ExitStack() as stack, undisturbed(server, model):
            for how in (b"close\n", b"steal\n", b"copy\n", b"close\n"):
                bad = stack.enter_context(server.connect())
                bad.sendall(how)
                if how == b"close\n":
                    assert b"".join(iter(functools.partial(bad.recv, 100), b"")) == (b"%d\n" % pid) * (
                        model == "gevent"
                    )
                    closes += 1
                if handler == "blocking":  # which may have written to the next client in the moment of its accept(2)
                    until(lambda so_far=closes: server.log().count("the handler has written") == so_far)  # type: ignore[misc]
                for _ in range(3):
                    with server.connect() as client:
                        assert ask(client)
                        assert ask(client)
            if model != "fork":
                until(lambda: "descriptor was closed by the handler" in server.log())
        log = server.log()
        assert log.count("Handler failed on") <= 1, log
        assert worker_of(server) == pid, log
        assert server.stop(timeout=PATIENCE) == 0, server.log()
        assert "fault" not in server.log() and "unexpected" not in server.log()


RAISING = [
    *pairs("Callbacks/epoll AsyncioCallbacks/uvloop streams/thread tasks/asyncio tasks/uvloop tasks/thread"),
    *pairs("blocking/gevent blocking/iterative blocking/fork"),
]
FEW = {("Callbacks", "epoll"), ("tasks", "asyncio"), ("blocking", "iterative")}


@pytest.mark.parametrize(
    ("handler", "model"), [pytest.param(*each, marks=[] if each in FEW else [pytest.mark.slow]) for each in RAISING]
)
def test_whatever_a_handler_raises_ends_its_own_conversation_at_most(handler: str, model: str) -> None:
    with served(handler, model, worker_silence=5) as server:
        pid = worker_of(server)
        with undisturbed(server, model):
            for name in ERRORS:
                with server.connect() as bad:
                    bad.sendall(b"raise %s\n" % name.encode())
                    bad.shutdown(socket.SHUT_WR)
                    while bad.recv(100):
                        pass
                with server.connect() as client:
                    assert ask(client)
        assert worker_of(server) == pid, server.log()
        if handler == "tasks":
            until(lambda: model == "thread" or "of the handler raised SystemExit; the worker goes on" in server.log())
        else:
            until(lambda: "Handler failed" in server.log())
            until(lambda: "Mute: <str() failed>" in server.log())
        assert server.stop(timeout=PATIENCE) == 0, server.log()
        assert "unexpected" not in server.log()


DRINK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock:
    print(flush=True)
    room = bytearray(1 << 20)
    while sock.recv_into(room):
        pass
"""


@pytest.mark.parametrize(
    ("handler", "model"),
    [
        ("chargen", "epoll"),
        pytest.param("chargen", "select", marks=pytest.mark.slow),
        ("breakers_under_test:chatter", "asyncio"),
        pytest.param("breakers_under_test:chatter", "uvloop", marks=pytest.mark.slow),
    ],
)
def test_a_handler_that_writes_whenever_it_may_starves_nobody(handler: str, model: str) -> None:
    with serving(handler, model=model, workers=1, worker_silence=5) as server:
        host, port = map(str, server.address)
        drinker = subprocess.Popen([sys.executable, "-c", DRINK, host, port], stdout=subprocess.PIPE)
        try:
            assert drinker.stdout is not None and drinker.stdout.readline() == b"\n"
            for _ in range(5):
                with server.connect(timeout=PATIENCE) as client:
                    assert client.recv(10)
            assert drinker.poll() is None
        finally:
            drinker.kill()
            drinker.communicate()
        assert "no sign of life" not in server.log()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("model", ["asyncio", "epoll"])
def test_a_worker_without_memory_gives_its_place_to_another_and_does_not_turn_clients_away_for_ever(
    model: str,
) -> None:
    with served("eats", model) as server:
        pid = worker_of(server)
        with server.connect() as client:
            client.sendall(b"eat\n")

            def answered_by_another() -> bool:
                with contextlib.suppress(OSError, ValueError), server.connect(timeout=5) as other:
                    other.sendall(b"who\n")
                    return int(other.recv(100)) != pid
                return False

            until(answered_by_another, patience=PATIENCE)
        assert len(server.log().splitlines()) < 300
        assert "has no memory for its own loop" in server.log() or "ended with exit status 1" in server.log()


def test_an_asyncio_handler_under_uvloop_runs_on_uvloop() -> None:
    with served("loop_of", "uvloop") as server, server.connect() as client:
        assert client.recv(100) == b"uvloop"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="epoll")
@pytest.mark.parametrize(
    ("handler", "model", "how"),
    [
        ("Callbacks", "epoll", b"copy\n"),
        ("AsyncioCallbacks", "asyncio", b"taken\n"),
        ("AsyncioCallbacks", "uvloop", b"copy\n"),
        ("AsyncioCallbacks", "uvloop", b"taken\n"),
        ("AsyncioCallbacks", "uvloop", b"child\n"),
    ],
)
def test_a_closed_descriptor_of_which_a_copy_lives_does_not_keep_the_loop_turning(
    handler: str, model: str, how: bytes
) -> None:
    with served(handler, model) as server, server.connect() as bad:
        worker = psutil.Process(worker_of(server))
        bad.sendall(how)
        until(lambda: "descriptor was closed by the handler" in server.log())
        bad.sendall(b"this is readable for ever\n")

        def rests() -> bool:
            before = worker.cpu_times()
            time.sleep(0.5)
            after = worker.cpu_times()
            return after.user + after.system - before.user - before.system < 0.05

        until(rests, patience=PATIENCE)
