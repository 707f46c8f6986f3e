"""`MessageProtocol`: one connection of a message handler; it cuts the input and sends the replies.

Law: no I/O here but through the transport, which is asyncio's, a Channel or a BlockingTransport: all answer to the
same calls. Whatever one read brought is answered by one write, unless the peer does not read; then the messages that
are left wait, so that a small question with a large answer cannot fill the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any
from typing import Protocol as Interface

from pronghorn.bus.joined import Exclusive
from pronghorn.connection.interfaces import TlsStart
from pronghorn.connection.transport import Transport
from pronghorn.errors import BadMessage, End
from pronghorn.framing import Framing
from pronghorn.handlers.protocols import Protocol

Reply = Callable[[Any], "Any | None"]


class Style(Interface):
    """What a MessageProtocol asks of the style that it follows: see messages.MessageStyle."""

    framing: Framing[Any]
    frame: Callable[[Any], bytes]
    max_size: int
    high_water: int
    hears_bus: bool
    alone: bool
    tells_closed: bool

    def unfit(self, message: Any, error: Exception, /) -> Exception: ...
    def connect(self, protocol: MessageProtocol, /) -> Attached: ...
    def reply_for(self, protocol: MessageProtocol, moved: Any = None, /) -> Reply: ...
    def tell_connected(self, protocol: MessageProtocol, /) -> object: ...
    def tell_closed(self, protocol: MessageProtocol, reason: End, /) -> object: ...


class Attached(Interface):
    """What a MessageProtocol asks of the connection that its handler sees: see message_connection.py."""

    @property
    def log_fields(self) -> dict[str, object] | None: ...
    @property
    def has_timers(self) -> bool: ...
    def state(self) -> Any: ...
    def take_over(self, state: Any, /) -> None: ...
    def join(self, name: str | bytes, /, *, exclusive: Exclusive = False) -> None: ...
    def end(self) -> None: ...
    def make_room(self) -> None: ...


class MessageProtocol(Protocol):
    """One connection of a message handler."""

    __slots__ = (
        "_ahead",
        "_closing",
        "_cutter",
        "_frame",
        "_halts",
        "_left",
        "_out",
        "_reply",
        "_waiting",
        "connection",
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
        self._closing = self._halts = False  # the handler asked for the end; or for that or TLS
        self._ahead: TlsAhead | None = None  # TLS that begins behind the reply that is being made
        self.messages = 0
        self.connection: Attached | None = None  # what the handler sees of the connection, if it takes that
        self.object: Any = None
        """What the handler's class has made for this connection; None if the handler is a function."""
        self.transport: Transport = None  # type: ignore[assignment]  # until connection_made()

    @property
    def joins(self) -> Callable[..., None]:
        """How its connection joins a name of the bus: as the handler would see it."""
        return self.style.connect(self).join

    @property
    def partial(self) -> bool:
        """Whether a message has begun to arrive, or waits for its answer."""
        return self._cutter.partial or self._waiting is not None

    @property
    def leaving(self) -> bool:
        """Whether input is over, or draining has begun: the connection closes as soon as nothing is owed."""
        return self._left

    def wait(self, messages: list[Any]) -> None:
        """Have these messages answered when the peer reads again: see `resume_writing`."""
        self._waiting = [*(self._waiting or ()), *messages]

    @property
    def unfinished(self) -> bool:
        """Whether a message has begun to arrive, and nothing but its rest is waited for."""
        return self._cutter.partial and self._waiting is None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._reply = self.style.reply_for(self)  # a handler object may send first
        if self.object is not None:
            self.style.tell_connected(self)

    @property
    def has_timers(self) -> bool:
        """Whether a timer of the handler's is to fall due."""
        return self.connection is not None and self.connection.has_timers

    def state(self) -> tuple[bytes | None, list[Any] | None, int, Any, Any]:
        """What another process needs to go on: between two messages, for `take_over` there. What has come of a message
        is None if it cannot be told."""
        seen = self.connection.state() if self.connection is not None else None
        return self._cutter.unfinished, self._waiting, self.messages, self.object, seen

    @property
    def busy(self) -> str:
        """What the handler is in the middle of, so that `state` would not be whole."""
        return ""

    def depart(self) -> None:
        """Another process goes on with the connection: the handler is told nothing, and no timer falls due."""
        self._waiting, self._reply, self.object = None, _nothing, None
        if self.connection is not None:
            self.connection.end()

    def take_over(self, transport: Any, state: tuple[bytes, list[Any] | None, int, Any, Any]) -> None:
        """Go on where a MessageProtocol of another process has stopped, perhaps with other limits. Messages that
        wait are answered by `resume_writing`."""
        self.transport = transport
        unfinished, waiting, self.messages, moved, seen = state
        self._reply = self.style.reply_for(self, moved)
        if seen is not None:
            self.style.connect(self).take_over(seen)
        waiting = [*(waiting or ()), *(self._cutter.feed(unfinished) if unfinished else ())]
        self._waiting = waiting or None

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._cutter.feed(data)
        except BadMessage as error:
            self._refuse(error)
            return
        if len(messages) == 1 and self.style.alone and self._waiting is None:
            self.messages += 1
            make = self._reply  # Python adapts a call of what a slot holds only in two steps
            reply = make(messages[0])
            if reply is not None:
                try:
                    frame = self._frame
                    self.transport.write(frame(reply))
                except (TypeError, AttributeError) as error:
                    raise self.style.unfit(reply, error) from None
        elif messages:
            self._answer(messages)
        if self._left:
            self._leave()

    def _refuse(self, error: BadMessage) -> None:
        """Answer what came before what is no message, and raise; unless TLS has begun with these."""
        cutter = self._cutter
        self._answer(error.complete)
        if self._cutter is cutter:
            raise error  # else what came behind in the clear was thrown away

    def eof_received(self) -> bool:
        if (messages := self._cutter.finish()) or self._waiting is not None:
            self._answer(messages)
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
        if self.connection is not None:
            self.connection.make_room()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._waiting = None
        self._reply = _nothing  # it may hold this object
        if self.connection is not None:
            self.connection.end()
        if self.style.tells_closed and self.object is not None:
            self.style.tell_closed(self, self.transport.ended_by(exc))
        self.object = None

    @property
    def log_fields(self) -> dict[str, object] | None:
        return self.connection.log_fields if self.connection is not None else None

    def send(self, raw: bytes) -> None:
        if self._out is not None:
            self._out.append(raw)
        else:
            self.transport.write(raw)

    @property
    def closing(self) -> bool:
        """The handler has asked for the end."""
        return self._closing

    @property
    def halts(self) -> bool:
        """The handler has asked for the end, or for TLS: the messages that are left are thrown away."""
        return self._halts

    def start_tls(self, context: Any, after: Any, timeout: float | None) -> TlsAhead:
        """Have TLS begin behind the reply that is being made; at once, behind `after`, if that is given, or if no reply
        is being made. Raises what stands in the way of it."""
        self.transport.check_tls(context)
        ahead = TlsAhead(self, context, timeout)
        self._halts = True
        if after is None and self._is_answering():
            self._ahead = ahead
        else:
            ahead.start(b"" if after is None else self._frame(after))
        return ahead

    def _is_answering(self) -> bool:
        return self._out is not None

    def begin_tls(self, context: Any, last: bytes, timeout: float | None) -> TlsStart:
        """Send what there is, and `last` behind it, in the clear, and begin the handshake. What came in the clear and
        has not been answered is thrown away."""
        out, self._ahead, self._waiting = self._out or [], None, None
        self._cutter = self.style.framing.cutter(self.style.max_size)
        last = b"".join([*out, last])
        out.clear()
        return self.transport.start_tls(context, after=last, timeout=timeout)

    def resume(self) -> TlsAhead | None:
        """After a message that `halts` without the end of the connection: what is to begin now, if it has not begun."""
        self._halts = False
        ahead, self._ahead = self._ahead, None
        return ahead

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
                    try:
                        out.append(self._frame(reply))
                        size += len(out[-1])
                    except (TypeError, AttributeError) as error:
                        raise self.style.unfit(reply, error) from None
                if self._halts or (size > self.style.high_water and not self._room()):
                    break
                size = size if out else 0
        except BaseException:
            self._ahead = None
            raise
        finally:
            self.messages += done
            if self._ahead is None or self._closing:
                self.flush()
                self._out = None
            if self._closing:
                self.transport.close()
        if self._halts:
            self._halt()
            return
        if done < len(messages) and not self.transport.is_closing():
            self._waiting = messages[done:]

    def _halt(self) -> None:
        """Nothing behind the message in hand counts: TLS begins, or has begun, or the connection ends."""
        try:
            if not self._closing and (ahead := self.resume()) is not None:
                ahead.start()
        finally:
            self._out = None

    def close(self) -> None:
        """End the connection, after the reply that is being made."""
        self._closing = self._halts = True
        if self._out is None:
            self.transport.close()

    def flush(self) -> None:
        """Send the replies that the batch in hand has gathered."""
        if self._out:
            try:
                raw = b"".join(self._out)
            except TypeError as error:  # of a framing that sends replies as they are
                wrong = next(each for each in self._out if not isinstance(each, (bytes, bytearray, memoryview)))
                self._out.clear()
                raise self.style.unfit(wrong, error) from None
            self._out.clear()
            self.transport.write(raw)

    def _room(self) -> bool:
        """Send what there is; whether the peer takes it fast enough for more."""
        self.flush()
        return not self.transport.is_closing() and self.transport.get_write_buffer_size() <= self.style.high_water

    def _leave(self) -> None:
        if not (self._cutter.partial or self._waiting is not None):  # as `partial`
            self.transport.close()


class TlsAhead:
    """TLS that a message handler has asked for; a coroutine that awaits it has it begin at once, without a reply."""

    __slots__ = ("_context", "_protocol", "_started", "_timeout")

    def __init__(self, protocol: MessageProtocol, context: Any, timeout: float | None) -> None:
        self._protocol, self._context, self._timeout = protocol, context, timeout
        self._started: TlsStart | None = None

    def start(self, last: bytes = b"") -> TlsStart:
        """Begin, unless it has begun, behind a `last` word in the clear."""
        if self._started is None:
            self._started = self._protocol.begin_tls(self._context, last, self._timeout)
        return self._started

    def __await__(self) -> Generator[Any, None, None]:
        yield from self.start().__await__()


def _nothing(message: bytes) -> None:
    return None
