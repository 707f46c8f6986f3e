"""--on-reload handover: established connections move to the new workers, over real processes."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from launch import Launched, launched, wait_for
from pronghorn.control import client
from pronghorn.testing.tls import over_tls, throw_away_pair

SESSION = """
import os, threading, time
import pronghorn

@pronghorn.message(pronghorn.lines)
class Handler:
    def __init__(self, conn):
        self.conn, self.count = conn, 0
        conn.send(b"welcome")

    def __call__(self, line):
        self.count += 1
        if line == b"lock":
            self.lock = threading.Lock()
        if line == b"big":
            return b"x" * 4_000_000
        return b"VERSION %s %d %d" % (line, self.count, os.getpid())

    def handed_over(self, conn, state):
        assert conn.peer == self.conn.peer and state["count"] == self.count
        MORE
"""
PROTOCOL = """
import os
import pronghorn

class Handler(pronghorn.Protocol):
    def connection_made(self, transport):
        self.transport, self.count = transport, 0
        transport.write(b"welcome\\n")

    def data_received(self, data):
        self.count += data.count(b"\\n")
        self.transport.write(b"VERSION %s %d %d\\n" % (data.strip(), self.count, os.getpid()))
"""
COROUTINE = """
import asyncio, os
import pronghorn

def note(what):
    with open("notes", "a") as file:
        file.write(what + "\\n")

@pronghorn.message(pronghorn.lines)
class Handler:
    def __init__(self, conn):
        self.conn, self.count = conn, 0

    async def connected(self):
        await self.conn.send(b"welcome")
        note("connected")

    async def __call__(self, line):
        self.count += 1
        if line == b"work":
            await asyncio.sleep(0.5)
        return b"VERSION %s %d %d" % (line, self.count, os.getpid())

    async def handed_over(self, conn, state):
        await asyncio.sleep(0)
        assert conn is self.conn and state["count"] == self.count
        note("handed over")
        conn.call_later(0.05, self.tick)

    async def tick(self):
        await self.conn.send(b"tick")

    async def closed(self, reason):
        note("closed")
"""
FUNCTION = """
import os
import pronghorn

@pronghorn.message(pronghorn.lines)
def Handler(line):
    return b"VERSION %s 0 %d" % (line, os.getpid())
