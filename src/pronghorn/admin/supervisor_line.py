"""The admin process's questions to the supervisor, over the line of a side process.

Law: however many clients ask, the supervisor is asked for each thing once at a time, and its answer is used again for a
moment: whoever floods the admin port costs the supervisor next to nothing. A supervisor that does not answer is asked
no second time before it has; so what waits on the line is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from pronghorn.errors import PronghornError, from_parts
from pronghorn.system.side_boot import Side

PATIENCE = 0.8  # seconds: less than what Kubernetes gives a probe
QUESTION = 1.5  # seconds for a question to all workers
FRESH = {"health": 0.05, "status": 0.25, "workers": 0.25}  # seconds for which an answer is used again
MOST_ACTIONS = 16  # actions under way at once


class NoAnswer(PronghornError):
    """The supervisor has not answered in time: it is stopped, hung, or gone."""

    def __init__(self) -> None:
        super().__init__("The supervisor does not answer.", f"It has had {PATIENCE:g} s.", "Look at its process.")


class SupervisorLine:
    """Asks over `side`'s line; `gone` is called once the line has ended, `told` with what the supervisor says by
    itself."""

    def __init__(self, side: Side, gone: Callable[[], None], told: Callable[[dict[str, Any]], None]) -> None:
        self._side, self._gone, self._told = side, gone, told
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._asked: dict[str, asyncio.Future[Any]] = {}
        self._known: dict[str, tuple[float, Any]] = {}
        asyncio.get_running_loop().add_reader(side, self._read)

    async def look(self, command: str) -> Any:
        """The answer to a command that only looks: `health`, `status`, `workers` or another one. It may be shared with
        others who asked at about the same time: change nothing in it. Raises NoAnswer, and what the command raises."""
        at, known = self._known.get(command, (0.0, None))
        if time.monotonic() < at + FRESH.get(command, 0.25):
            return known
        asked = self._asked.get(command)
        if asked is None:
            asked = self._asked[command] = self._send(command, {})
            asked.add_done_callback(lambda done: self._settled(command, done))
        return await self._answer(asked, PATIENCE)

    async def asked(self, command: str, arguments: dict[str, Any]) -> Any:
        """The answer to a command that only looks, in good time. Raises as `look`."""
        if not arguments:
            return await self.look(command)
        return await self.ask(command, QUESTION, **arguments)

    async def ask(self, command: str, seconds: float, **arguments: Any) -> Any:
        """The answer to a question with `arguments`, within `seconds`. Raises as `look`."""
        if len(self._waiting) >= MOST_ACTIONS + len(self._asked):
            raise PronghornError("Too many questions are under way.", "", "Try again in a moment.")
        return await self._answer(self._send(command, arguments), seconds)

    async def act(self, command: str, seconds: float, **arguments: Any) -> Any:
        """The answer to a command that changes the server, within `seconds`. Raises as `look`."""
        self._known.clear()
        return await self.ask(command, seconds, **arguments)

    def _send(self, command: str, arguments: dict[str, Any]) -> asyncio.Future[Any]:
        self._number += 1
        future = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # whether or not somebody waits
        self._side.send({"id": self._number, "command": command, **arguments})
        return future

    async def _answer(self, future: asyncio.Future[Any], seconds: float) -> Any:
        if self._side.ended:
            raise NoAnswer
        try:
            return await asyncio.wait_for(asyncio.shield(future), seconds)
        except TimeoutError:
            raise NoAnswer from None

    def _settled(self, command: str, done: asyncio.Future[Any]) -> None:
        self._asked.pop(command, None)
        if not done.cancelled() and done.exception() is None:
            self._known[command] = time.monotonic(), done.result()

    def _read(self) -> None:
        for message in self._side.take():
            if "id" not in message:
                self._known.clear()
                self._told(message)
            elif future := self._waiting.pop(message["id"], None):
                if message["ok"]:
                    future.set_result(message["result"])
                else:
                    future.set_exception(from_parts(message["error"]))
        if self._side.ended:
            asyncio.get_running_loop().remove_reader(self._side)
            for future in self._waiting.values():
                future.set_exception(NoAnswer())
            self._waiting.clear()
            self._gone()
