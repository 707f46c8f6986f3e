"""Reference handlers without asyncio: each answers in upper case, or as a promise's word asks.

Law: every handler here is what a user would write in its style, and no cleverer: it must not hide a fault of the
server. Workers import this file, so it imports no test's tools.
"""

from __future__ import annotations

import os
import socket
import socketserver
import threading
import time
from typing import Any

from pronghorn.framing import lines, prefixed, stream
from pronghorn.handlers.message_connection import MessageConnection
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


SENT_BY_A_THREAD = [b"%d" % number for number in range(50)]


def calls_back(conn: MessageConnection, line: bytes) -> bool:
    """Whether the line asks for what comes later: from a timer, or from another thread; it is on its way then."""
    if line == b"TIMER":
        conn.call_later(0.01, conn.send, b"TIMED")
    elif line == b"EVERY":
        ticks = iter((b"TICK 1", b"TICK 2", b"TICK 3"))

        def tick() -> None:
            conn.send(word) if (word := next(ticks, None)) else timer.cancel()

        timer = conn.every(0.01, tick)
    elif line == b"THREAD":
        threading.Thread(target=lambda: [conn.send(each) for each in SENT_BY_A_THREAD]).start()
    else:
        return False
    return True


@message(lines)
class UpperEach:
    """Made once per connection, which it is told of."""

    def __init__(self, conn: MessageConnection) -> None:
        self.conn = conn
        self.greeting = b""
        self.watched = False

    def connected(self) -> None:
        self.greeting = b"welcome, connection %d" % self.conn.number

    def __call__(self, line: bytes) -> bytes | None:
        if calls_back(self.conn, line):
            return None
        if line == b"GREET":
            return self.greeting
        self.watched = self.watched or line == b"WATCH"
        if says_goodbye(line):
            self.conn.close()
        return slow_answer(line)

    def closed(self, reason: str) -> None:
        if self.watched:
            os.write(2, b"closed: %s\n" % reason.encode())


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
