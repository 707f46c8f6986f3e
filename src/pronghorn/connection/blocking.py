"""`Connection`: one accepted connection as a blocking socket, and how it is cut and closed.

Law: `Connection` is a plain blocking socket with a few attributes more, because existing handlers expect exactly that;
it is never put into a loop (channel.py does that). Closing lingers: `close(2)` with unread input makes the kernel send
a reset, which throws away what the peer has not read yet (RFC 1122, 4.2.2.13).

Tried and dropped: a wrapper around the socket that forwards calls. Handlers hand their socket to ssl, selectors and
makefile, which want a real one.
"""

from __future__ import annotations

import _socket
import math
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pronghorn.connection.base import AnyConnection, Traffic
from pronghorn.connection.closing import drop_unsent, let_go, linger, say_no
from pronghorn.connection.interfaces import TlsStarts
from pronghorn.connection.proxy_protocol import ProxyHeader
from pronghorn.connection.proxy_wait import read_header
from pronghorn.connection.socket_facts import (
    CLOSED,
    OUR_END_IS_TAKEN,
    WE_HAVE_ENDED,
    TcpInfo,
    mark_of,
    tcp_info,
    unsent,
)
from pronghorn.connection.transport import Bytes, Transport, own_address
from pronghorn.errors import End, PeerError, PeerTimeout, reason_of
from pronghorn.peers import Peer
from pronghorn.system import wait_channel
from pronghorn.system.drain import Drain

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")


def _never() -> bool:
    return False


