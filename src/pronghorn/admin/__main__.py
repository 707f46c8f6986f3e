"""The admin process's main function, for `python -P -m pronghorn.admin`: one loop, until its line has ended.

Law: whatever it imports, it imports before `begin`: afterwards it is the workers' user, who may not be able to read the
package.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any, Protocol

from pronghorn.admin.agent_check import AgentCheck
from pronghorn.admin.gathering import Gatherer
from pronghorn.admin.statsd import State, StatsD, Target
from pronghorn.admin.supervisor_line import SupervisorLine
from pronghorn.system.processes import forgo_privileges
from pronghorn.system.side_boot import CHANGED, LEAVE, Side, begin

try:  # the extra is asked for where --admin is set, and for nothing else
    from pronghorn.admin.feed import Feed
    from pronghorn.admin.http import HttpServer
    from pronghorn.admin.routes import routes
    from pronghorn.admin.samples import Samples
    from pronghorn.scoreboard.board import Scoreboard
except ImportError as missing:
    MISSING: ImportError | None = missing
else:
    MISSING = None

BEAT_PAUSE = 5.0  # seconds between two signs of life
LAST_RESPONSES = 1.0  # seconds that responses under way get at the end


class Exporter(Protocol):
    """What tells others of the metrics: round after round, and once more at the end."""

    async def run(self) -> None: ...
    async def tell(self) -> object: ...


class Admin:
    """Everything that runs in the loop of the admin process."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.over = asyncio.Event()
        self.line = SupervisorLine(side, self.over.set, self._told)
        self.agent = AgentCheck(self.line, drain=side.settings.get("agent_check_drain", False))
        self.gatherer = Gatherer(side.descriptors["board"], self.line)
        self.http: Any = None
        self.exporters: list[Exporter] = []
        self.feed: Any = None

    async def run(self, exporter: Callable[[Gatherer, str], Exporter] | None = None) -> None:
        """Answers until the line has ended, and then what is under way; exporters tell once more."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._noticed)
        for name, fd in self.side.descriptors.items():
            if name.startswith("http"):
                await self._http().serve(socket.socket(fileno=fd))
            elif name.startswith("agent"):
                await self.agent.serve(socket.socket(fileno=fd))
        if statsd := self.side.settings.get("statsd"):
            state = State(self.side.descriptors["statsd"])
            self.exporters.append(StatsD(Target.of(*statsd), self.gatherer, state, self.side.say))
        if exporter is not None:
            self.exporters.append(exporter(self.gatherer, self.side.settings["name"]))
        rounds = [asyncio.ensure_future(each.run()) for each in self.exporters]
        self.side.ready()
        self._beat()
        await self.over.wait()
        for each in rounds:
            each.cancel()
        self.agent.leave()
        if self.feed is not None:
            self.feed.close()
        if self.http is not None:
            self.http.leave()
        for _ in range(100):
            await asyncio.sleep(LAST_RESPONSES / 100)  # first, for a connection that asyncio has accepted just now
            if not self.agent.open and (self.http is None or not self.http.connections):
                break
        await self._tell_last()

    def _beat(self) -> None:
        self.side.beat()
        asyncio.get_running_loop().call_later(BEAT_PAUSE, self._beat)

    async def _tell_last(self) -> None:
        self.gatherer.forget()
        last = [asyncio.ensure_future(each.tell()) for each in self.exporters]
        if last:
            await asyncio.wait(last, timeout=LAST_RESPONSES)

    def _told(self, message: dict[str, Any]) -> None:
        if LEAVE in message:  # an upgrade: who is connected gets an answer, and others the new program's
            self.over.set()
        elif CHANGED in message:  # the page shows them
            self.side.settings[CHANGED] = message[CHANGED]

    def _http(self) -> Any:
        if self.http is None:
            if MISSING is not None:
                raise MISSING
            descriptors = self.side.descriptors
            samples = Samples(Scoreboard(descriptors["board"]), descriptors.get("records", -1))
            self.feed = Feed(samples, self.line.asked)
            self.feed.begin(self.failed)
            self.http = HttpServer(routes(self.side, self.line, self.gatherer, self.feed), self.failed)
        return self.http

    def failed(self, what: str, error: BaseException) -> None:
        """A fault of this process, which goes on."""
        trace = "".join(traceback.format_exception(error)).rstrip()
        self.side.say("error", f"failed to {what}: {type(error).__name__}: {error}\n{trace}")

    def _noticed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception) and not isinstance(error, OSError):
            self.failed(str(context.get("message")), error)


async def run(side: Side, exporter: Callable[[Gatherer, str], Exporter] | None) -> None:
    await Admin(side).run(exporter)


def main(exporter: Callable[[Gatherer, str], Exporter] | None = None) -> int:
    """Until the line has ended. `exporter` makes one that has more to import (otel.py)."""
    forgo_privileges()
    asyncio.run(run(begin(), exporter))
    return 0


if __name__ == "__main__":
    sys.exit(main())
