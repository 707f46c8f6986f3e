"""Waits that are seen from beside; and the heartbeat of loops, of flows that accept, and of the only flow there is."""

from __future__ import annotations

import io
import select
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from boards import ask, board_of, serving_rows
from handlers_that_wait import anonymous_tls
from launch import Launched, launched, wait_for
from pronghorn.connection.blocking import Connection, Waits
from pronghorn.models import registry
from pronghorn.scoreboard.row import Row
from pronghorn.serving.heartbeat import SeenConnection, SeenWaits
from pronghorn.settings.source import Source

HANDLERS = Path(__file__).parents[1] / "handlers_that_wait.py"
MODELS = ("iterative", "fork", "prefork", "thread", "pool", "select", "poll", "epoll", "asyncio", "uvloop", "gevent")
linux = pytest.mark.skipif(sys.platform != "linux", reason="the test finds a server's scoreboard in /proc")


def row_of(server: Launched) -> Row:
    (row,) = serving_rows(board_of(server))
    return row


def beats(row: Row, server: Launched, times: int = 2) -> None:
    """Waits for so many heartbeats."""
    for _ in range(times):
        last = row.beat
        wait_for(lambda last=last: row.beat > last, f"a heartbeat of {server.errors.parent.name}")  # type: ignore[misc]


# The heartbeat.


@contextmanager
def all_launched(folder: Path, *started: tuple[str, str | Source]) -> Iterator[list[tuple[Launched, Row]]]:
    """A server of one worker for each of these models and handlers, side by side, so that they are waited for once, and
    the rows of their workers; none of a model that is missing here."""
    with ExitStack() as stack:
        found = []
        for number, (model, handler) in enumerate(started):
            if registry.page(model).missing() is None:
                own = folder / f"{number}-{model}"
                own.mkdir()
                server = stack.enter_context(launched(own, handler, model=model, workers=1))
                found.append((server, row_of(server)))
        yield found


@linux
@pytest.mark.slow
def test_a_worker_without_clients_beats_under_every_model(tmp_path: Path) -> None:
    with all_launched(tmp_path, *((model, "upper") for model in MODELS)) as servers:
        for server, row in servers:
            beats(row, server)


WAITING = {
    "message": "upper",
    "recv_into": f"{HANDLERS}:receives",
    "makefile": f"{HANDLERS}:reads_a_file",
    "timeout": f"{HANDLERS}:has_a_timeout",
    "sendall": f"{HANDLERS}:floods",
    "asyncio": f"{HANDLERS}:streams",
    "program": Source(command=("cat",)),
}


@linux
@pytest.mark.slow
def test_the_only_flow_beats_while_it_waits_for_its_client_in_any_way(tmp_path: Path) -> None:
    started = [*(("iterative", handler) for handler in WAITING.values()), ("prefork", "upper")]
    with all_launched(tmp_path, *started) as servers, ExitStack() as stack:
        for server, _ in servers:
            ask(stack.enter_context(server.connect()))
        for server, row in servers:
            beats(row, server, 3)


@linux
@pytest.mark.slow
def test_a_socket_that_the_handler_has_wrapped_is_trusted(tmp_path: Path) -> None:
    with launched(tmp_path, f"{HANDLERS}:wraps", model="iterative") as server, server.connect() as raw:
        row = row_of(server)
        with anonymous_tls(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(raw) as client:
            assert ask(client) == b"hello\n"
            beats(row, server)
            assert ask(client) == b"hello\n"


@linux
@pytest.mark.slow
def test_a_handler_that_computes_is_silence(tmp_path: Path) -> None:
    computing = [(model, f"{HANDLERS}:computes") for model in ("iterative", "epoll", "asyncio")]
    computing.append(("gevent", f"{HANDLERS}:spins"))  # gevent's sleep lets others run
    with all_launched(tmp_path, *computing) as servers, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for server, _ in servers]
        for client in clients:
            client.sendall(b"3\n")
        longest = [0.0] * len(servers)

        def silent() -> bool:
            for number, (_, row) in enumerate(servers):
                longest[number] = max(longest[number], time.monotonic() - row.beat)
            return min(longest) > 1.3

        wait_for(silent, "1.3 s of silence under each model")
        for (server, row), client in zip(servers, clients, strict=True):
            assert client.recv(100) == b"3\n"
            beats(row, server, 1)


