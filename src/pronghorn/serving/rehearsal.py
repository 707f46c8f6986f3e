"""Conversations over a socketpair(2) before the first fork: Python adapts its code once, and not in each child.

Law: no code of the handler is called, nothing is observed or counted, and no descriptor stays open. Python writes into
the code that it runs until that has run some times and is adapted to what it works on (PEP 659). A child that does this
for itself copies a page of memory for each function, and ends before it is worth while.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pronghorn.connection.blocking import Connection
from pronghorn.framing import Delimited, Lines, Prefixed, Stream, Varint, lines
from pronghorn.handlers.handler import Handler, HandlerFacts
from pronghorn.handlers.message_protocol import MessageProtocol
from pronghorn.handlers.plain_conversations import PlainConversations
from pronghorn.handlers.protocols import Protocol
from pronghorn.scoreboard.counts import ChildCounts, Counts
from pronghorn.serving.conversations import Conversations
from pronghorn.serving.service import Offer, Service
from pronghorn.settings import Settings

if TYPE_CHECKING:
    from pronghorn.serving.context import ChildContext, Context

Begin = Callable[["ChildContext", Connection, Counts], None]
TIMES = 16  # Python 3.11 takes eight for the first step, and a few more for loops
PEER = ("127.0.0.1", 1)
MESSAGE = b"rehearsal"
PLAIN = (Stream, Lines, Delimited, Prefixed, Varint)
"""Framings that take any bytes, and call nothing of a user's."""


class _Echo(Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def _converse(conn: Connection) -> None:
    while data := conn.recv(1024):
        conn.sendall(data)


def _upper(message: bytes) -> bytes:
    return message.upper()


def _alike(handler: Handler, settings: Settings) -> Handler:
    """A handler of ours that is served by the same code, as far as that needs no asyncio loop and no program."""
    facts = HandlerFacts("rehearsal", handler.facts.style)
    if facts.blocks or facts.needs_asyncio:
        return Handler(facts, converse=_converse)
    if handler.framing is None:
        return Handler(facts, protocol=_Echo)
    from pronghorn.handlers.messages import MessageStyle

    framing = handler.framing if type(handler.framing) in PLAIN else lines
    style = MessageStyle(_upper, framing, settings.max_message_size, settings.write_high_water)
    plain = PlainConversations(style, _upper, lambda: MessageProtocol(style))
    hold = plain.hold if handler.plain and plain.fits else None
    return Handler(facts, protocol=lambda: MessageProtocol(style), converse=hold, framing=framing)


def rehearse(context: Context, begin: Begin) -> None:
    """Hold the conversations, for each service; `begin` is what a child does before. If memory or descriptors are
    missing, children are a little slower: that is all."""
    services = {each.service: each for each in context.offers.values()}
    for service, offer in services.items():
        if service.limits.is_proxy(PEER):
            continue
        own, alike = context.for_children(), Service(_alike(service.handler, service.settings), service.settings)
        alike.limits = service.limits
        mine = Offer(offer.listener, "", alike)
        own.offers, own.by_name, own.tells = {offer.listener: mine}, {"": mine}, False
        own.observe = lambda event: None
        own.details = own.details.aside() if own.details is not None else None
        framing, counts = alike.handler.framing, ChildCounts(1).lend()
        conversations = Conversations(own)
        try:
            for _ in range(TIMES):
                _hold(conversations, own, begin, counts, MESSAGE if framing is None else framing.frame(MESSAGE))
        except (OSError, MemoryError):
            pass


def _hold(conversations: Conversations, context: ChildContext, begin: Begin, counts: Counts, sent: bytes) -> None:
    here, there = socket.socketpair()
    with there, here:
        there.sendall(sent)
        there.shutdown(socket.SHUT_WR)
        conn = Connection(here.family, here.type, 0, fileno=here.detach())
        conn.begin(1, PEER, context.drain)
        begin(context, conn, counts)
        conversations.converse(conn)
