"""Reference handlers of asyncio's styles, which answer as those of reference.py do.

Law: as in reference.py; and nothing here may depend on which loop runs it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pronghorn.framing import lines
from pronghorn.handlers.messages import message
from pronghorn.testing.reference import SLOW_SECONDS, answer, says_goodbye, slow_answer


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
async def upper_async_lines(line: bytes, conn: Any) -> bytes:
    await asyncio.sleep(SLOW_SECONDS if b"SLOW" in line else 0)
    if says_goodbye(line):
        conn.close()
    return answer(line)
