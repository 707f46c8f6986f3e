"""What a client offers in its first words of TLS, which Python's ssl does not tell: the names of ALPN.

Law: bytes in, names out; no I/O, and nothing raises. What cannot be read offers nothing: OpenSSL, which reads the same
bytes, has the say in what a ClientHello is.
"""

from __future__ import annotations

HANDSHAKE, CLIENT_HELLO, ALPN = 22, 1, 16  # RFC 8446, 5.1 and 4; RFC 7301, 3.1


def offered(came: bytes) -> list[bytes]:
    """The protocols that the client would speak, of all `came` from it so far; empty if it names none."""
    try:
        hello = _Reader(_first_message(came))
        hello.take(2 + 32)  # version, random
        hello.block(1)  # session
        hello.block(2)  # ciphers
        hello.block(1)  # compression
        extensions = _Reader(hello.block(2))
        while extensions.left:
            kind, content = extensions.number(2), extensions.block(2)
            if kind == ALPN:
                return _names(_Reader(_Reader(content).block(2)))
    except ValueError:
        pass
    return []


def _names(listed: _Reader) -> list[bytes]:
    names = []
    while listed.left:
        names.append(listed.block(1))
    return names


def _first_message(came: bytes) -> bytes:
    """The body of the ClientHello, which may be cut into several records."""
    records, message = _Reader(came), b""
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4]):
        if records.number(1) != HANDSHAKE:
            raise ValueError("no handshake")
        records.take(2)  # version
        message += records.block(2)
    if message[0] != CLIENT_HELLO:
        raise ValueError("no ClientHello")
    return message[4 : 4 + int.from_bytes(message[1:4])]


class _Reader:
    """Bytes from the front; ValueError where there are too few."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise ValueError("it ends too early")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def block(self, size: int) -> bytes:
        """What has its length in front, in so many bytes."""
        return self.take(self.number(size))