"""


def put(folder: Path, version: str, text: str = SESSION, more: str = "pass") -> None:
    (folder / "new").write_text(text.replace("VERSION", version).replace("MORE", more))
    (folder / "new").rename(folder / "mine.py")


class Client:
    """One client of the handlers above; `served` closes it."""

    all: ClassVar[list[Client]] = []

    def __init__(self, sock: socket.socket, *, greeted: bool = True) -> None:
        self.sock, self.file = sock, sock.makefile("rb")
        self.all.append(self)
        if greeted:
            assert self.file.readline() == b"welcome\n"

    def ask(self, line: bytes) -> tuple[str, int, int]:
        """The version of the code that answers, how many lines that connection has sent, and its worker."""
        self.sock.sendall(line + b"\n")
        version, said, count, pid = self.file.readline().split()
        assert said.endswith(line)
        return version.decode(), int(count), int(pid)

    def close(self) -> None:
        self.file.close()
        self.sock.close()


@contextlib.contextmanager
def served(folder: Path, text: str = SESSION, **settings: Any) -> Iterator[Launched]:
    put(folder, "v1", text)
    settings = {"on_reload": "handover", "control_socket": str(folder / "ctl"), "drain_quiet": 0.1, **settings}
    with launched(folder, "mine:Handler", **settings) as server:
        server.ready(settings.get("workers", 1))
        try:
            yield server
        finally:
            while Client.all:
                Client.all.pop().close()


def reloaded(server: Launched, turn: int) -> None:
    server.send(signal.SIGHUP)
    wait_for(lambda: server.log.count("Reloaded in ") == turn, "the reload")


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = client.ask(str(folder / "ctl"), {"command": "status"}, 15, lambda: None)
    return found


def counted(folder: Path) -> tuple[int, int, int]:
    found = status(folder)
    return found["open"], found["accepted"], found["handover"]["moved"]


MODELS = [
    pytest.param(name, marks=[] if name == "epoll" else pytest.mark.slow) for name in "epoll poll asyncio".split()
]


@pytest.mark.parametrize("model", [*MODELS, pytest.param("uvloop", marks=pytest.mark.slow)])
def test_connections_move_with_their_state_between_two_messages(tmp_path: Path, model: str) -> None:
    if model == "uvloop":
        pytest.importorskip("uvloop")
    limits = {"max_generations": 1, "max_connections_per_source": 3}
    with served(tmp_path, model=model, workers=2, **limits) as server:
        chatting, halfway, slow = (Client(server.connect()) for _ in range(3))
        before = chatting.ask(b"a")
        assert before[:2] == ("v1", 1) and halfway.ask(b"b")[1] == 1
        halfway.sock.sendall(b"be")
        slow.sock.sendall(b"big\nafter\n")  # the first reply does not fit, and the second message waits
        put(tmp_path, "v2")
        reloaded(server, 1)
        assert "; 3 connections moved to it" in server.log and "stayed" not in server.log
        after = chatting.ask(b"a")
        assert after[:2] == ("v2", 2) and after[2] != before[2]
        assert halfway.ask(b"gun")[:2] == ("v2", 2)
        reloaded(server, 2)
        assert len(slow.file.readline()) == 4_000_001
        version, said, count, _ = slow.file.readline().split()
        assert (version, said, count) == (b"v2", b"after", b"2") and slow.ask(b"c")[1] == 3
        wait_for(lambda: len(server.workers()) == 2, "the end of the old workers")
        wait_for(lambda: counted(tmp_path) == (3, 3, 6), "the counts of the old workers")
        told = status(tmp_path)
        assert 0 < told["handover"]["longest_pause"] < 30 and sum(told["closed"].values()) == 0
        wait_for(lambda: status(tmp_path)["messages"] == 7, "the count of messages")
        assert status(tmp_path)["bytes_in"] == len(b"a\nb\nbebig\nafter\na\ngun\nc\n")
        assert server.refuses()  # those that have moved are counted, and once
        for each in (chatting, halfway, slow):
            each.close()
        wait_for(lambda: status(tmp_path)["closed"]["done"] == 3, "the end of the connections")
        assert not server.ask(b"").startswith(b"v") and status(tmp_path)["refused"] == 1


@pytest.mark.parametrize("model", ["asyncio", "epoll"])
@pytest.mark.slow
def test_coroutines_move_when_they_wait_for_a_message(tmp_path: Path, model: str) -> None:
    with served(tmp_path, COROUTINE, model=model, workers=1) as server:
        chatting, working = Client(server.connect()), Client(server.connect())
        home = chatting.ask(b"a")[2]
        working.sock.sendall(b"work\npart")
        wait_for(lambda: status(tmp_path)["messages"] == 2, "the begin of the work")
        put(tmp_path, "v2", COROUTINE)
        reloaded(server, 1)
        assert "2 connections moved to it" in server.log and "stayed" not in server.log
        assert working.file.readline() == b"v1 work 1 %d\n" % home
        for each in (chatting, working):
            assert each.file.readline() == b"tick\n"
        assert chatting.ask(b"b")[:2] == ("v2", 2)
        working.sock.sendall(b"ly\n")
        assert working.file.readline().startswith(b"v2 partly 2 ")
        reloaded(server, 2)
        assert chatting.file.readline() == b"tick\n" and chatting.ask(b"c")[:2] == ("v2", 3)
        wait_for(lambda: len(server.workers()) == 1, "the end of the old workers")
        wait_for(lambda: (tmp_path / "notes").read_text().count("handed over\n") == 4, "each handover of each")
        notes = (tmp_path / "notes").read_text().split("\n")
        assert (notes.count("connected"), notes.count("handed over"), notes.count("closed")) == (2, 4, 0)
        chatting.close()
        wait_for(lambda: "closed" in (tmp_path / "notes").read_text(), "the word of the end")


@pytest.mark.parametrize(
    ("text", "model"), [(PROTOCOL, "epoll"), pytest.param(FUNCTION, "asyncio", marks=pytest.mark.slow)]
)
def test_an_upgrade_and_a_replacement_move_them_too(tmp_path: Path, text: str, model: str) -> None:
    with served(tmp_path, text, model=model, max_connections_per_worker=4) as server:
        one = Client(server.connect(), greeted=text is PROTOCOL)
        first = one.ask(b"a")
        for _ in range(5):
            server.connect().close()
        wait_for(lambda: one.ask(b"a")[2] != first[2], "the replacement")
        second = one.ask(b"a")
        put(tmp_path, "v2", text)
        server.send(signal.SIGUSR2)
        wait_for(lambda: one.ask(b"a")[0] == "v2", "the upgrade")
        third = one.ask(b"a")
        assert third[1] > second[1] or text is FUNCTION
        wait_for(lambda: status(tmp_path)["handover"]["moved"] == 2, "the count of its moves")
        wait_for(lambda: server.process.poll() == 0, "the end of the old program")
        assert one.ask(b"z")[2] == third[2]


@pytest.mark.slow
def test_what_cannot_move_stays_and_moves_once_it_can(tmp_path: Path) -> None:
    with served(tmp_path, workers=1) as server:
        locked, other = Client(server.connect()), Client(server.connect())
        home = locked.ask(b"lock")[2]
        put(tmp_path, "v2", SESSION, "assert False, 'not so'")  # handed_over raises
        reloaded(server, 1)
        assert locked.ask(b"a") == ("v1", 2, home) and other.ask(b"a") == ("v1", 1, home)
        assert (
            "1 stays (its state does not pickle: cannot pickle '_thread.lock' object, in its attribute 'lock')"
            in server.log
        )
        assert "1 stays (AssertionError: not so)" in server.log and " has handed no connection over; 1 st" in server.log
        assert "generation 2 serves; 2 connections of old workers go on\n" in server.log
        (tmp_path / "mine.py").write_text("a fault")
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reload failed" in server.log, "the reload that fails")
        assert other.ask(b"a") == ("v1", 2, home)
        put(tmp_path, "v3")
        reloaded(server, 2)
        assert other.ask(b"a")[0] == "v3", "the worker before the last has handed it over before the report"
        assert (
            "generation 3 serves; 1 connection moved to it" in server.log and " at most, and 1 stayed\n" in server.log
        )
        told = server.log.count(" has handed ")
        reloaded(server, 3)
        assert server.log.count(" has handed ") == told + 1, "what is no news is told again"
        assert locked.ask(b"a") == ("v1", 3, home)
        assert status(tmp_path)["handover"]["moved"] == 2


@pytest.mark.slow
def test_a_worker_that_hangs_takes_nothing_away(tmp_path: Path) -> None:
    with served(tmp_path, workers=1) as server:
        clients = [Client(server.connect()) for _ in range(3)]
        home = clients[0].ask(b"a")[2]
        put(tmp_path, "v2", SESSION, "time.sleep(4)")
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reloaded in" in server.log, "the reload")
        assert "no new worker took it within 2 s" in server.log
        assert [each.ask(b"x")[2] for each in clients] == [home] * 3
        put(tmp_path, "v3")
        reloaded(server, 2)
        wait_for(lambda: all(each.ask(b"y")[0] == "v3" for each in clients), "the handover")


@pytest.mark.slow
def test_tls_and_models_without_a_loop_keep_their_connections(tmp_path: Path) -> None:
    twice = {"listeners": [{"name": "other", "bind": ["127.0.0.1:0"], "tls_client_cert": "none"}]}
    with served(tmp_path, **throw_away_pair(str(tmp_path)), **twice) as server, over_tls(server.connect()) as sock:
        one = Client(sock)
        home = one.ask(b"a")[2]
        reloaded(server, 1)
        assert one.ask(b"a") == ("v1", 2, home) and "1 stays (TLS)" in server.log
        assert server.log.count(", serial ") == 2, server.log
        assert server.log.count(" expires on ") == 2 and "New certificate" not in server.log, server.log
    with served(tmp_path, model="thread") as server:
        assert "--on-reload handover moves none with model thread" in server.log
        one = Client(server.connect())
        home = one.ask(b"a")[2]
        reloaded(server, 1)
        assert one.ask(b"a") == ("v1", 2, home)
        assert "1 stays (model thread)" in server.log and status(tmp_path)["handover"]["stay"] == {"model thread": 1}
