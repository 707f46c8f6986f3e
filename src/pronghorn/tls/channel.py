"""`TlsChannel`: a channel with TLS below it; to its protocol and to its loop it is a Channel like any other.

Law: a Channel's own rules hold (connection/channel.py); here is only what TLS adds: a handshake before the protocol is
asked, a close_notify before the end, and sealed bytes in the backlog, so that the wish to write is about what the
kernel has not taken. All that came sealed in one read is given to the protocol at once: nothing that is readable ever
waits in here for a readiness that the kernel will not report.
"""

from __future__ import annotations

import _socket
import socket
from collections.abc import Callable
from typing import Any

from pronghorn.connection.blocking import Connection
from pronghorn.connection.channel import CLOSING, HALF_CLOSED, NOTHING, OPEN, OPENING, SLOTS, AnyChannel
from pronghorn.connection.closing import READ_SIZE, first_word_due
from pronghorn.connection.states import moved
from pronghorn.connection.tls_facts import TlsFacts
from pronghorn.connection.transport import Bytes
from pronghorn.errors import TRUNCATED, End, HandshakeFailed, TlsFailed
from pronghorn.tls.records import FLOOD, Records

TLS_SLOTS: tuple[str, ...] = ("_added", "_begins", "_then", "records", *SLOTS)

_recv = _socket.socket.recv


