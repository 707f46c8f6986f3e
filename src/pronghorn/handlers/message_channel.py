"""`MessageChannel`: a connection of a plain message function in a loop: one call from the loop's event to the reply.

Law: what a client can see is that of a Channel with a MessageProtocol. A function that knows nothing of its connection
needs no protocol while each read brings whole messages, and each reply goes out whole. So the protocol is made when
there is more to remember (half a message, replies that wait, the drain), or when anybody asks for it, and let go of
when it holds nothing. The same holds for the context that the function is called in, unless the function has set
something there, and for all that few connections ever have (`Rare`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any, cast

from pronghorn.connection.base import AnyConnection
from pronghorn.connection.channel import BURST, OPEN, OPENING, AnyChannel
from pronghorn.connection.closing import READ_SIZE
from pronghorn.connection.interfaces import Terms
from pronghorn.connection.proxy_protocol import ProxyHeader
from pronghorn.connection.socket_facts import identity
from pronghorn.framing.reads import cut_of, never
from pronghorn.handlers.message_protocol import MessageProtocol, Style
from pronghorn.peers import Peer, peer_of, short_peer
from pronghorn.system.drain import connection_number

WARM = 500
"""Connections that keep their context although they say nothing: to make one anew costs about a microsecond."""


class Rare:
    """What few connections ever have; made when the first of it is set."""

    __slots__ = tuple(
        "_error _fills _high _lingering _low _most _name _paused _throttled _told goodbye loop own_drain own_fields "
        "process_drain proxy seen stays wrote_eof".split()
    )

    def __init__(self, terms: Terms) -> None:
        self._error = self._lingering = self.own_drain = self.own_fields = self.proxy = self.seen = None
        self._fills = self._paused = self._throttled = self._told = self.stays = self.wrote_eof = False
        self._high, self._low, self._most = terms.high_water, terms.high_water // 4, terms.most_unsent
        self.goodbye, self.process_drain, self.loop, self._name = "", terms.drain, terms.loop, terms.sockname


def rarely(name: str) -> Any:
    """An attribute that a connection has in its Rare; until that is made, what all begin with."""

    def get(self: AnyMessageChannel) -> Any:
        return getattr(self._rare or self._plain.rare, name)

    def put(self: AnyMessageChannel, value: Any) -> None:
        if self._rare is None:
            self._rare = Rare(self._plain.terms)
        setattr(self._rare, name, value)

    return property(get, put)


class PlainMessages:
    """What all connections of one listener share, whose handler is a function of nothing but the message."""

    __slots__ = tuple("contexts cut lets_go make mark most open rare reply style terms warm".split())

    def __init__(
        self,
        make: Callable[[], MessageProtocol],
        terms: Terms,
        contexts: Context,
        open: Mapping[int, AnyConnection],
    ) -> None:
        """`make` makes a protocol; the function is called in copies of `contexts`; `open` are the worker's open
        connections by number."""
        made = make()
        style: Style = made.style
        self.make, self.terms, self.contexts, self.open = make, terms, contexts, open
        self.style, self.reply = style, style.reply_for(made)
        self.cut, self.mark, self.most = cut_of(style.framing, style.max_size)
        self.lets_go = self.cut is not never  # of protocols, whenever they hold nothing
        self.rare = Rare(terms)
        self.warm: deque[tuple[int, int]] = deque()  # numbers of connections, and what these had received then

    def warmed(self, channel: AnyMessageChannel) -> None:
        """A connection has a context: one that got its own long ago, and has been silent since, loses that."""
        warm = self.warm
        warm.append((channel.number, channel.bytes_in))
        for _ in range(min(2, len(warm) - WARM)):
            number, before = warm.popleft()
            other = self.open.get(number)
            if isinstance(other, AnyMessageChannel):
                if other.bytes_in == before:
                    other.cool()
                else:
                    warm.append((number, other.bytes_in))


def is_copy(context: Context, base: Context, number: int) -> bool:
    """Whether a connection's context is as it was made: nobody has set anything there."""
    return (
        len(context) == len(base) + 1
        and context.get(connection_number) == number
        and all(context.get(each) is value for each, value in base.items())
    )


