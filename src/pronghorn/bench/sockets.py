"""Sockets and the poller of a load process: epoll(7), or poll(2) where there is none, to the microsecond."""

from __future__ import annotations

import ctypes
import errno
import select
import socket
import sys

EPOLLIN, EPOLLOUT = select.POLLIN, select.POLLOUT  # of the same value in epoll(7)
CONNECTING = (errno.EINPROGRESS, errno.EINTR)
AGAIN = (errno.EAGAIN, errno.EWOULDBLOCK)
BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)  # Linux; Python names it since 3.12
PR_SET_TIMERSLACK = 29
SHORT = 0.002  # seconds: epoll_wait(2) counts milliseconds, select(2) microseconds
NAMES = {
    errno.ECONNREFUSED: "refused",
    errno.ENOENT: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "timeout",
    errno.EADDRNOTAVAIL: "no free port",
    errno.EMFILE: "out of descriptors",
    errno.ENFILE: "out of descriptors",
}
Address = tuple[str, int] | str
"""(host, port), or the path of a unix socket, or @ and its abstract name."""


def is_connected(sock: socket.socket | None) -> bool:
    try:
        return sock is not None and bool(sock.getpeername())
    except OSError:
        return False


def failure(error: OSError) -> str:
    """What an error of a connection is counted as: `refused`, `reset`, ..., or the name of its number."""
    return NAMES.get(error.errno or 0) or errno.errorcode.get(error.errno or 0, "error")


def place_of_address(address: Address) -> Address | bytes:
    """The address as connect(2) takes it."""
    return b"\0" + address[1:].encode() if isinstance(address, str) and address.startswith("@") else address


def new_socket(address: Address, number: int = 0, sources: int = 0) -> socket.socket:
    """A socket that does not block, for a connection to `address`; of IPv4 it comes from one of `sources` addresses of
    127.0.0.0/8, by its number, since one source has only some ten thousand ports. Raises OSError."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        sock.setblocking(False)
        if sources:
            sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.0.{number // 250 % 250}.{1 + number % min(sources, 250)}", 0))
    except OSError:
        sock.close()
        raise
    return sock


def connection(address: Address, seconds: float) -> socket.socket:
    """A connected socket that blocks, for so many seconds at most. Raises OSError."""
    if not isinstance(address, str):
        return socket.create_connection(address, timeout=seconds)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(seconds)
    try:
        sock.connect(place_of_address(address))
    except OSError:
        sock.close()
        raise
    return sock


def wake_on_time() -> None:
    """Has the kernel wake this process to the microsecond, and not within 50 of them (Linux, PR_SET_TIMERSLACK)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)


class Poller:
    """Which descriptors are ready; `wait` returns (descriptor, mask) pairs."""

    def __init__(self) -> None:
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._poll = None if self._epoll else select.poll()
        poller = self._epoll or self._poll
        assert poller is not None
        self.add, self.change = poller.register, poller.modify

    def remove(self, fd: int) -> None:
        """Before a descriptor is closed, registered or not: epoll(7) forgets it by itself."""
        if self._poll is not None:
            try:
                self._poll.unregister(fd)
            except KeyError:
                pass  # its first message could not be sent, before anybody waited for it

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        if self._epoll is None:
            assert self._poll is not None
            return self._poll.poll(seconds * 1000)
        if 0 < seconds < SHORT:
            if not select.select([self._epoll], [], [], seconds)[0]:
                return []
            seconds = 0
        return self._epoll.poll(seconds)
