"""Blocking handlers: a function that is given the socket, and socketserver's classes and server objects, unmodified.

Law: such a handler holds the whole conversation, on a flow of control of its own. It may close its socket, leave files
open on it, set timeouts: its caller puts that right. The methods of a server object are called as its `serve_forever`
would call them (get_request, verify_request, process_request, handle_error, shutdown_request), but it neither listens
nor stops, and needs no threads of its own. A server object that would speak TLS by its listening socket is refused:
that socket is not used here, and clients would be served in plain text.
"""

from __future__ import annotations

import inspect
import mmap
import socket
import socketserver
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NoReturn

from pronghorn.connection.blocking import Connection
from pronghorn.connection.transport import four_part
from pronghorn.errors import BadHandler
from pronghorn.handlers import callables, refusals

OWN_MODULES = ("socketserver", "http.server", "xmlrpc.server", "wsgiref.simple_server", "logging.config")
LOOKS = 0.005, 0.1
"""Seconds between two looks at whether a thread of the handler's has closed its connection: at first, and at most."""


class StandInServer(socketserver.BaseServer):
    """What a socketserver handler finds as `self.server`, when it was given without one."""

    socket: Any

    def __init__(self, handler: Any) -> None:
        super().__init__(("", 0), handler)
        self.address_family = socket.AF_INET

    def get_request(self) -> Any:
        return self.socket.accept()


class ListenerStandIn:
    """What a server object finds as its `socket`: accept() gives the connection that this flow of control holds."""

    def __init__(self, pairs: bool) -> None:
        self._here: ContextVar[Connection] = ContextVar("pronghorn_accepted")
        self._pairs = pairs  # http.server takes an address apart, which that of a unix socket does not allow

    def set_connection(self, conn: Connection) -> None:
        self._here.set(conn)

    def accept(self) -> tuple[Connection, Any]:
        conn = self._here.get()
        address = four_part(conn.peer)
        return conn, (address or "unix", 0) if self._pairs and isinstance(address, str) else address

    def getsockname(self) -> Any:
        return self._here.get().getsockname()

    def fileno(self) -> int:
        return -1

    def _nothing(self, *args: Any) -> None:
        return None

    close = settimeout = setblocking = setsockopt = listen = gettimeout = _nothing


class ServerObject:
    """A socketserver server object, whose methods hold whole conversations."""

    def __init__(self, server: Any) -> None:
        self._server = server
        handler = callables.leads_to(server.RequestHandlerClass)
        self._listener = ListenerStandIn(callables.is_a("http.server", "BaseHTTPRequestHandler", handler))
        self._addressed = False
        self._failed: dict[int, BaseException] = {}
        self._process = self._way_to_process()
        self._shuts = _overrides(server, "shutdown_request") or _overrides(server, "close_request")
        self._acts = _overrides(server, "service_actions")
        self._lock = threading.Lock()
        self._own_errors = _overrides(server, "handle_error")
        listener = getattr(server, "socket", None)
        server.socket = self._listener
        if isinstance(listener, socket.socket):
            listener.close()  # no accept(2) would answer there
        for name in ("serve_forever", "handle_request", "shutdown"):
            setattr(server, name, _not_here(name))
        if not self._own_errors:
            server.handle_error = self._note

    def hold(self, conn: Connection) -> None:
        """Hold one conversation, and do what serve_forever() would do after it."""
        try:
            self._hold(conn)
        finally:
            if self._acts:
                with self._lock:
                    self._server.service_actions()

    def _hold(self, conn: Connection) -> None:
        server = self._server
        if not self._addressed:
            self._tell_address(conn)
        self._listener.set_connection(conn)
        try:
            request, address = server.get_request()
        except OSError as error:  # a handshake that failed, say: serve_forever passes over it
            raise ConnectionAbortedError(f"get_request() failed: {error}") from error
        try:
            if not server.verify_request(request, address):
                server.shutdown_request(request)
            else:
                self._process(request, address)
        except Exception:
            if not self._own_errors:
                raise
            server.handle_error(request, address)
            server.shutdown_request(request)
            return
        if (self._shuts or self._process != self._finish) and not _is_closed(request):
            conn.flow = 0  # it waits for a thread of the handler's, whatever that waits for
            conn.waits.call(_wait_for_end, request)
        if (failure := self._failed.pop(id(request), None)) is not None:
            raise failure

    def _way_to_process(self) -> Callable[[Any, Any], None]:
        """process_request() if the server overrides it; else what it would do, on this flow of control and not in a
        thread of ThreadingMixIn's."""
        server = self._server
        if _overrides(server, "process_request"):
            return server.process_request  # type: ignore[no-any-return]
        if hasattr(server, "process_request_thread") and _overrides(server, "process_request_thread"):
            return server.process_request_thread  # type: ignore[no-any-return]
        return self._finish

    def _finish(self, request: Any, address: Any) -> None:
        """As BaseServer.process_request."""
        self._server.finish_request(request, address)
        if self._shuts:
            self._server.shutdown_request(request)

    def _note(self, request: Any, address: Any) -> None:
        """handle_error() of a server that does not override it: the error becomes the handler's failure."""
        error = sys.exception()
        if error is not None:
            self._failed[id(request)] = error

    def _tell_address(self, conn: Connection) -> None:
        """Set the server's address, as if it had bound the one that it is reached at."""
        server, own = self._server, four_part(conn.local)
        server.server_address = own
        server.address_family = _family(own)
        server.server_name = socket.gethostname()
        server.server_port = own[1] if isinstance(own, tuple) else 0
        if hasattr(server, "setup_environ"):  # wsgiref's
            server.setup_environ()
        self._addressed = True


