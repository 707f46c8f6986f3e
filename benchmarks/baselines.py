"""Bare competitors: the upper-case service in loops of Python, by socketserver, and by the libraries of libraries.py.

Law: no care beyond what the library gives (no limits, no draining, no deadlines, no counters), and no import beyond
what the one that runs needs. Each listens on a free port of 127.0.0.1, says so on standard error, and serves until a
signal or LIFETIME ends it.

    python benchmarks/baselines.py asyncio-protocol
    python benchmarks/baselines.py asyncio-protocol cert.pem key.pem
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import sys
from typing import Any

LIFETIME = 3600
BACKLOG = 4096
FLOWS = 16


def listening() -> socket.socket:
    # With the protocol named, as getaddrinfo() names it: asyncio sets TCP_NODELAY on no other connections.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    return listener


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


def converse(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data.upper())
    connection.close()


def accept_for_ever(listener: socket.socket) -> None:
    while True:
        converse(listener.accept()[0])


def bare_prefork(listener: socket.socket) -> None:
    """16 processes, each of which accepts for itself and serves one connection at a time."""
    announce(listener)
    for _ in range(FLOWS - 1):
        if not os.fork():
            break
    accept_for_ever(listener)


def bare_pool(listener: socket.socket) -> None:
    """16 threads, each of which accepts for itself and serves one connection at a time."""
    import threading

    announce(listener)
    for _ in range(FLOWS - 1):
        threading.Thread(target=accept_for_ever, args=[listener], daemon=True).start()
    accept_for_ever(listener)


def bare_fork(listener: socket.socket) -> None:
    """A child for each connection; those that have ended are reaped before the next accept."""
    announce(listener)
    children = 0
    while True:
        connection = listener.accept()[0]
        if not os.fork():
            listener.close()
            converse(connection)
            os._exit(0)
        connection.close()
        children += 1
        while children and os.waitpid(-1, os.WNOHANG)[0]:
            children -= 1


def serve_socketserver(mixin: type, listener: socket.socket, handler: type, **attributes: Any) -> None:
    import socketserver

    server: Any = type("Server", (mixin, socketserver.TCPServer), attributes)(("", 0), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    announce(listener)
    server.serve_forever()


def upper_request() -> type:
    import socketserver

    class Upper(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(65536):
                self.request.sendall(data.upper())

    return Upper


def threading_server(listener: socket.socket) -> None:
    """socketserver.ThreadingTCPServer."""
    import socketserver

    serve_socketserver(socketserver.ThreadingMixIn, listener, upper_request(), daemon_threads=True)


def forking_server(listener: socket.socket) -> None:
    """socketserver.ForkingTCPServer, with as many children as Pronghorn's fork may have (its own default is 40)."""
    import socketserver

    serve_socketserver(socketserver.ForkingMixIn, listener, upper_request(), max_children=200)


def threading_lines(listener: socket.socket) -> None:
    """ThreadingTCPServer with StreamRequestHandler's readline."""
    import socketserver

    class Upper(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                self.wfile.write(line.upper())

    serve_socketserver(socketserver.ThreadingMixIn, listener, Upper, daemon_threads=True)


BARE = {
    "bare-epoll": bare_epoll,
    "bare-prefork": bare_prefork,
    "bare-pool": bare_pool,
    "bare-fork": bare_fork,
    "threading-server": threading_server,
    "forking-server": forking_server,
    "threading-lines": threading_lines,
}


def main() -> None:
    import libraries

    servers = BARE | libraries.SERVERS
    known = servers if len(sys.argv) == 2 else libraries.SPEAK_TLS
    if len(sys.argv) not in (2, 4) or sys.argv[1] not in known:
        speak = ",".join(libraries.SPEAK_TLS)
        sys.exit(f"usage: baselines.py {{{','.join(servers)}}}, or {{{speak}}} CERTIFICATE KEY")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.alarm(LIFETIME)
    servers[sys.argv[1]](listening())


if __name__ == "__main__":
    main()