class AnyMessageChannel(AnyChannel):
    """A connection of a plain message function; its slots make it a class: see MessageChannel."""

    __slots__: tuple[str, ...] = ()
    _error = rarely("_error")
    _fills = rarely("_fills")
    _high = rarely("_high")
    _lingering = rarely("_lingering")
    _low = rarely("_low")
    _most = rarely("_most")
    _name = rarely("_name")
    _paused = rarely("_paused")
    _throttled = rarely("_throttled")
    goodbye = rarely("goodbye")
    loop = rarely("loop")
    own_drain = rarely("own_drain")
    own_fields = rarely("own_fields")
    process_drain = rarely("process_drain")
    proxy = rarely("proxy")
    seen = rarely("seen")
    stays = rarely("stays")
    wrote_eof = rarely("wrote_eof")
    _context: Context | None
    _count: int
    _peer: Peer | int
    _plain: PlainMessages
    _protocol: MessageProtocol | None
    _rare: Rare | None

    def __init__(self, sock: Any, number: int, peer: Peer, plain: PlainMessages, proxy: ProxyHeader | None) -> None:
        terms = plain.terms
        self.sock, self.number, self._peer, self._plain = sock, number, peer, plain
        self._rare = self._protocol = self._context = None
        self.opened = self.heard = time.monotonic()
        self.state = OPENING
        self.bytes_in = self.bytes_out = self._asked = self._burst = self._count = self.heard_in = self.acknowledged = 0
        self.first_sent = 0.0
        self.wants_read = self.wants_write = self.peer_ended = self._dead = False
        self._backlog = bytearray() if terms.notes_first else None
        self._fd = sock.fileno()
        self.inode = identity(self._fd)
        if proxy is not None:
            self.proxy = proxy

    def begin(self) -> None:
        """Take messages from now on."""
        self.state, self.wants_read = OPEN, True
        self.loop.changed(self)

    def on_readable(self) -> None:
        """There may be input: one read, and a reply to each message of it."""
        if self._protocol is not None or self.state is not OPEN or not self.wants_read:
            self._read_on()
            return
        try:
            data = self.sock.recv(READ_SIZE)
        except BaseException as error:
            self._unreadable(error)
            return
        if not data:
            self._end()
            return
        self.bytes_in += len(data)
        plain, context = self._plain, self._context
        if context is None:
            context = self._warmed()
        try:
            found = plain.cut(data, plain.most) if plain.cut is not None else data if len(data) <= plain.most else None
            if type(found) is not bytes:
                self._take(data, found)
                return
            self._count += 1
            reply = context.run(plain.reply, found)
            if type(reply) is not bytes or self._backlog is not None:
                self._write(reply)
                return
        except BaseException as error:
            self._failed(error)
            return
        if mark := plain.mark:
            reply += mark
        if reply:
            try:
                sent = self.sock.send(reply)
            except OSError as error:
                sent = self._not_sent(error)
            self.bytes_out += sent
            if sent != len(reply) and not self._dead:
                self._keep(reply, sent)

    def answered(self) -> bool:
        """Whatever has come; what is no whole message yet, `unfinished` tells."""
        return True

    def keep_sockname(self) -> None:
        """Nobody has seen the connection who could ask for its own address once it is over."""

    def cool(self) -> None:
        """Nothing has come for a while: keep no more than there is to remember."""
        self._let_go_of_protocol(always=True)
        context, base = self._context, self._plain.contexts
        if self._protocol is None and context is not None and is_copy(context, base, self.number):
            self._context = None  # one that is made anew is the same
        self._peer = short_peer(self._peer)

    # What others find where a Channel has attributes.

    @property
    def peer(self) -> Peer:  # type: ignore[override]
        peer = self._peer
        return peer_of(peer) if type(peer) is int else cast(Peer, peer)

    @property
    def context(self) -> Context:  # type: ignore[override]
        return self._context or self._warmed()

    @property
    def protocol(self) -> Any:
        protocol = self._protocol
        if protocol is None:
            protocol = self._protocol = self._plain.make()
            protocol.connection_made(self)
            protocol.messages = self._count
        return protocol

    @protocol.setter
    def protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    @property
    def _lost(self) -> bool:
        """Whether the protocol has been told of the end, or there is none that could be told."""
        return self._protocol is None or (self._rare is not None and self._rare._told)

    @_lost.setter
    def _lost(self, lost: bool) -> None:
        if self._rare is None:
            self._rare = Rare(self._plain.terms)
        self._rare._told = lost

    @property
    def ended(self) -> bool:
        return self.peer_ended

    @ended.setter
    def ended(self, ended: bool) -> None:
        self.peer_ended = ended

    @property
    def listener(self) -> str:  # type: ignore[override]
        return self._plain.terms.listener

    @property
    def messages(self) -> int:
        return self._count if self._protocol is None else self._protocol.messages

    @property
    def unfinished(self) -> bool:
        return self._protocol is not None and self._protocol.unfinished

    @property
    def log_fields(self) -> dict[str, object] | None:
        return self.own_fields  # type: ignore[no-any-return]

    # Inner workings.

    def _warmed(self) -> Context:
        context = self._context = self._plain.contexts.copy()
        context.run(connection_number.set, self.number)
        self._plain.warmed(self)
        return context

    def _let_go_of_protocol(self, always: bool = False) -> None:
        """If it holds nothing; where each read would need another one, only if it is to be `always`."""
        protocol = self._protocol
        if protocol is None or self._backlog or self.state is not OPEN or not (always or self._plain.lets_go):
            return
        if not (protocol.partial or protocol.leaving or self._throttled or self._paused):
            self._count, self._protocol = protocol.messages, None

    def _read_on(self) -> None:
        """Read where there is more to remember, or to wait for, than messages."""
        AnyChannel.on_readable(self)
        self._let_go_of_protocol()

    def _unreadable(self, error: BaseException) -> None:
        if not isinstance(error, OSError):  # no memory for what has come
            self._failed(error)
        elif not isinstance(error, (BlockingIOError, InterruptedError)):
            self._gone(error)

    def _end(self) -> None:
        if self._protocol is not None:
            AnyChannel._end(self)
        else:
            self.peer_ended = True
            self.close()

    def _not_sent(self, error: OSError) -> int:
        if not isinstance(error, (BlockingIOError, InterruptedError)):
            self._gone(error)
        return 0

    def _keep(self, data: bytes, sent: int) -> None:
        """The kernel has not taken all."""
        self._burst = self.bytes_out + BURST
        self._backlog = bytearray(memoryview(data)[sent:])
        self.protocol  # noqa: B018 (it is to be told when there is room again)
        self._wish()
        if len(self._backlog) > self._high:
            self._throttle(True)

    def _write(self, reply: Any) -> None:
        """A reply that is none, or no bytes; or the first one, whose time is noted."""
        if reply is None:
            return
        self._burst, style = self.bytes_out + BURST, self._plain.style
        try:
            self.write(style.frame(reply))
        except (TypeError, AttributeError) as error:
            raise style.unfit(reply, error) from None

    def _take(self, data: bytes, messages: Any) -> None:
        """A read of several messages, or (None) of what has to be remembered."""
        self._burst = self.bytes_out + BURST
        if messages is not None:
            self.context.run(self._answer, messages)
            return
        try:
            self.context.run(self.protocol.data_received, data)
        finally:
            self._let_go_of_protocol()

    def _answer(self, messages: list[bytes]) -> None:
        """Have all messages of a read answered by one write; see MessageProtocol._answer."""
        plain, size, done = self._plain, 0, 0
        out: list[Any] = []
        call, high_water = plain.reply, plain.style.high_water
        try:
            for message in messages:
                done += 1
                reply = call(message)
                if reply is None:
                    continue
                if not isinstance(reply, (bytes, bytearray)):
                    self._flush(out)
                    self._write(reply)
                    continue
                out.append(reply)
                size += len(reply)
                if size > high_water:
                    self._flush(out)
                    size = 0
                    if self.is_closing() or self.get_write_buffer_size() > high_water:
                        break
        finally:
            if self._protocol is None:
                self._count += done
            else:  # since a flush
                self._protocol.messages += done
            self._flush(out)
        if done < len(messages) and not self.is_closing():
            self.protocol.wait(messages[done:])

    def _flush(self, out: list[Any]) -> None:
        if out:
            mark = self._plain.mark
            raw = mark.join(out) + mark
            out.clear()
            self.write(raw)


class _Hot(AnyMessageChannel):
    """What each message looks at comes first, side by side: 500 connections fill a processor's cache."""

    __slots__ = tuple("_backlog _context _count _plain _protocol bytes_in bytes_out sock state wants_read".split())


class MessageChannel(_Hot):
    """A connection of a plain message function in a loop, asyncio's included: the function sees no transport."""

    __slots__ = tuple(
        "_asked _burst _dead _fd _peer _rare acknowledged first_sent heard heard_in inode number opened peer_ended "
        "wants_write".split()
    )
