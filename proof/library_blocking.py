"""Third-party servers that block, as handlers: those that want a socket and a flow of control.

Law: as library_handlers.py. A request says how many seconds its answer takes.
"""

from __future__ import annotations

import socket
import time
from http.server import BaseHTTPRequestHandler
from typing import Any


def paramiko(conn: Any) -> None:
    import threading

    import paramiko as library

    class Desk(library.ServerInterface):
        def check_channel_request(self, kind: str, number: int) -> int:
            return library.OPEN_SUCCEEDED

        def check_auth_none(self, username: str) -> int:
            return library.AUTH_SUCCESSFUL

        def get_allowed_auths(self, username: str) -> str:
            return "none"

        def check_channel_exec_request(self, channel: Any, command: bytes) -> bool:
            threading.Thread(target=self.run, args=(channel, command), daemon=True).start()
            return True

        def run(self, channel: Any, command: bytes) -> None:
            try:
                time.sleep(float(command))
                channel.sendall(b"kept")
                channel.send_exit_status(0)
                channel.close()
            finally:
                self.done.set()

    desk = Desk()
    desk.done = threading.Event()  # type: ignore[attr-defined]
    transport = library.Transport(conn)
    transport.add_server_key(library.ECDSAKey.generate())
    transport.start_server(server=desk)
    desk.done.wait(20)  # type: ignore[attr-defined]
    transport.join(3)
    transport.close()


def rpyc(conn: Any) -> None:
    import rpyc as library
    from rpyc.core.channel import Channel
    from rpyc.core.stream import SocketStream

    class Desk(library.Service):
        def exposed_answer(self, seconds: float) -> str:
            time.sleep(seconds)
            return "kept"

    library.utils.factory.connect_channel(Channel(SocketStream(conn)), Desk()).serve_all()


def wsgiref(conn: Any) -> None:
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    def app(environ: Any, start: Any) -> list[bytes]:
        time.sleep(float(environ["PATH_INFO"][1:]))
        start("200 OK", [("content-length", "4")])
        return [b"kept"]

    server = WSGIServer(("127.0.0.1", 0), WSGIRequestHandler, bind_and_activate=False)
    server.server_name, server.server_port = "desk", 0
    server.setup_environ()
    server.set_app(app)
    WSGIRequestHandler(conn, conn.peer, server)


def dnslib_reply(request: Any) -> Any:
    from dnslib import QTYPE, RR, TXT

    name = str(request.q.qname)
    time.sleep(float(name.split("-")[0]) / 10)
    reply = request.reply()
    reply.add_answer(RR(request.q.qname, QTYPE.TXT, rdata=TXT("kept")))
    return reply


class Resolver:
    def resolve(self, request: Any, handler: Any) -> Any:
        return dnslib_reply(request)


def dnslib(conn: Any) -> None:
    """The library's handler wants a server with a resolver, a logger and a kind of socket."""
    from types import SimpleNamespace

    from dnslib.server import DNSHandler, DNSLogger

    server = SimpleNamespace(socket_type=socket.SOCK_STREAM, resolver=Resolver(), logger=DNSLogger("", False))
    DNSHandler(conn, conn.peer, server)


class http_server(BaseHTTPRequestHandler):
    """Served as it is: a socketserver handler class."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        time.sleep(float(self.path[1:]))
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"kept")

    def log_message(self, *args: Any) -> None:
        pass


def xmlrpc(conn: Any) -> None:
    from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler

    def answer(seconds: float) -> str:
        time.sleep(seconds)
        return "kept"

    dispatcher: Any = SimpleXMLRPCDispatcher()
    dispatcher.logRequests = False
    dispatcher.register_function(answer)
    SimpleXMLRPCRequestHandler(conn, conn.peer, dispatcher)


def pyftpdlib(conn: Any) -> None:
    """The library's own loop, one for each conversation; a file takes its time as its data goes out."""
    import tempfile
    from types import SimpleNamespace

    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler, ThrottledDTPHandler
    from pyftpdlib.ioloop import IOLoop

    with tempfile.TemporaryDirectory() as folder:
        for seconds in (0.5, 1.5, 3.0):
            with open(f"{folder}/{seconds}", "wb") as file:
                file.write(b"kept" * 2048 * 64)
        loop = IOLoop()
        authorizer = DummyAuthorizer()
        authorizer.add_anonymous(folder)
        slow = type("Slow", (ThrottledDTPHandler,), {"read_limit": 0, "write_limit": 350_000})
        desk = type("Desk", (FTPHandler,), {"authorizer": authorizer, "dtp_handler": slow, "use_sendfile": False})
        server = SimpleNamespace(ip_map=[], socket=conn, backlog=10, _accept_new_cons=lambda: True, address=conn.local)
        conn.setblocking(False)
        desk(conn, server, loop).handle()
        while loop.socket_map:
            loop.loop(timeout=0.2, blocking=False)
