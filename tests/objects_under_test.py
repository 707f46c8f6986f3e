"""Handlers for tests/test_server_objects.py: server objects with methods of their own, and connections given on."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import socketserver
import threading
import time
import wsgiref.simple_server
import xmlrpc.server
from typing import Any

import pronghorn


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Writes down what is called, and tells it to the client at the end."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.called: list[str] = []

    def get_request(self) -> Any:
        self.called = ["get_request"]
        return self.socket.accept()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        self.called.append("verify_request")
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        self.called.append("process_request")
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.called.append("handle_error")

    def shutdown_request(self, request: Any) -> None:
        self.called.append("shutdown_request")
        request.sendall(" ".join(self.called).encode())
        super().shutdown_request(request)


class Asks(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        word = self.rfile.readline().strip()
        if word == b"fail":
            raise ValueError("of the handler")
        if word == b"stop":
            try:
                self.server.shutdown()
            except RuntimeError as error:
                self.wfile.write(str(error).encode())
        if word == b"where":
            server: Any = self.server
            self.wfile.write(f"{server.server_address} {server.server_port} {bool(server.server_name)}".encode())


class Keeps(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """As pynetdicom: a thread of its own has the connection, long after the handler has returned."""

    def shutdown_request(self, request: Any) -> None: ...


class GivesAway(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        threading.Thread(target=answer_late, args=(self.request,)).start()


def answer_late(sock: socket.socket) -> None:
    time.sleep(0.2)
    sock.sendall(b"late " + sock.recv(100))
    sock.close()


telling = Server(("127.0.0.1", 0), Asks, bind_and_activate=False)
plain = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Asks)  # binds when it is made
keeps = Keeps(("127.0.0.1", 0), GivesAway)
xml = xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False)
xml.register_function(pow)


def application(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["SERVER_PORT"].encode()]


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args: Any) -> None: ...


wsgi = wsgiref.simple_server.WSGIServer(("127.0.0.1", 0), Quiet, bind_and_activate=False)
wsgi.set_app(application)


def forgets(conn: socket.socket) -> bytes:
    return conn.recv(100)


def say(conn: socket.socket) -> None:
    conn.sendall(b"from a child")


def sends_on(conn: socket.socket) -> None:
    child = multiprocessing.get_context("spawn").Process(target=say, args=(conn,))
    child.start()
    child.join()


def tell(transport: Any) -> None:
    """Writes down what is known of a connection whose end has come."""
    with open("told.txt", "w") as file:
        file.write(repr((transport.get_extra_info("peername"), transport.get_extra_info("sockname"))))


async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.05)
    tell(writer)


class Ours(pronghorn.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: BaseException | None) -> None:
        self.transport.sock.close()
        tell(self.transport)


class Aio(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: BaseException | None) -> None:
        asyncio.get_running_loop().call_later(0.05, tell, self.transport)
