"""The order of what one host sends to one name, while messages wait for another host that may be back.

Law: a message is never sent once a later one to the same name was: one that could be sent only then is given up. What
is sent while earlier messages wait goes behind them, or not at all.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pronghorn.bus.carrier import Away

Sent = TypeVar("Sent")
Send = Callable[[], Awaitable[Sent]]
"""Sends once. Gives something true if a host was sent it; raises Away, with `soon` where it may be sent in a moment."""
PAUSE = 0.05
"""Seconds between two attempts."""


class Turn:
    """A message that waits, with when it is given up (by the loop's clock)."""

    __slots__ = ("changed", "number", "over", "until")

    def __init__(self, number: int, until: float) -> None:
        self.number, self.until = number, until
        self.changed = asyncio.Event()
        self.over: Away | None = None

    def __lt__(self, other: Turn) -> bool:
        return self.number < other.number


class Way:
    """What is being sent to one name, or waits for that. `users` are the messages that are under way here."""

    __slots__ = ("last", "passed", "trying", "turns", "users")

    def __init__(self) -> None:
        self.users = self.last = 0
        self.passed = 0
        """The number of the latest message that a host was sent."""
        self.trying = 0
        """How many are tried for the first time."""
        self.turns: list[Turn] = []

    async def in_turn(self, number: int, send: Send[Sent], until: float) -> Sent:
        """Send as soon as all before are, again and again until then. Raises Away."""
        turn = Turn(number, until)
        insort(self.turns, turn)
        try:
            while True:
                await self._first(turn)
                if not self.trying:  # else a later one may be on its way, and nobody knows yet
                    if number < self.passed:
                        raise Away("A later message to the same name was sent before it could be.", soon=True)
                    try:
                        if sent := await send():
                            self.passed = number
                        return sent
                    except Away as error:
                        if not error.soon:
                            raise
                        self._give_up(error)
                        if turn.over is not None:
                            raise
                await asyncio.sleep(PAUSE)
        finally:
            self.turns.remove(turn)
            if self.turns:
                self.turns[0].changed.set()

    async def _first(self, turn: Turn) -> None:
        """Wait until all before are sent, or given up. Raises Away, if the time is over before that."""
        while self.turns[0] is not turn and turn.over is None:
            await turn.changed.wait()
            turn.changed.clear()
        if turn.over is not None:
            raise turn.over

    def _give_up(self, error: Away) -> None:
        """The host is not back yet, which is too late for some."""
        now = asyncio.get_running_loop().time()
        for turn in self.turns:
            if turn.until <= now:
                turn.over = error
                turn.changed.set()


class Ways:
    """The ways to all names to which something is being sent."""

    def __init__(self) -> None:
        self._ways: dict[bytes, Way] = {}

    async def send(self, name: bytes, seconds: float, send: Send[Sent]) -> Sent:
        """Send to this name as soon as a host that may be back is, within so many seconds, and in order. Raises Away,
        and then nothing was sent, unless it is `perhaps`."""
        way = self._ways.get(name)
        if way is None:
            way = self._ways[name] = Way()
        way.users += 1
        way.last = number = way.last + 1
        until = asyncio.get_running_loop().time() + seconds
        try:
            if way.turns:
                return await way.in_turn(number, send, until)
            way.trying += 1
            try:
                if (sent := await send()) and number > way.passed:
                    way.passed = number
                return sent
            except Away as error:
                if not error.soon or asyncio.get_running_loop().time() >= until:
                    raise
            finally:
                way.trying -= 1
            return await way.in_turn(number, send, until)
        finally:
            way.users -= 1
            if not way.users:
                del self._ways[name]
