"""Reference handlers of asyncio's styles, which answer as those of reference.py do.

Law: as in reference.py; and nothing here may depend on which loop runs it.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from pronghorn.framing import lines
from pronghorn.handlers.message_connection import Conversation
from pronghorn.handlers.messages import conversation, message
from pronghorn.testing.reference import SLOW_SECONDS, answer, calls_back, says_goodbye, slow_answer


class UpperAsyncioProtocol(asyncio.Protocol):
    """As the standard library's documentation has it."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(slow_answer(data))
        if says_goodbye(data):
            self.transport.close()


async def upper_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        if b"SLOW" in data:
            await asyncio.sleep(SLOW_SECONDS)
        writer.write(answer(data))
        await writer.drain()
        if says_goodbye(data):
            break
    writer.close()
    await writer.wait_closed()


@message(lines)
class UpperAsyncEach:
    """As UpperEach, with methods that are coroutines."""

    def __init__(self, conn: Conversation) -> None:
        self.conn = conn
        self.greeting = b""
        self.watched = False

    async def connected(self) -> None:
        await asyncio.sleep(0)
        self.greeting = b"welcome, connection %d" % self.conn.number

    async def __call__(self, line: bytes) -> bytes | None:
        await asyncio.sleep(SLOW_SECONDS if b"SLOW" in line else 0)
        if calls_back(self.conn, line):
            return None
        if line == b"GREET":
            return self.greeting
        self.watched = self.watched or line == b"WATCH"
        if says_goodbye(line):
            self.conn.close()
        return answer(line)

    async def closed(self, reason: str) -> None:
        await asyncio.sleep(0)
        if self.watched:
            os.write(2, b"closed: %s\n" % reason.encode())


@conversation(lines)
async def upper_conversation(conn: Conversation) -> None:
    async for line in conn:
        if calls_back(conn, line):
            continue
        await asyncio.sleep(SLOW_SECONDS if b"SLOW" in line else 0)
        await conn.send(answer(line))
        if says_goodbye(line):
            return
