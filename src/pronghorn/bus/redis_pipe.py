"""One connection to Redis that is used by many at once: commands go out in their order, and so do the answers come in.

Law: what is given in one turn of the loop is sent by one write. A script that Redis has forgotten (NOSCRIPT) is told
again, and what had to wait for that keeps its order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ResponseError

from pronghorn.bus.redis_scripts import ALL

Answer = Any
"""What Redis answers: an int, bytes, a list of answers, or None."""


def command(*parts: bytes) -> bytes:
    """A command as Redis reads it (RESP, https://redis.io/docs/latest/develop/reference/protocol-spec/)."""
    pieces = [b"*%d\r\n" % len(parts)]
    for part in parts:
        pieces += (b"$%d\r\n" % len(part), part, b"\r\n")
    return b"".join(pieces)


class Forgotten(ConnectionError):
    """The connection ended before an answer came; whether the command was `sent`, and so may have been done."""

    def __init__(self, sent: bool) -> None:
        super().__init__()
        self.sent = sent


class _Command:
    __slots__ = ("answer", "data", "new", "vital")

    def __init__(self, data: bytes, answer: asyncio.Future[Answer] | None = None, vital: bool = False) -> None:
        self.data, self.answer = data, answer
        self.vital = vital
        self.new = True  # NOSCRIPT was not the answer yet


class Pipe:
    """Commands over one connection, which is given connected. `run` has to run."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Command] = []
        self._sent: deque[_Command] = deque()
        self._again: list[_Command] = []
        self._awake = asyncio.Event()
        self._since = 0.0
        self._over = False
        self.unanswered = 0
        """Bytes of commands that Redis has not answered."""

    def ask(self, *parts: bytes) -> asyncio.Future[Answer]:
        """Send a command. Its answer may raise redis.exceptions.ResponseError, or Forgotten."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._give(_Command(command(*parts), answer))
        return answer

    def tell(self, *parts: bytes, vital: bool = False) -> None:
        """Send a command whose answer nobody wants. If it is vital, an error for an answer ends the connection."""
        self._give(_Command(command(*parts), vital=vital))

    def quiet(self) -> float:
        """Seconds since Redis owes an answer and has given none."""
        return self._loop.time() - self._since if self._sent else 0.0

    async def run(self) -> None:
        """Send and read until the connection ends: raises what it ended by."""
        writing = self._loop.create_task(self._write())
        reading = self._loop.create_task(self._read())
        try:
            done, _ = await asyncio.wait((writing, reading), return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            self._forget()  # before what may be cancelled once more
            for each in (writing, reading):
                each.cancel()
            await asyncio.gather(writing, reading, return_exceptions=True)

    def _give(self, one: _Command) -> None:
        if self._over:
            if one.answer is not None:
                one.answer.set_exception(Forgotten(sent=False))
            return
        self.unanswered += len(one.data)
        self._waiting.append(one)
        self._awake.set()

    async def _write(self) -> None:
        while True:
            await self._awake.wait()
            self._awake.clear()
            if self._again or not self._waiting:
                continue
            batch, self._waiting = self._waiting, []
            if not self._sent:
                self._since = self._loop.time()
            self._sent += batch
            await self._connection.send_packed_command([each.data for each in batch], check_health=False)

    async def _read(self) -> None:
        read = self._connection.read_response
        while True:
            answer: Answer
            try:
                answer = await read(disable_decoding=True)
            except ResponseError as error:
                answer = error
            self._since = self._loop.time()
            one = self._sent.popleft()
            if isinstance(answer, NoScriptError) and one.new:
                one.new = False
                self._again.append(one)
            else:
                self._answered(one, answer)
            if self._again and not self._sent:
                self._teach()

    def _answered(self, one: _Command, answer: Answer) -> None:
        self.unanswered -= len(one.data)
        if one.vital and isinstance(answer, Exception):
            raise answer
        if one.answer is None or one.answer.done():
            return
        if isinstance(answer, Exception):
            one.answer.set_exception(answer)
        else:
            one.answer.set_result(answer)

    def _teach(self) -> None:
        scripts = [_Command(command(b"SCRIPT", b"LOAD", script.encode()), vital=True) for script in ALL]
        self.unanswered += sum(len(each.data) for each in scripts)
        self._waiting = scripts + self._again + self._waiting
        self._again = []
        self._awake.set()

    def _forget(self) -> None:
        self._over = True
        sent = len(self._sent)
        for place, one in enumerate((*self._sent, *self._again, *self._waiting)):
            if one.answer is not None and not one.answer.done():
                one.answer.set_exception(Forgotten(place < sent))
                one.answer.exception()  # who asked may be gone
        self._sent.clear()
        self._again, self._waiting = [], []
