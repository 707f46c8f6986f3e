"""Message handlers of a class, of coroutines and of a conversation, for test_gateway_messages.py."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pronghorn
from pronghorn import current_drain


def note(text: str) -> None:
    os.write(2, f"note: {text}\n".encode())


class Base:
    """What both classes do at a word."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn

    def do(self, line: bytes) -> bytes | None:
        conn = self.conn
        if line == b"facts":
            conn.log["device"] = "a\nb"
            conn.log["worker"] = conn.worker.number
            return f"{conn.local[0]} {conn.local[1] > 0} {conn.worker.number} {conn.listener}".encode()
        if line == b"idle":
            conn.idle_timeout = 0.2
        elif line == b"patient":
            conn.idle_timeout = 0
        elif line == b"raise later":
            conn.call_later(0, self.fail)
        elif line == b"close from a thread":
            threading.Thread(target=conn.close).start()
            return None
        elif line == b"flood from threads":
            for name in (b"a", b"b", b"c"):
                threading.Thread(target=self.flood, args=(name,)).start()
            return None
        elif line == b"cancel":
            timer = conn.call_later(0.02, conn.send, b"never")
            conn.call_later(0.05, conn.send, b"later")
            timer.cancel()
        elif line == b"timer in a thread":
            threading.Thread(target=self.start_timer).start()
            return None
        return line

    def fail(self) -> None:
        raise ValueError("asked to raise")

    def flood(self, name: bytes) -> None:
        for number in range(200):
            self.conn.send(b"%s %d " % (name, number) + b"x" * 500)

    def start_timer(self) -> None:
        try:
            self.conn.call_later(0, self.fail)
        except RuntimeError as error:
            self.conn.send(type(error).__name__.encode())


@pronghorn.message(pronghorn.lines)
class Plain(Base):
    def connected(self, conn: pronghorn.MessageConnection) -> None:
        assert conn is self.conn

    def __call__(self, line: bytes) -> bytes | None:
        return self.do(line)

    def closed(self, reason: str) -> None:
        self.conn.send(b"goes nowhere")
        note(f"{self.conn.number} {reason}")


@pronghorn.message(pronghorn.lines)
class Coroutines(Base):
    async def __call__(self, line: bytes) -> bytes | None:
        if line == b"stuck":
            self.conn.every(0.01, self.tick)
            import asyncio

            await asyncio.sleep(60)
        if line == b"progress":
            self.conn.send(b"working")
            while not self.conn.draining:
                import asyncio

                await asyncio.sleep(0.01)
        return self.do(line)

    async def tick(self) -> None:
        pass

    async def closed(self, reason: str) -> None:
        note(f"{self.conn.number} {reason}")


@pronghorn.conversation(pronghorn.prefixed(2))
async def talk(conn: pronghorn.Conversation) -> bytes:
    try:
        async for message in conn:
            if message.startswith(b"big"):
                for _ in range(64):
                    await conn.send(b"x" * 60_000)
                    assert conn.unsent <= 200_000, conn.unsent
            else:
                await conn.send(message.upper())
        note(f"{conn.number} ended, draining {conn.draining} {bool(current_drain())}")
        return b"which nobody gets"
    except Exception as error:
        note(f"{conn.number} {type(error).__name__}")
        raise


@pronghorn.conversation(pronghorn.lines)
async def publish(conn: pronghorn.Conversation) -> None:
    """Sends for ever, and never looks whether anybody reads."""
    try:
        while True:
            await conn.send(bytes(1000))
    except Exception as error:
        note(f"{conn.number} {type(error).__name__}")
        raise


@pronghorn.message(pronghorn.lines)
class Publisher:
    """The same by a timer, whose task has to be told."""

    def __init__(self, conn: pronghorn.Conversation) -> None:
        self.conn = conn

    async def connected(self) -> None:
        self.conn.call_later(0, self.publish)

    async def publish(self) -> None:
        while True:
            await self.conn.drained()
            self.conn.send(bytes(1000))

    async def __call__(self, line: bytes) -> None: ...

    async def closed(self, reason: str) -> None:
        await self.conn.send(b"nobody reads this")
        note(f"{self.conn.number} {reason}")


@pronghorn.message(pronghorn.lines)
class Moved:
    """Refuses to move while a timer runs; what `log` and `idle_timeout` have moves."""

    def __init__(self, conn: pronghorn.MessageConnection) -> None:
        self.conn = conn

    def __call__(self, line: bytes) -> bytes:
        if line == b"timer":
            self.conn.every(1, time.time)
        elif line == b"facts":
            self.conn.log["device"] = "tracker"
            self.conn.idle_timeout = 77
        return f"{os.getpid()} {self.conn.log} {self.conn.idle_timeout}".encode()
