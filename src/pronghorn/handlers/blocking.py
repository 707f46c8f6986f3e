"""Blocking handlers: a function that is given the socket, and socketserver's classes, unmodified.

Law: such a handler holds the whole conversation, on a flow of control of its own. It may close its socket, leave files
open on it, set timeouts: whoever called it puts that right.
"""

from __future__ import annotations

import socket
import socketserver
from collections.abc import Callable
from typing import Any

from pronghorn.connection import Connection
from pronghorn.handlers.messages import positional


class StandInServer(socketserver.BaseServer):
    """What a socketserver handler finds as `self.server`, when it was given without one."""

    def __init__(self, handler: Any) -> None:
        super().__init__(("", 0), handler)
        self.server_name = socket.gethostname()
        self.server_port = 0
        self.address_family = socket.AF_INET


def call_of(handler: Any) -> Callable[[Connection], None]:
    """One call that holds a whole conversation: `handle(conn)`, `handle(conn, address)` or socketserver's way."""
    if isinstance(handler, socketserver.BaseServer):
        return _served_by(handler)
    if isinstance(handler, type) and issubclass(handler, socketserver.BaseRequestHandler):
        return _served_by(StandInServer(handler))
    if len(positional(handler)) >= 2:
        return lambda conn: handler(conn, conn.peer)
    return handler  # type: ignore[no-any-return]


def _served_by(server: socketserver.BaseServer) -> Callable[[Connection], None]:
    def hold(conn: Connection) -> None:
        if isinstance(server, StandInServer) and not server.server_port and isinstance(conn.local, tuple):
            server.server_address = conn.local
            server.server_port = conn.local[1]
            server.address_family = socket.AF_INET6 if ":" in conn.local[0] else socket.AF_INET
        if server.verify_request(conn, conn.peer):
            server.finish_request(conn, conn.peer)

    return hold
