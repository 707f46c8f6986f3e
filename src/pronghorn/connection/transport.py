"""`Transport`, the base of Channel and BlockingTransport: what both answer alike of asyncio.Transport.

Law: only calls that follow from the others. How bytes are sent and received differs: see channel.py and driver.py.
"""

from __future__ import annotations

import _socket
import os
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pronghorn.connection.base import AnyConnection
from pronghorn.connection.interfaces import Cancellable, Loop, TlsStart
from pronghorn.errors import End
from pronghorn.peers import Peer

if TYPE_CHECKING:
    import ssl

Bytes = bytes | bytearray | memoryview


class Transport(AnyConnection):
    """The transport of a protocol, pronghorn.Protocol or asyncio.Protocol, under every model: the calls of
    asyncio.Transport, and what there is to know of the connection."""

    __slots__ = ()
    sock: _socket.socket
    _name: Any
    _low: int
    _high: int

    if TYPE_CHECKING:
        loop: Loop

        def write(self, data: Bytes) -> None: ...
        def write_eof(self) -> None: ...
        def close(self) -> None: ...
        def abort(self) -> None: ...
        def is_closing(self) -> bool: ...
        def pause_reading(self) -> None: ...
        def resume_reading(self) -> None: ...
        def is_reading(self) -> bool: ...
        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
        def get_write_buffer_size(self) -> int: ...

        @property
        def throttled(self) -> bool:
            """More than the high-water mark is unsent, and most of it still is."""

        def call_later(self, delay: float, call: Callable[[], object]) -> Cancellable:
            """Have `call` called as the protocol is, after `delay` seconds, unless the connection has ended: what it
            raises ends the connection. To be called on the connection's own flow of control."""

        def pass_on(self, call: Callable[[], object]) -> None:
            """Have `call` called where it may write and close: at once under models with a flow of control per
            connection, soon on the loop under others, after what was handed over before. Any thread may do this. What
            is left when the connection ends is not called."""

        def keep_idle(self, seconds: float) -> None:
            """From now on the peer may be silent for so many seconds, whatever the setting says."""

        def ended_by(self, error: BaseException | None) -> End:
            """Why the connection ended, as it is counted and logged; `error` is what connection_lost is told."""

    def start_tls(
        self, context: ssl.SSLContext | None = None, *, after: Bytes = b"", timeout: float | None = None
    ) -> TlsStart:
        """Speak TLS from here on, as the server's side (STARTTLS): what was written before goes in the clear, what is
        written afterwards over TLS, as soon as the handshake is done. A coroutine may await that; under models with a
        flow of control per connection it is done when this returns.

        `after` is the last word in the clear, which says that TLS may begin: what has come before it, and was not given
        to the protocol yet, is thrown away. Without a `context` the listener's own certificates are used, the newest.
        `timeout` in seconds is --handshake-timeout by default. Afterwards `tls` tells of it. A handshake that fails
        ends the connection, with `connection_lost(HandshakeFailed)`.

        Raises BadSetting if the listener has no certificate; RuntimeError if the connection speaks TLS already, or if
        we have said our last word; ConnectionResetError if the peer has. See RFC 3207.
        """
        return self.loop.tls_starts.start(self, context, after, timeout)

    def check_tls(self, context: ssl.SSLContext | None) -> None:
        """Raise what start_tls() would."""
        self.loop.tls_starts.check(self, context)

    def writelines(self, chunks: Iterable[Bytes]) -> None:
        self.write(b"".join(chunks))

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The low and the high mark, in bytes."""
        return self._low, self._high

    def set_protocol(self, protocol: Any) -> None:
        """Give the connection to another protocol."""
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`peername`, `sockname` and `socket`, as asyncio has them, and its words for TLS (`ssl_object`, `peercert`,
        `cipher`); and ours, for streams: `connection`, which is this transport, `lifespan`, `draining`,
        `drain`, `log`, `tls`, and `proxy`, the PROXY header if there was one."""
        if name == "peername":
            return four_part(self.peer) if self.proxy is None else self.peer  # a header has neither flow nor scope
        if name == "proxy":
            return self.proxy if self.proxy is not None else default
        if name == "sockname":
            return self.sockname
        if name == "socket":
            return self.view()
        if name in ("lifespan", "drain", "draining", "log", "tls"):
            return getattr(self, name)
        if name == "connection":
            return self
        return default if self.tls is None else self.tls.extra(name, default)

    @property
    def local(self) -> Peer | None:
        """The address that the client has connected to, as (host, port) or the path of a unix socket: the PROXY
        header's destination, where a proxy speaks for the client. None if it was not asked for in time."""
        if self.proxy is not None and self.proxy.destination is not None:
            return self.proxy.destination
        own = self.sockname
        return None if own is None else own_address(own)

    def view(self) -> Any:
        """The socket, for its addresses and options: it cannot be closed, nor read or written past the transport."""
        return SocketView(self.sock)

    @property
    def sockname(self) -> Any:
        """Our own address, after the end too; None if it was not asked for in time."""
        try:
            return self.sock.getsockname()
        except OSError:
            return self._name

    def keep_sockname(self) -> None:
        """The socket will be closed, or another's: `sockname` tells what it tells now."""
        self._name = self.sockname


