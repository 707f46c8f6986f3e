"""Handlers whose replies come late, each in another way that libraries have. The first word of a line says which.

Law: workers import this file by its name, so it imports no test's tools.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

SECONDS = {"soon": 0.5, "late": 1.2}  # until the reply comes; a server is drained with --drain-quiet 0.3
ACK = b"wait\n"


def seconds(line: bytes) -> float:
    return SECONDS[line.split()[1].decode()]


class Later(asyncio.Protocol):
    """Each request has a task."""

    def __init__(self, transport: Any = None) -> None:
        self.transport = transport
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.task = asyncio.ensure_future(self.reply(data))

    async def reply(self, data: bytes) -> None:
        await asyncio.sleep(seconds(data))
        self.transport.write(data.upper())


class Session(Later):
    """Whoever has ended is gone: the work for him is dropped, as aiosmtpd does."""

    def eof_received(self) -> None:
        if self.task is not None:
            self.task.cancel()


class Stays(Later):
    """Does not want to close with the client's end."""

    async def reply(self, data: bytes) -> None:
        await super().reply(data)
        self.transport.close()

    def eof_received(self) -> bool:
        return True


class Buffered(asyncio.BufferedProtocol):
    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.buffer = bytearray(1000)

    def get_buffer(self, hint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        data = bytes(self.buffer[:count])
        asyncio.get_running_loop().call_later(seconds(data), self.transport.write, data.upper())


KINDS = {b"plain": Later, b"session": Session, b"stays": Stays, b"buffered": Buffered}


class Switch(asyncio.Protocol):
    """Gives the connection to the protocol that the first line names (set_protocol)."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        protocol = KINDS[data.split()[0]](self.transport)
        self.transport.set_protocol(protocol)
        if isinstance(protocol, Buffered):
            protocol.buffer[: len(data)] = data
            protocol.buffer_updated(len(data))
        else:
            protocol.data_received(data)


async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """ "plain": read, work, answer. "two": one task reads, the other works; the end of input ends both."""

    async def answer(line: bytes) -> None:
        await asyncio.sleep(seconds(line))
        writer.write(line.upper())

    tasks = []
    async for line in reader:
        if line.startswith(b"two"):
            tasks.append(asyncio.create_task(answer(line)))
        else:
            if line.startswith(b"ack"):
                writer.write(ACK)
            await answer(line)
    for task in tasks:
        task.cancel()


def blocking(conn: Any) -> None:
    file = conn.makefile("rb")
    for line in file:
        if line.startswith(b"ack"):
            conn.sendall(ACK)
        time.sleep(seconds(line))
        conn.sendall(line.upper())
