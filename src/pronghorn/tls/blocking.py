"""`TlsConnection`: a blocking connection with TLS below it; to its handler it is a socket like any other.

Law: a handler's calls keep their meaning (recv, send, sendall, shutdown, makefile, timeouts); plain bytes never go over
the wire, and sealed ones never to the handler. Reading and writing may happen at the same time on two flows of control:
one at a time touches the records, and none waits for the peer while it holds their lock.

Before the handshake the connection has no records, so that a PROXY header can be read; and once its close_notify is
sent (`linger`) input is only thrown away.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pronghorn.connection.blocking import Connection
from pronghorn.connection.closing import LINGER_LOOK, READ_SIZE, Lingering
from pronghorn.connection.socket_facts import TcpInfo
from pronghorn.connection.tls_facts import TlsFacts
from pronghorn.errors import TRUNCATED, End, HandshakeTimeout, TlsFailed
from pronghorn.tls.records import FLOOD, MOST_UNASKED, RECORD, Records

CHUNK = 256 * 1024

if TYPE_CHECKING:
    Base = Connection
else:
    Base = object


class TlsCalls(Base):
    """What TLS changes about a connection; a mixin, for sockets of more than one family."""

    __slots__ = ()
    records: Records | None
    _plain: bytes
    _at: int

    def begin(self, *facts: Any) -> None:
        super().begin(*facts)
        self.begin_tls()

    def begin_tls(self) -> None:
        """What begin() has to do for TLS; alone for a connection that is open already."""
        self.records = None
        self._bare = False  # our last word is said
        self._plain, self._at = b"", 0  # what has been opened, and how much of it was read
        self._opened = self._sealed = 0  # plain bytes so far
        self._unsent = bytearray()  # sealed bytes that a socket with a timeout did not take
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._records = threading.Lock()

    # The handshake.

    def shake_hands(
        self, context: Callable[[], ssl.SSLContext], seconds: float, *, invited: bool = False, **options: Any
    ) -> None:
        """Hold the handshake, blocking, with the `context` of when the peer begins to speak. A peer that was `invited`,
        or has begun, may finish it while the server drains. Raises HandshakeFailed, or the connection's own error if
        the peer leaves; afterwards nothing can be read or sent any more."""
        records = self.records = Records(context(), **options)
        partial, timeout = self.partial, self.gettimeout()
        self.partial = lambda: invited or (self.records is not None and self.records.begun)
        deadline = time.monotonic() + seconds
        try:
            while not self._step(records, deadline):
                self._patience(deadline)
                sealed = super().recv(READ_SIZE)
                if not sealed:
                    raise ConnectionResetError("it left before the handshake was done")
                with self._records:
                    if not records.begun and context() is not records.object.context:
                        records = self.records = Records(context(), **options)
                    records.feed(sealed)
        except TimeoutError:
            records.failed = HandshakeTimeout(seconds)
            raise records.failed from None
        except OSError as error:
            records.failed = error if isinstance(error, TlsFailed) else TlsFailed(str(error))
            raise
        finally:
            self.partial = partial
            if self.fileno() >= 0:
                self.settimeout(timeout)

    def _step(self, records: Records, deadline: float) -> bool:
        try:
            with self._records:
                return records.shake()
        finally:
            with self._records:
                self._unsent += records.unsent()
            if self._unsent:
                self._patience(deadline)
                self._flush()

    def _patience(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.settimeout(left)

    # What handlers call: reading.

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        if self.records is None:
            return super().recv(bufsize, flags)
        if not (self.records.shaken or self._bare):
            raise self.records.failed or BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self._refuse_flags(flags)
        with self._reading:
            if not self._fill():
                return b""
            got = self._plain[self._at : self._at + bufsize]
            self._at += len(got)
            return got

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        if self._bare or self.records is None:
            return super().recv_into(buffer, nbytes, flags)
        view = memoryview(buffer).cast("B")
        got = self.recv(nbytes or len(view), flags)
        view[: len(got)] = got
        return len(got)

    def pending(self) -> int:
        try:
            self._open_what_came()
        except TlsFailed:
            pass  # the flow that reads will find it; the drain's flow, which asks this too, is not concerned
        return len(self._plain) - self._at

    @property
    def holds_input(self) -> bool:
        records = self.records
        return self.pending() > 0 or (records is not None and (records.ended or records.failed is not None))

    def _fill(self) -> bool:
        """See that there is something to read, blocking as the socket does; False at the end of input."""
        records = self.records
        while not self._open_what_came():
            if records is None or records.ended or self._bare:
                return False
            if self._unsent or records.owes:
                self._send_at_once()
            sealed = super().recv(READ_SIZE)
            if not sealed:
                if not self.reading_shut:
                    records.end_input()
                return False
            with self._records:
                records.feed(sealed)
        return True

    def _open_what_came(self) -> bool:
        """Whether there is something to read, of what has been fed."""
        records = self.records
        if self._at >= len(self._plain) and records is not None:
            with self._records:  # the drain's flow asks this too, in the middle of a handshake
                due = records.shaken and (records.waiting or records.failed is not None)
                if due and self._at >= len(self._plain):
                    self._plain, self._at = records.take(), 0
                    self._opened += len(self._plain)
        return self._at < len(self._plain)

    # Writing.

    def send(self, data: Any, flags: int = 0) -> int:
        self._refuse_flags(flags)
        view = memoryview(data).cast("B")[:RECORD]
        with self._writing:
            self._flush()
            if view:
                self._seal(view)
            if self.gettimeout() is None:
                self._flush()
            else:
                self._flush_softly()  # it is sealed, and counts as sent: it may not be sealed a second time
        return len(view)

    def sendall(self, data: Any, flags: int = 0) -> None:
        self._refuse_flags(flags)
        view = memoryview(data).cast("B")
        with self._writing:
            self._flush()
            for at in range(0, len(view), CHUNK):
                self._seal(view[at : at + CHUNK])
                self._flush()

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """As socket.sendfile, which would send the file unsealed."""
        return self._sendfile_use_send(file, offset, count)  # type: ignore[attr-defined,no-any-return]

    def shutdown(self, how: int) -> None:
        if self._bare or self.records is None:
            super().shutdown(how)
        elif how == socket.SHUT_WR:
            with self._writing:
                self._say_goodbye()
                self._flush()
        else:
            if how == socket.SHUT_RDWR:
                self._send_at_once(goodbye=True)
            super().shutdown(how)

    def _seal(self, view: memoryview) -> None:
        records = self.records
        if records is None or self._bare or records.said_goodbye or not records.shaken:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        with self._records:
            self._unsent += records.seal(view)
        self._sealed += len(view)

    def _say_goodbye(self) -> None:
        assert self.records is not None
        with self._records:
            self._unsent += self.records.goodbye()

    def _flush(self) -> None:
        # Not sendall: gevent's comes back to our own send.
        while self._unsent:
            del self._unsent[: super().send(self._unsent)]

    def _send_at_once(self, goodbye: bool = False) -> None:
        """Send what is unsent, and what the peer has asked for, as far as the kernel takes it at once."""
        if self.records is not None and self._writing.acquire(blocking=False):  # else another flow is sending it
            try:
                with self._records:
                    self._unsent += self.records.goodbye() if goodbye else self.records.unsent()
                del self._unsent[: super().send(self._unsent, socket.MSG_DONTWAIT)]
            except OSError:  # it is full, or reading will tell
                if len(self._unsent) > MOST_UNASKED:
                    raise TlsFailed(FLOOD) from None
            finally:
                self._writing.release()

    def _flush_softly(self) -> None:
        try:
            self._flush()
        except (BlockingIOError, TimeoutError):
            pass

    # The end.

    def linger(self, until: float = math.inf) -> None:
        """Our close_notify, as far as the peer takes it; then as every connection does."""
        until = Lingering(time.monotonic(), until).until
        ours = not self._bare and self.records is not None and self.fileno() >= 0
        if ours and self._writing.acquire(timeout=max(0.0, until - time.monotonic())):
            try:
                self.setblocking(False)
                os.set_blocking(self.fileno(), False)
                self._say_goodbye()
                self._flush_until(until)
            except OSError:
                pass  # the peer is gone
            finally:
                self._writing.release()
        self._bare, self.peer_ended = True, False  # what has ended is TLS: there may be more below it
        super().linger(until)

    def _flush_until(self, deadline: float) -> None:
        poller = select.poll()
        poller.register(self, select.POLLOUT)
        while self._unsent and time.monotonic() < deadline:
            self._flush_softly()
            if self._unsent:
                poller.poll(LINGER_LOOK * 1000)

    # What there is to know.

    @property
    def tls(self) -> TlsFacts | None:
        return self.records.facts if self.records is not None and self.records.shaken else None

    @property
    def unfinished(self) -> bool:
        return (self.tls is not None and self.records.unfinished) or super().unfinished  # type: ignore[union-attr]

    @property
    def reason(self) -> str:
        return TRUNCATED if self.records is not None and self.records.truncated else End.DONE

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.tls is not None:
            raise TypeError(f"cannot pickle {type(self).__name__!r} object: the keys of its TLS are here")
        return super().__reduce_ex__(protocol)

    def heard(self, info: TcpInfo) -> int:
        return self._opened

    def measure(self) -> None:
        """The kernel knows sealed bytes only: what counts is what the handler read and wrote."""
        self.bytes_in, self.bytes_out = self._opened, self._sealed

    def _measured_so_far(self) -> tuple[int, int]:
        return getattr(self, "_opened", 0), getattr(self, "_sealed", 0)  # not there before the handshake

    def getpeercert(self, binary_form: bool = False) -> Any:
        """As ssl.SSLSocket has it."""
        return self.records.object.getpeercert(binary_form) if self.records is not None else None

    def selected_alpn_protocol(self) -> str | None:
        """As ssl.SSLSocket has it."""
        return self.tls.alpn if self.tls is not None else None

    def version(self) -> str | None:
        """As ssl.SSLSocket has it."""
        return self.tls.version if self.tls is not None else None

    def cipher(self) -> Any:
        """As ssl.SSLSocket has it."""
        return self.records.object.cipher() if self.records is not None else None

    def _refuse_flags(self, flags: int) -> None:
        if flags:
            raise ValueError("a connection with TLS knows no flags for recv and send")

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("a connection with TLS has recv, recv_into, send, sendall and sendfile only")

    recvfrom = recvfrom_into = recvmsg = recvmsg_into = sendto = sendmsg = sendmsg_afalg = dup = _refuse


_secured: dict[type[Any], type[Any]] = {}


def secured(base: type[Any]) -> type[Any]:
    """The class of connections `base` with TLS below: an open connection may become one of this class."""
    if base in _secured:
        return _secured[base]

    class Secured(TlsCalls, base):  # type: ignore[misc]
        __slots__ = ()

    Secured.__name__ = Secured.__qualname__ = f"Tls{base.__name__}"
    _secured[base] = Secured
    return Secured


class TlsConnection(TlsCalls, Connection):
    """A Connection with TLS below it."""

    __slots__ = ()
