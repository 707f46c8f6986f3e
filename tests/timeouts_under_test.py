"""Handlers of every style whose peers take too long, and one that does not care.

Law: workers import this file by its name, so it imports no test's tools.
"""

from __future__ import annotations

import asyncio
import socketserver
import time
from typing import Any

import pronghorn

CHUNK = b"0123456789abcdef" * 4096
TAKEN_WHOLE = CHUNK * 12  # less than the kernel takes at once for a peer on the same machine


def answer(data: bytes) -> bytes:
    if b"SOME" in data:
        return TAKEN_WHOLE
    return CHUNK * 256 if b"BIG" in data else data.upper()


@pronghorn.message(pronghorn.lines)
def lines(line: bytes) -> bytes:
    return answer(line)


@pronghorn.message(pronghorn.lines)
async def async_lines(line: bytes) -> bytes:
    return answer(line)


class Reacts(pronghorn.Protocol):
    """Writes down how its connection ended, for whoever asks next."""

    last = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(Reacts.last + b"\n" if data == b"LAST\n" else answer(data))

    def connection_lost(self, exc: BaseException | None) -> None:
        Reacts.last = repr(exc).encode()


async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(answer(data))
        await writer.drain()


def blocking(conn: Any) -> None:
    while data := conn.recv(65536):
        conn.sendall(answer(data))


class OldStyle(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(answer(line))


def ticks(conn: Any) -> None:
    """Speaks all the time, and hears nothing."""
    while True:
        conn.sendall(b"tick\n")
        time.sleep(0.02)


async def async_ticks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while not writer.transport.is_closing():
        writer.write(b"tick\n")
        await asyncio.sleep(0.02)


async def pushes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    while not writer.transport.is_closing():
        writer.write(CHUNK)
        await asyncio.sleep(0)


class Pushes(pronghorn.Protocol):
    """As chargen would, if it did not listen to pause_writing."""

    def data_received(self, data: bytes) -> None:
        while not self.transport.is_closing():
            self.transport.write(CHUNK)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport


class Collects(pronghorn.Protocol):
    """Has names of its own for what the server counts by them."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.messages: list[bytes] = []
        self.unfinished = "business"

    def data_received(self, data: bytes) -> None:
        self.messages.append(data)
        self.transport.write(data.upper())


class Stays(pronghorn.Protocol):
    """Never closes, whatever its peer does."""

    def eof_received(self) -> bool:
        return True

    def draining(self) -> bool:
        return True


async def restless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Finds no rest when its peer does."""
    writer.write((await reader.readline()).upper())
    while not writer.is_closing():
        await asyncio.sleep(0)
