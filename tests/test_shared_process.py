"""What one process shares with all its connections, and what a connection has for itself."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest

from launch import launched

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
COPIES = [("message", each) for each in ("select", "poll", "epoll", "asyncio", "pool", "iterative")]
COPIES += [("Protocol", "epoll"), ("streams", "asyncio"), ("streams", "thread"), ("blocking", "fork")]
COPIES += [("message", "uvloop")] if importlib.util.find_spec("uvloop") else []
COPIES += [("blocking", "gevent")] if importlib.util.find_spec("gevent") else []


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
