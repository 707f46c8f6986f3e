"""Clients of several hosts, as processes of their own: visits that ask one thing each, and devices that stay.

Law: every connection's end is counted by what its client saw; none is left out. For each line of standard input one
line of JSON tells the counts so far; the end of standard input is the end of the process.

    python host_clients.py visits COUNT ADDRESS...     # so many new connections a second
    python host_clients.py devices COUNT ADDRESS...    # so many connections, each opened again after its end

A device says who it is (`I am 17`), pings now and then, and answers each `do ID TEXT` by `answer ID 17:TEXT`.
After SILENCE seconds without a pong it takes its connection for dead; the line `silence 1.5` sets others.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Any

PATIENCE = 15.0  # seconds for a visit
SILENCE = 30.0
PINGS = 300  # in a second, of all devices together; a device pings once in a second at most
RETRY = 0.2  # seconds until a device comes back, at most
AT_ONCE = 100  # handshakes of devices under way
Address = tuple[str, int]


class Clients:
    """What all clients of this process have seen."""

    def __init__(self, addresses: list[Address]) -> None:
        self.silence, self.period = SILENCE, 1.0
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []  # of what went wrong: when, and how
        self.by_host: Counter[str] = Counter()
        self.slowest = 0.0
        self.last_welcome = 0.0  # time.monotonic()
        self._addresses = itertools.cycle(addresses)
        self.tasks: set[asyncio.Task[None]] = set()

    def address(self) -> Address:
        return next(self._addresses)

    def count(self, outcome: str, note: object = "") -> None:
        self.counts[outcome] += 1
        if note and len(self.notes) < 200:
            self.notes.append(f"{time.monotonic():.3f} {outcome}: {note}")

    def told(self) -> str:
        names = ("counts", "notes", "by_host", "slowest", "last_welcome")
        return json.dumps({name: getattr(self, name) for name in names})

    async def visits(self, rate: float) -> None:
        """New connections at a steady rate; a machine that has no time makes them up later."""
        began = time.monotonic()
        for number in itertools.count():
            await asyncio.sleep(began + number / rate - time.monotonic())
            self.start(self._visit(number))

    async def devices(self, count: int) -> None:
        devices, self.period = Devices(self), max(1.0, count / PINGS)
        for number in range(count):
            self.start(devices.live(number))

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _visit(self, number: int) -> None:
        began, state = time.monotonic(), "refused"
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection(*self.address())
                state = "reset"
                writer.write(b"ping %d\n" % number)
                reply = await reader.readline()
                writer.close()
            if not reply:
                return self.count("eof", f"visit {number}, after {time.monotonic() - began:.2f} s")
            word, host, echoed = reply.split()
            right = word == b"pong" and echoed == b"%d" % number
            self.by_host[host.decode()] += right
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.count("ok" if right else "wrong", "" if right else reply)
        except TimeoutError:
            self.count("timeout", f"visit {number}")
        except OSError as error:
            self.count(state, error)


class Devices:
    """Devices, each of which comes back when its connection has ended."""

    def __init__(self, clients: Clients) -> None:
        self._clients, self._handshakes = clients, asyncio.Semaphore(AT_ONCE)

    async def live(self, number: int) -> None:
        while True:
            connection = Connection(self._clients, number)
            try:
                async with self._handshakes:
                    await self._begin(connection)
                await connection.talk()
            except OSError as error:
                self._clients.count("refused", f"device {number}: {error}")
            await asyncio.sleep(random.uniform(0, RETRY))

    async def _begin(self, connection: Connection) -> None:
        """Connected and welcomed, or ended."""
        try:
            async with asyncio.timeout(self._clients.silence):
                await asyncio.get_running_loop().create_connection(lambda: connection, *self._clients.address())
                await asyncio.wait([connection.welcomed, connection.ended], return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            connection.give_up()


class Connection(asyncio.Protocol):
    """One connection of a device, from `I am` to its end."""

    def __init__(self, clients: Clients, number: int) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.welcomed: asyncio.Future[None] = loop.create_future()
        self._clients, self._number = clients, number
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._pinged = 0.0  # since when a pong is owed; 0: none is
        self._host = ""  # that has welcomed it

    async def talk(self) -> None:
        """Pings now and then, to the end."""
        while not self.ended.done():
            await asyncio.wait([self.ended], timeout=random.uniform(0, 2 * self._clients.period))
            if self._pinged and time.monotonic() > self._pinged + self._clients.silence:
                self.give_up()
            elif not self._pinged and not self.ended.done() and self._transport:
                self._pinged = time.monotonic()
                self._transport.write(b"ping %d\n" % self._number)

    def give_up(self) -> None:
        """Nothing has come for too long."""
        self._end("silent")
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"I am %d\n" % self._number)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            word, _, text = line.partition(b" ")
            if word == b"do":
                self._answer(*text.split(b" ", 1))
            elif word == b"pong":
                self._pinged = 0.0
            elif word == b"welcome" and not self._host:
                self._be_welcome(text.decode())
            else:
                self._clients.count("wrong", line)

    def _answer(self, number: bytes, asked: bytes) -> None:
        assert self._transport
        self._transport.write(b"answer %b %d:%b\n" % (number, self._number, asked))
        self._clients.counts["answered"] += 1

    def _be_welcome(self, host: str) -> None:
        self._host = host
        self._clients.by_host[host] += 1
        self._clients.last_welcome = time.monotonic()
        self._clients.counts["welcomed"] += 1
        self.welcomed.set_result(None)

    def eof_received(self) -> None:
        self._end("goodbye")

    def connection_lost(self, error: Exception | None) -> None:
        self._end("reset" if error else "silent")

    def _end(self, how: str) -> None:
        """Count the end as what it was; `crossed` if the device had just said something and now cannot know more."""
        if self.ended.done():
            return
        self.ended.set_result(None)
        if not self._host:
            self._clients.count("no welcome", f"device {self._number}: {how}")
            return
        self._clients.by_host[self._host] -= 1
        if self._pinged and how == "goodbye":
            self._clients.count("crossed")
        else:
            self._clients.count(how, f"device {self._number}" if how == "reset" else "")


async def main(kind: str, count: float, addresses: list[Address]) -> None:
    clients = Clients(addresses)
    clients.start(clients.visits(count) if kind == "visits" else clients.devices(int(count)))
    loop = asyncio.get_running_loop()
    while order := await loop.run_in_executor(None, sys.stdin.readline):
        if order.startswith("silence"):
            clients.silence = float(order.split()[1])
        print(clients.told(), flush=True)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    places = [(host, int(port)) for host, _, port in (each.rpartition(":") for each in sys.argv[3:])]
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), places))
