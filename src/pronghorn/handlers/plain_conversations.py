"""`PlainConversations`: those of a plain message function, on flows of control: read, cut, call and send in one loop.

Law: neither a peer nor the counts can tell such a conversation from a MessageProtocol that is driven
(connection/driver.py). The function knows nothing of its connection: while each read brings one whole message, and each
reply is bytes, there is nothing to be remembered. A protocol and its transport are made for whatever is more (half a
message, several, the drain, an error of sending, a name of the bus), and have the rest of the conversation.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from pronghorn.connection.blocking import Connection
from pronghorn.connection.closing import READ_SIZE
from pronghorn.connection.driver import BlockingTransport, converse, nothing_begun, passes_through
from pronghorn.framing.reads import cut_of, never
from pronghorn.handlers.message_protocol import MessageProtocol, Reply, Style

PAUSE = 0.005  # seconds between two looks at whether something is still being sent
_making = threading.Lock()


class PlainConversations:
    """The conversations of one function, which follows `style`; `make` makes the protocol of one of them."""

    __slots__ = ("_call", "_cut", "_make", "_mark", "_most")

    def __init__(self, style: Style, call: Reply, make: Callable[[], MessageProtocol]) -> None:
        self._call, self._make = call, make
        self._cut, self._mark, self._most = cut_of(style.framing, style.max_size)

    @property
    def fits(self) -> bool:
        """Whether there are messages that this framing cuts without a memory."""
        return self._cut is not never

    def hold(self, conn: Connection) -> None:
        """Hold one whole conversation, as `drive` does."""
        conn.protocol = plain = PlainProtocol(conn, self._make)
        conn.partial = nothing_begun
        try:
            rest = self._talk(conn, plain)
        except BaseException as error:
            if not plain.is_whole:
                if passes_through(conn, error):
                    raise
                return
            rest = partial(plain.fail, error)
        if rest is not None:
            plain.go_on(rest)

    def _talk(self, conn: Connection, plain: PlainProtocol) -> Callable[[BlockingTransport], None] | None:
        """Answer messages until the peer ends, or something is to be remembered: then returns what the rest begins
        with."""
        cut, mark, most, call = self._cut, self._mark, self._most, self._call
        drain, size, join = conn.process_drain, READ_SIZE, b"".join
        while data := conn.recv(size):
            count = len(data)
            conn.bytes_in += count
            found = cut(data, most) if cut is not None else data if count <= most else None
            if type(found) is not bytes:
                return partial(plain.receive, data)
            plain.messages += 1
            reply = call(found)
            if type(reply) is not bytes:
                if reply is None and not plain.is_whole:
                    continue
                return partial(plain.send, reply)
            if mark:
                reply = join((reply, mark))  # a call: Python looks for signals behind it, and else not before the end
            plain.sends = True
            try:
                if plain.is_whole:  # by another thread, perhaps just now
                    return partial(plain.write, reply)
                conn.sendall(reply)
                conn.bytes_out += len(reply)
            except OSError as error:
                return partial(plain.break_off, error)
            finally:
                plain.sends = False
            if conn.goodbye or (drain is not None and drain.begun):
                return BlockingTransport.look_at_drain
        if plain.is_whole or conn.reading_shut or conn.cut_by is not None:
            return plain.read_again
        conn.peer_ended = True
        return None


class PlainProtocol:
    """What stands for the protocol of one conversation, as long as there is nothing to remember but how many messages
    there were. Any thread may ask for what `joins`."""

    __slots__ = ("_conn", "_flow", "_make", "_transport", "is_whole", "messages", "sends")
    partial = unfinished = False
    log_fields = None

    def __init__(self, conn: Connection, make: Callable[[], MessageProtocol]) -> None:
        self._conn, self._make = conn, make
        self._flow = threading.get_ident()
        self.is_whole = False
        """There is a transport, with a protocol, that is to go on: nothing is sent past it."""
        self.sends = False
        """Something is being sent past it: set before `is_whole` is read, which is set before this is read."""
        self.messages = 0

    def go_on(self, begin: Callable[[BlockingTransport], None]) -> None:
        """Have the rest of the conversation, which begins with this, driven."""
        transport = self._whole()
        transport.protocol.messages = self.messages
        converse(transport, partial(begin, transport))

    @property
    def joins(self) -> Callable[..., None]:
        """How its connection joins a name of the bus: as a MessageProtocol tells it."""
        protocol: MessageProtocol = self._whole().protocol
        return protocol.joins

    def _whole(self) -> BlockingTransport:
        with _making:
            if not self.is_whole:
                protocol = self._make()
                self._transport = BlockingTransport(self._conn, protocol, self._flow)
                protocol.connection_made(self._transport)
                protocol.messages = self.messages  # which is asked of it from now on, also while its flow only reads
                self._conn.drive(protocol, lambda: protocol.partial, False)
                self.is_whole = True
        if self.sends:  # on its own flow; this is another
            pause = self._conn.make_lock()
            pause.acquire()
            while self.sends:
                pause.acquire(timeout=PAUSE)
        return self._transport

    # What the rest may begin with.

    def read_again(self, transport: BlockingTransport) -> None:
        """Nothing but the end was there to be read."""

    def receive(self, data: bytes, transport: BlockingTransport) -> None:
        transport.protocol.data_received(data)

    def write(self, raw: bytes, transport: BlockingTransport) -> None:
        transport.write(raw)

    def send(self, reply: Any, transport: BlockingTransport) -> None:
        if reply is not None:
            style = transport.protocol.style
            try:
                transport.write(style.frame(reply))
            except (TypeError, AttributeError) as error:
                raise style.unfit(reply, error) from None

    def break_off(self, error: OSError, transport: BlockingTransport) -> None:
        """Nothing can be sent any more."""
        transport.break_off(error)

    def fail(self, error: BaseException, transport: BlockingTransport) -> None:
        """The function has raised."""
        raise error