class SocketView:
    """What asyncio's TransportSocket allows of a socket, without asyncio. The socket may be one of the class below
    Python's own, which has no more than the system calls."""

    __slots__ = ("_sock",)

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock

    def __repr__(self) -> str:
        return f"<SocketView fd={self.fileno()}>"

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AddressFamily(self._sock.family)

    @property
    def type(self) -> socket.SocketKind:
        return socket.SocketKind(self._sock.type)

    @property
    def proto(self) -> int:
        return self._sock.proto

    def fileno(self) -> int:
        return self._sock.fileno()

    def dup(self) -> socket.socket:
        """A socket with a descriptor of its own, which may be closed."""
        sock = self._sock
        copy = socket.socket(sock.family, sock.type, sock.proto, os.dup(sock.fileno()))
        copy.settimeout(sock.gettimeout())
        return copy

    def get_inheritable(self) -> bool:
        return os.get_inheritable(self._sock.fileno())

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def getsockopt(self, *args: Any) -> Any:
        return self._sock.getsockopt(*args)

    def setsockopt(self, *args: Any) -> None:
        self._sock.setsockopt(*args)

    def getpeername(self) -> Any:
        return self._sock.getpeername()

    def getsockname(self) -> Any:
        return self._sock.getsockname()

    def gettimeout(self) -> float:
        return 0.0

    def settimeout(self, value: float | None) -> None:
        """Raises ValueError for any other than 0: the socket belongs to a loop."""
        if value != 0:
            raise ValueError("settimeout(): only 0 timeout is allowed on transport sockets")

    def setblocking(self, flag: bool) -> None:
        """Raises ValueError for True: the socket belongs to a loop."""
        if flag:
            raise ValueError("setblocking(): transport sockets cannot be blocking")


def own_address(sockname: Any) -> Peer:
    """What getsockname(2) tells, as (host, port) or the path of a unix socket."""
    return (sockname[0], sockname[1]) if isinstance(sockname, tuple) else os.fsdecode(sockname)


def four_part(peer: Peer) -> Any:
    """A peer as asyncio tells it: of IPv6 with flow and scope (RFC 3493, section 3.3)."""
    if isinstance(peer, str) or ":" not in peer[0]:
        return peer
    _, _, zone = peer[0].partition("%")
    try:
        scope = int(zone) if zone.isdigit() else socket.if_nametoindex(zone) if zone else 0
    except OSError:
        scope = 0
    return peer[0], peer[1], 0, scope


def check_bytes(data: Any) -> None:
    """TypeError for what cannot be sent."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")


def limits_of(high: int | None, low: int | None) -> tuple[int, int]:
    """The high and the low mark, each from the other if need be, as asyncio has them. ValueError for wrong ones."""
    if high is None:
        high = 64 * 1024 if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    return high, low


def fill(protocol: Any, data: bytes) -> None:
    """Give input to a protocol with a buffer of its own (asyncio.BufferedProtocol)."""
    rest = memoryview(data)
    while rest:
        room = memoryview(protocol.get_buffer(len(rest))).cast("B")
        count = min(len(room), len(rest))
        if not count:
            raise RuntimeError("get_buffer() returned an empty buffer")
        room[:count] = rest[:count]
        protocol.buffer_updated(count)
        rest = rest[count:]
