"""Acceptors and channels in a loop, whatever turns it: how a connection begins, how it is let go of, how it drains."""

from __future__ import annotations

import _socket
import contextvars
import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import msgspec

from pronghorn.connection.asked import awaits_answer
from pronghorn.connection.asyncio_drain import LOOK, Ending, look_at_all
from pronghorn.connection.base import AnyConnection
from pronghorn.connection.channel import OPENING, AnyChannel, Channel
from pronghorn.connection.closing import FIRST_WORD, first_word_due, last_call
from pronghorn.connection.interfaces import Cancellable, Terms, Watchable
from pronghorn.connection.own_context import made_for
from pronghorn.connection.proxy_protocol import ProxyHeader
from pronghorn.connection.proxy_wait import HeaderWait
from pronghorn.errors import AGE, MOVED, PeerTimeout
from pronghorn.handlers.handler import Handler
from pronghorn.handlers.message_channel import MessageChannel, PlainMessages
from pronghorn.handlers.protocols import Protocol
from pronghorn.listening.listener import Listener
from pronghorn.peers import Peer
from pronghorn.scoreboard.row import DRAINING, LEAVING
from pronghorn.serving.acceptor import Acceptor
from pronghorn.serving.channel_goodbyes import ChannelGoodbyes
from pronghorn.serving.context import Context
from pronghorn.serving.service import Offer
from pronghorn.serving.timeouts import ChannelTimeouts, timeouts_of
from pronghorn.serving.tls_starts import TlsStarts

if TYPE_CHECKING:
    from pronghorn.connection.asyncio_channel import AnyAsyncioChannel
    from pronghorn.serving.handing_over import HandingOver
    from pronghorn.serving.handover import Handover
    from pronghorn.serving.handshakes import Handshakes
    from pronghorn.serving.taking_over import TakingOver


LOOKS_PER_TICK = 1000  # at descriptors: about a millisecond


class Nobody(Protocol):
    """The protocol of a connection for which the handler could not be made: it closes."""

    __slots__ = ()

    def connection_made(self, transport: Any) -> None:
        transport.close()


