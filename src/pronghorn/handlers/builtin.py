"""The built-in handlers: upper, echo, discard, chargen, daytime.

Law: handlers like any other, in the styles that every model runs; settings/source.py has their names. `upper` sends
back in upper case what comes. The others are the small services that hosts once ran to be measured by.
"""

from __future__ import annotations

import time
from typing import Any

from pronghorn.framing import stream
from pronghorn.handlers.messages import message
from pronghorn.handlers.protocols import Protocol


@message(stream)
def upper(data: bytes) -> bytes:
    """Send back in upper case what comes."""
    return data.upper()


@message(stream)
def echo(data: bytes) -> bytes:
    """Send back what comes (RFC 862)."""
    return data


@message(stream)
def discard(data: bytes) -> None:
    """Read what comes and send nothing (RFC 863)."""


class Chargen(Protocol):
    """Send lines of 72 characters, a rotating window over the printable ones, until the peer leaves (RFC 864)."""

    __slots__ = ("_line", "_paused", "_transport")
    ring = bytes(range(32, 127)) * 2

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._line = 0
        self._paused = False
        self.resume_writing()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        while not self._paused and not self._transport.is_closing():
            start = self._line % 95
            self._line += 1
            self._transport.write(self.ring[start : start + 72] + b"\r\n")


class Daytime(Protocol):
    """Send the time, and close (RFC 867)."""

    __slots__ = ()

    def connection_made(self, transport: Any) -> None:
        transport.write(time.strftime("%A, %B %d, %Y %H:%M:%S-%Z\r\n").encode())
        transport.close()


chargen = Chargen
daytime = Daytime
