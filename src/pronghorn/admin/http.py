"""HTTP/1.1 for the admin process: one asyncio loop, h11 for the protocol, and a bound for all that a client can do.

Law: what is not clearly right is refused, and the connection with it. A path is compared and never decoded, so that
`..`, `%2e` and their like are paths that are not there. A request has a bounded head, a small body if it is a POST, and
none otherwise; it comes within a bounded time. Of too many connections the one that has been without a request for the
longest goes, so that whoever holds a thousand idle ones keeps no probe out. A client that does not read is cut.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import h11
import msgspec

from pronghorn.admin.agent_check import stop_accepting
from pronghorn.errors import PronghornError

MOST_CONNECTIONS = 128
QUEUE = 4096  # clients that wait to be accepted, or as many as the system allows
MOST_REQUESTS = 1000  # on one connection
LONGEST_HEAD = 8192  # bytes
MOST_HEADERS = 64
LONGEST_BODY = 4096
MOST_AHEAD = 65536  # bytes that may come while a request is answered
HEAD_TIME, IDLE_TIME, WRITE_TIME, LINGER = 10.0, 30.0, 10.0, 1.0  # seconds
PIECE = 65536  # bytes
WORTH_PACKING = 1024  # bytes of a body
PACKED = ("text/", "application/json", "application/openmetrics-text", "image/svg")

SAFETY = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every response, unless it has one of that name itself."""


