"""An old worker's side of a handover: it offers its connections one after the other, and keeps those that nobody takes.

Law: see handover.py. A connection holds still from its offer until it is known who has the token; so few are under way
at once that each pause stays short. Offers are made between two batches of the loop's events, at a message boundary.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable

import msgspec

from pronghorn.connection import moving
from pronghorn.connection.base import AnyConnection
from pronghorn.connection.channel import AnyChannel
from pronghorn.connection.interfaces import Watchable
from pronghorn.handlers.handler import Handler
from pronghorn.handlers.moved_state import CannotMove, NotNow, depart, movable, written
from pronghorn.serving.acceptor import Watched
from pronghorn.serving.context import Context
from pronghorn.serving.handover import PATIENCE, Handover, Offer, Outcome, Place, answers, encode, summed
from pronghorn.system import memory
from pronghorn.system.descriptor_queue import INLINE, Token, message_pair, receive

UNDER_WAY = 16  # connections at once
BATCH = 8  # offers in one go, before the loop has its turn
FULL = 0.002  # seconds until another attempt when the queue has no room
LOOK = 0.25  # seconds between two looks for offers that nobody takes
AGAIN = 0.05  # seconds until what was in the middle of something is offered again
BUSY = 5.0  # seconds for which this happens before the outcome is reported; it goes on afterwards
GIVEN_UP = 3  # offers in a row that nobody took: then no more are made
WROTE = "it wrote while its state was taken"
NOBODY = f"no new worker took it within {PATIENCE:g} s"


class Offered:
    """A connection that holds still."""

    __slots__ = ("channel", "since", "token")

    def __init__(self, channel: AnyChannel, token: Token, since: float) -> None:
        self.channel, self.token, self.since = channel, token, since


class HandingOver:
    """Offers what one loop has open, at each order anew. It is the holder, and the loop, of the channels under way."""

    def __init__(self, loop: Place, context: Context, handover: Handover) -> None:
        self._loop, self._context, self._handover = loop, context, handover
        self._waiting: deque[int] = deque()
        self._offered: dict[int, Offered] = {}
        self._stay: dict[int, str] = {}
        self._later: set[int] = set()  # that were busy
        self._moved, self._pause, self._told, self._until = 0, 0.0, 0, 0.0
        self._late, self._full_since = 0, 0.0
        self._answers: socket.socket | None = None
        self._theirs: socket.socket | None = None
        self._watch: Watched | None = None
        self._busy = self._looks = self._reports = self._over = False
        self.call_later, self.tls_starts = loop.call_later, loop.tls_starts

    def start(self) -> None:
        """Offer every open connection that is not under way."""
        if self._over:
            return
        self._stay.clear()
        self._late, self._reports = 0, True
        self._until = time.monotonic() + BUSY
        self._waiting = deque(number for number in self._loop.open if number not in self._offered)
        if self._answers is None:
            self._answers, self._theirs = message_pair()
            self._answers.setblocking(False)
            self._watch = Watched(self._answers.fileno(), self._hear)
            self._loop.changed(self._watch)
        self._step()

    def stop(self) -> None:
        """Offer no more, and have back what nobody has taken: this worker drains."""
        self._over = True
        self._waiting.clear()
        for number in list(self._offered):
            self._settle(number, "its worker drains")
        self._report()

    # What a channel asks of its holder.

    def have_back(self, channel: AnyChannel) -> bool:
        """It is written to, or cut: whether it is here still, and goes on."""
        if channel.number not in self._offered:  # its state is just being taken
            moving.go_on(channel, self._loop)
            return True
        stays = self._settle(channel.number, WROTE)
        if stays:
            self._waiting.append(channel.number)
            self._soon()
        return stays

    def changed(self, thing: Watchable) -> None:
        pass

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def keep_idle(self, conn: AnyConnection, seconds: float) -> None:
        self._loop.keep_idle(conn, seconds)

    def failed(self, conn: AnyConnection, error: BaseException) -> None:
        self._context.failed(conn, error)

    # Inner workings.

    def _soon(self, seconds: float = 0.0) -> None:
        if not self._busy:
            self._busy = True
            self.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._busy = False
        self._step()

    def _step(self) -> None:
        """Some offers, as far as there is room."""
        for _ in range(BATCH):
            if not self._waiting or len(self._offered) >= UNDER_WAY:
                break
            number = self._waiting.popleft()
            channel = self._loop.open.get(number)
            if channel is None:
                continue
            if self._late >= GIVEN_UP:
                self._stay[number] = NOBODY
            elif why := movable(self._handler(channel)) or moving.refusal(channel):
                self._stay[number] = why
            elif not self._offer(channel) and not self._gives_up(number):
                self._waiting.appendleft(number)
                return self._soon(FULL)
        if self._waiting:
            if len(self._offered) < UNDER_WAY:
                self._soon()
        elif not self._offered:
            self._waiting.extend(number for number in self._loop.open if number not in self._stay)
            self._soon() if self._waiting else self._rest()  # others may have come meanwhile

    def _handler(self, channel: AnyChannel) -> Handler:
        return self._context.offer_of(channel).service.handler

    def _gives_up(self, number: int) -> bool:
        """There was no room for an offer, for too long."""
        now = time.monotonic()
        self._full_since = self._full_since or now
        if self._offered or now < self._full_since + PATIENCE:
            return False
        self._stay[number] = "there is no room in the queue, or no descriptor"
        return True

    def _rest(self) -> None:
        """All have been offered. Those that were busy are again in a moment; what moves then is reported too."""
        later, self._later = [number for number in self._later if number in self._loop.open], set()
        if later:
            self._waiting.extend(later)
            self._soon(AGAIN)
        if not later or time.monotonic() >= self._until:
            self._report()

    def _report(self) -> None:
        if self._reports or (self._moved > self._told and not self._later and not self._waiting):
            self._reports, self._told = False, self._moved
            stay = summed(why for number, why in self._stay.items() if number in self._loop.open)
            self._handover.report(Outcome(self._moved, self._pause, stay))

    def _offer(self, channel: AnyChannel) -> bool:
        """False if there is no room for it now."""
        moving.hold_still(channel, self)
        try:
            facts = moving.facts_of(channel)
            state = channel.context.run(written, self._handler(channel), channel)
        except CannotMove as error:
            self._stay[channel.number] = str(error)
            if isinstance(error, NotNow):
                self._later.add(channel.number)
        else:
            if channel.loop is self:
                if self._sent(channel, facts, state):
                    return True
                moving.go_on(channel, self._loop)
                return False
            if self._stay.get(channel.number) != WROTE:
                self._waiting.append(channel.number)  # once more
            self._stay[channel.number] = WROTE
        if channel.loop is self:
            moving.go_on(channel, self._loop)
        return True

    def _sent(self, channel: AnyChannel, facts: moving.Facts, state: bytes) -> bool:
        assert self._theirs is not None
        file, token = -1, None
        try:
            message = encode(Offer(os.getpid(), facts, state))
            if len(message) > INLINE:
                file, message = memory.anonymous_file("handover", message), b"in the file"
            token = Token.make()
            descriptors = [channel.fileno(), token.fileno(), self._theirs.fileno()]
            if self._handover.queue.put(message, [*descriptors, file] if file >= 0 else descriptors):
                self._offered[channel.number] = Offered(channel, token, time.monotonic())
                self._full_since = 0.0
                token = None
                self._look_soon()
                return True
            return False
        except OSError:  # no descriptor is left, or as many are on their way as this user may have (ETOOMANYREFS)
            return False
        finally:
            if token is not None:
                token.close()
            if file >= 0:
                os.close(file)

    def _hear(self) -> None:
        """Answers have come."""
        assert self._answers is not None
        while (got := receive(self._answers)) is not None:
            for fd in got[1]:
                os.close(fd)
            try:
                answer = answers.decode(got[0])
            except msgspec.MsgspecError:
                continue
            if answer.number in self._offered and not self._settle(answer.number, answer.why or NOBODY):
                self._pause = max(self._pause, answer.pause)
                self._late = 0
        self._soon()

    def _settle(self, number: int, why: str) -> bool:
        """Whether the connection stays here, for this reason: nobody has taken its token."""
        offered = self._offered.pop(number)
        stays = offered.token.take()
        offered.token.close()
        if stays:
            moving.go_on(offered.channel, self._loop)
            self._stay[number] = why
        else:
            self._stay.pop(number, None)
            self._moved += 1
            depart(offered.channel.protocol)
            moving.leave(offered.channel, self._loop)
        return stays

    def _look_soon(self) -> None:
        if not self._looks:
            self._looks = True
            self.call_later(LOOK, self._look)

    def _look(self) -> None:
        """Have back what nobody took."""
        self._looks = False
        before = time.monotonic() - PATIENCE
        late = [number for number, offered in self._offered.items() if offered.since <= before]
        for number in late:
            self._late += self._settle(number, NOBODY)
        if late:
            self._soon()
        if self._offered:
            self._look_soon()
