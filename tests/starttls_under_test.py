"""Handlers that begin TLS at a client's word, in every style.

"starttls" is answered by "go", in the clear, "impatient" too, and has less time for the handshake; any other line is
answered by what the connection speaks, and the line in upper case.
"""

from __future__ import annotations

import asyncio
import socket
import socketserver
import struct
from asyncio import sslproto
from typing import Any

from pronghorn import Protocol, current_tls, lines, message


def said(tls: Any, line: bytes) -> bytes:
    return (b"clear " if tls is None else tls.version.encode() + b" ") + line.strip().upper()


@message(lines)
def by_message(line: bytes, conn: Any) -> bytes:
    if line in (b"starttls", b"impatient"):
        conn.start_tls(timeout=None if line == b"starttls" else 0.2)
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


def by_bytes(conn: Any) -> None:
    """It reads byte by byte, so that what is behind the command is still in the kernel; "early" is answered before the
    call, and the call is made when more has come."""
    line = b""
    while byte := conn.recv(1):
        line += byte
        if line in (b"starttls\n", b"impatient\n"):
            conn.start_tls(after=b"go\n", timeout=None if line == b"starttls\n" else 0.2)
        elif line == b"early\n":
            conn.sendall(b"go\n")
            while len(conn.recv(2, socket.MSG_PEEK)) < 2:
                pass
            conn.start_tls()
        elif byte == b"\n":
            conn.sendall(said(conn.tls, line) + b"\n")
        else:
            continue
        line = b""


@message(lines)
def smtp(line: bytes, conn: Any) -> bytes | None:
    """As much as smtplib and openssl want."""
    match line.upper().split():
        case [b"EHLO", _]:
            return b"250-hello\n250 STARTTLS" if conn.tls is None else b"250 hello over " + conn.tls.version.encode()
        case [b"STARTTLS"]:
            conn.start_tls()
            return b"220 go ahead"
        case [b"QUIT"]:
            conn.close()
            return b"221 goodbye"
    return b"250 ok"


@message(lines)
class Smtp:
    """smtp() with a greeting."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        conn.send(b"220 hello")

    def __call__(self, line: bytes) -> bytes | None:
        return smtp(line, self.conn)


class Postgres(Protocol):
    """Answers SSLRequest (PostgreSQL's protocol, 55.2.10), and whatever comes then."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data == struct.pack(">II", 8, 80877103):
            self.transport.start_tls(after=b"S")


async def ldap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers StartTLS's ExtendedRequest (RFC 4511, 4.14)."""
    head = await reader.readexactly(2)
    request = await reader.readexactly(head[1])
    assert b"1.3.6.1.4.1.1466.20037" in request
    writer.write(bytes.fromhex("300c 020101 7807 0a0100 0400 0400"))
    await writer.start_tls(None)
    await reader.read()


kept: Any = None


class LikeALibrary(asyncio.Protocol):
    """TLS by asyncio's own classes, as aiosmtpd puts it over a transport, with a context that was asked for once."""

    def connection_made(self, transport: Any) -> None:
        global kept
        if kept is None:
            kept = current_tls()
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data == b"starttls\n":
            below = self.transport
            below.write(b"go\n")
            sealed = sslproto.SSLProtocol(asyncio.get_running_loop(), self, kept, None, server_side=True)
            below.set_protocol(sealed)
            sealed.connection_made(below)
        else:
            self.transport.write(b"over " + data.upper())
