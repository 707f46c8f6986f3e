"""Competitors that are libraries: asyncio, uvloop, aiofastnet on both, gevent, Twisted and trio.

Law: as in baselines.py, which starts them: nothing is imported but what the one that runs needs, and each server is
what its library's own documentation would have one write. `MODULES` says which package each needs: one that cannot be
imported is left out of a comparison, and named.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from socket import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    import ssl

BACKLOG = 4096


def secured() -> ssl.SSLContext | None:
    """TLS with the certificate and the key of the command line, if there are any."""
    if len(sys.argv) < 4:
        return None
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[2:4])
    return context


def announce(listener: socket) -> None:
    print("Listening at: tcp://{}:{}".format(*listener.getsockname()[:2]), file=sys.stderr, flush=True)


def run(loop: str, main: Any) -> None:
    if loop == "uvloop":
        import uvloop

        uvloop.run(main)
    else:
        import asyncio

        asyncio.run(main)


async def serve_protocol(listener: socket, fast: bool) -> None:
    import asyncio

    class Upper(asyncio.Protocol):
        __slots__ = ("transport",)

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data.upper())

    loop = asyncio.get_running_loop()
    if fast:
        import aiofastnet

        server = await aiofastnet.create_server(loop, Upper, sock=listener, backlog=BACKLOG, ssl=secured())
    else:
        server = await loop.create_server(Upper, sock=listener, backlog=BACKLOG, ssl=secured())
    announce(listener)
    await server.serve_forever()


async def upper_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data.upper())
        await writer.drain()
    writer.close()


async def upper_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()


async def serve_streams(listener: socket, handler: Callable[..., Any], fast: bool) -> None:
    import asyncio

    if fast:
        import aiofastnet

        loop = asyncio.get_running_loop()
        server = await aiofastnet.start_server(loop, handler, sock=listener, backlog=BACKLOG)
    else:
        server = await asyncio.start_server(handler, sock=listener, backlog=BACKLOG, ssl=secured())
    announce(listener)
    await server.serve_forever()


def protocol(loop: str, fast: bool = False) -> Callable[[socket], None]:
    return lambda listener: run(loop, serve_protocol(listener, fast))


def streams(loop: str, handler: Callable[..., Any] = upper_stream, fast: bool = False) -> Callable[[socket], None]:
    return lambda listener: run(loop, serve_streams(listener, handler, fast))


def gevent_server(listener: socket) -> None:
    """gevent's StreamServer: a greenlet for each connection."""
    import gevent.server
    import gevent.socket

    def converse(connection: Any, _: object) -> None:
        while data := connection.recv(65536):
            connection.sendall(data.upper())

    server = gevent.server.StreamServer(gevent.socket.socket(fileno=listener.detach()), converse)
    announce(server.socket)
    server.serve_forever()


def serve_twisted(listener: socket, kind: Any) -> None:
    import socket as sockets

    from twisted.internet import reactor as running
    from twisted.internet.protocol import Factory

    reactor: Any = running
    announce(listener)
    listener.setblocking(False)
    reactor.adoptStreamPort(listener.fileno(), sockets.AF_INET, Factory.forProtocol(kind))
    reactor.run(installSignalHandlers=False)


def twisted(listener: socket) -> None:
    """Twisted's epoll reactor and a Protocol."""
    from twisted.internet.protocol import Protocol

    class Upper(Protocol):
        transport: Any

        def dataReceived(self, data: bytes) -> None:
            self.transport.write(data.upper())

    serve_twisted(listener, Upper)


def twisted_lines(listener: socket) -> None:
    """Twisted's LineOnlyReceiver."""
    from twisted.protocols.basic import LineOnlyReceiver

    class Upper(LineOnlyReceiver):
        delimiter = b"\n"

        def lineReceived(self, line: bytes) -> None:
            self.sendLine(line.upper())  # type: ignore[no-untyped-call]

    serve_twisted(listener, Upper)


def trio_server(listener: socket) -> None:
    """trio's serve_listeners: a task for each connection."""
    import trio

    async def converse(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data.upper())

    async def main() -> None:
        accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        announce(listener)
        await trio.serve_listeners(converse, [accepting])

    listener.setblocking(False)
    trio.run(main)


SERVERS: dict[str, Callable[[socket], None]] = {
    "asyncio-protocol": protocol("asyncio"),
    "asyncio-streams": streams("asyncio"),
    "uvloop-protocol": protocol("uvloop"),
    "uvloop-streams": streams("uvloop"),
    "aiofastnet-asyncio": protocol("asyncio", fast=True),
    "aiofastnet-uvloop": protocol("uvloop", fast=True),
    "gevent-server": gevent_server,
    "twisted": twisted,
    "trio": trio_server,
    "asyncio-lines": streams("asyncio", upper_lines),
    "uvloop-lines": streams("uvloop", upper_lines),
    "aiofastnet-lines": streams("asyncio", upper_lines, fast=True),
    "twisted-lines": twisted_lines,
}
MODULES = {  # what must be installed
    "uvloop-protocol": ["uvloop"],
    "uvloop-streams": ["uvloop"],
    "uvloop-lines": ["uvloop"],
    "aiofastnet-asyncio": ["aiofastnet"],
    "aiofastnet-uvloop": ["aiofastnet", "uvloop"],
    "aiofastnet-lines": ["aiofastnet"],
    "gevent-server": ["gevent"],
    "twisted": ["twisted"],
    "twisted-lines": ["twisted"],
    "trio": ["trio"],
}
PROTOCOLS = ("asyncio-protocol", "uvloop-protocol", "aiofastnet-asyncio", "aiofastnet-uvloop")
SPEAK_TLS = (*PROTOCOLS, "asyncio-streams", "uvloop-streams")
