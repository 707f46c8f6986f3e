"""Which worker a handler runs in: in every style and kind of process, and across a reload."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import pronghorn
from launch import PATIENCE, Launched, launched, wait_for
from pronghorn.errors import BadHandler
from pronghorn.settings.source import Source

CODE = """
import asyncio, os, threading, msgspec, pronghorn

def facts():
    return msgspec.json.encode([pronghorn.worker(), os.getpid()]) + b"\\n"

def life():
    yield facts()

async def async_life():
    yield facts()

@pronghorn.message(pronghorn.lines)
def message(line):
    return facts().rstrip()

class protocol(pronghorn.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(facts())

async def streams(reader, writer):
    while await reader.readline():
        writer.write(await asyncio.to_thread(facts))

@pronghorn.lifespan(async_life)
async def in_async_lifespan(reader, writer):
    while await reader.readline():
        writer.write(pronghorn.current_lifespan())

@pronghorn.lifespan(life)
def in_lifespan(conn):
    while conn.recv(100):
        conn.sendall(pronghorn.current_lifespan())

def blocking(conn):
    while conn.recv(100):
        answers = []
        thread = threading.Thread(target=lambda: answers.append(facts()))
        thread.start()
        thread.join()
        conn.sendall(answers[0])
"""
PROGRAM = """
import json, os, sys
for line in sys.stdin:
    print(json.dumps({k[7:].lower(): v for k, v in os.environ.items() if k.startswith("WORKER_")}), flush=True)
"""


def told(sock: socket.socket) -> tuple[dict[str, Any], int]:
    sock.sendall(b"?\n")
    with sock.makefile("rb") as file:
        facts, pid = msgspec.json.decode(file.readline())
    return facts, pid


def serve(folder: Path, handler: str, **settings: Any) -> Any:
    (folder / "mine.py").write_text(CODE)
    return launched(folder, f"mine:{handler}", **settings)


STYLES = "message/epoll streams/uvloop in_lifespan/prefork in_async_lifespan/asyncio"


@pytest.mark.slow
@pytest.mark.parametrize("pair", STYLES.split())
def test_a_handler_of_every_style_knows_its_worker(tmp_path: Path, pair: str) -> None:
    name, model = pair.split("/")
    with serve(tmp_path, name, model=model, workers=1, name="hares") as server, server.connect() as sock:
        facts, pid = told(sock)
        assert facts.pop("pid") == pid == server.workers()[0]
        assert 1 <= facts.pop("unique") <= 1023
        assert facts == {"number": 1, "generation": 1, "server": "hares", "child": 0}


@pytest.mark.slow
def test_children_of_one_worker_are_told_apart(tmp_path: Path) -> None:
    with serve(tmp_path, "blocking", model="fork") as server, server.connect() as one, server.connect() as two:
        (first, pid), (second, other) = told(one), told(two)
        (worker,) = server.ready()
        assert first["pid"] == second["pid"] == worker
        assert len({worker, pid, other}) == 3
        assert {first["child"], second["child"]} == {1, 2}
        assert first["unique"] == second["unique"]
        assert first["server"] == server.report["listening"][0], "without --name it is the first address"


@pytest.mark.slow
def test_a_program_finds_it_in_its_environment(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = (sys.executable, "program.py")
    with launched(tmp_path, Source(command=command), name="hares") as server:
        told = msgspec.json.decode(server.ask(b"?\n"))
    assert told.pop("unique").isdigit()
    assert told == {"number": "1", "generation": "1", "server": "hares"}


@pytest.mark.slow
def test_across_a_reload_numbers_repeat_and_unique_ones_do_not(tmp_path: Path) -> None:
    with serve(tmp_path, "message", workers=2) as server:
        server.ready(2)
        old = of_both_workers(server)
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reloaded" in server.log, "the reload")
        new = of_both_workers(server)
        facts = [told(each)[0] for each in (*old, *new)]
        for each in (*old, *new):
            each.close()
    workers = {each["unique"]: each for each in facts}
    assert sorted((each["generation"], each["number"]) for each in workers.values()) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert len({each["pid"] for each in facts}) == 4, "old and new live at once: none shares its number"


def of_both_workers(server: Launched) -> list[socket.socket]:
    """A connection to each of the two workers that accept, at least."""
    found: list[socket.socket] = []
    workers: set[int] = set()

    def both() -> bool:
        found.append(server.connect())
        workers.add(told(found[-1])[1])
        return len(workers) == 2

    wait_for(both, "a client of each worker")
    return found


def test_outside_of_a_worker_it_is_an_error() -> None:
    with pytest.raises(pronghorn.NotInWorker, match="in the handler, or in its lifespan"):
        pronghorn.worker()


@pytest.mark.slow
def test_a_module_that_asks_while_it_is_imported_is_told_where_to_ask(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import pronghorn\nNUMBER = pronghorn.worker().number\ndef handler(conn): ...\n")
    with launched(tmp_path, "mine:handler") as server:
        assert server.exit(PATIENCE) == BadHandler.exit_code
        assert "Call pronghorn.worker() in the handler, or in its lifespan." in server.report["error"]["why"]


def test_importing_parts_of_the_server_leaves_the_public_name(tmp_path: Path) -> None:
    """A submodule of that name would take its place."""
    import pronghorn.worker_process.worker

    assert callable(pronghorn.worker)
