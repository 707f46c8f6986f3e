"""Handlers that break their own connection, and nothing else is to break by it.

Law: workers import this file by its name, so it imports no test's tools. Each takes lines: `close`, `steal`, `copy`,
`taken` and `child` close the connection's descriptor behind the server's back, and leave its number free, to a file,
free while a copy lives on, to a file while a copy does, or free while a child has it; `raise NAME` raises; anything
else is answered by the worker's process id.
"""

from __future__ import annotations

import asyncio
import builtins
import os
import resource
import signal
from typing import Any

from pronghorn import Protocol

kept: list[int] = []


class Mute(BaseException):
    """Its text is a fault of its own, and no Exception either."""

    def __str__(self) -> str:
        raise Mute

    __repr__ = __str__


def obey(line: bytes, fd: int) -> bytes:
    word, _, what = line.decode().strip().partition(" ")
    if word == "copy":
        kept.append(os.dup(fd))
    if word == "taken":
        kept.append(os.dup(fd))
    if word == "child" and os.fork() == 0:
        signal.pause()
        os._exit(0)
    if word in ("close", "steal", "copy", "taken", "child"):
        os.close(fd)
    if word in ("steal", "taken"):
        kept.append(os.open(os.devnull, os.O_RDONLY))
    if word == "raise":
        raise ERRORS[what]()
    return b"%d\n" % os.getpid()


ERRORS: dict[str, Any] = {
    "CancelledError": asyncio.CancelledError,
    "Mute": Mute,
    **{
        name: getattr(builtins, name)
        for name in "SystemExit KeyboardInterrupt GeneratorExit StopIteration RecursionError MemoryError".split()
    },
}


class Callbacks(Protocol):
    """Of protocol style."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(obey(data, self.transport.get_extra_info("socket").fileno()))


class AsyncioCallbacks(asyncio.Protocol):
    """Of asyncio style."""

    connection_made = Callbacks.connection_made
    data_received = Callbacks.data_received


async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(obey(line, writer.get_extra_info("socket").fileno()))
    writer.close()


async def tasks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What is raised is raised by a task and a timer that nobody waits for."""

    async def later(line: bytes) -> None:
        obey(line, -1)

    while line := await reader.readline():
        if line.startswith(b"raise"):
            kept_tasks.append(asyncio.create_task(later(line)))
            asyncio.get_running_loop().call_soon(obey, line, -1)
        writer.write(b"%d\n" % os.getpid())


kept_tasks: list[Any] = []


def blocking(conn: Any) -> None:
    while line := conn.recv(65536):
        try:
            conn.sendall(obey(line, conn.fileno()))
        finally:
            if line.startswith(b"close"):
                os.write(2, b"the handler has written\n")


async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Writes whenever it may."""
    while not writer.is_closing():
        writer.write(b"x" * 1000)
        await writer.drain()


async def eats(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes all the memory that there is, which is little, and keeps it."""
    if await reader.readline() == b"eat\n":
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (4 << 20), resource.RLIM_INFINITY))
        for piece in (1 << 16, 1 << 10):
            try:
                while True:
                    eaten.append(bytearray(piece))
            except MemoryError:
                continue
    writer.write(b"%d\n" % os.getpid())
    writer.close()


eaten: list[bytearray] = []


async def loop_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says whose loop it runs on."""
    writer.write(type(asyncio.get_running_loop()).__module__.partition(".")[0].encode())
    writer.close()
