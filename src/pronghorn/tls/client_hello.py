"""The ClientHello, a TLS client's first message: how long it is, and the ALPN names in it, which Python does not tell.

Law: bytes in, names out; no I/O, and nothing raises. A message that cannot be read here offers nothing: OpenSSL, which
reads the same bytes, decides what a ClientHello is. It may be cut into as many records as it has bytes: each byte is
looked at once, and no more is kept than the message.
"""

from __future__ import annotations

HANDSHAKE, CLIENT_HELLO, ALPN = 22, 1, 16  # RFC 8446, 5.1 and 4; RFC 7301, 3.1
RECORD_HEAD, MESSAGE_HEAD = 5, 4  # bytes (RFC 8446, 5.1 and 4)


class Hello:
    """The ClientHello of one connection, as it comes."""

    __slots__ = ("_head", "_left", "_message", "complete", "size")

    def __init__(self) -> None:
        self._head = b""  # what came of the head of a record
        self._left = 0  # bytes of a record that are to come
        self._message = bytearray()
        self.complete = False
        """Nothing of what comes now belongs to it: it is whole, or is none."""
        self.size = 0
        """Bytes that came until it was complete, the records' heads counted."""

    def feed(self, data: bytes) -> None:
        """Takes what came; once it is complete, nothing more."""
        at = 0
        while at < len(data) and not self.complete:
            if not self._left:
                more = data[at : at + RECORD_HEAD - len(self._head)]
                at += len(more)
                self._head += more
                self.complete = self._head[0] != HANDSHAKE
                if len(self._head) == RECORD_HEAD:
                    self._left, self._head = int.from_bytes(self._head[3:]), b""
            else:
                more = data[at : at + self._left]
                at += len(more)
                self._left -= len(more)
                self._message += more
                self.complete = len(self._message) >= MESSAGE_HEAD + self._length()
        self.size += at

    def offered(self) -> list[bytes]:
        """The protocols that the client would speak; empty if it names none, or has not said all."""
        try:
            if self._message[:1] != bytes([CLIENT_HELLO]):
                return []
            hello = _Reader(_Reader(bytes(self._message[1:])).block(3))
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

    def _length(self) -> int:
        """What the message says of its length; more than there can be as long as that has not come."""
        return int.from_bytes(self._message[1:MESSAGE_HEAD]) if len(self._message) >= MESSAGE_HEAD else 1 << 24


def _names(listed: _Reader) -> list[bytes]:
    names = []
    while listed.left:
        names.append(listed.block(1))
    return names


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