@linux
@pytest.mark.slow
def test_a_long_conversation_is_no_silence_where_another_flow_accepts(tmp_path: Path) -> None:
    computing = [(model, f"{HANDLERS}:computes") for model in ("thread", "pool", "fork")]
    with all_launched(tmp_path, *computing) as servers, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for server, _ in servers]
        for client in clients:
            client.sendall(b"60\n")
        for server, row in servers:
            wait_for(lambda row=row: row.open == 1)  # type: ignore[misc]
            beats(row, server)
        assert not select.select(clients, [], [], 0)[0], "they compute all the time"


# A seen connection is a blocking socket like any other.


@pytest.fixture
def pair() -> Iterator[tuple[SeenConnection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with SeenConnection(ours.family, ours.type, ours.proto, fileno=ours.detach()) as conn, theirs:
        conn.begin(1, "test", None)
        yield conn, theirs


def in_a_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_it_is_seen_while_it_waits_and_not_after(pair: tuple[SeenConnection, socket.socket]) -> None:
    conn, theirs = pair
    for wait in (lambda: conn.recv(1), lambda: conn.recv_into(bytearray(1)), lambda: conn.makefile("rb").read(1)):
        assert not conn.waits.look()
        thread = in_a_thread(wait)
        wait_for(conn.waits.look, "the wait")
        theirs.sendall(b"x")
        thread.join()
        assert not conn.waits.look()


def test_it_is_seen_while_it_sends(pair: tuple[SeenConnection, socket.socket]) -> None:
    conn, theirs = pair
    thread = in_a_thread(lambda: conn.sendall(bytes(1 << 22)))
    wait_for(conn.waits.look, "the wait")
    left = 1 << 22
    while left:
        left -= len(theirs.recv(1 << 16))
    thread.join()
    assert not conn.waits.look()


def test_its_timeouts_and_modes_are_a_sockets(pair: tuple[SeenConnection, socket.socket]) -> None:
    conn, theirs = pair
    assert conn.gettimeout() is None
    assert conn.getblocking()
    conn.settimeout(0.01)
    with pytest.raises(TimeoutError):
        conn.recv(1)
    conn.setblocking(False)
    with pytest.raises(BlockingIOError):
        conn.recv_into(bytearray(4), nbytes=2, flags=0)
    theirs.close()
    conn.setblocking(True)
    assert conn.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        conn.send(b"x")
    assert not conn.waits.look()


def test_its_copies_and_files_work(pair: tuple[SeenConnection, socket.socket], tmp_path: Path) -> None:
    conn, theirs = pair
    with conn.dup() as copy:
        copy.sendall(b"one\n")
    conn.sendmsg([b"two", b"\n"])
    (tmp_path / "three").write_bytes(b"three\n")
    with open(tmp_path / "three", "rb") as file:
        assert conn.sendfile(file) == 6
    theirs.sendall(b"four\nfive\n")
    with conn.makefile("rw") as text:
        assert isinstance(text, io.TextIOWrapper)
        assert [text.readline(), text.readline()] == ["four\n", "five\n"]
        text.write("six\n")
    with theirs.makefile("rb") as told:
        assert told.read(18) == b"one\ntwo\nthree\nsix\n"
    theirs.sendall(b"seven")
    assert conn.recvmsg(2)[0] + conn.recvfrom(3)[0] == b"seven"


def test_signs_are_taken_once() -> None:
    waits = SeenWaits()
    waits.sign()
    assert waits.look()
    assert not waits.look()


def test_other_connections_pay_nothing() -> None:
    assert type(Connection.waits) is Waits
    assert Connection.recv is socket.socket.recv
    assert Connection.waits.call(max, 1, 2) == 2
    Connection.waits.sign()
