"""The load clients, driven: load.c where there is a C compiler and no TLS, load.py else.

Law: a client is a process of its own; it checks every reply, and tells its own CPU time beside its result.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import compiling
from processes import process
from servers import PATIENCE, NotServing, Server

Row = dict[str, Any]
LOAD = str(Path(__file__).resolve().parent / "load.py")


def client(port: int, *options: object, slow: bool = False) -> list[str]:
    """The command of a load client for this port: the one in C, if it can do that and `slow` does not forbid it."""
    words = [str(word) for word in options]
    if "--tls" not in words and not slow and (programs := compiling.programs()):
        return [programs["load"], str(port), *words]
    return [sys.executable, LOAD, f"127.0.0.1:{port}", *words]


@contextmanager
def load(server: Server, *options: object, slow: bool = False) -> Iterator[Callable[..., str]]:
    """The load client; what is given back sends it a line, if there is one to send, and returns its next one."""
    with process(client(server.port, *options, slow=slow), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdin is not None
        assert started.stdout is not None
        writer, reader = started.stdin, started.stdout

        def following(word: str = "") -> str:
            if word:
                with suppress(BrokenPipeError):
                    writer.write(word + "\n")
                    writer.flush()
            if not (line := reader.readline()):
                raise NotServing(f"{server.name}: the load client failed; {server.state()}")
            return line

        yield following
        with suppress(BrokenPipeError):
            writer.close()
        started.wait(PATIENCE)


@contextmanager
def crowd(server: Server, count: int) -> Iterator[None]:
    """So many connections that have said one thing each and then nothing, for the length of the block."""
    with load(server, "--idle", count, "--seconds", 600) as following:
        following()
        yield


def result(line: str) -> Row:
    row: Row = json.loads(line)
    return row
