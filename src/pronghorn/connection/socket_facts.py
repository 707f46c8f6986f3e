"""What the kernel knows of one connected socket (inode, unsent, unread, TCP_INFO), and what was seen of it before."""

from __future__ import annotations

import _socket
import fcntl
import os
import socket
import struct
import sys
import termios
from typing import NamedTuple

PEER_HAS_ENDED = frozenset({6, 8, 9, 11})  # TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING: include/net/tcp_states.h
TCP_STATES = (
    "ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT1 FIN_WAIT2 TIME_WAIT CLOSE CLOSE_WAIT LAST_ACK LISTEN CLOSING NEW_SYN_RECV"
).split()
"""By the kernel's numbers, from 1 (net/tcp_states.h)."""
COOKIE = 57 if sys.platform == "linux" and not os.uname().machine.startswith(("sparc", "parisc")) else 0
"""SO_COOKIE (asm-generic/socket.h), which the socket module does not have; 0 where it is another number."""
LONG_REPLY = 16 * 1024  # bytes unsent that are no afterthought


def identity(fd: int) -> int:
    """By what the kernel tells the socket from others that a descriptor leads to (its inode); 0 for a closed one.

    A number says nothing: a handler may have closed it, and then it is given to whatever is opened next.
    """
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return 0


def mark_of(sock: _socket.socket) -> bytes | int:
    """The same of a socket's own descriptor, at half the price, and without giving the interpreter lock up, as fstat(2)
    does: its cookie (SO_COOKIE, since Linux 4.12); its inode where the kernel tells none."""
    if COOKIE:
        try:
            return sock.getsockopt(socket.SOL_SOCKET, COOKIE, 8)
        except OSError:  # it leads to no socket
            pass
    return identity(sock.fileno())


def unsent(sock: _socket.socket) -> int:
    """Bytes that the peer's kernel has not acknowledged yet, our FIN included (SIOCOUTQ, tcp(7)); 0 if unknown."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except (OSError, ValueError):  # closed meanwhile
        return 0


def unread(sock: _socket.socket) -> int:
    """Bytes that wait in the receive queue (SIOCINQ, tcp(7)); 0 if unknown."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0\0\0\0"))[0])
    except (OSError, ValueError):  # closed meanwhile
        return 0


WE_HAVE_ENDED = frozenset((4, 5, 6, 9, 11))
"""FIN_WAIT1, FIN_WAIT2, TIME_WAIT, LAST_ACK and CLOSING: our FIN is sent, and counts as a byte."""
OUR_END_IS_TAKEN = frozenset((5, 6))
"""FIN_WAIT2 and TIME_WAIT: our FIN is acknowledged, and counts as a byte there, too."""
CLOSED = 7


class TcpInfo(tuple[int, int, int, int, int]):
    """The five facts of the kernel's TCP_INFO (tcp(7)) that serving needs."""

    __slots__ = ()
    state = property(lambda self: self[0])
    ms_since_sent = property(lambda self: self[1])
    ms_since_received = property(lambda self: self[2])
    bytes_out = property(lambda self: self[3])
    bytes_in = property(lambda self: self[4] - (self[0] in PEER_HAS_ENDED))  # the kernel counts a FIN as a byte


def tcp_info(sock: _socket.socket) -> TcpInfo | None:
    """What the kernel knows of a TCP connection, or None where it does not tell (unix sockets, other systems)."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
        return TcpInfo((raw[0], *struct.unpack_from("I4xI", raw, 44), *struct.unpack_from("QQ", raw, 120)))
    except (OSError, struct.error):
        return None


class KernelFacts(NamedTuple):
    """What the kernel tells a person of one TCP connection (tcp(7), TCP_INFO, SIOCINQ, SIOCOUTQ)."""

    tcp_state: str
    """As ss(8) and netstat(8) write it: `ESTABLISHED`, `CLOSE_WAIT`."""
    rtt_us: int
    """Round-trip time, smoothed, in microseconds."""
    retransmits: int
    """Segments that were sent again, since the connection began."""
    idle: float
    """Seconds since a byte came or went."""
    bytes_in: int
    bytes_out: int


def kernel_facts(sock: _socket.socket) -> KernelFacts | None:
    """The same of one socket, or None where the kernel does not tell (unix sockets, other systems, a closed one)."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
        info = TcpInfo((raw[0], *struct.unpack_from("I4xI", raw, 44), *struct.unpack_from("QQ", raw, 120)))
        rtt, retransmits = struct.unpack_from("I28xI", raw, 68)
    except (OSError, struct.error):
        return None
    state = TCP_STATES[info.state - 1] if 0 < info.state <= len(TCP_STATES) else "?"
    idle = min(info.ms_since_sent, info.ms_since_received) / 1000
    return KernelFacts(state, rtt, retransmits, idle, info.bytes_in, info.bytes_out)


class Seen:
    """What passes over the open connections have noted of one, for its deadlines (serving/timeouts.py); made by the
    first pass, so that short connections never have it. Instants are monotonic seconds."""

    __slots__ = tuple("acknowledged bytes_in handed heard idle look_at messages partial stalled taken took".split())

    def __init__(self, opened: float) -> None:
        self.idle = -1.0  # the idle timeout of this connection, 0 for none; negative: as the setting says
        self.bytes_in = 0
        self.heard = opened  # when the last byte came
        self.messages = 0
        self.partial = 0.0  # when the message that is unfinished began
        self.acknowledged = 0  # what was sent when a look found all of it acknowledged
        self.taken = -1  # how much the peer had taken when it last took something
        self.handed = 0  # where what was unsent then came to its end
        self.took = 0.0  # when it was last seen to take something of a long reply
        self.stalled = 0.0  # since when it has taken nothing; 0 if nothing is unsent
        self.look_at = 0.0  # not worth a look before

    def take(self, taken: int, held: int, more: bool, now: float) -> None:
        """The peer has taken so much in all, and `held` is unsent in the kernel. It is alive while it takes of a long
        reply: some of what was unsent at the look before is so still, or much is, or there is `more` here."""
        if self.stalled and taken > self.taken and (more or taken < self.handed or held >= LONG_REPLY):
            self.took = now
        self.handed = taken + held
        if not self.stalled or taken != self.taken:
            self.stalled, self.taken = now, taken