class Entrance:
    """The way of one listener's connections to their protocol: PROXY header, TLS handshake, and the handler."""

    def __init__(self, loops: Loops, offer: Offer) -> None:
        self.loops, self.offer = loops, offer
        self.context = context = loops.context
        self.service = service = offer.service
        self._channel_class = loops.channel_class
        self._limits, self._descriptors = service.limits, context.model.descriptors
        self._protocol = service.handler.make or service.handler.protocol
        settings = service.settings
        high_water, most_unsent = settings.write_high_water, settings.max_write_buffer
        notes, own = context.notes_first, offer.listener.sockname
        self.terms = Terms(loops, context.drain, most_unsent, high_water, offer.name, notes, own)
        self.contexts = offer.base()
        self._handshakes: Handshakes | None = None
        if service.tls_at_once:
            from pronghorn.serving.handshakes import Handshakes
            from pronghorn.tls.starttls import channel_class

            self._handshakes = Handshakes(context, service, self.begin, loops.call_later)
            self._channel_class = channel_class(self._channel_class)
        self._plain: PlainMessages | None = None
        if service.handler.plain and not service.tls_at_once:
            self._plain = PlainMessages(service.handler.protocol, self.terms, self.contexts, context.open)

    def renew(self) -> None:
        """Connections get what is set now, by lifespans say: before the first of them."""
        self.contexts = self.offer.base()
        if self._plain is not None:
            self._plain.contexts = self.contexts

    def adopt(self, listener: Listener, fd: int, peer: Peer) -> None:
        """Make a channel of an accepted connection, and give it to a protocol, once it is introduced and has TLS."""
        limits = self._limits
        if fd >= self._descriptors:
            limit = f"descriptor {fd} is beyond what {self.context.model.name} can watch"
            self.context.refuse(self.offer, fd, peer, limit, admitted=not limits.is_proxy(peer))
            return
        try:
            sock = _socket.socket(listener.family, _socket.SOCK_STREAM, 0, fd)  # twice as fast as Python's class
            sock.setblocking(False)
        except OSError as error:  # of this connection, and none of the listener's
            self.context.refuse(self.offer, fd, peer, str(error), admitted=not limits.is_proxy(peer))
            return
        if limits.proxied and limits.is_proxy(peer):
            self._await_header(HeaderWait(sock, peer, time.monotonic() + self.service.settings.handshake_timeout))
        else:
            self._open(sock, peer)

    def _await_header(self, header_wait: HeaderWait) -> None:
        header_wait.on_readable()
        if header_wait.is_closing():
            self.header_came(header_wait)
        else:
            self.loops.header_waits[header_wait] = self
            header_wait.tell(self.loops.changed)

    def header_came(self, header_wait: HeaderWait) -> None:
        """The PROXY header has come, or has not: the connection is refused then, or when a limit refuses the client."""
        peer, header, limit = header_wait.peer, header_wait.header, header_wait.refusal
        if header is not None:
            peer = peer if header.source is None else header.source
            limit = self.context.refusal_of_client(self.offer, peer)
        if limit:
            self.context.refuse(self.offer, header_wait.sock.detach(), peer, limit, header_wait.detail)
            self.loops.relieve()
        else:
            if header is not None:
                header = msgspec.structs.replace(header, via=header_wait.peer)
            self._open(header_wait.sock, peer, header)

    def _open(self, sock: _socket.socket, peer: Peer, header: ProxyHeader | None = None) -> None:
        context = self.context
        if self._handshakes is not None:
            sock = self._handshakes.sealed(sock)
        if context.tells_of_begins:
            number = context.number(self.offer, peer)
        else:  # without a call
            context.count = number = context.count + 1
        if self._plain is not None:
            self._open_plain(self._plain, sock, number, peer, header)
            return
        channel = self._channel_class(sock, number, peer, self.terms, header, self.contexts.copy())
        context.open[number] = context.holders[channel._fd] = channel
        if self._handshakes is None:
            self.begin(channel)
        else:
            self._handshakes.start(channel)

    def _open_plain(self, plain: PlainMessages, sock: Any, number: int, peer: Peer, header: ProxyHeader | None) -> None:
        """The connection of a function that needs no protocol."""
        channel = MessageChannel(sock, number, peer, plain, header)
        self.context.open[number] = self.context.holders[channel._fd] = channel
        channel.begin()
        if self.loops.draining:
            self.loops.begun(channel)

    def begin(self, channel: AnyChannel) -> None:
        """The connection is there: give it to a protocol."""
        try:
            protocol = channel.context.run(made_for, channel.number, self._protocol)
        except BaseException as error:
            self.context.failed(channel, error)
            protocol = Nobody()
        channel.open(protocol)
        if self.loops.draining:
            self.loops.begun(channel)