class Waits:
    """Calls that may wait, on a flow of control that nobody watches: one of many (see serving/heartbeat.py)."""

    watched = False

    def call(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call what may wait for the client."""
        return call(*args, **kwargs)

    def sign(self) -> None:
        """This flow lives, though it does not wait."""


class ConnectionBase(AnyConnection):
    """What every blocking connection carries beside its socket; a mixin, for sockets of more than one library."""

    reading_shut: bool
    hears_drain: bool
    """Its own flow of control waits for the drain beside its input, and tells its protocol."""
    partial: Callable[[], bool] | None
    on_cut: Callable[[], None] | None
    leave_loop: Callable[[float, float], None] | None
    cancel: Callable[[], None] | None
    """See `lend_to_loop`; None without such a loop."""
    leaves_by: float
    """The deadline that was told."""
    flow: int
    """The native id of the thread that converses; 0 before."""
    note_program: Callable[[AnyConnection, int, bool], None] | None
    """See `start_on`; None before."""
    program: int
    """The process id of the program behind it; 0 where there is none."""
    silent_since: float
    """Since when (monotonic) it seems to owe nothing; infinite while it does."""
    cut_by: BaseException | None
    """Why it was cut, if it was."""
    gone: BaseException | None
    """How the peer broke it off, if the protocol over it was told so."""
    note_idle: Callable[[AnyConnection, float], None] | None
    """See `start_on`; None before."""
    fd: int
    """The number that its descriptor had at first."""
    mark: bytes | int
    """Of its socket: the descriptor's number may be given to another socket later."""
    counted: bool
    """The handler has closed it by itself, and its bytes were counted before: the kernel forgets them."""
    lost: bool
    """A handler or a library has closed its descriptor by its number."""
    own_name: Any
    """Our own address, as getsockname(2) tells it, where all connections of the listener have the same; else None."""
    peer_ended: bool
    """The peer's end was read from the kernel, so that there is nothing more to read."""
    files: tuple[weakref.ref[Any], ...]
    """What makefile() has made: it reads ahead."""
    tls_starts: TlsStarts | None
    """How it becomes a connection with TLS; None before `start_on`."""
    waits: Waits = Waits()
    make_lock = staticmethod(threading.Lock)  # one that lets other flows of control go on while it is waited for
    if TYPE_CHECKING:

        def detach(self) -> int: ...

    def begin(self, number: int, peer: Peer, drain: Drain | None, listener: str = "") -> None:
        """`drain` is None on the client's side."""
        self.number, self.peer, self.listener = number, peer, listener
        self.process_drain, self.own_drain = drain, None
        self.opened = time.monotonic()
        self.bytes_in = self.bytes_out = 0
        self.reading_shut = self.hears_drain = self.stays = self.unacknowledged = False
        self.goodbye = self.program_end = ""
        self.partial = self.on_cut = self.leave_loop = self.cancel = self.note_program = self.note_idle = None
        self.protocol = self.proxy = self.seen = self.own_fields = None
        self.tls_starts = self.own_name = None
        self.files = ()
        self.leaves_by = self.silent_since = math.inf
        self.flow = self.program = 0
        self.cut_by = self.gone = None
        self.first_sent, self.measured = 0.0, True
        self.fd = self.fileno()
        self.mark = mark_of(self)  # type: ignore[arg-type]
        self.lost = self.counted = self.peer_ended = False

    def start_on(
        self,
        flow: int,
        note_program: Callable[[AnyConnection, int, bool], None],
        note_idle: Callable[[AnyConnection, float], None],
        tls_starts: TlsStarts,
        own_name: Any = None,
    ) -> None:
        """The conversation begins, on the thread with this native id. `note_program` is called when a program is given
        the connection, with its process id and True, and with False when it has ended; `note_idle` when the handler
        gives the connection an idle timeout of its own, with that."""
        self.flow, self.note_program, self.note_idle = flow, note_program, note_idle
        self.tls_starts, self.own_name = tls_starts, own_name

    def keep_idle(self, seconds: float) -> None:
        """From now on the peer may be silent for so many seconds, whatever the setting says."""
        if self.note_idle is not None:
            self.note_idle(self, seconds)

    def because(self, error: BaseException | None) -> str:
        """Why the conversation ended, in a word or two; `error` is what it raised, if it did."""
        error = self.cut_by or error or self.gone
        if self.goodbye and not isinstance(error, PeerTimeout):
            return self.goodbye
        shut = self.reading_shut and self.cut_by is None and self.gone is None
        if self.draining and (shut or error is None):
            return End.DRAINING
        if error is None and self.program_end.startswith("killed"):
            return End.ERROR
        return self.reason if error is None else reason_of(error)

    def start_tls(
        self, context: ssl.SSLContext | None = None, *, after: Bytes = b"", timeout: float | None = None
    ) -> None:
        """Speak TLS from here on, as the server's side (STARTTLS); returns when the handshake is done.

        `after` is the last word in the clear, which says that TLS may begin: what the client has sent before it is
        thrown away. It may also have been sent before the call. Without a `context` the server's own certificates are
        used, the newest. `timeout` in seconds is --handshake-timeout by default. No other thread may use the connection
        meanwhile. Files that makefile() made go on, over TLS, without what they had read ahead.

        Raises HandshakeFailed (a ConnectionError) when nothing can be read or sent any more; BadSetting if the server
        has no certificate; RuntimeError if the connection speaks TLS already. See RFC 3207.
        """
        if getattr(self, "tls_starts", None) is None:  # of a copy that dup() made, too
            raise RuntimeError("start_tls() of a connection that no server holds")
        assert self.tls_starts is not None
        self.tls_starts.hold(self, context, after, timeout)

    if not TYPE_CHECKING:  # who know what socket.makefile gives for which mode

        def makefile(self, *args: Any, **kwargs: Any) -> Any:
            """As socket.makefile."""
            file = super().makefile(*args, **kwargs)
            if hasattr(self, "files"):  # a copy that dup() made has no facts
                self.files = (*(each for each in self.files if each() is not None), weakref.ref(file))
            return file

    def wait_for_header(self, timeout: float) -> ProxyHeader:
        """Wait for the PROXY header, `timeout` seconds in all; nothing is owed to the client meanwhile. Raises
        BadProxyHeader, OSError, TimeoutError."""
        self.partial = _never
        try:
            return self.waits.call(read_header, self, timeout)
        finally:
            self.partial = None

    @property
    def awaits_header(self) -> bool:
        """Its proxy has not said yet for whom it speaks."""
        return self.partial is _never

    def take_header(self, header: ProxyHeader) -> None:
        """A proxy has said for which client it made the connection: its `peer` is that client from now on."""
        self.proxy = msgspec.structs.replace(header, via=self.peer)
        if header.source is not None:
            self.peer = header.source

    def drive(self, protocol: Any, partial: Callable[[], bool], hears_drain: bool) -> None:
        """A protocol is driven over the connection; `partial` tells whether it holds half a message."""
        self.protocol, self.partial, self.hears_drain = protocol, partial, hears_drain

    def forget(self) -> None:
        """All has been told: let go of the protocol, which holds its transport, and that one the connection. Objects
        that hold each other wait for the garbage collector."""
        self.protocol = self.partial = None

    def lend_to_loop(
        self, channel: AnyConnection, leave: Callable[[float, float], None], cancel: Callable[[], None]
    ) -> None:
        """An asyncio loop of its own serves the connection through `channel`, until `take_from_loop`. `leave` has the
        conversation end by a deadline, within so many seconds; `cancel` cancels what the handler runs."""
        self.protocol, self.leave_loop, self.cancel = channel, leave, cancel

    def stay(self) -> None:
        super().stay()
        if isinstance(self.protocol, Transport):
            self.protocol.stay()

    def say_goodbye(self, why: str) -> None:
        super().say_goodbye(why)
        if isinstance(self.protocol, Transport):
            self.protocol.say_goodbye(why)

    def take_from_loop(self) -> None:
        """The loop has ended its part."""
        self.leave_loop = self.cancel = None

    def lend_to_program(self, pid: int, kill: Callable[[], None]) -> None:
        """A program has the connection, until `take_from_program`: `cut` calls `kill`."""
        self.program, self.on_cut = pid, kill
        if self.note_program is not None:
            self.note_program(self, pid, True)

    def take_from_program(self, ending: str) -> None:
        """The program has ended, as `ending` says, unless the connection was cut."""
        if self.note_program is not None:
            self.note_program(self, self.program, False)
        self.program, self.on_cut = 0, None
        if self.cut_by is None:
            self.program_end = ending

    @property
    def holds_input(self) -> bool:
        """Whether the next read need not wait, whatever poll(2) says: there is something pending, or the end."""
        return False

    def pending(self) -> int:
        """Bytes that are in this process already, and readable whatever select(2) says."""
        return 0

    def heard(self, info: TcpInfo) -> int:
        """Bytes that have come for the handler, of which the kernel has this TcpInfo."""
        return int(info.bytes_in)

    def is_own(self) -> bool:
        """Whether the descriptor still leads to the same socket, or was detached or closed in order."""
        fd = self.fileno()
        if fd < 0 or mark_of(self) == self.mark:  # type: ignore[arg-type]
            return True
        return self.fileno() != fd  # closed in order by another flow, just now

    def lose(self) -> None:
        """The descriptor was closed by its number, which another socket may have by now: it is not touched any more."""
        self.lost = True
        self.detach()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As multiprocessing sends a plain socket: a descriptor of the same connection, in the other process."""
        if "multiprocessing.reduction" not in sys.modules:
            raise TypeError(f"cannot pickle {type(self).__name__!r} object")
        from multiprocessing import reduction

        return reduction._reduce_socket(self)  # type: ignore[attr-defined]

    @property
    def local(self) -> Peer:
        """The address that the client has connected to, as (host, port) or the path of a unix socket: the PROXY
        header's destination, where a proxy speaks for the client. Raises OSError for a closed connection."""
        if self.proxy is not None and self.proxy.destination is not None:
            return self.proxy.destination
        return own_address(self.getsockname())  # type: ignore[attr-defined]

    @property
    def received(self) -> int:
        """Bytes that have been read so far: by the channel over the connection, if there is one."""
        return self.protocol.bytes_in if isinstance(self.protocol, Transport) else self.bytes_in

    def waits_for(self) -> wait_channel.WaitsFor:
        """What its flow of control, or its program, waits for."""
        if self.program:
            return wait_channel.of_program(self.program, self.fileno())
        if self.flow:
            return wait_channel.of_thread(self.flow, self.fileno())
        return wait_channel.UNKNOWN

    def measure(self) -> None:
        """Count the bytes of a handler that reads and writes by itself, as far as the kernel knows them. What is on its
        way counts as sent, unless the connection is cut or broken: the last reply is never acknowledged yet."""
        info = tcp_info(self)  # type: ignore[arg-type]
        if info is not None:
            self.bytes_in, self.bytes_out = info.bytes_in, info.bytes_out
            if self.cut_by is None and info.state != CLOSED:
                self.bytes_out += unsent(self) - (info.state in WE_HAVE_ENDED)  # type: ignore[arg-type]
        self.measured = info is not None or self.counted

    def so_far(self) -> Traffic:
        """What has come and gone until now, for the sums while it is open: of a handler that reads and writes by itself
        what the kernel knows, and never more than `measure` finds at the end."""
        protocol = self.protocol
        if isinstance(protocol, Transport):  # the channel of an asyncio loop of its own
            return Traffic(protocol.bytes_in, protocol.bytes_out, self.messages, self.listener)
        bytes_in, bytes_out = self.bytes_in, self.bytes_out
        if protocol is None and not (self.counted or self.lost) and self.is_own():
            bytes_in, bytes_out = self._measured_so_far()
        return Traffic(bytes_in, bytes_out, self.messages, self.listener)

    def _measured_so_far(self) -> tuple[int, int]:
        info = tcp_info(self)  # type: ignore[arg-type]
        if info is None:
            return self.bytes_in, self.bytes_out
        return info.bytes_in, info.bytes_out - (info.state in OUR_END_IS_TAKEN)

    def end_by_itself(self) -> None:
        """The handler, or a library, closes it: in order, and not before its bytes are counted."""
        if hasattr(self, "reading_shut"):  # a copy that dup() made has no facts: the connection goes on without it
            if self.protocol is None:
                self.measure()
                self.counted = self.measured
            self.linger()

    def linger(self, until: float = math.inf) -> None:
        """Half-close, and let the peer take what was sent: see closing.linger."""
        shut, ended = self.reading_shut, self.peer_ended
        self.unacknowledged = linger(self, reading_shut=shut, ended=ended, until=until)  # type: ignore[arg-type]


FACTS = {**AnyConnection.__annotations__, **ConnectionBase.__annotations__}.keys() - {"tls", "waits"}
FOR_TLS = "records _at _bare _opened _plain _reading _records _sealed _unsent _writing".split()
SLOTS = tuple(sorted({*FACTS, *FOR_TLS}))
"""Those for TLS are empty before: so any connection may become one with TLS below (tls/starttls.py)."""


class Connection(ConnectionBase, socket.socket):
    """One accepted connection as a blocking handler sees it: a blocking socket with `number`, `peer`, `draining` and
    `lifespan`."""

    __slots__ = SLOTS

    def end(self) -> None:
        """Close the descriptor, whatever files a handler left open on it."""
        let_go(self)

    def _real_close(self, _ss: Any = None) -> None:
        # Where socket.close() and the last makefile() object both end up: the only door to linger behind.
        self.end_by_itself()
        _socket.socket.close(self)


def end_unserved(conn: Connection) -> None:
    """Close a connection whose handler was never called, in order: so that its client reads an end."""
    say_no(conn)
    conn.end()


def end_reading(conn: Connection) -> None:
    """Make the peer appear to have finished: the handler's next read finds the end (shutdown(2), SHUT_RD)."""
    conn.reading_shut = True
    if not conn.is_own():
        conn.lose()
    try:
        conn.shutdown(socket.SHUT_RD)
    except OSError:
        pass


def cut(conn: Connection, error: BaseException) -> None:
    """End a connection that would not finish: both directions, and the program behind it if there is one. If a
    PeerError is the reason, the kernel is to forget what is unsent."""
    conn.reading_shut, conn.cut_by = True, error
    if not conn.is_own():
        conn.lose()
    if isinstance(error, PeerError) and unsent(conn):
        drop_unsent(conn)
    try:
        conn.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    if conn.on_cut is not None:
        conn.on_cut()
