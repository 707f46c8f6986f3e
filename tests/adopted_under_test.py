"""Libraries in small: each makes its server itself, in one of the ways that they have."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any

import pronghorn


def in_hand(question: bytes) -> float:
    """How many seconds the answer takes; for a late one, the log tells that it is in hand."""
    if b"late" not in question:
        return 0.0
    print("LATE IN HAND", flush=True)
    return 0.4


class Upper(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        CONNECTIONS.add(self)

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(in_hand(data), self.transport.write, data.upper())

    def connection_lost(self, error: BaseException | None) -> None:
        CONNECTIONS.discard(self)


CONNECTIONS: set[Upper] = set()


def close_all() -> None:
    """The library's own close."""
    for each in list(CONNECTIONS):
        each.transport.write(b"1001\n")
        each.transport.close()


def report(server: Any) -> None:
    names = [each.getsockname()[1] for each in server.sockets]
    print("SERVER", names, server.is_serving(), server.get_loop() is asyncio.get_running_loop(), flush=True)


@pronghorn.adopted
async def protocol() -> Any:
    async with pronghorn.adopt():
        server = await asyncio.get_running_loop().create_server(Upper, "127.0.0.1", 1)
        report(server)
        yield
        close_all()
        server.close()
        await server.wait_closed()
        print("CLOSED", server.sockets, server.is_serving(), flush=True)


@pronghorn.adopted
async def streams_forever() -> Any:
    """By start_server, with a socket of its own, in a task."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            await asyncio.sleep(in_hand(line))
            writer.write(line.upper())
        writer.close()

    async def run() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        async with await asyncio.start_server(answer, sock=sock) as server:
            print("OWN", sock.getsockname()[1], flush=True)
            await server.serve_forever()

    async with pronghorn.adopt() as adoption:
        task = asyncio.create_task(run())
        await adoption.caught()
        await asyncio.sleep(0.01)
        yield
        task.cancel()
        await asyncio.wait([task])
        print("CLOSED", task.cancelled(), flush=True)


class Number(Upper):
    def __init__(self, number: int) -> None:
        self.number = number

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"%d\n" % self.number)


@pronghorn.adopted
async def two() -> Any:
    loop = asyncio.get_running_loop()
    async with pronghorn.adopt():
        await loop.create_server(lambda: Number(1), port=int(os.environ["PORT"]))
        await loop.create_unix_server(lambda: Number(2), os.environ["SOCKET"])
        yield


@pronghorn.adopted
async def own_tls() -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.environ["TLS_CERT"], os.environ["TLS_KEY"])
    async with pronghorn.adopt():
        await asyncio.get_running_loop().create_server(Upper, ssl=context)
        yield
        close_all()


@pronghorn.adopted
async def nothing() -> Any:
    async with pronghorn.adopt():
        yield


async def not_adopted() -> Any:
    async with pronghorn.adopt():
        yield


class NotAdopted(Upper):
    pass


pronghorn.lifespan(not_adopted)(NotAdopted)


@pronghorn.adopted
async def raises() -> Any:
    async with pronghorn.adopt():
        raise OSError("no such database")
        yield


class Passive(Upper):
    """A conversation that opens a listener of its own."""

    def data_received(self, data: bytes) -> None:
        self.task = asyncio.create_task(self.open())

    async def open(self) -> None:
        server = await asyncio.get_running_loop().create_server(Upper, "127.0.0.1", 0)
        self.transport.write(b"%d\n" % server.sockets[0].getsockname()[1])


@pronghorn.adopted
async def passive() -> Any:
    async with pronghorn.adopt():
        await asyncio.get_running_loop().create_server(Passive)
        yield
