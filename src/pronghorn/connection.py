"""One accepted connection, and the ways to hold it that may block.

Law: the states of a connection and their transitions are declared here and nowhere else. `Connection` is a plain
blocking socket with a few facts on it, because existing handlers expect exactly that; it is never put into a loop
(channel.py does that). Closing lingers: `close(2)` with unread input makes the kernel send a reset, which throws away
what the peer has not read yet (RFC 1122, 4.2.2.13).

Tried and dropped: a wrapper around the socket that forwards calls. Handlers hand their socket to ssl, selectors and
makefile, which want a real one.
"""

from __future__ import annotations

import _socket
import enum
import errno
import math
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from pronghorn import whereabouts
from pronghorn.bare import Bare
from pronghorn.errors import PeerError
from pronghorn.lifespans import current_lifespan
from pronghorn.listener import Drain, Peer
from pronghorn.proxy_protocol import ProxyHeader
from pronghorn.socket_facts import identity, tcp_info, unread, unsent
from pronghorn.transport import Transport, counted
from pronghorn.waits import Straight, Waits

READ_SIZE = 64 * 1024
LINGER_TIMEOUT = 2.0
FIRST_WORD = 1.0  # seconds after accept(2) in which draining does not turn away a client that has said nothing yet
LAST_WORDS = 1.0  # seconds before the drain deadline
PATIENCE_LOST = LINGER_TIMEOUT / 8  # by each look that finds more input, although everything was acknowledged
LINGER_LOOK = 0.05  # seconds between two looks at what the peer has acknowledged
PEER_GONE = frozenset(
    {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN, errno.ETIMEDOUT, errno.ESHUTDOWN}
    | {errno.EHOSTUNREACH, errno.ENETUNREACH}
)


class State(enum.Enum):
    """Where a connection is. HALF_CLOSED: one side has said its last word, the other may still speak."""

    OPENING = "opening"
    OPEN = "open"
    HALF_CLOSED = "half closed"
    CLOSING = "closing"
    CLOSED = "closed"

    __hash__ = object.__hash__  # enum's is Python code


TRANSITIONS: dict[State, frozenset[State]] = {
    State.OPENING: frozenset({State.OPEN, State.CLOSING, State.CLOSED}),
    State.OPEN: frozenset({State.HALF_CLOSED, State.CLOSING, State.CLOSED}),
    State.HALF_CLOSED: frozenset({State.CLOSING, State.CLOSED}),
    State.CLOSING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}


def moved(current: State, target: State) -> State:
    """`target`, if the table allows the step from `current`; else RuntimeError, which is a fault of ours."""
    if target is not current and target not in TRANSITIONS[current]:
        raise RuntimeError(f"a connection cannot go from {current.value} to {target.value}")
    return target


def is_peers_fault(error: BaseException) -> bool:
    """Whether an error says no more than that the peer went away or broke a rule."""
    if isinstance(error, (PeerError, ConnectionError)):
        return True
    return isinstance(error, OSError) and error.errno in PEER_GONE


_trash = bytearray(READ_SIZE)  # where discarded input goes; nobody reads it


def discard(sock: _socket.socket) -> bool:
    """Throw away the input that is there, without blocking; True when the peer has ended or is gone."""
    try:
        for _ in range(16):
            if not sock.recv_into(_trash):
                return True
    except (BlockingIOError, InterruptedError):
        pass
    except OSError:
        return True
    return False


def linger(sock: socket.socket, *, reading_shut: bool = False, until: float = math.inf) -> None:
    """Say our last word and let the peer take it: half-close, then discard input until the peer has ended, or has
    acknowledged everything and says no more, or LINGER_TIMEOUT seconds are over. `reading_shut`: an end of input
    proves nothing; `until`: a deadline (monotonic) that ends it sooner.
    """
    try:
        sock.setblocking(False)  # a handler may have left a timeout, or none
        os.set_blocking(sock.fileno(), False)  # and a program needs it blocking, of which gevent's socket knows nothing
        sock.shutdown(socket.SHUT_WR)
    except (OSError, ValueError):  # closed, by the handler or the peer
        return
    deadline = min(until, time.monotonic() + LINGER_TIMEOUT)
    poller = None
    while True:
        came = unread(sock) > 0  # then more may be on its way, and to close would answer it with a reset
        ended = discard(sock)
        deadline -= PATIENCE_LOST * (came and not unsent(sock))  # but who speaks on and on is not heard out
        if (ended and not reading_shut) or not (came or unsent(sock)) or time.monotonic() >= deadline:
            return
        if ended:
            time.sleep(LINGER_LOOK)
            continue
        if poller is None:
            poller = select.poll()
            poller.register(sock, select.POLLIN)
        poller.poll(LINGER_LOOK * 1000)


def close(sock: _socket.socket) -> None:
    """Close a descriptor; what close(2) reports of its last moments concerns nobody any more, and it is closed."""
    try:
        sock.close()
    except OSError:
        pass


