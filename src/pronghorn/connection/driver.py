"""`drive`: a protocol over a blocking connection, on a flow of control of its own.

Law: all calls of a protocol are made on its connection's own flow, one at a time. Other flows may write to the
transport and close it; they never call the protocol.
"""

from __future__ import annotations

import functools
import math
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from pronghorn.connection.asked import awaits_answer
from pronghorn.connection.blocking import Connection, end_reading
from pronghorn.connection.closing import READ_SIZE, first_word_due
from pronghorn.connection.socket_facts import unread
from pronghorn.connection.states import is_peers_fault
from pronghorn.connection.timer_queue import Entry, TimerQueue
from pronghorn.connection.tls_facts import TlsFacts
from pronghorn.connection.transport import Bytes, Transport, check_bytes, limits_of
from pronghorn.errors import End, HandshakeFailed, end_of
from pronghorn.system.drain import Drain, Wake

if TYPE_CHECKING:
    import ssl

LOOK = 0.1  # seconds between two looks at whether one that leaves has answered what it was asked on the bus


class BlockingTransport(Transport):
    """asyncio's transport interface over a blocking socket: `write` returns when the kernel has taken all of it."""

    __slots__ = tuple(
        "_calls _closing _deadlines _flow _high _leaves _lock _low _name _poller _readable _stirs _told conn error "
        "listener number peer protocol proxy sock waits_beside wrote_eof".split()
    )

    def __init__(self, conn: Connection, protocol: Any, flow: int | None = None) -> None:
        """`flow` is the identity of the conversation's own thread, if that is not the calling one."""
        self.conn = self.sock = conn
        self.number, self.peer, self.proxy, self.listener = conn.number, conn.peer, conn.proxy, conn.listener
        self.protocol = protocol
        self.error: BaseException | None = None
        self.wrote_eof = False
        self._high, self._low = limits_of(None, None)
        self._name = conn.own_name  # our address, once the socket is gone
        self._closing = False
        self._told = self._leaves = False
        self._flow = threading.get_ident() if flow is None else flow
        self._lock = conn.make_lock()
        self._poller: select.poll | None = None
        self._stirs: Wake | Drain | None = None  # what the poller waits for beside input
        self._readable: threading.Event | None = None  # made by the first pause_reading()
        self._deadlines: TimerQueue | None = None  # made by the first call_later()
        self._calls: Calls | None = None  # made by hear_calls()
        self.waits_beside = False  # for the drain, a deadline or a call, beside the input

    @property
    def stays(self) -> bool:  # type: ignore[override]
        return self.conn.stays

    def stay(self) -> None:
        self.conn.stay()

    @property
    def log(self) -> dict[str, object]:
        return self.conn.log

    @property
    def draining(self) -> bool:
        return self.conn.draining

    @property
    def drain(self) -> Drain:
        return self.conn.drain

    @property
    def tls(self) -> TlsFacts | None:
        return self.conn.tls

    def write(self, data: Bytes) -> None:
        if self.wrote_eof:
            raise RuntimeError("write() after write_eof()")
        if self._closing:
            check_bytes(data)
            return
        try:
            with self._lock:
                if not self._closing:
                    self.conn.sendall(data)
                    self.conn.bytes_out += len(data)
        except OSError as error:
            self.break_off(error)
        if self.conn.draining:
            self.look_at_drain()

    def break_off(self, error: OSError) -> None:
        """Nothing more can be sent: the conversation ends."""
        self.error = error
        self._closing = True

    def look_at_drain(self) -> None:
        """Tell the protocol, on its own flow, that draining has begun, unless there is input that came before, or
        somebody on the bus waits for its answer."""
        mine = self.conn.draining and self._flow == threading.get_ident()
        if mine and not (unread(self.conn) or awaits_answer(self.conn.number)):
            self.tell_draining()

    def start_tls(
        self, context: ssl.SSLContext | None = None, *, after: Bytes = b"", timeout: float | None = None
    ) -> Done:
        """As a channel's (connection/channel.py), except that it returns when the handshake is done. RuntimeError on
        another flow of control than that of the protocol's callbacks."""
        if self._flow != threading.get_ident():
            raise RuntimeError("start_tls() belongs in a callback of the protocol")
        if self._closing or self.wrote_eof:
            raise RuntimeError("start_tls() of a connection that is closing")
        try:
            with self._lock:  # what other flows write meanwhile goes over TLS
                self.conn.start_tls(context, after=after, timeout=timeout)
        except OSError as error:
            self.break_off(error)
        self.conn.bytes_out += len(after)
        return Done(self.error)

    def check_tls(self, context: ssl.SSLContext | None) -> None:
        """Raise what start_tls() would."""
        assert self.conn.tls_starts is not None
        self.conn.tls_starts.check(self.conn, context)

    def write_eof(self) -> None:
        if not self.wrote_eof:
            self.wrote_eof = True
            try:
                self.conn.shutdown(socket.SHUT_WR)
            except OSError as error:
                self.error = error

    def close(self) -> None:
        """End the conversation: from another flow this wakes the one that reads."""
        if self._closing:
            return
        self._closing = True
        self.resume_reading()
        if self._flow != threading.get_ident():
            end_reading(self.conn)

    def abort(self) -> None:
        self.close()

    def end(self) -> None:
        """The conversation is over. Once this returns no other flow is in the middle of `write`, so that the number of
        the descriptor may be given to another connection."""
        if not self._lock.acquire(blocking=False):
            self.conn.waits.call(self._lock.acquire)
        self._closing = True
        self._lock.release()
        if self._calls is not None:
            self._calls.close()

    def tell_lost(self, error: BaseException | None) -> None:
        """End, and call the protocol's connection_lost; then let go of the protocol, which holds this transport."""
        self.end()
        if self._name is None:
            self.keep_sockname()
        self.protocol.connection_lost(error)
        self.protocol = None

    # What message handlers ask for.

    throttled = False

    def call_later(self, delay: float, call: Callable[[], object]) -> Entry:
        if self._deadlines is None:
            self._deadlines = TimerQueue()
        self.waits_beside = True
        return self._deadlines.add(time.monotonic() + delay, call)

    def pass_on(self, call: Callable[[], object]) -> None:
        call()

    def hear_calls(self) -> None:
        """From now on `call_in` is heard; to be called on the protocol's own flow."""
        if self._calls is None:
            self._calls = Calls()
            self._poller, self.waits_beside = None, True

    def call_in(self, call: Callable[[], object]) -> bool:
        """Have `call` called on the protocol's own flow, between two of its inputs, from any thread; false if it will
        not be."""
        if self._calls is None or self._closing:
            return False
        self._calls.put(call)
        return True

    def keep_idle(self, seconds: float) -> None:
        self.conn.keep_idle(seconds)

    def ended_by(self, error: BaseException | None) -> End:
        if error is not None and not is_peers_fault(error):
            return End.ERROR
        return end_of(self.conn.because(error))

    def run_deadlines(self) -> float:
        """Call what is due; seconds until the next is due, which may be infinite."""
        deadlines = self._deadlines
        if deadlines is None:
            return math.inf
        deadlines.run(time.monotonic())
        if not len(deadlines):
            self._deadlines, self.waits_beside = None, self.conn.hears_drain or self._calls is not None
            return math.inf
        return max(0.0, deadlines.next - time.monotonic())

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        if self._readable is None:
            self._readable = threading.Event()
        self._readable.clear()

    def resume_reading(self) -> None:
        if self._readable is not None:
            self._readable.set()

    def is_reading(self) -> bool:
        return not self._closing and (self._readable is None or self._readable.is_set())

    def wait_readable(self) -> None:
        """Wait while another flow of control keeps reading paused; draining ends the wait."""
        while self._readable is not None and not self.conn.waits.call(
            self._readable.wait, min(1.0, self.run_deadlines())
        ):
            if self.conn.draining or self.conn.cut_by is not None:
                self.resume_reading()

    def wait_for_input(self) -> bool:
        """Wait for input, the next deadline, or the drain, and tell the protocol of the drain; whether to read now."""
        if self._poller is None:
            self._poller = select.poll()
            self._poller.register(self.conn, select.POLLIN)
            if self._calls is not None:
                self._poller.register(self._calls, select.POLLIN)
            process = self.conn.process_drain
            if process is not None and self.conn.hears_drain and not self._told:
                self._stirs = process.stir()
                self._poller.register(self._stirs, select.POLLIN)
        rest = min(self.run_deadlines(), LOOK if self._leaves else math.inf)
        if self._closing:
            return False
        if self.conn.holds_input:
            return True
        ready = [fd for fd, _ in self.conn.waits.call(self._poller.poll, rest * 1000 if rest < math.inf else None)]
        if self._calls is not None and self._calls.fileno() in ready:
            self._calls.run()
            return False
        if self.conn.fileno() in ready:  # what came before the drain is told before it
            return True
        if self._stirs is not None and self._stirs.fileno() in ready:
            self._poller.unregister(self._stirs)
            self._stirs = None
            if not self.draining:  # goodbye is said to one after the other: from now on this one's own is waited for
                self._await_own()
            elif self._poller.poll(first_word_due(self.conn) * 1000):
                self._poller = None  # the drain is told behind the first word
                return True
            else:
                self.tell_draining()
        elif self._leaves:  # unless it is still asked on the bus
            self.tell_draining()
        return False

    def _await_own(self) -> None:
        try:
            assert self._poller is not None and self.drain is not None
            self._poller.register(self.drain, select.POLLIN)
            self._stirs = self.drain
        except OSError:  # there is no descriptor left
            self.tell_draining()

    def wait_closed(self) -> None:
        """Wait until the transport is closed: input is over, and the protocol asked to stay. Draining asks it again."""
        if self._closing:
            return
        self.pause_reading()
        assert self._readable is not None
        while not (self._closing or self.conn.cut_by is not None or self._late()):
            self.conn.waits.call(self._readable.wait, min(0.2, self.run_deadlines()))
            if self.draining:
                self.tell_draining()

    def _late(self) -> bool:
        drain = self.conn.process_drain
        return drain is not None and time.monotonic() >= drain.deadline

    def tell_draining(self) -> None:
        """Call the protocol's `draining()` once, on its own flow, and close unless it asks to stay; but not before it
        has answered what it was asked on the bus, and so this may be called again."""
        if not self._told:
            self._told = True
            tell = getattr(self.protocol, "draining", None)
            self._leaves = tell is None or not tell()
        if self._leaves and not self.stays:
            if awaits_answer(self.conn.number):
                self.conn.hears_drain = False  # it is ended from beside, once it owes nothing (in_flight.py)
            else:
                self.close()

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol
        self.conn.hears_drain = self.waits_beside = True  # the new one may want to stay
        self._poller = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is ever buffered here. ValueError unless high >= low >= 0."""
        self._high, self._low = limits_of(high, low)

    def get_write_buffer_size(self) -> int:
        return 0


class Calls:
    """What other threads want to have called on a flow of control, which waits for its descriptor beside its input."""

    __slots__ = ("_guard", "_waiting", "_wake")

    def __init__(self) -> None:
        self._wake = Wake()
        self._guard = threading.Lock()  # its descriptor's number is another's, once it is closed
        self._waiting: deque[Callable[[], object]] = deque()

    def fileno(self) -> int:
        return self._wake.fileno()

    def put(self, call: Callable[[], object]) -> None:
        self._waiting.append(call)
        with self._guard:
            self._wake.set()

    def run(self) -> None:
        self._wake.clear()
        while self._waiting:
            self._waiting.popleft()()

    def close(self) -> None:
        with self._guard:
            self._wake.close()


class Done:
    """A handshake that has ended; a coroutine may await it all the same."""

    __slots__ = ("_error", "protocol")
    done = True

    def __init__(self, error: BaseException | None) -> None:
        self._error = error
        self.protocol: Any = None

    def __await__(self) -> Generator[Any, None, None]:
        if self._error is not None:
            raise self._error
        yield from ()


def nothing_begun() -> bool:
    """Of a protocol that never holds half a message."""
    return False


def drive(
    protocol: Any, conn: Connection, partial: Callable[[], bool] = nothing_begun, *, hears_drain: bool = False
) -> None:
    """Hold one whole conversation of `protocol` over `conn`, blocking until it is over. `partial` tells whether the
    protocol holds half a message; one that `hears_drain` is told as soon as draining begins, since it may want to stay.

    An exception of the protocol passes through, after `connection_lost`; the end of the peer does not. Afterwards
    the connection is still open: the caller closes it, and closing lingers.
    """
    transport = BlockingTransport(conn, protocol)
    conn.drive(protocol, partial, hears_drain)
    transport.waits_beside = hears_drain
    converse(transport, functools.partial(protocol.connection_made, transport))


def converse(transport: BlockingTransport, begin: Callable[[], object]) -> None:
    """The same from what is to be called first."""
    conn = transport.conn
    error: BaseException | None = None
    try:
        begin()
        while not transport._closing:
            if transport._readable is not None:
                transport.wait_readable()
            if transport.waits_beside and not transport.wait_for_input():
                continue
            data = conn.recv(READ_SIZE)
            if data:
                conn.bytes_in += len(data)
                transport.protocol.data_received(data)
            elif conn.cut_by is not None:
                break
            elif conn.reading_shut:
                transport.tell_draining()
                transport.wait_closed()
                break
            else:
                conn.peer_ended = True
                if transport.protocol.eof_received():
                    transport.wait_closed()
                break
        error = transport.error or conn.cut_by
        if isinstance(error, HandshakeFailed):
            raise error
    except BaseException as raised:
        error = raised
        if passes_through(conn, raised):
            raise
    finally:
        if error is not None and is_peers_fault(error):
            conn.gone = error
        transport.tell_lost(error)


def passes_through(conn: Connection, error: BaseException) -> bool:
    """Whether what a conversation has raised concerns the caller; else it is how the peer broke off, which is noted."""
    is_peers = is_peers_fault(error)
    if is_peers:
        conn.gone = error
    return isinstance(error, HandshakeFailed) or not (is_peers and isinstance(error, OSError))
