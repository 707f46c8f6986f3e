"""The handler of the bus's benchmark: a line is `join NAME`, or a name and what shall be sent to it."""

from __future__ import annotations

from contextlib import suppress

import pronghorn
from pronghorn import bus


@pronghorn.message(pronghorn.lines)
class Member:
    def __init__(self, conn: pronghorn.MessageConnection[bytes]) -> None:
        self.conn = conn

    async def __call__(self, line: bytes) -> bytes | None:
        name, _, rest = line.partition(b" ")
        if name != b"join":
            with suppress(bus.BusError):  # the broker is not there yet
                await bus.apublish(name, rest)
            return None
        self.conn.join(rest)
        return b"joined"
