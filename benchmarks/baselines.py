"""Bare competitors: the upper-case service, each as short as its library allows.

Law: no care beyond what the library gives (no limits, no draining, no deadlines, no counters), and no import beyond
what the one that runs needs. Each listens on a free port of 127.0.0.1, says so on standard error, and serves until a
signal or LIFETIME ends it.

    python benchmarks/baselines.py asyncio-protocol
    python benchmarks/baselines.py asyncio-protocol cert.pem key.pem
"""

from __future__ import annotations

import resource
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    import ssl

LIFETIME = 3600
BACKLOG = 4096


def listening() -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    return listener


def secured() -> ssl.SSLContext | None:
    """TLS with the certificate and the key of the command line, if there are any."""
    if len(sys.argv) < 4:
        return None
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[2:4])
    return context


def announce(listener: socket.socket) -> None:
    print("Listening at: tcp://{}:{}".format(*listener.getsockname()), file=sys.stderr, flush=True)


def bare_epoll(listener: socket.socket) -> None:
    """One loop over epoll(7): no partial write, no error is thought of."""
    listener.setblocking(False)
    connections: dict[int, socket.socket] = {}
    poller = select.epoll()
    acceptor = listener.fileno()
    poller.register(acceptor, select.EPOLLIN)
    announce(listener)
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == acceptor:
                connection = listener.accept()[0]
                connection.setblocking(False)
                connections[connection.fileno()] = connection
                poller.register(connection, select.EPOLLIN)
            elif data := connections[descriptor].recv(65536):
                connections[descriptor].send(data.upper())
            else:
                poller.unregister(descriptor)
                connections.pop(descriptor).close()


async def serve_protocol(listener: socket.socket) -> None:
    import asyncio

    class Upper(asyncio.Protocol):
        __slots__ = ("transport",)

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data.upper())

    server = await asyncio.get_running_loop().create_server(Upper, sock=listener, backlog=BACKLOG, ssl=secured())
    announce(listener)
    await server.serve_forever()


async def serve_streams(listener: socket.socket) -> None:
    import asyncio

    async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data.upper())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(upper, sock=listener, backlog=BACKLOG, ssl=secured())
    announce(listener)
    await server.serve_forever()


def asyncio_protocol(listener: socket.socket) -> None:
    """asyncio's own loop and a Protocol."""
    import asyncio

    asyncio.run(serve_protocol(listener))


def asyncio_streams(listener: socket.socket) -> None:
    """asyncio's own loop, a reader and a writer."""
    import asyncio

    asyncio.run(serve_streams(listener))


def uvloop_protocol(listener: socket.socket) -> None:
    """uvloop and a Protocol."""
    import uvloop

    uvloop.run(serve_protocol(listener))


def uvloop_streams(listener: socket.socket) -> None:
    """uvloop, a reader and a writer."""
    import uvloop

    uvloop.run(serve_streams(listener))


def serve_socketserver(mixin: type, listener: socket.socket, **attributes: Any) -> None:
    import socketserver

    class Upper(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(65536):
                self.request.sendall(data.upper())

    server: Any = type("Server", (mixin, socketserver.TCPServer), attributes)(("", 0), Upper, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    announce(listener)
    server.serve_forever()


def threading_server(listener: socket.socket) -> None:
    """socketserver.ThreadingTCPServer."""
    import socketserver

    serve_socketserver(socketserver.ThreadingMixIn, listener, daemon_threads=True)


def forking_server(listener: socket.socket) -> None:
    """socketserver.ForkingTCPServer, with as many children as Pronghorn's fork may have (its own default is 40)."""
    import socketserver

    serve_socketserver(socketserver.ForkingMixIn, listener, max_children=200)


SPEAK_TLS = ("asyncio-protocol", "asyncio-streams", "uvloop-protocol", "uvloop-streams")
SERVERS = {
    "bare-epoll": bare_epoll,
    "asyncio-protocol": asyncio_protocol,
    "asyncio-streams": asyncio_streams,
    "uvloop-protocol": uvloop_protocol,
    "uvloop-streams": uvloop_streams,
    "threading-server": threading_server,
    "forking-server": forking_server,
}


def main() -> None:
    if len(sys.argv) not in (2, 4) or sys.argv[1] not in (SERVERS if len(sys.argv) == 2 else SPEAK_TLS):
        sys.exit(f"usage: baselines.py {{{','.join(SERVERS)}}}, or {{{','.join(SPEAK_TLS)}}} CERTIFICATE KEY")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.alarm(LIFETIME)
    SERVERS[sys.argv[1]](listening())


if __name__ == "__main__":
    main()
