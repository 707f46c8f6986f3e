"""Lifespans: entered once in each worker before it is ready, seen by every handler, left after the drain."""

from __future__ import annotations

import contextlib
import functools
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import pronghorn
from launch import Launched, launched, script, text_of, wait_for
from pauses import undisturbed
from pronghorn.errors import IncompatibleHandler, WorkerFailedToStart
from pronghorn.handlers.handler import HandlerFacts
from pronghorn.handlers.recognise import recognise
from pronghorn.lifespans import Lifespan, kind_of
from pronghorn.models import registry
from pronghorn.settings import Settings

HERE = Path(__file__).parent
FLOWS = ("iterative", "fork", "prefork", "thread", "pool", "gevent")
LOOPS = ("select", "poll", "epoll", "kqueue", "asyncio", "uvloop")
ON_ASYNCIO = ("asyncio", "uvloop")

# The kind of a lifespan, found without calling it.


def plain() -> Iterator[int]:
    yield 1


async def plain_async() -> AsyncIterator[int]:
    yield 1


class Sync:
    def __enter__(self) -> int:
        return 1

    def __exit__(self, *_: object) -> None: ...


class Async:
    async def __aenter__(self) -> int:
        return 1

    async def __aexit__(self, *_: object) -> None: ...


class Maker:
    def make(self) -> Iterator[int]:
        yield 1


def takes(number: int) -> Iterator[int]:
    yield number


KINDS: list[tuple[Any, str]] = [
    (plain, "sync"),
    (contextlib.contextmanager(plain), "sync"),
    (functools.partial(takes, 1), "sync"),
    (functools.partial(contextlib.contextmanager(takes), 1), "sync"),
    (Maker().make, "sync"),
    (Sync, "sync"),
    (contextlib.ExitStack, "sync"),
    (plain_async, "async"),
    (contextlib.asynccontextmanager(plain_async), "async"),
    (Async, "async"),
    (contextlib.AsyncExitStack, "async"),
]


@pytest.mark.parametrize(("factory", "kind"), KINDS)
def test_the_kind_is_found_without_a_call(factory: Any, kind: str) -> None:
    assert kind_of(factory) == kind
    assert recognise(pronghorn.lifespan(factory)(lambda conn: None), Settings()).facts.lifespan == kind


@pytest.mark.parametrize("factory", [lambda: 1, Sync(), 7, None, Maker])
def test_what_does_not_tell_its_kind_is_no_lifespan(factory: Any) -> None:
    with pytest.raises(TypeError, match="nothing tells what kind"):
        pronghorn.lifespan(factory)


def test_a_handler_without_a_place_for_it_is_told(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="takes no lifespan"):
        pronghorn.lifespan(plain)("".join)


@pytest.mark.parametrize("factory", [factory for factory, kind in KINDS[:6] if kind == "sync"])
def test_what_it_yields_is_there_while_it_lasts(factory: Any) -> None:
    assert pronghorn.current_lifespan() is None
    with Lifespan(factory):
        assert pronghorn.current_lifespan() == 1
    assert pronghorn.current_lifespan() is None


# Which model it may have.


@pytest.mark.parametrize("model", (*FLOWS, *LOOPS))
@pytest.mark.parametrize("needs_asyncio", [False, True])
def test_an_async_one_needs_one_asyncio_loop_for_all(model: str, needs_asyncio: bool) -> None:
    facts = HandlerFacts("mine", "asyncio" if needs_asyncio else "message", "async")
    fit = LOOPS if needs_asyncio else ON_ASYNCIO
    if model in fit:
        registry.check(registry.page(model), facts)
        return
    with pytest.raises(IncompatibleHandler, match="async lifespan") as caught:
        registry.check(registry.page(model), facts)
    assert f"Choose another --model: {', '.join(fit)};" in caught.value.hint


@pytest.mark.parametrize("model", ["thread", "asyncio"])
def test_a_handler_that_blocks_cannot_have_an_async_one(model: str) -> None:
    with pytest.raises(IncompatibleHandler, match="Make it a sync one"):
        registry.check(registry.page(model), HandlerFacts("mine", "blocking", "async"))


def test_auto_chooses_a_model_for_an_async_one() -> None:
    name, why = registry.choose(HandlerFacts("mine", "message", "async"))
    assert name in ON_ASYNCIO
    assert "async lifespan" in why
    assert registry.choose(HandlerFacts("mine", "message", "sync"))[0] not in ON_ASYNCIO


# Served.


def notes(folder: Path) -> list[tuple[str, int]]:
    lines = text_of(folder / "notes").splitlines()
    return [(what, int(pid)) for what, _, pid in (line.partition(" ") for line in lines)]


def ask(server: Launched) -> bytes:
    with server.connect() as sock, sock.makefile("rb") as file:
        sock.sendall(b"?\n")
        return file.readline().rstrip(b"\n")


def needs(model: str) -> None:
    missing = registry.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")


@contextlib.contextmanager
def served(folder: Path, name: str, **settings: Any) -> Iterator[Launched]:
    shutil.copy(HERE / "lifespans_under_test.py", folder)
    with launched(folder, f"lifespans_under_test:{name}", drain_quiet="100ms", **settings) as server:
        yield server


