"""Goodbyes to the channels of a loop: how one is said, and the looks at those that wait for a quiet moment.

Law: as of goodbyes.py, whose turns these are. A handler is told as at a drain, by the same calls.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from pronghorn.connection.asyncio_drain import Ending, Tasks
from pronghorn.connection.channel import AnyChannel
from pronghorn.connection.closing import last_call
from pronghorn.connection.quiet import Silence, is_quiet
from pronghorn.errors import End
from pronghorn.serving.goodbyes import LATER, SAID, STAYS, Answer, Goodbyes

if TYPE_CHECKING:
    from pronghorn.connection.asyncio_channel import AnyAsyncioChannel
    from pronghorn.serving.context import Context


class Place(Protocol):
    """A loop, as its goodbyes know it."""

    context: Context
    open: dict[int, AnyChannel]

    def call_later(self, delay: float, callback: Callable[[], None], /) -> object: ...
    def drain(self, channel: AnyChannel, /) -> None: ...
    def drain_all(self) -> None: ...


class ChannelGoodbyes:
    """Those of one loop, if they are to be spread over its channels."""

    def __init__(self, loops: Place) -> None:
        self._loops, self._context = loops, loops.context
        self._goodbyes: Goodbyes | None = None
        self._parting: dict[int, Ending | Silence] = {}  # what is known of those whose turn it was
        self._tasks = Tasks()

    def begin(self) -> bool:
        """Say goodbye to one channel after the other from now on, if that is wanted; whether it is."""
        before, self._goodbyes = self._goodbyes, self._context.goodbyes(self._loops.open)
        if self._goodbyes is not None and before is None:
            self._loops.call_later(0, self._look)
        return self._goodbyes is not None

    def forget(self, channel: AnyChannel) -> None:
        """It is ended otherwise."""
        self._parting.pop(channel.number, None)

    def _look(self) -> None:
        goodbyes, drain = self._goodbyes, self._context.drain
        if goodbyes is None:  # all were told at once
            return
        if time.monotonic() >= last_call(drain.deadline, drain.timeout):
            self._goodbyes = None
            drain.spread_no_more()
            self._loops.drain_all()
            return
        self._tasks = Tasks()
        self._context.look_at_goodbyes(goodbyes, self._loops.open, self._say)
        self._loops.call_later(max(0.0, goodbyes.next_look - time.monotonic()), self._look)

    def _say(self, number: int, waited: float) -> Answer:
        channel = self._loops.open[number]
        if channel.is_closing():
            return SAID
        try:
            if self._context.offer_of(channel).service.handler.facts.needs_asyncio:
                return self._to_asyncio(cast("AnyAsyncioChannel", channel))
            return self._to_other(channel, waited)
        except BaseException as error:
            self._context.failed(channel, error)
            channel.close()
            return SAID

    def _to_asyncio(self, channel: AnyAsyncioChannel) -> Answer:
        """Have an asyncio handler's conversation end, gently."""
        ending = self._parting.get(channel.number)
        if not isinstance(ending, Ending):
            quiet, timeout = self._context.settings.drain_quiet, self._context.drain.timeout
            ending = self._parting[channel.number] = Ending(channel, quiet, math.inf, timeout, gentle=True)
        if not ending.look(time.monotonic(), self._tasks):
            return LATER
        del self._parting[channel.number]
        return STAYS if channel.stays else SAID

    def _to_other(self, channel: AnyChannel, waited: float) -> Answer:
        """Say goodbye to any other conversation, if it is at a quiet moment."""
        silence = self._parting.setdefault(channel.number, Silence())
        channel.read_out()
        channel.say_goodbye(End.DRAINING)
        quiet, patience = self._context.settings.drain_quiet, self._context.drain.timeout
        assert isinstance(silence, Silence)
        if not channel.stays and not is_quiet(channel, silence, time.monotonic(), waited, quiet, patience):
            return SAID if channel.is_closing() else LATER
        del self._parting[channel.number]
        self._loops.drain(channel)
        return SAID if channel.is_closing() else STAYS
