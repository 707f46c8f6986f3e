"""Handlers that say goodbye when the server drains: in the middle of a question ("wait"), or while they are idle.

Law: workers import this file by its name, so it imports no test's tools.
"""

from __future__ import annotations

import asyncio
import socketserver
import time
from typing import Any

import pronghorn

GOODBYE = b"goodbye\n"


def wait(conn: Any) -> None:
    while not conn.draining:
        time.sleep(0.005)


@pronghorn.message(pronghorn.lines)
def message(line: bytes, conn: Any) -> bytes:
    wait(conn)
    return b"goodbye"


class Goodbye(pronghorn.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        wait(self.transport)

    def draining(self) -> None:
        self.transport.write(GOODBYE)


class Stays(pronghorn.Protocol):
    """Talks on until the client says "quit"."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.told = 0

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"%d %s" % (self.told, data.upper()))
        if data == b"quit\n":
            self.transport.close()

    def draining(self) -> bool:
        self.told += 1
        self.transport.write(b"soon\n")
        return True


class AioGoodbye(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        wait(self.transport)

    def draining(self) -> None:
        self.transport.write(GOODBYE)


async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readline():
        while not writer.get_extra_info("draining"):
            await asyncio.sleep(0.005)
    if writer.get_extra_info("draining"):
        writer.write(GOODBYE)


@pronghorn.message(pronghorn.lines)
async def message_async(line: bytes, conn: Any) -> bytes:
    while not conn.draining:
        await asyncio.sleep(0.005)
    return b"goodbye"


def blocking(conn: Any) -> None:
    while conn.recv(1000):
        wait(conn)
    if conn.draining:
        conn.sendall(GOODBYE)


class OldStyle(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for _ in self.rfile:
            wait(self.request)
        if self.request.draining:  # type: ignore[attr-defined]
            self.wfile.write(GOODBYE)


@pronghorn.message(pronghorn.lines)
def slow_lines(line: bytes) -> bytes:
    time.sleep(0.02)
    return line.upper()


async def slow_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async for line in reader:
        await asyncio.sleep(0.02)
        writer.write(line.upper())
        await writer.drain()


def hold(conn: Any) -> None:
    conn.sendall(b"held")
    time.sleep(60)


class Hold(pronghorn.Protocol):
    def connection_made(self, transport: Any) -> None:
        transport.write(b"held")

    def draining(self) -> bool:
        return True
