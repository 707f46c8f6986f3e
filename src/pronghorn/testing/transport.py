"""A transport without a socket: it records what a protocol does, and a test plays peer and server.

Law: a protocol sees no difference from the server's own transport: `connection_lost` never comes from within
`close()`, nothing is delivered to a protocol that has closed or paused, and writing after `write_eof` is an error.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from pronghorn.connection.driver import Done
from pronghorn.handlers.protocols import Protocol
from pronghorn.peers import Peer


class FakeTransport(asyncio.Transport):
    """A recorder in the shape of asyncio.Transport, for `pronghorn.Protocol` and asyncio.Protocol alike.

    With a `protocol`, the connection is made at once. The test then plays the peer (`receive`, `end`, `reset`, `stall`,
    `resume`) and the server (`drain`), and looks at what came of it:

    - `written`: all bytes so far; `take()` gives those since the last time.
    - `wrote_eof`, `closed`, `aborted`: what the protocol asked for.
    - `tls`: what the handler finds there; None, as without TLS, unless the test puts something in its place.
    - `tls_started`: whether it asked for TLS (STARTTLS); the test sets `tls` to what the handler shall find then.
    - `lost`: whether `connection_lost` has been called.

    The `peer` is a documentation address (RFC 5737); `number` is the connection's, as the log has it; `lifespan` is
    what the handler's lifespan would have yielded.
    """

    def __init__(
        self,
        protocol: Protocol | asyncio.BaseProtocol | None = None,
        *,
        peer: Peer = ("192.0.2.1", 50000),
        number: int = 1,
        lifespan: object = None,
    ) -> None:
        super().__init__()
        self.peer = peer
        self.number = number
        self.tls: Any = None
        self.lifespan: Any = lifespan
        self.draining: bool = False
        self.stays: bool = False
        self.written: bytes = b""
        self.wrote_eof: bool = False
        self.closed: bool = False
        self.aborted: bool = False
        self.lost: bool = False
        self.tls_started: bool = False
        self._taken = 0
        self._reading = True
        self._stalled = False
        self._limits = (16 * 1024, 64 * 1024)
        self._error: BaseException | None = None
        self._protocol: Any = protocol
        if protocol is not None:
            cast(Any, protocol).connection_made(self)
            self.settle()

    # The test as the peer and the server.

    def receive(self, data: bytes) -> None:
        """The peer's bytes arrive. Raises AssertionError if the protocol reads nothing at the moment."""
        assert self.is_reading(), "the protocol has closed" if self.closed else "the protocol has paused reading"
        if isinstance(self._protocol, asyncio.BufferedProtocol):
            self._fill(self._protocol, memoryview(data))
        else:
            self._protocol.data_received(data)
        self.settle()

    def end(self) -> None:
        """The peer half-closes; the transport closes unless the protocol asks to stay."""
        if not self._protocol.eof_received():
            self.close()
        self.settle()

    def reset(self) -> None:
        """The peer resets the connection."""
        self._error = ConnectionResetError("the peer reset the connection")
        self.closed = True
        self.settle()

    def stall(self) -> None:
        """The peer stops reading: the protocol is told to pause writing."""
        self._stalled = True
        self._protocol.pause_writing()
        self.settle()

    def resume(self) -> None:
        """The peer reads again."""
        self._stalled = False
        self._protocol.resume_writing()
        self.settle()

    def drain(self) -> None:
        """The server wants to stop; the transport closes unless the protocol asks to stay."""
        self.draining = True
        tell = getattr(self._protocol, "draining", None)
        if (tell is not None and tell()) or self.stays:
            return
        if isinstance(self._protocol, Protocol):
            self.close()
        else:
            self.end()
        self.settle()

    def stay(self) -> None:
        """A handler calls this when draining shall not end its connection; `stays` is true afterwards."""
        self.stays = True

    def take(self) -> bytes:
        """What was written since the last time."""
        new = self.written[self._taken :]
        self._taken = len(self.written)
        return new

    def settle(self) -> None:
        """Calls `connection_lost` if the transport was closed. All the methods above do so at their end."""
        if self.closed and not self.lost:
            self.lost = True
            if self._protocol is not None:
                self._protocol.connection_lost(self._error)

    # What the protocol calls: asyncio.Transport.

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self.wrote_eof:
            raise RuntimeError("write() after write_eof()")
        if not self.closed:
            self.written += bytes(data)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        self.wrote_eof = True

    def can_write_eof(self) -> bool:
        return True

    def check_tls(self, context: Any) -> None:
        """Nothing stands in the way of TLS here."""

    def start_tls(self, context: Any = None, *, after: bytes = b"", timeout: float | None = None) -> Done:
        if self.wrote_eof or self.is_closing():
            raise RuntimeError("start_tls() of a connection that is closing")
        self.write(after)
        self.tls_started = True
        return Done(None)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True

    def is_reading(self) -> bool:
        return self._reading and not self.closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        high = high if high is not None else 4 * low if low is not None else 64 * 1024
        self._limits = (low if low is not None else high // 4, high)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._limits

    def get_write_buffer_size(self) -> int:
        """0 while the peer reads; while the peer does not read, more than the high limit."""
        return self._limits[1] + 1 if self._stalled else 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        known = {"peername": self.peer, "connection": self, "lifespan": self.lifespan, "draining": self.draining}
        return known.get(name, default)

    def _fill(self, protocol: asyncio.BufferedProtocol, rest: memoryview) -> None:
        while rest:
            room = memoryview(protocol.get_buffer(len(rest))).cast("B")
            count = min(len(room), len(rest))
            assert count, "get_buffer() returned an empty buffer"
            room[:count] = rest[:count]
            protocol.buffer_updated(count)
            rest = rest[count:]
