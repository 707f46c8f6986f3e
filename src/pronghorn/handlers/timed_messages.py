"""Connections of a message handler of whose messages one in 64 is timed (scoreboard/service_times.py).

Law: where nobody reads metrics no connection has such a class. What a message costs beside is one comparison: so the
way of a single message stands here a second time, because a call around `MessageProtocol.data_received` costs four
times as much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pronghorn.errors import BadMessage
from pronghorn.handlers.message_protocol import MessageProtocol
from pronghorn.scoreboard.service_times import EVERY, Sampler

if TYPE_CHECKING:
    Base = MessageProtocol
else:
    Base = object


class Timed(Base):
    """What differs from the class whose messages are timed; a mixin."""

    __slots__ = ("_next",) if TYPE_CHECKING else ()  # the slot is that of the class that is made
    sampler: Sampler
    _next: int

    def __init__(self, style: Any) -> None:
        super().__init__(style)
        self._next = self.sampler.phase()

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._cutter.feed(data)
        except BadMessage as error:
            self._refuse(error)
            return
        if len(messages) == 1 and self.style.alone and self._waiting is None:
            self.messages = count = self.messages + 1
            if count > self._next:
                self._time_next()
            reply = self._reply(messages[0])
            if reply is not None:
                try:
                    self.transport.write(self._frame(reply))
                except (TypeError, AttributeError) as error:
                    raise self.style.unfit(reply, error) from None
        elif messages:
            if self.messages >= self._next:
                self._time_next()
            self._answer(messages)
        if self._left:
            self._leave()

    def _time_next(self) -> None:
        """The message that is answered next is timed."""
        self._next = self.messages + EVERY
        reply = self._reply

        def once(message: Any) -> Any:
            self._reply = reply
            return self.sampler.timed(reply, message)

        self._reply = once


def timed(kind: type[MessageProtocol], sampler: Sampler) -> type[Any]:
    """The class `kind`, with messages that are timed."""
    return type(f"Timed{kind.__name__}", (Timed, kind), {"__slots__": ("_next",), "sampler": sampler})
