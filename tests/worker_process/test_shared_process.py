"""What one process shares with all its connections, and what a connection has for itself."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest

from launch import launched, text_of, wait_for

pytestmark = pytest.mark.slow
HELPERS = """
import os, time, pronghorn

def helper():
    if not os.fork():
        os.close(0), os.close(1), os.close(2)
        time.sleep(60)
        os._exit(0)

@pronghorn.message(pronghorn.lines)
def message(line):
    helper()
    return b"started"

class Protocol(pronghorn.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        helper()
        self.transport.write(b"started\\n")

async def streams(reader, writer):
    async for line in reader:
        helper()
        writer.write(b"started\\n")

def blocking(conn):
    while conn.recv(100):
        helper()
        conn.sendall(b"started\\n")
"""
COPIES = [("message", each) for each in ("select", "epoll", "asyncio", "pool")]
COPIES += [("Protocol", "epoll"), ("streams", "asyncio"), ("streams", "thread"), ("blocking", "fork")]
COPIES += [("message", "uvloop")] if importlib.util.find_spec("uvloop") else []


@pytest.mark.parametrize(("name", "model"), COPIES)
def test_a_copy_of_the_descriptor_in_a_child_process_keeps_no_client_waiting(
    tmp_path: Path, name: str, model: str
) -> None:
    (tmp_path / "helpers.py").write_text(HELPERS)
    with launched(tmp_path, f"helpers.py:{name}", model=model) as server:
        began = time.monotonic()
        assert server.ask(b"go\n") == b"started\n"
        assert time.monotonic() - began < 10
        assert server.stop() == 0, server.log


CONTEXTS = """
import asyncio, contextvars, pronghorn

site = contextvars.ContextVar("site")
site.set("ours")  # at the import: for all connections
user = contextvars.ContextVar("user", default="nobody")

def turn(line):
    words = line.split()
    if words[:1] == [b"login"]:
        user.set(words[1].decode())
    return f"{user.get()} {site.get()}".encode()

@pronghorn.message(pronghorn.lines)
def message(line):
    return turn(line)

@pronghorn.message(pronghorn.lines)
async def later(line):
    return turn(line)

class Callbacks:
    def connection_made(self, transport):
        self.transport = transport
        self.before = user.get()
        user.set(self.before + "+")

    def data_received(self, data):
        self.transport.write(turn(data.replace(b"who", b"login " + self.before.encode())) + b"\\n")

    def eof_received(self):
        pass

    def connection_lost(self, error):
        with open("lost", "a") as file:
            file.write(user.get() + "\\n")

class Ours(Callbacks, pronghorn.Protocol):
    pass

class Theirs(Callbacks, asyncio.Protocol):
    pass

async def streams(reader, writer):
    async for line in reader:
        writer.write(turn(line) + b"\\n")

def blocking(conn):
    with conn.makefile("rb") as file:
        for line in file:
            conn.sendall(turn(line) + b"\\n")
"""
OWN = [("message", each) for each in ("epoll", "asyncio", "thread", "fork")]
OWN += [("later", "asyncio"), ("Ours", "epoll"), ("Ours", "pool")]
OWN += [("Theirs", "asyncio"), ("Theirs", "pool"), ("streams", "epoll"), ("streams", "pool")]
OWN += [("blocking", "pool"), ("blocking", "iterative")]
OWN += [("Theirs", "uvloop"), ("streams", "uvloop")] if importlib.util.find_spec("uvloop") else []
OWN += [("blocking", "gevent")] if importlib.util.find_spec("gevent") else []


@pytest.mark.parametrize(("name", "model"), OWN)
def test_a_connection_has_a_context_of_its_own(tmp_path: Path, name: str, model: str) -> None:
    (tmp_path / "context.py").write_text(CONTEXTS)
    with launched(tmp_path, f"context.py:{name}", model=model, pool_size="1") as server:
        assert server.ask(b"login alice\n") == b"alice ours\n"
        assert server.ask(b"who\n") == b"nobody ours\n"
        if name in ("Ours", "Theirs"):
            wait_for(lambda: text_of(tmp_path / "lost").splitlines() == ["alice", "nobody"], "the ends")
        if model in ("pool", "iterative"):
            return  # one after the other
        with server.connect() as first, server.connect() as second:
            for sock, question, answer in (
                (first, b"login bob\n", b"bob ours\n"),
                (second, b"who\n", b"nobody ours\n"),
                (first, b"and now\n", b"bob ours\n"),
            ):
                sock.sendall(question)
                assert sock.recv(100) == answer


OF_TASKS = """
import asyncio, contextvars, pronghorn

pool = contextvars.ContextVar("pool", default="none")
user = contextvars.ContextVar("user", default="nobody")

async def life():
    pool.set("of the lifespan")
    yield

def note(by):
    with open("told", "a") as file:
        file.write(f"{by} {user.get()} {pool.get()}\\n")

async def task():
    await asyncio.sleep(0)
    note("task")

tasks = set()

@pronghorn.lifespan(life)
@pronghorn.message(pronghorn.lines)
def message(line):
    user.set(f"{user.get()} {line.decode()}")
    loop = asyncio.get_running_loop()
    tasks.add(loop.create_task(task()))
    loop.call_later(0, note, "timer")
    return f"{user.get()} {pool.get()}".encode()
"""


@pytest.mark.parametrize("model", ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])])
def test_tasks_and_timers_of_a_message_function_run_in_its_connections_context(tmp_path: Path, model: str) -> None:
    (tmp_path / "tasks.py").write_text(OF_TASKS)
    with launched(tmp_path, "tasks.py:message", model=model) as server, server.connect() as first:
        for _ in range(2):
            first.sendall(b"alice\n")
            assert b" alice of the lifespan\n" in first.recv(100)
        assert server.ask(b"bob\n") == b"nobody bob of the lifespan\n"
        told = [
            f"{by} nobody {user} of the lifespan"
            for by in ("task", "timer")
            for user in ("alice", "alice alice", "bob")
        ]
        wait_for(lambda: sorted(text_of(tmp_path / "told").splitlines()) == sorted(told), "what they have noted")
