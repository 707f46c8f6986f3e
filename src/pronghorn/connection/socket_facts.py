"""What the kernel knows of one connected socket: which it is, what is unsent, what is unread, and a few facts of
TCP_INFO."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios

PEER_HAS_ENDED = frozenset({6, 8, 9, 11})  # TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING: include/net/tcp_states.h


def identity(fd: int) -> int:
    """By what the kernel tells the socket from others that a descriptor leads to (its inode); 0 for a closed one.

    A number says nothing: a handler may have closed it, and then it is given to whatever is opened next.
    """
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return 0


def unsent(sock: socket.socket) -> int:
    """Bytes that the peer's kernel has not acknowledged yet, our FIN included (SIOCOUTQ, tcp(7)); 0 if unknown."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except (OSError, ValueError):  # closed meanwhile
        return 0


def unread(sock: socket.socket) -> int:
    """Bytes that wait in the receive queue (SIOCINQ, tcp(7)); 0 if unknown."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0\0\0\0"))[0])
    except (OSError, ValueError):  # closed meanwhile
        return 0


class TcpInfo(tuple[int, int, int, int, int]):
    """The five facts of the kernel's TCP_INFO (tcp(7)) that serving needs."""

    __slots__ = ()
    state = property(lambda self: self[0])
    ms_since_sent = property(lambda self: self[1])
    ms_since_received = property(lambda self: self[2])
    bytes_out = property(lambda self: self[3])
    bytes_in = property(lambda self: self[4] - (self[0] in PEER_HAS_ENDED))  # the kernel counts a FIN as a byte


def tcp_info(sock: socket.socket) -> TcpInfo | None:
    """What the kernel knows of a TCP connection, or None where it does not tell (unix sockets, other systems)."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
        return TcpInfo((raw[0], *struct.unpack_from("I4xI", raw, 44), *struct.unpack_from("QQ", raw, 120)))
    except (OSError, struct.error):
        return None
