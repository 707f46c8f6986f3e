"""Handlers that tell which thread serves them, and what they find there (see serving/test_threads.py)."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextvars import ContextVar

of_the_connection: ContextVar[str] = ContextVar("of_the_connection", default="")
of_the_thread = threading.local()


def tell(conn: socket.socket) -> None:
    """Tell what is here; then keep what the client says should be kept."""
    wishes = conn.recv(100)
    thread = threading.current_thread()
    kept = getattr(of_the_thread, "kept", "") if b"local" in wishes else ""
    told = {"thread": threading.get_native_id(), "name": thread.name, "context": of_the_connection.get(), "local": kept}
    conn.sendall(";".join(f"{name}={value}" for name, value in told.items()).encode())
    if b"context" in wishes:
        of_the_connection.set("kept")
    if b"local" in wishes:
        of_the_thread.kept = "kept"
    if b"name" in wishes:
        thread.name = "renamed"


class Teller(socketserver.BaseRequestHandler):
    """The thread's id, as a socketserver handler."""

    def handle(self) -> None:
        self.request.recv(100)
        self.request.sendall(str(threading.get_native_id()).encode())