class SealedSocket(socket.socket):
    """A non-blocking socket that is read through its `records`; everything else about it is as it was."""

    __slots__ = ("_owner", "records")
    records: Records

    def __init__(self, family: int, descriptor: int, owner: Connection | None = None) -> None:
        """Takes the `descriptor`; `owner` is the blocking connection that has it too, if there is one."""
        super().__init__(family, socket.SOCK_STREAM, 0, descriptor)
        self._owner = owner

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Plain bytes, empty at the end of input; BlockingIOError until a whole record is there; TlsFailed."""
        records = self.records
        if not records.waiting:
            if records.ended:
                return b""
            sealed = _recv(self, size)
            if not sealed:
                if not self.reading_shut:
                    records.end_input()
                return sealed
            records.feed(sealed)
        data = records.take()
        if data or records.ended:
            return data
        raise BlockingIOError

    @property
    def cut_by(self) -> BaseException | None:
        return self._owner.cut_by if self._owner is not None else None

    @property
    def reading_shut(self) -> bool:
        return self._owner is not None and self._owner.reading_shut


class AnyTlsChannel(AnyChannel):
    """A channel whose `sock` is a SealedSocket, whatever class its slots make it."""

    __slots__ = NOTHING
    records: Records

    def shake_hands(self, begins: Callable[[AnyTlsChannel], None], then: Callable[[AnyTlsChannel], None]) -> None:
        """Wait for the handshake. `begins` is called with the channel before its first bytes are looked at, and may
        `seal` it anew; `then` when it is done, and has to `open` it."""
        self._begins = begins
        self._then: Callable[[AnyTlsChannel], None] | None = then
        self._lost = True  # there is no protocol yet that could be told
        self.wants_read = True
        self.loop.changed(self)

    def seal(self, records: Records) -> None:
        """Have these records below; they may be through with their handshake already."""
        self.records = self.sock.records = records  # type: ignore[attr-defined]
        self._added = 0  # bytes of records that are no data, and not sent yet

    def open(self, protocol: Any) -> None:
        AnyChannel.open(self, protocol)
        self._wish()  # something may have come along with the last of the handshake

    def late(self, seconds: float) -> None:
        """The handshake has taken longer than `seconds`."""
        self._refuse(HandshakeFailed(f"it did not finish the handshake within {seconds:g} s"))

    @property
    def tls(self) -> TlsFacts:
        return self.records.facts

    @property
    def unfinished(self) -> bool:
        return self.state is not OPENING and (self.records.unfinished or super().unfinished)

    @property
    def reason(self) -> str:
        told = super().reason
        return TRUNCATED if told == End.DONE and self.records.truncated else told

    def on_readable(self) -> None:
        if self.state is OPENING:
            self._shake()
        else:
            AnyChannel.on_readable(self)
            if self.records.ended and self.wants_read:  # the end came in the same read, and is not reported again
                AnyChannel.on_readable(self)
            if self.records.owes:
                self._push(self.records.unsent())
                if self._backlog and len(self._backlog) > self._most:
                    self._gone(TlsFailed(FLOOD))

    def write(self, data: Bytes) -> None:
        if self.state is OPEN or (self.state is HALF_CLOSED and not self.wrote_eof):
            if not data:
                return
            try:
                sealed = self.records.seal(data)
            except TlsFailed as error:
                self._gone(error)
                return
            self._added += len(sealed) - len(data)
            data = sealed
        before = self.bytes_out
        AnyChannel.write(self, data)
        if self._added:
            self._count(before)

    def on_writable(self) -> None:
        before = self.bytes_out
        AnyChannel.on_writable(self)
        self._count(before)

    def settle(self) -> None:
        if self.state is CLOSING and not (self._backlog or self._lingering or self._dead):
            self._push(self.records.goodbye())
        AnyChannel.settle(self)

    def read_out(self) -> None:
        AnyChannel.read_out(self)
        if self.state is OPENING and not self.records.begun and not first_word_due(self):
            self.close()  # a client that has sent nothing by now is owed nothing

    # Inner workings.

    def _written(self) -> int:
        return AnyChannel._written(self) - self._added

    def _before_cut(self) -> None:
        if not (self._backlog or self.is_closing()):
            self._push(self.records.goodbye())

    def _shake(self) -> None:
        try:
            sealed = _recv(self.sock, READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._refuse(error)
            return
        if not sealed:
            self.peer_ended = True
            self._refuse(ConnectionResetError("it left before the handshake was done"))
            return
        if not self.records.begun:
            self._begins(self)
        self.records.feed(sealed)
        try:
            done = self.records.shake()
        except HandshakeFailed as error:
            self._push(self.records.unsent())
            self._refuse(error)
            return
        self._push(self.records.unsent())
        then = self._then
        if done and then is not None and not self.is_closing():
            self._then = None
            self._lost = False
            then(self)

    def _refuse(self, error: OSError) -> None:
        self._error = error
        self.loop.failed(self, error)
        self.close()

    def _push(self, sealed: bytes) -> None:
        """Send what is no data of the protocol, behind what is unsent, without a pause in writing."""
        if not sealed:
            return
        if self._backlog is None:
            try:
                sealed = sealed[self.sock.send(sealed) :]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                if self.state is CLOSING:
                    self._dead = True
                else:
                    AnyChannel._gone(self, error)
                return
            if not sealed:
                return
            self._backlog = bytearray()
        self._backlog += sealed
        self._added += len(sealed)
        self._wish()

    def _count(self, before: int) -> None:
        """What counts is what was written here: not what the records add to it, which goes first."""
        added = min(self._added, self.bytes_out - before)
        self.bytes_out -= added
        self._added -= added

    def _half_close(self) -> None:
        if self.state is OPEN:
            self.state = moved(self.state, HALF_CLOSED)
        self._push(self.records.goodbye())

    def _gone(self, error: BaseException | None) -> None:
        if isinstance(error, TlsFailed) and not self._backlog:
            self._push(self.records.unsent())  # the alert that says what was wrong
        AnyChannel._gone(self, error)

    def _wish(self) -> None:
        if self.state is not OPENING:
            AnyChannel._wish(self)
            # What came while the protocol did not want to read:
            if self.wants_read and (self.records.waiting or self.records.ended):
                self.loop.call_later(0, self.on_readable)
        elif bool(self._backlog) is not self.wants_write:
            self.wants_write = not self.wants_write
            self.loop.changed(self)


class TlsChannel(AnyTlsChannel):
    """A Channel with TLS below it."""

    __slots__ = TLS_SLOTS
