"""`pronghorn.Protocol`: the base class of protocol handlers, asyncio's callbacks on every model."""

from __future__ import annotations

from pronghorn.connection.transport import Transport


class Protocol:
    """The base class of protocol handlers: asyncio.Protocol's callbacks, on every model.

    The promise that makes it so: use nothing but the transport, which has the interface of asyncio.Transport. All
    callbacks of one connection come one after the other; under models with a flow of control per connection, `write`
    may block, and `pause_writing` never comes.
    """

    __slots__ = ()

    def connection_made(self, transport: Transport) -> None:
        """The connection is open; `transport` has its `peer`, `number`, `draining` and `lifespan`."""

    def data_received(self, data: bytes) -> None:
        """Some bytes arrived, cut anywhere."""

    def eof_received(self) -> bool | None:
        """The peer sends no more; unless this returns true, the transport closes once all is sent."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection has ended; `exc` is None if either side closed it in order."""

    def pause_writing(self) -> None:
        """More than the high-water mark is unsent, since the peer does not read. Reading pauses by itself."""

    def resume_writing(self) -> None:
        """Most of it has been sent."""

    def draining(self) -> bool | None:
        """The server wants to stop; unless this returns true, the transport closes once all is sent."""
