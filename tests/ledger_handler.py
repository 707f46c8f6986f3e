"""The server's side of the ledger: one handler in every style, that answers with proof and writes down what it held.

Law: a request is one line, `ID SEQ WAIT NONCE CRC`; its reply is `ID SEQ PID VERSION DIGEST CRC`, where DIGEST is the
running SHA-256 of all requests of that connection: what was lost, doubled or mixed up on the way shows in it. Each
process writes into a file of its own, `ledger.PID` in the working folder, before it answers, and without a buffer: a
worker that is killed leaves what it knew. Workers and known-bad servers import this file, so it needs no test's tools.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
import sys
import time
import zlib
from typing import Any

import pronghorn

PARTS = 5
_serials = itertools.count(1)
_files: dict[int, int] = {}


def version() -> str:
    """What this code is called, as the working folder's file `version` has it: so that a reload shows outside."""
    try:
        with open("version") as file:
            return file.read().strip() or "0"
    except FileNotFoundError:
        return "0"


VERSION = version()


def write_down(*words: object) -> None:
    """One line into this process's file."""
    pid = os.getpid()
    if pid not in _files:
        _files[pid] = os.open(f"ledger.{pid}", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    os.write(_files[pid], (" ".join(map(str, words)) + "\n").encode())


def sealed(words: bytes) -> bytes:
    """With a checksum behind."""
    return b"%s %08x" % (words, zlib.crc32(words))


def broken(line: bytes) -> bool:
    """Whether a line's checksum does not fit."""
    words, _, checksum = line.rpartition(b" ")
    return checksum != b"%08x" % zlib.crc32(words)


def work_of(line: bytes) -> float:
    """Seconds that the client wants its answer to take."""
    parts = line.split()
    return int(parts[2]) / 1000 if len(parts) == PARTS and not broken(line) else 0.0


class Conversation:
    """One connection as the server has it; `end` may be called more than once."""

    __slots__ = ("_count", "_digest", "_ended", "_serial", "partial")

    def __init__(self, peer: Any) -> None:
        self._serial = next(_serials)
        self._count = 0
        self._digest = hashlib.sha256()
        self._ended = False
        self.partial = b""
        where = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) and len(peer) >= 2 else "-"
        write_down("open", self._serial, where, f"{time.monotonic():.6f}")

    def reply(self, line: bytes) -> bytes:
        """The answer to one request, without the newline."""
        parts = line.split()
        if len(parts) != PARTS or broken(line):
            write_down("rubbish", self._serial, line[:80].hex())
            return sealed(b"rubbish")
        if not self._count:
            write_down("name", self._serial, parts[0].decode())
        self._count += 1
        self._digest.update(line)
        proof = self._digest.hexdigest()[:16].encode()
        return sealed(b"%s %s %d %s %s" % (parts[0], parts[1], os.getpid(), VERSION.encode(), proof))

    def replies(self, data: bytes) -> bytes:
        """The answers to all requests that `data` completes, newlines included."""
        *whole, self.partial = (self.partial + data).split(b"\n")
        return b"".join(self.reply(line) + b"\n" for line in whole)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            write_down("end", self._serial, self._count, f"{time.monotonic():.6f}")


@pronghorn.message(pronghorn.lines)
class Message:
    """Message style: an object per connection, which its connection lets go of at the end."""

    def __init__(self, conn: Any) -> None:
        self.conversation = Conversation(conn.peer)

    def __call__(self, line: bytes) -> bytes:
        return self.conversation.reply(line)

    def __del__(self) -> None:
        self.conversation.end()


class Callbacks(pronghorn.Protocol):
    """Protocol style: it stays while half a request is there."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.leaving = False
        self.conversation = Conversation(transport.peer)

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.conversation.replies(data))
        if self.leaving and not self.conversation.partial:
            self.transport.close()

    def draining(self) -> bool:
        self.leaving = True
        return bool(self.conversation.partial)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.conversation.end()


async def streams(reader: Any, writer: Any) -> None:
    """asyncio style."""
    import asyncio

    conversation = Conversation(writer.get_extra_info("peername"))
    try:
        while (line := await reader.readline()).endswith(b"\n"):
            if seconds := work_of(line[:-1]):
                await asyncio.sleep(seconds)
            writer.write(conversation.reply(line[:-1]) + b"\n")
            await writer.drain()
    finally:
        conversation.end()


def blocking(conn: socket.socket, peer: Any) -> None:
    """Blocking style; `peer` is what accept(2) gave."""
    conversation = Conversation(peer)
    try:
        with conn.makefile("rb") as lines:
            while (line := lines.readline()).endswith(b"\n"):
                time.sleep(work_of(line[:-1]))
                conn.sendall(conversation.reply(line[:-1]) + b"\n")
    finally:
        conversation.end()


def program() -> None:
    """Program style: the connection is standard input and output."""
    conversation = Conversation((os.environ.get("TCPREMOTEIP", "-"), os.environ.get("TCPREMOTEPORT", "-")))
    try:
        while (line := sys.stdin.buffer.readline()).endswith(b"\n"):
            time.sleep(work_of(line[:-1]))
            sys.stdout.buffer.write(conversation.reply(line[:-1]) + b"\n")
            sys.stdout.buffer.flush()
    finally:
        conversation.end()


if __name__ == "__main__":
    program()