class Request(NamedTuple):
    """One request, whole. Names of headers are in lower case; of several of one name the last counts. `client` is its
    address without the port; empty for a unix socket."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    client: str = ""


class Response(NamedTuple):
    """What is answered; a body that is an async iterator is sent piece by piece, for as long as it lasts."""

    status: int = 200
    body: bytes | AsyncIterator[bytes] = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def text(cls, text: str, status: int = 200) -> Response:
        return cls(status, text.encode())

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Response:
        return cls(status, msgspec.json.encode(value) + b"\n", "application/json")


Answer = Callable[[Request], Awaitable[Response]]


class Route(NamedTuple):
    """What answers a path, and by which methods; HEAD is as GET without the body."""

    answer: Answer
    methods: tuple[str, ...] = ("GET", "HEAD")


class Refused(Exception):
    """A request that is not answered, with the status that says why."""

    def __init__(self, status: int, why: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(why)
        self.body = f"{status} {HTTPStatus(status).phrase}: {why}\n".encode()
        self.response = Response(status, self.body, headers=headers)


class HttpServer:
    """Answers by `routes`; serves every listener that it is given until `close`."""

    def __init__(self, routes: dict[str, Route], failed: Callable[[str, BaseException], None]) -> None:
        self.routes, self.failed = routes, failed
        self.leaving = False
        self.connections: dict[HttpConnection, None] = {}  # in the order of their last request
        self._servers: list[asyncio.Server] = []

    async def serve(self, listener: Any) -> None:
        """From now on clients of a listening socket are answered."""
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(lambda: HttpConnection(self), sock=listener, backlog=QUEUE))

    def leave(self) -> None:
        """Accepts no more; a connection is closed once it has no request under way, but not before its first."""
        self.leaving = True
        stop_accepting(self._servers)
        for connection in [each for each in self.connections if each.is_spent]:
            connection.cut()

    def admit(self, connection: HttpConnection) -> bool:
        """Makes room for a new connection if there is none; False if all others have requests under way."""
        self.connections[connection] = None
        if len(self.connections) <= MOST_CONNECTIONS:
            return True
        idle = next((each for each in self.connections if not each.busy and each is not connection), None)
        if idle is not None:
            idle.cut()
        return idle is not None

    async def answer(self, request: Request) -> Response:
        """The response to a request; what goes wrong on the way is one too."""
        try:
            return await self.routed(request)
        except Refused as refusal:
            return refusal.response
        except PronghornError as error:
            return Response.text(f"{error}\n", 503)
        except Exception as error:
            self.failed(f"answer {request.method} {request.path}", error)
            return Response.text("500: the admin process failed to answer; the server's log says more.\n", 500)

    async def routed(self, request: Request) -> Response:
        route = self.routes.get(request.path)
        if route is None:
            raise Refused(404, f"there are {', '.join(sorted(self.routes))}")
        if request.method not in route.methods:
            allowed = ", ".join(route.methods)
            raise Refused(405, f"{request.path} takes {allowed}", {"Allow": allowed})
        return await route.answer(request)


class HttpConnection(asyncio.Protocol):
    """One client's connection: one request after the other."""

    _transport: asyncio.Transport

    def __init__(self, server: HttpServer) -> None:
        self.busy = False  # a request is answered
        self._server = server
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST_HEAD)
        self._head: h11.Request | None = None
        self._body = b""
        self._requests = self._ahead = 0
        self._lingers = False
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=PIECE)
        self._timer = asyncio.get_running_loop().call_later(HEAD_TIME, self._late)
        if not self._server.admit(self):
            self._refuse(Refused(503, f"{MOST_CONNECTIONS} connections are busy"))

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        self._server.connections.pop(self, None)
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._lingers:
            return
        if self.busy:
            self._ahead += len(data)
            if self._ahead > MOST_AHEAD:
                return self._transport.abort()
        try:
            self._http.receive_data(data)
        except h11.RemoteProtocolError as error:
            return self._refuse(Refused(400, str(error)))
        if not self.busy:
            self._advance()

    def eof_received(self) -> bool:
        if not self.busy:
            self._transport.close()
        return self.busy  # who has half-closed still wants the response

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # Requests

    def _advance(self) -> None:
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._head, self._body = event, b""
                    check(event)
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) > LONGEST_BODY:
                        raise Refused(413, f"a body has {LONGEST_BODY} bytes at most")
                elif isinstance(event, h11.EndOfMessage):
                    return self._begin()
                elif event is h11.NEED_DATA and self._http.they_are_waiting_for_100_continue:
                    self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
                    return
                else:
                    return
        except Refused as refusal:
            self._refuse(refusal)
        except h11.RemoteProtocolError as error:
            self._refuse(Refused(error.error_status_hint, str(error)))

    def _begin(self) -> None:
        assert self._head is not None
        self.busy, self._ahead = True, 0
        self._requests += 1
        self._timer.cancel()
        del self._server.connections[self]
        self._server.connections[self] = None
        self._task = asyncio.get_running_loop().create_task(self._respond(self._request()))
        self._task.add_done_callback(self._responded)

    def _request(self) -> Request:
        assert self._head is not None
        peer = self._transport.get_extra_info("peername")
        client = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        return request_of(self._head, self._body)._replace(client=client)

    async def _respond(self, request: Request) -> None:
        response = await self._server.answer(request)
        body, headers = packed(request, response)
        self._send_head(response, self._headers(response, body, headers))
        if request.method != "HEAD":
            async for piece in pieces(body):
                self._write(self._http.send(h11.Data(data=piece)))
                async with asyncio.timeout(WRITE_TIME):
                    await self._writable.wait()
        self._write(self._http.send(h11.EndOfMessage()))

    def _headers(self, response: Response, body: Any, more: dict[str, str]) -> list[tuple[str, str]]:
        headers = {"Date": formatdate(usegmt=True), "Content-Type": response.content_type, **SAFETY, **response.headers}
        headers |= more
        if isinstance(body, bytes):
            headers["Content-Length"] = str(len(body))
        if self._requests >= MOST_REQUESTS or self._server.leaving or not isinstance(body, bytes):
            headers["Connection"] = "close"
        return list(headers.items())

    def _responded(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled() or self._transport.is_closing():
            return self._transport.abort()
        if (error := task.exception()) is not None:
            if not isinstance(error, TimeoutError):
                self._server.failed("send a response", error)
            return self._transport.abort()
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return self._finish()
        self._http.start_next_cycle()
        self.busy = False
        self._timer = asyncio.get_running_loop().call_later(IDLE_TIME, self._late)
        self._advance()

    # The end

    @property
    def is_spent(self) -> bool:
        """It has had a request, and none is under way."""
        return self._requests > 0 and not self.busy

    def cut(self) -> None:
        """Ends a connection without a request under way."""
        self._server.connections.pop(self, None)
        self._transport.close()

    def _refuse(self, refusal: Refused) -> None:
        """Says why, and closes; without that where h11 has sent something already."""
        response = refusal.response
        try:
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                headers = self._headers(response, response.body, {"Connection": "close"})
                self._send_head(response, headers)
                if self._head is None or self._head.method != b"HEAD":
                    self._write(self._http.send(h11.Data(data=refusal.body)))
        except h11.LocalProtocolError:
            pass
        self._finish()

    def _finish(self) -> None:
        """Half-closes, and discards what comes for a moment: to close with unread input would reset the response."""
        self.busy, self._lingers = False, True
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LINGER, self._transport.abort)

    def _late(self) -> None:
        if self._http.their_state is h11.IDLE and not self._http.trailing_data[0]:
            self.cut()
        else:
            self._refuse(Refused(408, f"a request has {HEAD_TIME:g} s to come"))

    def _send_head(self, response: Response, headers: list[tuple[str, str]]) -> None:
        reason = HTTPStatus(response.status).phrase
        self._write(self._http.send(h11.Response(status_code=response.status, headers=headers, reason=reason)))

    def _write(self, data: bytes | None) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data)


