"""Channels on an asyncio loop with TLS below, and the channel over a blocking connection that has a loop of its own."""

from __future__ import annotations

import socket

from pronghorn.connection.asyncio_channel import AnyAsyncioChannel, AsyncioChannel
from pronghorn.connection.blocking import Connection
from pronghorn.connection.channel import AnyChannel
from pronghorn.connection.interfaces import Terms
from pronghorn.connection.states import is_peers_fault
from pronghorn.tls.blocking import TlsCalls
from pronghorn.tls.channel import AnyTlsChannel, SealedSocket


class AsyncioTlsChannel(AnyTlsChannel, AsyncioChannel):
    """An AsyncioChannel with TLS below it."""

    __slots__ = ()


def channel_over(conn: Connection, terms: Terms) -> AnyAsyncioChannel:
    """A channel that has a blocking connection's descriptor, and its TLS, while it lasts; `part` ends that."""
    conn.setblocking(False)
    sock: socket.socket = conn
    made: type[AnyAsyncioChannel] = AsyncioChannel
    records = conn.records if isinstance(conn, TlsCalls) else None
    if records is not None:
        made = AsyncioTlsChannel
        sock = SealedSocket(conn.family, conn.fileno(), conn)
    channel = made(sock, conn.number, conn.peer, terms, conn.proxy)
    if isinstance(channel, AnyTlsChannel) and records is not None:
        channel.seal(records)
    return channel


def part(channel: AnyChannel, conn: Connection) -> None:
    """The channel is over, and the connection has its descriptor for itself again."""
    conn.bytes_in, conn.bytes_out = channel.bytes_in, channel.bytes_out
    conn.first_sent = conn.first_sent or channel.first_sent
    if channel._error is not None and is_peers_fault(channel._error):
        conn.gone = channel._error
    channel.keep_sockname()
    if channel.sock is not conn:
        channel.sock.detach()