class Loops:
    """Channels and acceptors, whatever loop turns them."""

    call_later: Callable[[float, Callable[[], object]], Cancellable]
    call_soon_threadsafe: Callable[[Callable[[], object]], None]
    changed: Callable[[Watchable], None]
    channel_class: type[AnyChannel] = Channel
    parts = True
    """A channel that is over lets go of its protocol, which has it: else only the collector could free the two."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.open = cast(dict[int, AnyChannel], context.open)
        self.header_waits: dict[HeaderWait, Entrance] = {}
        self.entrances = [Entrance(self, each) for each in context.offers.values()]
        self.acceptors = [
            Acceptor(each.offer.listener, context, each.adopt, self.changed, self.call_later) for each in self.entrances
        ]
        context.count_alone()
        self.draining = False
        self._endings: dict[int, Ending] = {}
        self._goodbyes = ChannelGoodbyes(self)
        self._looks = False  # at these, from time to time
        self._timeouts = timeouts_of(context.offers.values(), ChannelTimeouts)
        self._to_look_at: list[AnyChannel] = []
        self.tls_starts = TlsStarts(context, self._tell_draining)
        self._handing_over: HandingOver | None = None
        self._taking_over: TakingOver | None = None
        if context.handover is not None:
            self._enter_handovers(context.handover)

    def context_at(self, listener: str) -> contextvars.Context:
        """The context of a new connection of this listener."""
        return next(each for each in self.entrances if each.offer.name == listener).contexts.copy()

    @property
    def sealed(self) -> bool:
        """Whether there is TLS, from the first byte at a listener or since then."""
        return self.tls_starts.any or any(each.service.tls_at_once for each in self.entrances)

    def begun(self, channel: AnyChannel) -> None:
        """A connection has got its protocol while this worker drains."""
        if not self.context.drain.spread:
            self.drain(channel)

    def failed(self, channel: AnyConnection, error: BaseException) -> None:
        self.context.failed(channel, error)

    def release(self, thing: Watchable, proven: bool = False) -> None:
        """The loop has let go of what is closed: close its descriptor, and account for it. `proven`: that is still the
        one which the loop has watched, as the kernel has just said."""
        if isinstance(thing, AnyChannel):
            context = self.context
            context.holders.pop(thing._fd, None)
            thing.release(proven)
            if (reason := thing.reason) is MOVED:
                context.handed_over(thing)
            else:
                context.closed(thing, reason)
                if self.parts or isinstance(thing, MessageChannel):
                    thing.protocol = None
            for acceptor in self.acceptors:  # there may be room again
                if not acceptor.wants_read:
                    acceptor.relieve()
        elif isinstance(thing, Acceptor):
            thing.listener.close()
            if all(acceptor.listener.fileno() < 0 for acceptor in self.acceptors):
                self.context.let_go()
        elif isinstance(thing, HeaderWait):
            self.header_waits.pop(thing).header_came(thing)

    def relieve(self) -> None:
        """A connection has ended."""
        for acceptor in self.acceptors:
            if not acceptor.wants_read:
                acceptor.relieve()

    def tick(self, now: float) -> None:
        """A sign of life, at least once a TICK; and a look at acceptors that rest, and at descriptors."""
        self.context.tick(now)
        self.look_for_lost(LOOKS_PER_TICK)
        for acceptor in self.acceptors:
            acceptor.look()
        self._look_for_late()

    def look_for_lost(self, most: int = sys.maxsize) -> bool:
        """End the connections whose descriptor somebody else has closed; whether there are any among the next `most`.

        Nothing else tells of them where the kernel forgets a descriptor that is closed (epoll(7), question 6).
        """
        found = False
        if not self._to_look_at or most == sys.maxsize:
            self._to_look_at = list(self.open.values())
        for _ in range(min(most, len(self._to_look_at))):
            channel = self._to_look_at.pop()
            if channel.fileno() >= 0 and not channel.is_own():
                channel.lose()
                found = True
        return found

    def _look_for_late(self) -> None:
        now = time.monotonic()
        for header_wait in [each for each in self.header_waits if each.deadline <= now]:
            header_wait.late()

    def let_go(self) -> None:
        """Let go of the listeners, and go on with what is open until it ends by itself."""
        if self._taking_over is not None:
            self._taking_over.stop()
        for acceptor in self.acceptors:
            acceptor.let_go()
        self.context.row.state = LEAVING  # which says that it accepts no more
        self._goodbyes.begin()

    def _enter_handovers(self, handover: Handover) -> None:
        """Between two batches of events, obey what is ordered: to offer what is open, or to take what is offered."""
        from pronghorn.serving.handing_over import HandingOver
        from pronghorn.serving.taking_over import TakingOver

        giver = self._handing_over = HandingOver(self, self.context, handover)
        terms = {each.offer.name: each.terms for each in self.entrances}
        taker = self._taking_over = TakingOver(self, self.context, handover, self.channel_class, terms)
        handover.hand_over = lambda: self.call_later(0.0, giver.start)
        handover.take_over = lambda: self.call_later(0.0, taker.start)

    def is_deserted(self) -> bool:
        """No connection is open, and none can come."""
        return not (self.open or self.header_waits) and all(each.listener.fileno() < 0 for each in self.acceptors)

    def begin_draining(self) -> None:
        """Empty the accept queue, let go of the listeners, and let each conversation come to its end."""
        self.context.row.state = DRAINING
        for side in (self._taking_over, self._handing_over):
            if side is not None:
                side.stop()
        for acceptor in self.acceptors:
            acceptor.retire()
        if self.header_waits:
            patience = min(FIRST_WORD, self.context.drain.timeout / 2)
            for header_wait in self.header_waits:
                header_wait.deadline = min(header_wait.deadline, time.monotonic() + patience)
            self.call_later(patience, self._look_for_late)
        self.draining = True
        if not self._goodbyes.begin():
            self.drain_all()

    def drain_all(self) -> None:
        """Let each conversation come to its end."""
        for channel in list(self.open.values()):
            self.drain(channel)

    def drain(self, channel: AnyChannel) -> None:
        """Let a conversation come to its end; one that has only just begun, when it has had time for its first word."""
        handler = self.context.offer_of(channel).service.handler
        if handler.facts.needs_asyncio:
            self._take_leave(channel, handler)
            return
        try:
            channel.read_out()
            if channel.is_closing():
                return
            if rest := first_word_due(channel) or self._answer_due(channel):
                self.call_later(rest, lambda: self.drain(channel))
            elif channel.state is not OPENING:  # a handshake is brought to its end first
                tell = getattr(channel.protocol, "draining", None)
                if (tell is None or not channel.context.run(tell)) and not channel.stays:
                    channel.close()
        except BaseException as error:
            self.context.failed(channel, error)
            channel.close()

    def _answer_due(self, channel: AnyChannel) -> float:
        """Seconds until the next look at a channel from which somebody on the bus waits for an answer; 0 at others, and
        when the drain deadline is near."""
        drain = self.context.drain
        due = awaits_answer(channel.number) and time.monotonic() < last_call(drain.deadline, drain.timeout)
        return LOOK if due else 0.0

    def _tell_draining(self, channel: AnyChannel) -> None:
        """Draining has begun while the channel shook hands in the middle of its conversation."""
        handler = self.context.offer_of(channel).service.handler
        if not handler.facts.needs_asyncio:  # those are looked at now and then
            self.begun(channel)

    def _take_leave(self, channel: AnyChannel, handler: Handler) -> None:
        """Of an asyncio handler's conversation, once it owes nothing: see connection/asyncio_drain.py."""
        drain = self.context.drain
        deadline = drain.deadline if drain.begun else time.monotonic() + drain.timeout
        quiet, speaks = self.context.settings.drain_quiet, cast("AnyAsyncioChannel", channel)
        self._endings[channel.number] = Ending(speaks, quiet, deadline, drain.timeout, holds=handler.holds)
        self._goodbyes.forget(channel)
        if not self._looks:
            self._looks = True
            self.call_later(0, self._look_at_endings)

    def _look_at_endings(self) -> None:
        rest = look_at_all(self._endings, time.monotonic())
        self._looks = bool(self._endings)
        if self._looks:
            self.call_later(rest, self._look_at_endings)

    def keep_deadlines(self) -> None:
        """From now on, end the connections that are over their time."""
        self.context.guarded(self._end_late)
        if self._timeouts.interval < math.inf:
            self.call_later(self._timeouts.wait(time.monotonic()), self.keep_deadlines)

    def keep_idle(self, conn: AnyConnection, seconds: float) -> None:
        """A connection gets an idle timeout of its own."""
        looked = self._timeouts.interval < math.inf
        self._timeouts.keep_idle(conn, seconds)
        if not looked:
            self.call_later(0, self.keep_deadlines)

    def _end_late(self) -> None:
        for channel, why in self._timeouts.due(self.open.values(), time.monotonic()):
            if why == AGE:
                channel.say_goodbye(AGE)
                self.drain(channel)
            else:
                channel.cut(PeerTimeout(why))

    def note_late(self) -> None:
        """The drain deadline is there: count what is open."""
        for header_wait in list(self.header_waits):
            header_wait.late()
        for channel in list(self.open.values()):
            if not channel.is_lingering():
                self.context.note_cut(channel.number, channel.peer, channel.opened)

    def cut(self) -> None:
        """The drain deadline is there: end what is open."""
        self.note_late()
        for channel in list(self.open.values()):
            channel.cut(ConnectionAbortedError("cut at the drain deadline"))
