"""`Gatherer`: the families of one moment, for all exporters of the admin process.

Law: they are gathered off the loop, once at a time, and used again for a moment, so that whoever floods /metrics holds
up no probe. A supervisor that does not answer leaves out what only it knows.
"""

from __future__ import annotations

import asyncio
import math
import time

from pronghorn.admin.families import Family, Source
from pronghorn.admin.supervisor_line import SupervisorLine
from pronghorn.errors import PronghornError

FRESH = 0.25  # seconds


class Gatherer:
    """Gathers from the scoreboard at this descriptor, and from the supervisor."""

    def __init__(self, fd: int, line: SupervisorLine) -> None:
        self._source = Source(fd)
        self._line = line
        self._under_way: asyncio.Task[list[Family]] | None = None
        self._known: list[Family] = []
        self._at = -math.inf

    async def families(self) -> list[Family]:
        """All, as they are now or were a moment ago."""
        if time.monotonic() < self._at + FRESH:
            return self._known
        if self._under_way is None:
            self._under_way = asyncio.ensure_future(self._gather())
        return await asyncio.shield(self._under_way)

    def forget(self) -> None:
        """Gather anew next time: something has changed for good."""
        self._at = -math.inf

    async def _gather(self) -> list[Family]:
        try:
            try:
                status = await self._line.look("status")
            except PronghornError:
                status = None
            self._known = await asyncio.to_thread(self._source.collect, status)
            self._at = time.monotonic()
            return self._known
        finally:
            self._under_way = None