PAIRS = [
    *(("with_conn", model) for model in (*FLOWS, *LOOPS)),
    *(("without_conn", model) for model in ("thread", "epoll")),
    *(("InProtocol", model) for model in ("fork", "thread", "epoll", "uvloop")),
    *(("blocking", model) for model in ("fork", "thread", "gevent")),
    *(("OldStyle", model) for model in ("fork", "thread")),
    ("old_server", "thread"),
    *(("streams", model) for model in ("fork", "thread", "epoll", "asyncio", "uvloop")),
    *(("streams_async", model) for model in LOOPS),
    *(("message_async", model) for model in (*ON_ASYNCIO, "auto")),
]


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_each_worker_enters_it_before_it_is_ready_and_leaves_it_after_its_drain(
    tmp_path: Path, name: str, model: str
) -> None:
    if model != "auto":
        needs(model)
    with served(tmp_path, name, model=model, workers=2) as server:
        workers = server.ready(2)
        assert sorted(notes(tmp_path)) == sorted(("entered", pid) for pid in workers)
        assert ask(server) in [b"pool of %d" % pid for pid in workers]
        with server.connect() as sock:  # a conversation that the drain has to end first
            sock.sendall(b"?\n")
            assert sock.recv(1000).startswith(b"pool of")
            assert ("left", workers[0]) not in notes(tmp_path)
            assert server.stop() == 0
        assert sorted(notes(tmp_path)[2:]) == sorted(("left", pid) for pid in workers)
        assert "Traceback" not in server.log


def test_a_factorys_result_may_have_one(tmp_path: Path) -> None:
    with served(tmp_path, "factory", factory=True) as server:
        (worker,) = server.ready()
        assert ask(server) == b"pool of %d" % worker
        assert server.stop() == 0
        assert notes(tmp_path) == [("entered", worker), ("left", worker)]


@pytest.mark.parametrize("model", ["thread", "fork"])
def test_it_is_left_although_the_drain_deadline_cut(tmp_path: Path, model: str) -> None:
    with served(tmp_path, "stubborn", model=model, drain_timeout=0.2) as server, server.connect() as sock:
        assert sock.recv(4) == b"held"
        (worker,) = server.workers()
        assert server.stop() == 6
        assert notes(tmp_path) == [("entered", worker), ("left", worker)]


@pytest.mark.parametrize("name", ["bad", "bad_async"])
def test_one_that_raises_means_not_ready(tmp_path: Path, name: str) -> None:
    with served(tmp_path, name) as server:
        assert server.exit() == WorkerFailedToStart.exit_code
        error = server.report["error"]
        assert "The lifespan 'raises" in error["what"]
        assert "ValueError: no database today" in error["why"]
        assert "lifespans_under_test.py" in error["why"], "the user's own traceback"
        assert 'lifespans.py"' not in error["why"].replace("lifespans_under_test.py", ""), "and none of ours"


@pytest.mark.parametrize("name", ["slow", "slow_async"])
def test_one_that_hangs_means_not_ready(tmp_path: Path, name: str) -> None:
    def trial() -> None:
        with served(tmp_path, name, start_timeout=0.7) as server:
            assert server.exit() == WorkerFailedToStart.exit_code
            assert "while it entered its lifespan 'hangs" in server.report["error"]["why"]

    undisturbed(trial)  # where the machine is busy, the time may be over before that


@pytest.mark.parametrize("name", ["bad_end", "bad_end_async"])
def test_one_that_raises_at_its_end_is_logged_and_no_more(tmp_path: Path, name: str) -> None:
    with served(tmp_path, name) as server:
        server.ready()
        assert server.stop() == 0
        assert server.log.count("failed at its end: ValueError: cannot let go") == 1
        assert "fault of the server" not in server.log


def test_an_async_one_is_refused_before_anything_is_bound(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        bind = f"127.0.0.1:{busy.getsockname()[1]}"
        with served(tmp_path, "streams_async", model="thread", bind=bind) as server:
            assert server.exit() == IncompatibleHandler.exit_code
            assert (
                "Choose another --model: select, poll, epoll, kqueue, asyncio, uvloop" in server.report["error"]["hint"]
            )


AROUND = """
import os, pronghorn
def note(what):
    with open("notes", "a") as file:
        file.write(f"{what} {os.getpid()}\\n")
if __name__ == "__main__":
    note("before")
    try:
        pronghorn.serve("lifespans_under_test:with_conn", bind="127.0.0.1:0", workers=2)
    finally:
        note("after")
"""


@pytest.mark.slow
def test_what_stands_around_serve_happens_once_before_all_workers_and_after_them(tmp_path: Path) -> None:
    shutil.copy(HERE / "lifespans_under_test.py", tmp_path)
    with script(tmp_path, AROUND) as server:
        server.ready(2)
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reloaded" in server.log, "the reload")
        assert server.stop() == 0
    told = notes(tmp_path)
    assert (told[0], told[-1]) == (("before", server.pid), ("after", server.pid))
    assert sorted(what for what, _ in told[1:-1]) == ["entered"] * 4 + ["left"] * 4
