"""Reference handlers without asyncio: each answers in upper case, or as a promise's word asks.

Law: every handler here is what a user would write in its style, and no cleverer: it must not hide a fault of the
server. Workers import this file, so it imports no test's tools.
"""

from __future__ import annotations

import socket
import socketserver
import time
from typing import Any

from pronghorn.framing import lines, prefixed, stream
from pronghorn.handlers.messages import message
from pronghorn.handlers.protocols import Protocol

SLOW_SECONDS = 0.1
BIG = 8 * 1024 * 1024


def answer(data: bytes) -> bytes:
    """The data in upper case, or what a word in it asks for."""
    if b"RAISE" in data:
        raise ValueError("asked to raise")
    if b"EXIT" in data:
        raise SystemExit(3)
    return big_answer() if b"BIG" in data else data.upper()


def big_answer() -> bytes:
    """8 MiB: more than the kernel takes for a client that does not read. Made anew each time, to hold no memory."""
    return b"0123456789abcdef" * (BIG // 16)


def slow_answer(data: bytes) -> bytes:
    """The answer, after a while if SLOW is asked for."""
    if b"SLOW" in data:
        time.sleep(SLOW_SECONDS)
    return answer(data)


def says_goodbye(data: bytes) -> bool:
    """Whether the connection shall be closed after the answer."""
    return b"BYE" in data


@message(lines)
def upper_lines(line: bytes) -> bytes:
    return slow_answer(line)


@message(stream)
def upper_stream(data: bytes) -> bytes:
    return slow_answer(data)


@message(prefixed(4))
def upper_prefixed(data: bytes, conn: Any) -> bytes:
    if says_goodbye(data):
        conn.close()
    return slow_answer(data)


@message(lines)
class UpperEach:
    """Made once per connection, so that it can count."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.count = 0

    def __call__(self, line: bytes) -> bytes:
        self.count += 1
        if says_goodbye(line):
            self.conn.close()
        return slow_answer(line)


class UpperProtocol(Protocol):
    """A protocol, of the base class that every model runs."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(slow_answer(data))
        if says_goodbye(data):
            self.transport.close()


def upper_blocking(conn: socket.socket) -> None:
    while data := conn.recv(65536):
        conn.sendall(slow_answer(data))
        if says_goodbye(data):
            return


class UpperStreamRequestHandler(socketserver.StreamRequestHandler):
    """As the standard library's documentation has it: files over the socket."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(slow_answer(line.rstrip(b"\n")) + b"\n")
            if says_goodbye(line):
                return
