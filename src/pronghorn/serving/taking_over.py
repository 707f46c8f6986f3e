"""A new worker's side of a handover: it takes connections out of the queue, and goes on with them.

Law: see handover.py. The handler's object is made before the token is taken, and nothing is sent before that: whatever
fails on the way leaves the connection with the old worker. No limit refuses a connection that moves. As acceptors do, a
worker rests while another that takes has fewer connections, so that they spread.
"""

from __future__ import annotations

import os
import socket
import time

from pronghorn.connection import moving
from pronghorn.connection.channel import AnyChannel
from pronghorn.connection.interfaces import Terms
from pronghorn.connection.own_context import asked_by
from pronghorn.errors import DescriptorLost
from pronghorn.events import ConnectionNotTaken
from pronghorn.handlers.moved_state import CannotMove, depart, go_on, read
from pronghorn.scoreboard.counts import OPEN, believed
from pronghorn.scoreboard.map import H_PAUSE, H_SERVING
from pronghorn.serving.acceptor import Watched
from pronghorn.serving.context import Context
from pronghorn.serving.gate import EXHAUSTED_PAUSE, FAIR_PAUSE
from pronghorn.serving.handover import LONGEST_WHY, Answer, Handover, Offer, Place, encode, offers
from pronghorn.system.descriptor_queue import Token, send
from pronghorn.system.drain import connection_number

TAKES = 8  # in one go


class TakingOver(Watched):
    """The queue as a participant in a loop. `channel_class` is that of channels without TLS, `terms` what those of
    each listener have in common, and `most` the numbers of descriptors that the loop can watch."""

    def __init__(
        self,
        loop: Place,
        context: Context,
        handover: Handover,
        channel_class: type[AnyChannel],
        terms: dict[str, Terms],
    ) -> None:
        super().__init__(handover.queue.fileno(), self._take_some)
        self._loop, self._context, self._queue = loop, context, handover.queue
        self._class, self._terms = channel_class, terms
        self._over = False
        self.wants_read = False

    def start(self) -> None:
        if not self._over:
            self.wants_read = True
            self._loop.changed(self)

    def stop(self) -> None:
        """Take no more: this worker is on its way out."""
        self._over = True
        self._rest(0.0)

    def cut(self, error: BaseException) -> None:
        """The loop could not watch the queue: try again in a while."""
        self._rest(EXHAUSTED_PAUSE)

    def _rest(self, seconds: float) -> None:
        self.wants_read = False
        self._loop.changed(self)
        if not self._over:
            self._loop.call_later(seconds, self.start)

    def _take_some(self) -> None:
        context = self._context
        if context.row.generation < believed(context.row.map.words[H_SERVING]):
            return self._rest(EXHAUSTED_PAUSE)  # it is about to be told to let go
        for _ in range(TAKES):
            if not self.wants_read:
                return
            if context.gives_way():
                return self._rest(FAIR_PAUSE)
            if context.row.own[OPEN] >= context.limits.most:
                return self._rest(EXHAUSTED_PAUSE)
            try:
                got = self._queue.take()
            except OSError:
                return self._rest(EXHAUSTED_PAUSE)
            if got is None:
                return
            self._take(*got)

    def _take(self, message: bytes, descriptors: list[int]) -> None:
        """One offer: the connection is this worker's, or nothing has happened."""
        rest = list(descriptors)
        try:
            fd, token_fd, answer_fd, *files = descriptors
            offer = offers.decode(_content(files[0]) if files else message)
            rest.remove(fd)
            why = self._adopted(offer, fd, Token(token_fd))
            pause = max(0.0, time.monotonic() - offer.facts.still_since)
            if why is not None:
                _answer(answer_fd, Answer(offer.facts.number, pause, why[:LONGEST_WHY]))
        except BaseException as error:  # no memory for it, say, or what came is no offer
            self._context.fault(error)
        finally:
            for each in rest:
                os.close(each)

    def _adopted(self, offer: Offer, fd: int, token: Token) -> str | None:
        """Why the connection cannot be taken; empty if this worker has it now, None if another one has."""
        context = self._context
        channel: AnyChannel | None = None
        try:
            channel = self._channel(offer.facts, fd)
            channel.context.run(asked_by.set, channel.number)
            channel.context.run(connection_number.set, channel.number)
            handler = context.offer_of(channel).service.handler
            protocol = channel.context.run(read, handler, channel, offer.state, offer.facts.joined)
            if not channel.is_own():
                raise DescriptorLost()
        except BaseException as error:
            if channel is not None:
                moving.forget(channel)
            if isinstance(error, CannotMove):
                return str(error)
            context.observe(ConnectionNotTaken(offer.facts.peer, error))
            return f"{type(error).__name__}: {error}"
        if not token.take():
            channel.context.run(depart, protocol)
            moving.forget(channel)
            return None
        context.taken_over(channel, f"worker process {offer.worker}, connection {offer.facts.number}")
        context.holders[channel.fileno()] = channel
        words, pause = context.row.map.words, time.monotonic() - offer.facts.still_since
        words[H_PAUSE] = max(believed(words[H_PAUSE]), int(pause * 1e9))
        moving.begin(channel, self._loop)
        try:
            channel.context.run(go_on, protocol, channel)
        except BaseException as error:
            channel._failed(error)
        return ""

    def _channel(self, facts: moving.Facts, fd: int) -> AnyChannel:
        """A channel over the descriptor, which is closed if there is none. Raises OSError and CannotMove."""
        context = self._context
        if facts.listener not in self._terms:
            os.close(fd)
            raise CannotMove("the listener is gone, or has another name")
        if (fd := context.own_number(fd)) < 0:
            raise CannotMove("no descriptor is left")
        if fd >= context.model.descriptors:
            os.close(fd)
            raise CannotMove(f"descriptor {fd} is beyond what {context.model.name} can watch")
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            raise
        number = context.number(context.by_name[facts.listener], None)
        own = self._loop.context_at(facts.listener)
        channel = self._class(sock, number, facts.peer, self._terms[facts.listener], facts.proxy, own)
        moving.restore(channel, facts)
        return channel


def _content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _answer(fd: int, answer: Answer) -> None:
    end = socket.socket(fileno=fd)
    try:
        send(end, encode(answer))
    except OSError:
        pass  # the old worker is gone
    finally:
        end.detach()
