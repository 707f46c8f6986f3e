"""Handlers whose replies come late, each in another way that libraries have. The first word of a line says which.

Law: workers import this file by its name, so it imports no test's tools.
"""

from __future__ import annotations

import asyncio
import os
import select
import ssl
import time
from typing import Any

import pronghorn

SECONDS = {"soon": 0.4, "late": 0.8}  # until the reply comes; a server is drained with --drain-quiet 0.3
ACK = b"wait\n"


def seconds(line: bytes) -> float:
    """Until the reply to this question comes; and the log tells that the question is in hand."""
    os.write(2, b"IN HAND\n")
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


class Acknowledges(Later):
    """Says at once that it has the question, and keeps its task nowhere but in the loop."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(ACK)
        super().data_received(data)


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


KINDS = {b"plain": Later, b"session": Session, b"ack": Acknowledges, b"stays": Stays, b"buffered": Buffered}


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


class Upgraded(Switch):
    """Begins with "starttls": from there on there is asyncio's own TLS."""

    async def upgrade(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.environ["TLS_CERT"], os.environ["TLS_KEY"])
        loop = asyncio.get_running_loop()
        self.upgraded = await loop.start_tls(self.transport, self.inner, context, server_side=True)
        self.inner.connection_made(self.upgraded)
        self.upgraded.write(b"sealed\n")

    def data_received(self, data: bytes) -> None:
        self.inner = Switch()
        self.transport.write(b"now\n")
        self.task = asyncio.ensure_future(self.upgrade())


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


def stays_until_quit(conn: Any, line: bytes) -> bytes:
    """What every handler here answers to whoever asks to stay: the conversation goes on until "quit"."""
    conn.stay()
    return b"%d %s" % (conn.draining, line.upper())


@pronghorn.message(pronghorn.lines)
def stay_message(line: bytes, conn: Any) -> bytes:
    if line == b"quit":
        conn.close()
    return stays_until_quit(conn, line)


@pronghorn.message(pronghorn.lines)
async def stay_later(line: bytes, conn: Any) -> bytes:
    await asyncio.sleep(0)
    if line == b"quit":
        conn.close()
    return stays_until_quit(conn, line)


class StayProtocol(pronghorn.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(stays_until_quit(self.transport, data))
        if data == b"quit\n":
            self.transport.close()


async def stay_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async for line in reader:
        writer.write(stays_until_quit(writer.get_extra_info("connection"), line))
        if line == b"quit\n":
            return


def stay_blocking(conn: Any) -> None:
    for line in conn.makefile("rb"):
        conn.sendall(stays_until_quit(conn, line))
        if line == b"quit\n":
            return


# Those who wait for the drain, each in its way.


async def hears_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello\n")
    await writer.get_extra_info("drain").begins()
    writer.write(b"goodbye\n")


def hears_blocking(conn: Any) -> None:
    conn.sendall(b"hello\n")
    ready, _, _ = select.select([conn, conn.drain], [], [])
    assert ready == [conn.drain]
    conn.sendall(b"goodbye\n")


class Hears(asyncio.Protocol):
    """Its lifespan tells it."""

    everybody: list[Any] = []  # noqa: RUF012

    def connection_made(self, transport: Any) -> None:
        self.everybody.append(transport)
        transport.write(b"hello\n")

    @staticmethod
    async def watch() -> None:
        await pronghorn.current_drain().begins()
        for transport in Hears.everybody:
            transport.write(b"goodbye\n")
            transport.close()


@pronghorn.lifespan
async def watched() -> Any:
    task = asyncio.create_task(Hears.watch())
    yield
    await task


hears_in_lifespan = watched(Hears)


def said(line: str) -> None:
    print(line, flush=True)


@pronghorn.lifespan
async def with_task() -> Any:
    """Its task lives as long as it does, whatever becomes of the handlers' tasks."""
    task = asyncio.create_task(asyncio.sleep(60))
    yield
    said(f"the lifespan ends, its task {'lives' if not task.done() else 'is gone'}")
    task.cancel()


async def never_ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello\n")
    try:
        await asyncio.sleep(60)
    finally:
        writer.write(b"goodbye\n")
        await asyncio.sleep(0.1)
        said("the handler's finally is done")


@with_task
async def never_ends_with_lifespan(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await never_ends(reader, writer)