def end(sock: socket.socket) -> None:
    """Close a descriptor, and end the connection with it: a copy of the descriptor in a child process that the handler
    has forked would keep it open, and its client waiting (shutdown(2) ends it for all copies)."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the peer has ended it, or is gone
    close(sock)


def turn_away(fd: int) -> None:
    """Close an accepted descriptor unserved, in order: so that its client reads an end. Its number is free at once."""
    try:
        sock = _socket.socket(fileno=fd)  # gevent's would be closed later
    except OSError:
        os.close(fd)
        return
    _say_no(sock)
    close(sock)


def _say_no(sock: _socket.socket) -> None:
    try:
        sock.setblocking(False)
        sock.shutdown(socket.SHUT_WR)
        discard(sock)
    except OSError:
        pass


class Facts(Bare):
    """What every blocking connection carries beside its socket; a mixin, for sockets of more than one family."""

    fileno: Callable[[], int]
    detach: Callable[[], int]
    number: int
    """Counted from 1 in each worker."""
    peer: Peer
    """The address that accept(2) gave: after a reset getpeername(2) no longer tells."""
    opened: float
    bytes_in: int
    bytes_out: int
    reading_shut: bool
    hears_drain: bool
    """Its own flow of control waits for the drain beside its input, and tells its protocol."""
    drain: Drain | None
    partial: Callable[[], bool] | None
    on_cut: Callable[[], None] | None
    protocol: Any
    """What is driven over the connection, if it is a protocol: or the channel over it, on a loop of its own."""
    proxy: ProxyHeader | None
    """What the proxy said, if one made the connection for its client."""
    seen: Any
    """What timeouts.py has seen of it."""
    leave: Callable[[float, float], None] | None
    """Asks the loop of its own that has it to end the conversation by a deadline, within so many seconds."""
    cancel: Callable[[], None] | None
    """Asks that loop to cancel what its handler runs, when the drain deadline is there."""
    leaves_by: float
    """The deadline that was told."""
    flow: int
    """The native id of the thread that converses; 0 before."""
    program: int
    """The process id of the program behind it; 0 where there is none."""
    silent_since: float
    """Since when (monotonic) it seems to owe nothing; infinite while it does."""
    stays: bool
    """Its handler does not want to be ended by draining."""
    cut_by: BaseException | None
    """Why it was cut, if it was."""
    program_end: str
    """How the program behind it ended: `exit status 1`, `killed by SIGSEGV`; empty where there is none."""
    waits: Straight = Straight()
    fd: int
    """The number that its descriptor had at first."""
    inode: int
    """By what its descriptor can be told from whatever may have its number later."""
    lost: bool
    """Somebody else has closed its descriptor."""

    def begin(self, number: int, peer: Peer, drain: Drain | None) -> None:
        self.number, self.peer, self.drain = number, peer, drain
        self.opened = time.monotonic()
        self.bytes_in = self.bytes_out = 0
        self.reading_shut = self.hears_drain = self.stays = False
        self.partial = self.on_cut = self.protocol = self.proxy = self.seen = self.leave = self.cancel = None
        self.leaves_by = self.silent_since = math.inf
        self.flow = self.program = 0
        self.cut_by: BaseException | None = None
        self.program_end = ""
        self.fd = self.fileno()
        self.inode = identity(self.fd)
        self.lost = False

    def is_own(self) -> bool:
        """Whether the descriptor still leads where it led, or was taken or closed in order."""
        fd = self.fileno()
        return fd < 0 or identity(fd) == self.inode or self.fileno() != fd  # closed in order by another flow, just now

    def lose(self) -> None:
        """Somebody else has closed the descriptor: touch it no more, since its number may be another's."""
        self.lost = True
        self.detach()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As multiprocessing sends a plain socket: a descriptor of the same connection, in the other process."""
        if "multiprocessing.reduction" not in sys.modules or self.tls is not None:
            why = "" if self.tls is None else ": the keys of its TLS are here"
            raise TypeError(f"cannot pickle {type(self).__name__!r} object{why}")
        from multiprocessing import reduction

        return reduction._reduce_socket(self)  # type: ignore[attr-defined]

    @property
    def local(self) -> Any:
        """The address that the client has connected to, as (host, port) or the path of a unix socket: the PROXY
        header's destination, where a proxy speaks for the client. Raises OSError for a closed connection."""
        if self.proxy is not None and self.proxy.destination is not None:
            return self.proxy.destination
        own = self.getsockname()  # type: ignore[attr-defined]
        return own[:2] if isinstance(own, tuple) else os.fsdecode(own)

    @property
    def messages(self) -> int:
        """Messages that a framing has cut so far; 0 for a handler without one."""
        return counted(self.protocol)

    @property
    def unfinished(self) -> bool:
        """Whether a part of a message has come, and the rest is waited for."""
        return getattr(self.protocol, "unfinished", False)

    @property
    def received(self) -> int:
        """Bytes that have been read so far, by whoever reads them."""
        return self.protocol.bytes_in if isinstance(self.protocol, Transport) else self.bytes_in

    @property
    def draining(self) -> bool:
        """True once the server wants to stop: a handler finishes what it has begun, and leaves."""
        return self.drain is not None and self.drain.begun

    def stay(self) -> None:
        """The handler wants to go on although the server drains: until it ends the conversation, or until the drain
        deadline."""
        self.stays = True

    def whereabouts(self) -> whereabouts.Place:
        """What its flow of control, or its program, waits for."""
        if self.program:
            return whereabouts.of_program(self.program, self.fileno())
        if self.flow:
            return whereabouts.of_thread(self.flow, self.fileno())
        return whereabouts.UNKNOWN

    def measure(self) -> None:
        """Count the bytes of a handler that reads and writes by itself, as far as the kernel knows them."""
        info = tcp_info(self)  # type: ignore[arg-type]
        if info is not None:
            self.bytes_in, self.bytes_out = info.bytes_in, info.bytes_out

    def linger(self, until: float = math.inf) -> None:
        """Say our last word and let the peer take it: see linger()."""
        linger(self, reading_shut=self.reading_shut, until=until)  # type: ignore[arg-type]

    @property
    def lifespan(self) -> Any:
        """What the handler's lifespan yielded in this worker."""
        return current_lifespan()


