"""Handlers of several listeners of one server, each with its mark, and lifespans of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pronghorn


def pool() -> Iterator[bytes]:
    print("pool entered", flush=True)
    yield b"pool"
    print("pool left", flush=True)


async def table() -> AsyncIterator[bytes]:
    print("table entered", flush=True)
    yield b"table"
    print("table left", flush=True)


@pronghorn.lifespan(pool)
@pronghorn.message(pronghorn.lines)
def shout(line: bytes) -> bytes:
    if line == b"fail":
        raise RuntimeError("as asked")
    return line.upper() + b" of " + (pronghorn.current_lifespan() or b"nothing")


@pronghorn.lifespan(table)
async def copy(reader: Any, writer: Any) -> None:
    async for _ in reader:
        conn = writer.get_extra_info("connection")
        writer.write(b"copy of %s at %s\n" % (conn.lifespan, conn.listener.encode()))


def ask(conn: pronghorn.Connection) -> None:
    while conn.recv(100):
        conn.sendall(b"ask of %s at %s\n" % (repr(conn.lifespan).encode(), conn.listener.encode()))
