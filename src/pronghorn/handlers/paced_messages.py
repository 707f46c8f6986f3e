"""`PacedProtocol`: a connection of a message handler whose messages wait for their turn (`--message-rate-per-source`).

Law: a message waits, and none is dropped. While one waits nothing more is read, so that the kernel's buffer fills and
the peer is held up. Without the setting no connection has this class.
"""

from __future__ import annotations

from typing import Any

from pronghorn.handlers.message_protocol import MessageProtocol, Style
from pronghorn.scoreboard.message_rates import MessageRate

SHORTEST = 0.01  # seconds of a wait, after which several messages may have their turn


class PacedProtocol(MessageProtocol):
    """One connection, at the `rate` of its source."""

    __slots__ = ("_held", "_rate")

    def __init__(self, style: Style, rate: MessageRate) -> None:
        super().__init__(style)
        self._rate = rate
        self._held = False  # nothing is read until the next message has its turn

    def _answer(self, messages: list[Any]) -> None:
        if self._waiting is not None:
            self._waiting += messages
            return
        count, seconds = self._rate.take(self.transport.peer, len(messages))
        if count:
            super()._answer(messages[:count])
        if count < len(messages) and not self.transport.is_closing():
            self._waiting = [*(self._waiting or ()), *messages[count:]]
            if not self._held:
                self._held = True
                self.transport.pause_reading()
                self.transport.call_later(max(seconds, SHORTEST), self._go_on)

    def _go_on(self) -> None:
        self._held = False
        waiting, self._waiting = self._waiting, None
        if waiting:
            self._answer(waiting)
        if not self._held:
            self.transport.resume_reading()
        if self._left:
            self._leave()
