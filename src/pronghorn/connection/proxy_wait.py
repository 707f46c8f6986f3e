"""How a connection waits for its PROXY header: `HeaderWait` in a loop, `read_header` where it may block.

Law: the header is read in the connection's own time, never where connections are accepted, and exactly to its last
byte: TLS may follow, which reads for itself. A proxy that is too slow, or sends something else, loses that connection.
"""

from __future__ import annotations

import _socket
import select
import socket
import time
from collections.abc import Callable

from pronghorn.connection.interfaces import Watchable
from pronghorn.connection.proxy_protocol import HeaderReader, ProxyHeader
from pronghorn.connection.states import State
from pronghorn.errors import BadProxyHeader
from pronghorn.peers import Peer

TOO_LATE = "no PROXY header in time"
WRONG = "no PROXY header"
NO_BYTE = "no byte"  # no refusal: the connection has ended without one, as that of a health check over TCP


def _nothing(thing: Watchable) -> None:
    pass


class HeaderWait:
    """A connection in a loop that waits for its header. Once its state is CLOSED, `header` is there, or `refusal` says
    why not; the socket is still open."""

    __slots__ = tuple("_changed _reader deadline detail header peer refusal sock state wants_read".split())
    wants_write = False

    def __init__(self, sock: _socket.socket, peer: Peer, deadline: float) -> None:
        """`deadline` is monotonic; the caller looks at it, and calls `late()`."""
        self.sock, self.peer, self.deadline = sock, peer, deadline
        self.header: ProxyHeader | None = None
        self.refusal = self.detail = ""
        self.state = State.OPENING
        self.wants_read = True
        self._changed: Callable[[Watchable], None] = _nothing
        self._reader = HeaderReader()

    def tell(self, changed: Callable[[Watchable], None]) -> None:
        """A loop watches the socket from now on: `changed` is called, now and when the wait is over."""
        self._changed = changed
        changed(self)

    def fileno(self) -> int:
        return self.sock.fileno()

    def is_closing(self) -> bool:
        return self.state is State.CLOSED

    def is_own(self) -> bool:
        return True

    def settle(self) -> None:
        pass

    def on_writable(self) -> None:
        pass

    def on_readable(self) -> None:
        """There may be more of the header."""
        try:
            while self.wants_read:
                self.header = _fed(self._reader, self.sock)
                if self.header is not None:
                    self._end()
        except (BlockingIOError, InterruptedError):
            pass
        except (BadProxyHeader, OSError) as error:
            self._end(limit_of(error), str(error))

    def late(self) -> None:
        """The deadline is there."""
        self._end(TOO_LATE)

    def cut(self, error: BaseException) -> None:
        """The loop could not watch it."""
        self._end(WRONG, str(error))

    def _end(self, refusal: str = "", detail: str = "") -> None:
        if self.state is not State.CLOSED:
            self.refusal, self.detail = refusal, detail
            self.state = State.CLOSED
            self.wants_read = False
            self._changed(self)


def read_header(sock: socket.socket, timeout: float) -> ProxyHeader:
    """Wait for the header of a connection, `timeout` seconds in all. Raises BadProxyHeader, OSError, TimeoutError."""
    reader, deadline = HeaderReader(), time.monotonic() + timeout
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(TOO_LATE)
        if poller.poll(left * 1000):
            header = _fed(reader, sock)
            if header is not None:
                return header


class OnlyConnected(BadProxyHeader):
    """The connection has ended without a byte."""

    def __init__(self) -> None:
        super().__init__("the connection ended before it")


def limit_of(error: BadProxyHeader | OSError) -> str:
    """The limit that refuses a connection whose header did not come; `NO_BYTE` for a health check's."""
    return NO_BYTE if isinstance(error, OnlyConnected) else WRONG


def _fed(reader: HeaderReader, sock: _socket.socket) -> ProxyHeader | None:
    try:
        data = sock.recv(reader.needs)
    except ConnectionResetError:
        if reader.began:
            raise
        raise OnlyConnected from None
    if not data:
        raise BadProxyHeader("the connection ended before it") if reader.began else OnlyConnected
    return reader.feed(data)