FACTS = tuple(
    "number peer proxy opened bytes_in bytes_out protocol seen cut_by program_end reading_shut hears_drain "
    "drain partial on_cut leave cancel leaves_by flow program silent_since stays fd inode lost".split()
)


class Connection(Facts, socket.socket):
    """One accepted connection as a blocking handler sees it: a blocking socket with `number`, `peer`, `draining` and
    `lifespan`."""

    __slots__ = FACTS

    def end(self) -> None:
        """Close the descriptor, whatever files a handler left open on it."""
        let_go(self)

    def _real_close(self, _ss: Any = None) -> None:
        # Where socket.close() and the last makefile() object both end up: the only door to linger behind.
        if hasattr(self, "reading_shut"):  # a copy that dup() made has no facts: the connection goes on without it
            self.linger()
        _socket.socket.close(self)


def _seen(call: Callable[..., Any]) -> Callable[..., Any]:
    def wait(conn: SeenConnection, *args: Any, **kwargs: Any) -> Any:
        flows, me = conn.waits.flows, threading.get_ident()  # as Waits.call, without one more call for each message
        flows.add(me)
        try:
            return call(conn, *args, **kwargs)
        finally:
            flows.discard(me)

    return wait


class SeenConnection(Connection):
    """A connection whose waits can be seen from another flow of control. It is a blocking socket as before: nothing
    wakes it."""

    __slots__ = ()
    waits: Waits = Waits()
    recv = _seen(socket.socket.recv)
    recv_into = _seen(socket.socket.recv_into)
    recvfrom = _seen(socket.socket.recvfrom)
    recvfrom_into = _seen(socket.socket.recvfrom_into)
    recvmsg = _seen(socket.socket.recvmsg)
    recvmsg_into = _seen(socket.socket.recvmsg_into)
    send = _seen(socket.socket.send)
    sendall = _seen(socket.socket.sendall)
    sendmsg = _seen(socket.socket.sendmsg)
    sendfile = _seen(socket.socket.sendfile)


def let_go(sock: socket.socket) -> None:
    """Close this process's descriptor and nothing else: no lingering, no half-close; others may hold the socket."""
    fd = sock.detach()
    if fd >= 0:
        try:
            os.close(fd)
        except OSError:  # see close()
            pass


def end_unserved(conn: Connection) -> None:
    """Close a connection whose handler was never called, in order: so that its client reads an end."""
    _say_no(conn)
    conn.end()


def first_word_due(conn: Any) -> float:
    """Seconds that a Connection or a Channel still gets for its first byte although draining began.

    A client connects and then writes: between the two it was accepted, and owes nothing. To end it there would lose
    it, and a reload must lose nobody. One that has said something, or had its time, gets nothing more.
    """
    if conn.bytes_in or conn.drain is None:
        return 0.0
    due: float = conn.opened + min(FIRST_WORD, conn.drain.timeout / 2) - time.monotonic()
    return max(0.0, due)


def last_call(deadline: float, timeout: float) -> float:
    """When the end is told to those that still owe something: so long before the deadline of their drain, which has
    `timeout` seconds in all, that they may say what they still have to say."""
    return deadline - min(LAST_WORDS, timeout / 4)


def end_reading(conn: Connection) -> None:
    """Make the peer appear to have finished: the handler's next read finds the end (shutdown(2), SHUT_RD)."""
    conn.reading_shut = True
    if not conn.is_own():
        conn.lose()
    try:
        conn.shutdown(socket.SHUT_RD)
    except OSError:
        pass


def drop_unsent(sock: socket.socket) -> None:
    """Have the kernel throw away what is unsent when the socket is closed, instead of keeping it for a peer that takes
    nothing (socket(7), SO_LINGER with a time of 0: the peer finds a reset)."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
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
