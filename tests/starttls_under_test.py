"""Handlers that begin TLS at a client's word, in every style.

"starttls" is answered by "go", in the clear; any other line by what the connection speaks, and the line in upper case.
"""

from __future__ import annotations

import asyncio
import socketserver
from typing import Any

from pronghorn import Protocol, lines, message


def said(tls: Any, line: bytes) -> bytes:
    return (b"clear " if tls is None else tls.version.encode() + b" ") + line.strip().upper()


@message(lines)
def by_message(line: bytes, conn: Any) -> bytes:
    if line == b"starttls":
        conn.start_tls()
        return b"go"
    return said(conn.tls, line)


@message(lines)
class ByClass:
    """It speaks behind its start_tls(), which goes over TLS."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn

    def __call__(self, line: bytes) -> bytes:
        if line == b"starttls":
            self.conn.start_tls(after=b"go")
            return b"sealed"
        return said(self.conn.tls, line)


@message(lines)
async def by_async_message(line: bytes, conn: Any) -> bytes:
    if line == b"starttls":
        conn.start_tls()
        return b"go"
    await asyncio.sleep(0)
    return said(conn.tls, line)


@message(lines)
async def by_awaiting(line: bytes, conn: Any) -> bytes:
    if line == b"starttls":
        await conn.start_tls(after=b"go")
        return b"sealed"
    return said(conn.tls, line)


class ByProtocol(Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        *whole, self.buffer = (self.buffer + data).split(b"\n")
        for line in whole:
            if line == b"starttls":
                self.buffer = b""
                self.transport.start_tls(after=b"go\n")
                return
            self.transport.write(said(self.transport.tls, line) + b"\n")


class ByAsyncioProtocol(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        *whole, self.buffer = (self.buffer + data).split(b"\n")
        for line in whole:
            if line == b"starttls":
                self.buffer = b""
                self.transport.pause_reading()
                self.task = asyncio.create_task(self.start())
                return
            self.transport.write(said(self.transport.get_extra_info("tls"), line) + b"\n")

    async def start(self) -> None:
        self.transport.write(b"go\n")
        loop = asyncio.get_running_loop()
        try:
            self.transport = await loop.start_tls(self.transport, self, None, server_side=True)
        except ConnectionError:
            return


async def by_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async for line in reader:
        if line == b"starttls\n":
            writer.write(b"go\n")
            await writer.start_tls(None)
        else:
            writer.write(said(writer.get_extra_info("tls"), line) + b"\n")


def by_blocking(conn: Any) -> None:
    with conn.makefile("rwb") as file:
        for line in file:
            if line == b"starttls\n":
                conn.start_tls(after=b"go\n")
            else:
                file.write(said(conn.tls, line) + b"\n")
                file.flush()


class ByRequestHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            if line == b"starttls\n":
                self.wfile.write(b"go\n")
                self.request.start_tls()
            else:
                self.wfile.write(said(self.request.tls, line) + b"\n")
