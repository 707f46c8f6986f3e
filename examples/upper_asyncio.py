"""The upper-case service as a coroutine over asyncio's streams.

    pronghorn serve examples/upper_asyncio.py:handler

It runs under every model but gevent. Under fork, thread and the like each connection has a loop of its own.
"""

import asyncio


async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4096):
        writer.write(data.upper())
        await writer.drain()  # wait while the client does not read
