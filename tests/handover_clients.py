"""Clients that stay connected and speak now and then, each sure of what it must hear: for the trials of handovers.

Law: one process, one loop, no threads. A client numbers its messages and sends a few at a time, some of them in two
pieces; the server's object counts them. So a message that is lost, doubled, answered twice or out of order shows in the
next reply, and a state that did not move shows as well.
"""

from __future__ import annotations

import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HANDLER = """
import os
import pronghorn

@pronghorn.message(pronghorn.lines)
class Handler:
    def __init__(self, conn):
        self.conn, self.count, self.name = conn, 0, b""

    def __call__(self, line):
        name, number = line.split()
        self.name = self.name or name
        self.count += 1
        if self.name != name or int(number) != self.count:
            return b"WRONG %s after %s %d" % (line, self.name, self.count)
        return b"%s %d %d %d" % (name, self.count, os.getpid(), VERSION)
"""
COROUTINE = HANDLER.replace("    def __call__", "    async def __call__").replace(
    "        name, number", "        await asyncio.sleep(random.choice((0, 0, 0.01)))\n        name, number"
)
COROUTINE = f"import asyncio, random{COROUTINE}"
BURST = 3


class Client:
    """One connection, the client's so many-th in its `life`. Its own `end` is one that no other has had, so that the
    log tells whose it was; `worker` answered last."""

    def __init__(self, number: int, life: int, address: tuple[str, int]) -> None:
        self.number, self.life = number, life
        own = f"127.{10 + life % 240}.{number // 250}.{1 + number % 250}"
        self.sock = socket.create_connection(address, timeout=20, source_address=(own, 0))
        self.sock.setblocking(False)
        self.end = f"{own}:{self.sock.getsockname()[1]}"
        self.said = self.heard = self.worker = self.version = 0
        self.rest, self.unread = b"", b""
        self.asked_at = 0.0

    def speak(self, now: float) -> None:
        """The rest of what was begun, or something new, the last of it perhaps in part."""
        if not self.rest:
            if self.said > self.heard:
                return
            first = self.said + 1
            self.said += random.randint(1, BURST)
            self.rest = b"".join(b"c%d %d\n" % (self.number, each) for each in range(first, self.said + 1))
            self.asked_at = 0.0
        now_sent = self.rest if random.random() < 0.5 else self.rest[: random.randint(1, len(self.rest))]
        self.rest = self.rest[len(now_sent) :]
        self.asked_at = now if not self.rest else 0.0
        self.sock.send(now_sent)

    def hear(self) -> str:
        """What is wrong with what came; empty if nothing is."""
        data = self.sock.recv(65536)
        if not data:
            return "ended"
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            words = line.split()
            if words[:2] != [b"c%d" % self.number, b"%d" % (self.heard + 1)]:
                return f"wrong: {line!r} after {self.heard}"
            self.heard, self.worker, self.version = self.heard + 1, int(words[2]), int(words[3])
        return "wrong: more than was asked" if self.heard > self.said else ""


class Crowd:
    """All clients of this process. One whose connection has ended comes again."""

    def __init__(self, address: tuple[str, int], count: int, pause: float) -> None:
        self._address, self._pause = address, 2 * pause
        self._selector = selectors.DefaultSelector()
        self.clients: dict[int, Client] = {}
        self._due: dict[int, float] = {}
        self.faults: list[tuple[str, str, int]] = []
        self.slowest, self.versions, self.messages = 0.0, set(), 0
        for number in range(count):
            self._come(number, 0)

    def _come(self, number: int, life: int) -> None:
        self.clients[number] = client = Client(number, life, self._address)
        self._selector.register(client.sock, selectors.EVENT_READ, client)
        self._due[number] = time.monotonic() + random.random() * self._pause

    def turn(self, stopping: bool) -> None:
        now = time.monotonic()
        for number in [number for number, at in self._due.items() if now >= at]:
            self._due[number] = now + random.random() * self._pause
            if not stopping or self.clients[number].rest:
                try:
                    self.clients[number].speak(now)
                except OSError as error:
                    self._failed(self.clients[number], f"ended by {type(error).__name__}")
        for key, _ in self._selector.select(0.005):
            self._hear(key.data)

    def _hear(self, client: Client) -> None:
        try:
            fault = client.hear()
        except OSError as error:
            fault = f"ended by {type(error).__name__}"
        self.versions.add(client.version)
        if client.asked_at and client.heard == client.said:
            self.slowest = max(self.slowest, time.monotonic() - client.asked_at)
            client.asked_at = 0.0
        if fault:
            self._failed(client, fault)

    def _failed(self, client: Client, fault: str) -> None:
        self.faults.append((fault, client.end, client.worker))
        self.messages += client.heard
        self._selector.unregister(client.sock)
        client.sock.close()
        self._come(client.number, client.life + 1)

    def unheard(self) -> list[str]:
        return [each.end for each in self.clients.values() if each.said > each.heard]


def main(host: str, port: str, count: str, pause: str) -> None:
    """Speaks until SIGTERM, and then prints what was found, once all is answered."""
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    crowd = Crowd((host, int(port)), int(count), float(pause))
    print("connected", flush=True)
    while not stop:
        crowd.turn(False)
    patience = time.monotonic() + 10
    while crowd.unheard() and time.monotonic() < patience:
        crowd.turn(True)
    told = {
        "faults": crowd.faults,
        "unheard": crowd.unheard(),
        "messages": crowd.messages + sum(each.heard for each in crowd.clients.values()),
        "slowest": crowd.slowest,
        "versions": len(crowd.versions),
    }
    print(json.dumps(told), flush=True)


class Clients:
    """Such clients in a process of their own."""

    def __init__(self, address: tuple[str, int], count: int, pause: float) -> None:
        command = [sys.executable, str(Path(__file__)), address[0], str(address[1]), str(count), str(pause)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None and self._process.stdout.readline() == b"connected\n"

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def stop(self) -> dict[str, Any]:
        """What they have found: `faults`, each with the client's end and the worker that it last heard of."""
        os.kill(self._process.pid, signal.SIGTERM)
        told: dict[str, Any] = json.loads(self._process.communicate(timeout=60)[0])
        return told


if __name__ == "__main__":
    main(*sys.argv[1:])
