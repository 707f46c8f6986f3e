"""The peer of the bus: what people write by hand. Connections in a dict, one channel of Redis, and a loop over it.

Law: as in the articles on scaling WebSockets: each process subscribes to one channel and hears everything, and nobody
knows whom a message has reached. The protocol is that of bus_member.py.

    python bus_peer.py REDIS_PORT
"""

from __future__ import annotations

import asyncio
import socket
import sys

import redis.asyncio

CHANNEL = "messages"
members: dict[bytes, set[asyncio.StreamWriter]] = {}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, broker: redis.asyncio.Redis) -> None:
    """One connection."""
    joined = []
    try:
        while line := (await reader.readline()).strip():
            name, _, rest = line.partition(b" ")
            if name == b"join":
                joined.append(rest)
                members.setdefault(rest, set()).add(writer)
                writer.write(b"joined\n")
            else:
                await broker.publish(CHANNEL, line)
    except ConnectionError:
        pass
    finally:
        for name in joined:
            members[name].discard(writer)
        writer.close()


async def fan_out(broker: redis.asyncio.Redis) -> None:
    """What anybody has published, to those here whom it is for."""
    async with broker.pubsub() as channel:
        await channel.subscribe(CHANNEL)
        async for message in channel.listen():
            if message["type"] == "message":
                name, _, rest = message["data"].partition(b" ")
                for writer in members.get(name, ()):
                    writer.write(rest + b"\n")


async def main(port: int) -> None:
    broker = redis.asyncio.Redis(port=port)
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    server = await asyncio.start_server(lambda *pair: serve(*pair, broker), sock=listener)
    print(f"Listening at: tcp://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
    async with server:
        await fan_out(broker)


if __name__ == "__main__":
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    try:
        run(main(int(sys.argv[1])))
    except KeyboardInterrupt:
        pass
