"""Handlers whose connections are listed and ended, in each style.

Law: workers import this file by its name, so it imports no test's tools.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pronghorn
from pronghorn import Protocol, lines, message


class Device:
    """Each line is noted as a field, and answered; `block` holds up the flow of control, `hostile` says too much."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn

    def __call__(self, line: bytes) -> bytes:
        if line == b"block":
            time.sleep(30)
        elif line == b"hostile":
            self.conn.log["\x1b[31m" * 100] = Unspeakable()
            self.conn.log["long"] = "\x1b]0;x\x07" * 1000
            self.conn.log["path"] = "no text: \udcff"
        else:
            self.conn.log["device"] = line.decode()
        return line

    def closed(self, reason: str) -> None:
        pronghorn.current_drain()


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no")


device = message(lines)(Device)


class Echo(Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def blocking(conn: socket.socket) -> None:
    while data := conn.recv(65536):
        conn.sendall(data)


async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def counting(conn: socket.socket) -> None:
    """After `count` the interpreter is not given to any other flow of control of the process."""
    while data := conn.recv(65536):
        conn.sendall(data)
        if data == b"count":
            sum(range(10**12))


def sleeping(conn: socket.socket) -> None:
    """It owes a reply for a while."""
    while data := conn.recv(65536):
        time.sleep(8)
        conn.sendall(data)
