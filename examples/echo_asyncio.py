"""Two echo servers for asyncio, of the sort that its manual begins with, and not a line of them is ours.

    pronghorn serve examples/echo_asyncio.py:handler
    pronghorn serve examples/echo_asyncio.py:Echo

Both run under every model but gevent: on uvloop or asyncio, on asyncio's own loop over select, poll or epoll, and on a
loop per connection under iterative, fork, prefork, thread and pool.
"""

import asyncio
from typing import Any


async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A stream of lines: each goes back as it came."""
    async for line in reader:
        writer.write(line)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


class Echo(asyncio.Protocol):
    """A protocol: whatever arrives goes back."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
