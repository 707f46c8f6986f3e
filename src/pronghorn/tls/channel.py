"""`TlsChannel`: a channel with TLS below it; to its protocol and to its loop it is a Channel like any other.

Law: a Channel's own rules hold (connection/channel.py); here is only what TLS adds: a handshake before the protocol is
asked, a close_notify before the end, and sealed bytes in the backlog, so that the wish to write is about what the
kernel has not taken. All that came sealed in one read is given to the protocol at once: nothing that is readable ever
waits in here for a readiness that the kernel will not report.

All that TLS has to keep stands in the socket, and the classes here have no slots of their own: so a channel that is
open can become one with TLS (upgrades.py), and costs nothing more before that.
"""

from __future__ import annotations

import _socket
import socket
from collections.abc import Callable
from typing import Any

from pronghorn.connection.channel import CLOSING, HALF_CLOSED, NOTHING, OPEN, OPENING, AnyChannel, Channel
from pronghorn.connection.closing import READ_SIZE, first_word_due
from pronghorn.connection.states import moved
from pronghorn.connection.tls_facts import TlsFacts
from pronghorn.connection.transport import Bytes, check_bytes
from pronghorn.errors import TRUNCATED, End, HandshakeFailed, HandshakeTimeout, TlsFailed, TooMuchUnsent
from pronghorn.tls.records import FLOOD, Records

_recv = _socket.socket.recv


class SealedSocket(socket.socket):
    """A non-blocking socket that is read through its `records`; everything else about it is as it was. It keeps what
    its channel has to know of TLS."""

    __slots__ = ("added", "begins", "ends", "held", "over", "owner", "records", "then")
    records: Records
    begins: Step
    then: Step | None
    over: Callable[[BaseException | None], None] | None

    def __init__(self, family: int, descriptor: int, owner: _socket.socket | None = None) -> None:
        """Takes the `descriptor`; `owner` is the socket that has it too, if there is one."""
        super().__init__(family, socket.SOCK_STREAM, 0, descriptor)
        self.owner = owner
        self.added = 0  # bytes of records that are no data, and not sent yet
        self.held: bytearray | None = None  # what was written during a handshake in the middle of the conversation
        self.ends = False  # and whether that is the last word
        self.then = self.over = None

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
        return getattr(self.owner, "cut_by", None)

    @property
    def reading_shut(self) -> bool:
        return getattr(self.owner, "reading_shut", False)


class AnyTlsChannel(AnyChannel):
    """A channel whose `sock` is a SealedSocket, whatever class its slots make it."""

    __slots__ = NOTHING
    sock: SealedSocket

    def shake_hands(self, begins: Step, then: Step, over: Callable[[BaseException | None], None] | None = None) -> None:
        """Wait for the handshake. `begins` is called with the channel before its first bytes are looked at, and may
        `seal` it anew; `then` when it is done, and has to `open` it, or to have it `go_on` if it has a protocol
        already. `over` is called if the channel ends before that, with the reason."""
        sock = self.sock
        sock.begins, sock.then, sock.over = begins, then, over
        self._lost = self.protocol is None  # nobody could be told
        self.wants_read, self.wants_write = True, bool(self._backlog)
        self.loop.changed(self)

    def seal(self, records: Records) -> None:
        """Have these records below; they may be through with their handshake already."""
        self.sock.records = records

    @property
    def records(self) -> Records:
        return self.sock.records

    def open(self, protocol: Any) -> None:
        super().open(protocol)
        self._wish()  # something may have come along with the last of the handshake

    def begin_again(self) -> None:
        """From the clear, in the middle of the conversation: what is written from now on is held until `go_on`."""
        self.state = moved(self.state, OPENING)
        self._paused = False

    def go_on(self) -> None:
        """The handshake in the middle of the conversation is done: what was written meanwhile is sent, sealed."""
        sock = self.sock
        self.state = moved(self.state, OPEN)
        held, sock.held, sock.over = sock.held, None, None
        if held:
            self.write(held)
        if sock.ends:
            self.write_eof()
        self._wish()
        self.loop.changed(self)

    def late(self, seconds: float) -> None:
        """The handshake has taken longer than `seconds`."""
        self._refuse(HandshakeTimeout(seconds))

    @property
    def tls(self) -> TlsFacts | None:
        return self.records.facts if self.records.shaken else None

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
            records = self.sock.records
            if records.ended and self.wants_read:  # the end came in the same read, and is not reported again
                AnyChannel.on_readable(self)
            if records.owes:
                self._push(records.unsent())
                if self._backlog and len(self._backlog) > self._most:
                    self._gone(TlsFailed(FLOOD))

    def write(self, data: Bytes) -> None:
        if self.state is OPEN or (self.state is HALF_CLOSED and not self.wrote_eof):
            if not data:
                return
            sock = self.sock
            try:
                sealed = sock.records.seal(data)
            except TlsFailed as error:
                self._gone(error)
                return
            sock.added += len(sealed) - len(data)
            data = sealed
        elif self.state is OPENING:
            self._hold(data)
            return
        before = self.bytes_out
        AnyChannel.write(self, data)
        if self.sock.added:
            self._count(before)

    def write_eof(self) -> None:
        if self.state is OPENING:
            self.sock.ends = True
        else:
            AnyChannel.write_eof(self)

    def on_writable(self) -> None:
        before = self.bytes_out
        AnyChannel.on_writable(self)
        self._count(before)

    def settle(self) -> None:
        if self.state is CLOSING and self.sock.over is not None:
            over, self.sock.over = self.sock.over, None
            over(self._error)
        if self.state is CLOSING and not (self._backlog or self._lingering or self._dead):
            self._push(self.records.goodbye())
        AnyChannel.settle(self)

    def read_out(self) -> None:
        AnyChannel.read_out(self)
        invited = self.sock.over is not None  # in the middle of the conversation
        if self.state is OPENING and not (self.records.begun or invited or first_word_due(self)):
            self.close()  # a client that has sent nothing by now is owed nothing

    def release(self, proven: bool = False) -> None:
        AnyChannel.release(self, proven)
        if self.sock.owner is not None:
            self.sock.owner.detach()  # views of it may be about

    # Inner workings.

    def _hold(self, data: Bytes) -> None:
        check_bytes(data)
        held = self.sock.held
        if held is None:
            held = self.sock.held = bytearray()
        elif len(held) > self._most:
            self.cut(TooMuchUnsent(len(held)))
            return
        held += data

    def _written(self) -> int:
        return AnyChannel._written(self) - self.sock.added

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
        self.shake(sealed)

    def shake(self, sealed: bytes) -> None:
        """One step of the handshake, with what has come."""
        if not self.records.begun:
            self.sock.begins(self)
        self.records.feed(sealed)
        try:
            done = self.records.shake()
        except HandshakeFailed as error:
            self._push(self.records.unsent())
            self._refuse(error)
            return
        self._push(self.records.unsent())
        then = self.sock.then
        if done and then is not None and not self.is_closing():
            self.sock.then = None
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
        if not self._backlog:
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
        self.sock.added += len(sealed)
        self._wish()

    def _count(self, before: int) -> None:
        """What counts is what was written here: not what the records add to it, which goes first."""
        added = min(self.sock.added, self.bytes_out - before)
        self.bytes_out -= added
        self.sock.added -= added

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


class TlsChannel(AnyTlsChannel, Channel):
    """A Channel with TLS below it."""

    __slots__ = ()


Step = Callable[[AnyTlsChannel], None]
