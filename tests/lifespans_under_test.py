"""Handlers of every style with a lifespan that notes in a file when it is entered and left, and in which process.

Law: workers import this file by its name, so it imports no test's tools.
"""

from __future__ import annotations

import asyncio
import os
import socket
import socketserver
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pronghorn


def note(what: str) -> None:
    with open("notes", "a") as file:
        file.write(f"{what} {os.getpid()}\n")


def database() -> Iterator[bytes]:
    note("entered")
    yield b"pool of %d" % os.getpid()
    note("left")


async def async_database() -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    note("entered")
    yield b"pool of %d" % os.getpid() if asyncio.get_running_loop() is loop else b"?"
    assert asyncio.get_running_loop() is loop
    note("left")


@pronghorn.lifespan(database)
@pronghorn.message(pronghorn.lines)
def with_conn(line: bytes, conn: Any) -> bytes:
    return bytes(conn.lifespan)


@pronghorn.message(pronghorn.lines)
@pronghorn.lifespan(database)
def without_conn(line: bytes) -> bytes:
    return bytes(pronghorn.current_lifespan())


@pronghorn.lifespan(database)
class InProtocol(pronghorn.Protocol):
    __slots__ = ("transport",)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.transport.lifespan + b"\n")


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readline():
        writer.write(writer.get_extra_info("lifespan") + b"\n")


async def talk_async(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await talk(reader, writer)


streams = pronghorn.lifespan(database)(talk)
streams_async = pronghorn.lifespan(async_database)(talk_async)


@pronghorn.lifespan(async_database)
@pronghorn.message(pronghorn.lines)
def message_async(line: bytes, conn: Any) -> bytes:
    return bytes(conn.lifespan)


def factory() -> Any:
    """The result of a factory may be given a lifespan too."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await talk(reader, writer)

    return pronghorn.lifespan(async_database)(handler)


@pronghorn.lifespan(database)
def blocking(conn: Any) -> None:
    while conn.recv(1000):
        conn.sendall(conn.lifespan + b"\n")


@pronghorn.lifespan(async_database)
def blocking_async(conn: Any) -> None: ...


@pronghorn.lifespan(database)
class OldStyle(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for _ in self.rfile:
            self.wfile.write(self.request.lifespan + b"\n")  # type: ignore[attr-defined]


old_server = socketserver.TCPServer(("127.0.0.1", 0), OldStyle, bind_and_activate=False)
old_server.socket.close()


def raises() -> Iterator[None]:
    raise ValueError("no database today")
    yield


async def raises_async() -> AsyncIterator[None]:
    raise ValueError("no database today")
    yield


def hangs() -> Iterator[None]:
    time.sleep(60)
    yield


async def hangs_async() -> AsyncIterator[None]:
    await asyncio.sleep(60)
    yield


def raises_at_the_end() -> Iterator[None]:
    yield
    raise ValueError("cannot let go")


async def raises_at_the_end_async() -> AsyncIterator[None]:
    yield
    raise ValueError("cannot let go")


def mark(life: Any) -> Any:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    return pronghorn.lifespan(life)(handler)


bad = mark(raises)
bad_async = mark(raises_async)
slow = mark(hangs)
slow_async = mark(hangs_async)
bad_end = mark(raises_at_the_end)
bad_end_async = mark(raises_at_the_end_async)


@pronghorn.lifespan(database)
def stubborn(conn: socket.socket) -> None:
    conn.sendall(b"held")
    time.sleep(60)
