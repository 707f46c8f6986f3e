"""The clients of the bus's benchmark: members that have joined names, and senders, each with one message under way.

Law: a sender sends the next message when the one before has come to all whom it is for; one that stays away for
seconds is lost, and counted. The clients run in the process that measures, whose time is not counted.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import cast

SIZE = 64
PATIENCE = 20.0


class Member(asyncio.Protocol):
    """A connection that has joined a name, or one that sends."""

    def __init__(self, hear: Callable[[bytes], None]) -> None:
        self._hear, self._rest = hear, b""
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's are of no class of asyncio

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line == b"joined":
                self.joined.set_result(None)
            else:
                self._hear(line)

    async def join(self, name: str) -> None:
        self.transport.write(f"join {name}\n".encode())
        await asyncio.wait_for(self.joined, PATIENCE)


class Load:
    """All clients of one measurement; `to_all` has each message go to one room with all members in it."""

    def __init__(self, ports: Sequence[int], members: int, senders: int, to_all: bool) -> None:
        self._ports, self._count, self._to_all = ports, members, to_all
        self._owed = [0] * senders
        self.delivered = 0
        self.going = False

    async def open(self) -> None:
        """Connect all, spread evenly over the servers, and have members join."""
        loop = asyncio.get_running_loop()
        self._members = [Member(self._heard) for _ in range(self._count)]
        self._senders = [Member(lambda _: None) for _ in self._owed]
        for number, each in enumerate([*self._members, *self._senders]):
            port = self._ports[number % len(self._ports)]
            await loop.create_connection(lambda each=each: each, "127.0.0.1", port)
            if number < self._count:
                await each.join("room" if self._to_all else f"member:{number}")

    async def all_reached(self) -> None:
        """Returns once all members are known to all hosts: one message of each sender has come to all. Raises
        TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            self.begin(again=False)
            while self.lost():
                await asyncio.sleep(1.0)
                if self.lost():
                    self.begin(again=False)

    def begin(self, *, again: bool = True) -> None:
        """Have every sender send a message, and `again` whenever it has come to all."""
        self.going = again
        for number in range(len(self._senders)):
            self._send(number)

    def lost(self) -> int:
        """Senders whose message is still under way, when nobody sends any more."""
        return sum(owed > 0 for owed in self._owed)

    def close(self) -> None:
        for each in [*self._members, *self._senders]:
            each.transport.close()

    def _heard(self, line: bytes) -> None:
        self.delivered += 1
        sender = int(line.partition(b":")[0])
        self._owed[sender] -= 1
        if not self._owed[sender] and self.going:
            self._send(sender)

    def _send(self, number: int) -> None:
        name = "room" if self._to_all else f"member:{random.randrange(self._count)}"
        self._owed[number] = self._count if self._to_all else 1
        self._senders[number].transport.write(f"{name} {number}:".encode() + b"x" * SIZE + b"\n")