def check(head: h11.Request) -> None:
    """Refuses a request whose head is not clearly right. h11 has refused what is no HTTP."""
    names = [name for name, _ in head.headers]
    length = next((value for name, value in head.headers if name == b"content-length"), b"")
    if sum(len(name) + len(value) + 4 for name, value in head.headers) + len(head.target) > LONGEST_HEAD:
        raise Refused(431, f"the head of a request has {LONGEST_HEAD} bytes at most")
    if len(names) > MOST_HEADERS:
        raise Refused(431, f"a request has {MOST_HEADERS} headers at most")
    if b"transfer-encoding" in names and (length or head.http_version != b"1.1"):
        raise Refused(400, "it has two lengths, or a transfer coding of a later version of HTTP")
    if len(length) > 9 or (length and int(length) > LONGEST_BODY):
        raise Refused(413, f"a body has {LONGEST_BODY} bytes at most")
    if head.method != b"POST" and (b"transfer-encoding" in names or length.strip(b"0")):
        raise Refused(400, "a body belongs to POST alone")
    if not head.target.startswith(b"/") or head.target.startswith(b"//"):
        raise Refused(400, "the target of a request is a path")


def request_of(head: h11.Request, body: bytes) -> Request:
    path, _, query = head.target.decode("ascii", "backslashreplace").partition("?")
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    try:
        asked = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=32))
    except ValueError:
        asked = {}
    return Request(head.method.decode("ascii"), path, asked, headers, body)


def packed(request: Request, response: Response) -> tuple[bytes | AsyncIterator[bytes], dict[str, str]]:
    """The body as it is sent: packed by gzip if the client takes that and it is worth it; and the headers for it."""
    body = response.body
    if not isinstance(body, bytes) or not response.content_type.startswith(PACKED):
        return body, {}
    vary = {"Vary": "Accept-Encoding"}
    if len(body) < WORTH_PACKING or "Content-Encoding" in response.headers or not takes_gzip(request):
        return body, vary
    return gzip.compress(body, 5, mtime=0), {"Content-Encoding": "gzip", **vary}


def takes_gzip(request: Request) -> bool:
    """Whether Accept-Encoding names gzip, and not to rule it out (RFC 9110, 12.5.3)."""
    for each in request.headers.get("accept-encoding", "").lower().split(","):
        coding, _, quality = each.partition(";")
        if coding.strip() in ("gzip", "x-gzip"):
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


async def pieces(body: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if not isinstance(body, bytes):
        async for piece in body:
            yield piece
        return
    view = memoryview(body)
    for place in range(0, len(body), PIECE):
        yield bytes(view[place : place + PIECE])
