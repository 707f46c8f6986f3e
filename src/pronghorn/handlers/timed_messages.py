"""Connections of a message handler of whose messages one in 64 is timed (scoreboard/service_times.py).

Law: where nobody reads metrics no connection has such a class. What a message costs beside is one comparison.
"""

from __future__ import annotations

from typing import Any

from pronghorn.handlers.message_protocol import MessageProtocol
from pronghorn.scoreboard.service_times import EVERY, Sampler


def timed(kind: type[MessageProtocol], sampler: Sampler) -> type[Any]:
    """The class `kind`, with messages that are timed."""
    base: Any = kind
    received = kind.data_received

    class Timed(base):  # type: ignore[misc]  # known when it is called
        __slots__ = ("_next",)

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._next = sampler.phase()

        def data_received(self, data: bytes) -> None:
            if self.messages >= self._next:
                self._time_next()
            received(self, data)

        def _time_next(self: Any) -> None:
            """The next message is timed, which may be a while away."""
            self._next = self.messages + EVERY
            reply = self._reply

            def once(message: Any) -> Any:
                self._reply = reply
                return sampler.timed(reply, message)

            self._reply = once

    return Timed
