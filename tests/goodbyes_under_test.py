"""One handler in every style: it answers each line with the line and its worker's process id."""

from __future__ import annotations

import asyncio
import os
import socketserver
from typing import Any

import pronghorn


def answer(line: bytes) -> bytes:
    return b"%s %d" % (line, os.getpid())


@pronghorn.message(pronghorn.lines)
def message(line: bytes) -> bytes:
    return answer(line)


@pronghorn.message(pronghorn.lines)
async def later(line: bytes) -> bytes:
    await asyncio.sleep(0.001)
    return answer(line)


class Lines:
    """What both protocols do."""

    transport: Any
    rest = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.transport.write(b"".join(answer(line) + b"\n" for line in lines))


class Callbacks(Lines, pronghorn.Protocol):
    pass


class Push(Lines, asyncio.Protocol):
    pass


async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async for line in reader:
        writer.write(answer(line.strip()) + b"\n")


def blocking(conn: Any) -> None:
    for line in conn.makefile("rb"):
        conn.sendall(answer(line.strip()) + b"\n")


class Request(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(answer(line.strip()) + b"\n")


# Handlers that want to stay, each in the way of its style: they say so at "stay", and end at "quit".


def obeyed(line: bytes, conn: Any) -> bytes:
    line = line.strip()
    if line == b"stay":
        conn.stay()
    if line == b"quit":
        conn.close()
    return answer(line)


@pronghorn.message(pronghorn.lines)
def stay_message(line: bytes, conn: Any) -> bytes:
    return obeyed(line, conn)


@pronghorn.message(pronghorn.lines)
async def stay_later(line: bytes, conn: Any) -> bytes:
    return obeyed(line, conn)


class Staying(Lines):
    def data_received(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line == b"stay":
                self.transport.stay()
            self.transport.write(answer(line) + b"\n")
            if line == b"quit":
                self.transport.close()


class StayCallbacks(Staying, pronghorn.Protocol):
    pass


class StayPush(Staying, asyncio.Protocol):
    pass


async def stay_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async for line in reader:
        if line == b"stay\n":
            pronghorn.stay()
        writer.write(answer(line.strip()) + b"\n")
        if line == b"quit\n":
            return


def stay_blocking(conn: Any) -> None:
    for line in conn.makefile("rb"):
        if line == b"stay\n":
            conn.stay()
        conn.sendall(answer(line.strip()) + b"\n")
        if line == b"quit\n":
            return


class StayRequest(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            if line == b"stay\n":
                pronghorn.stay()
            self.wfile.write(answer(line.strip()) + b"\n")
            if line == b"quit\n":
                return
