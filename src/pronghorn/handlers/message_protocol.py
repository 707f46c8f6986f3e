"""`MessageProtocol`: one connection of a message handler; it cuts the input and sends the replies.

Law: no I/O here but through the transport, which is asyncio's, a Channel or a BlockingTransport: all answer to the
same calls. Whatever one read brought is answered by one write, unless the peer does not read; then the messages that
are left wait, so that a small question with a large answer cannot fill the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

from pronghorn.connection.transport import Transport
from pronghorn.errors import BadMessage
from pronghorn.framing import Framing
from pronghorn.handlers.protocols import Protocol

Reply = Callable[[Any], "Any | None"]


class Style(Interface):
    """What a MessageProtocol asks of the style that it follows: see messages.MessageStyle."""

    framing: Framing[Any]
    frame: Callable[[Any], bytes]
    max_size: int
    high_water: int
    alone: bool

    def reply_for(self, protocol: MessageProtocol, moved: Any = None, /) -> Reply: ...


class MessageProtocol(Protocol):
    """One connection of a message handler."""

    __slots__ = (
        "_closing",
        "_cutter",
        "_frame",
        "_left",
        "_out",
        "_reply",
        "_waiting",
        "messages",
        "object",
        "style",
        "transport",
    )

    def __init__(self, style: Style) -> None:
        self.style = style
        self._reply: Reply = _nothing
        self._cutter = style.framing.cutter(style.max_size)
        self._frame = style.frame
        self._out: list[bytes] | None = None  # replies of the batch in hand
        self._waiting: list[bytes] | None = None  # messages whose turn comes when the peer reads again
        self._left = False  # input is over, or draining began: close as soon as nothing is owed
        self._closing = False  # the handler asked for the end
        self.messages = 0
        self.object: Any = None
        """What the handler's class has made for this connection; None if the handler is a function."""
        self.transport: Transport = None  # type: ignore[assignment]  # until connection_made()

    @property
    def partial(self) -> bool:
        """Whether a message has begun to arrive, or waits for its answer."""
        return self._cutter.partial or self._waiting is not None

    @property
    def unfinished(self) -> bool:
        """Whether a message has begun to arrive, and nothing but its rest is waited for."""
        return self._cutter.partial and self._waiting is None

    def cut_up(self, data: bytes) -> list[bytes]:
        """The messages that end in this input, or at its end: for handlers that are asked one after the other."""
        return self._cutter.feed(data) if data else [] if self.transport.draining else self._cutter.finish()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._reply = self.style.reply_for(self)  # a handler object may send first

    def state(self) -> tuple[bytes | None, list[Any] | None, int, Any]:
        """What another process needs to go on: between two messages, for `take_over` there. What has come of a message
        is None if it cannot be told."""
        return self._cutter.unfinished, self._waiting, self.messages, self.object

    def take_over(self, transport: Any, state: tuple[bytes, list[Any] | None, int, Any]) -> None:
        """Go on where a MessageProtocol of another process has stopped, perhaps with another framing. Messages that
        wait are answered by `resume_writing`."""
        self.transport = transport
        unfinished, waiting, self.messages, moved = state
        self._reply = self.style.reply_for(self, moved)
        waiting = [*(waiting or ()), *(self._cutter.feed(unfinished) if unfinished else ())]
        self._waiting = waiting or None

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._cutter.feed(data)
        except BadMessage as error:
            self._answer(error.complete)
            raise
        if len(messages) == 1 and self.style.alone and self._waiting is None:
            self.messages += 1
            reply = self._reply(messages[0])
            if reply is not None:
                self.transport.write(self._frame(reply))
        elif messages:
            self._answer(messages)
        if self._left:
            self._leave()

    def eof_received(self) -> bool:
        self._answer(self._cutter.finish())
        self._left = True
        self._leave()
        return True

    def draining(self) -> bool:
        if getattr(self.transport, "stays", False):
            return True
        self._left = True
        self._leave()
        return True

    def resume_writing(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._answer(waiting)
        if self._left:
            self._leave()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._waiting = None
        self._reply, self.object = _nothing, None  # they may hold this object

    def send(self, raw: bytes) -> None:
        if self._out is not None:
            self._out.append(raw)
        else:
            self.transport.write(raw)

    @property
    def closing(self) -> bool:
        """The handler has asked for the end."""
        return self._closing

    async def reply_later(self, message: bytes) -> bytes | None:
        """What an async handler returns for one message, after what it sent meanwhile; `close` waits for it."""
        self.messages += 1
        self._out = []
        try:
            reply: bytes | None = await self._reply(message)  # type: ignore[misc]
        finally:
            self.flush()
            self._out = None
        return reply

    def _answer(self, messages: list[bytes]) -> None:
        if self._waiting is not None:
            self._waiting += messages
            return
        self._out = out = []
        size = done = 0
        try:
            for message in messages:
                done += 1
                reply = self._reply(message)
                if reply is not None:
                    out.append(self._frame(reply))
                    size += len(out[-1])
                if self._closing or (size > self.style.high_water and not self._room()):
                    break
                size = size if out else 0
        finally:
            self.messages += done
            self.flush()
            self._out = None
            if self._closing:
                self.transport.close()
        if done < len(messages) and not self.transport.is_closing():
            self._waiting = messages[done:]

    def close(self) -> None:
        """End the connection, after the reply that is being made."""
        self._closing = True
        if self._out is None:
            self.transport.close()

    def flush(self) -> None:
        """Send the replies that the batch in hand has gathered."""
        if self._out:
            raw = b"".join(self._out)
            self._out.clear()
            self.transport.write(raw)

    def _room(self) -> bool:
        """Send what there is; whether the peer takes it fast enough for more."""
        self.flush()
        return not self.transport.is_closing() and self.transport.get_write_buffer_size() <= self.style.high_water

    def _leave(self) -> None:
        if not self.partial:
            self.transport.close()


def _nothing(message: bytes) -> None:
    return None