def _family(address: Any) -> int:
    if not isinstance(address, tuple):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _overrides(server: Any, name: str) -> bool:
    return getattr(type(server), name).__module__ not in OWN_MODULES


def _not_here(name: str) -> Callable[..., NoReturn]:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(
            f"{name}() of a server object: Pronghorn listens for it, and stops when it is told to (pronghorn ctl stop, "
            "or SIGTERM)"
        )

    return refuse


def _is_closed(request: Any) -> bool:
    return getattr(request, "_closed", False) or request.fileno() < 0


def _wait_for_end(request: Any) -> None:
    """Wait until the thread that has the connection has closed it."""
    pause, most = LOOKS
    while not _is_closed(request):
        time.sleep(pause)
        pause = min(2 * pause, most)


def call_of(handler: Any, name: str) -> Callable[[Connection], Any]:
    """One call that holds a whole conversation: `handle(conn)`, `handle(conn, address)` or socketserver's way. Raises
    BadHandler for what cannot be called so."""
    if isinstance(handler, socketserver.BaseServer):
        _check_server(handler, name)
        return ServerObject(handler).hold
    if callables.is_handler_class(callables.leads_to(handler)):
        refusals.check_call(handler, "socketserver", name, 3)
        return ServerObject(StandInServer(handler)).hold
    if refusals.check_call(handler, "blocking", name, 1, 2) == 2:
        return _telling(lambda conn: handler(conn, conn.peer), handler, name)
    return _telling(handler, handler, name)


def _check_server(server: Any, name: str) -> None:
    """Raises BadHandler for a server whose clients would get something else than from its serve_forever()."""
    what = f"{name!r} cannot be served."
    ssl = sys.modules.get("ssl")
    sealed = ssl is not None and isinstance(getattr(server, "socket", None), ssl.SSLSocket)
    if sealed or any(_seals(server, each) for each in ("server_bind", "server_activate")):
        raise BadHandler(
            what,
            "Its listening socket speaks TLS, and is not used here: clients would be served in plain text.",
            "Give the certificate to Pronghorn, --tls-cert and --tls-key, and leave TLS out of the server object.",
        )
    if isinstance(server, getattr(socketserver, "ForkingMixIn", ())) and _overrides(server, "process_request"):
        raise BadHandler(
            what, "Its process_request() is its own, and forks.", "Leave ForkingMixIn out, and take --model fork."
        )
    if isinstance(server, socketserver.UDPServer):
        raise BadHandler(what, "It is a server of datagrams, and UDP is not served.")


def _seals(server: Any, method: str) -> bool:
    function = getattr(type(server), method, None)
    if function is None or getattr(sys.modules.get("http.server"), "HTTPSServer", None) in type(server).__mro__:
        return function is not None
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is not None and not {"ssl", "wrap_socket", "SSLContext"}.isdisjoint(code.co_names)


def _telling(call: Callable[[Connection], Any], handler: Any, name: str) -> Callable[[Connection], None]:
    """The call, with a warning if it returns what goes nowhere: once in a worker and its children."""
    told = mmap.mmap(-1, 1)
    if isinstance(handler, type):
        return call

    def hold(conn: Connection) -> None:
        found = call(conn)
        if found is None or isinstance(found, int) or told[0]:  # a number may be what its last call has sent
            _drop(found)
            return
        told[0] = 1
        _drop(found)
        warnings.warn(f"{name} returned {_described(found)}", RuntimeWarning, stacklevel=1)

    return hold


def _drop(found: Any) -> None:
    if inspect.iscoroutine(found):
        found.close()  # it is never awaited, which Python would warn of each time


def _described(found: Any) -> str:
    kind = f"{type(found).__name__}, which goes nowhere: it is a blocking handler, and has to send. "
    if inspect.isawaitable(found):
        return kind + "A coroutine function that takes a reader and a writer is served as such; else --style asyncio."
    if isinstance(found, (bytes, bytearray, str)):
        return kind + "If it answers messages: @pronghorn.message(pronghorn.lines), or --framing lines."
    if callable(found):
        return kind + "If it makes the handler: --factory."
    return kind + "Return nothing."
