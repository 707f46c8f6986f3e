"""The PROXY protocol's header, versions 1 and 2: bytes in, addresses out (HAProxy, doc/proxy-protocol.txt).

Law: no I/O. The reader says how many bytes the header still needs at least, and the caller reads no more than that:
what follows is the conversation, or TLS. Both versions are at least 15 bytes long, so the first read can be of 15.
Whatever the format does not allow is refused, since the header decides who a client is. The caller has checked that
the connection comes from a trusted proxy.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import msgspec

from pronghorn.errors import BadProxyHeader
from pronghorn.peers import Peer, plain

SHORTEST = 15
LONGEST_V1 = 107  # its CR and LF counted
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FIXED_V2 = 16
CRC32C = 3
FAMILIES = {b"TCP4": (socket.AF_INET, 7), b"TCP6": (socket.AF_INET6, 2)}  # and an address's shortest text
INET, INET6, UNIX = 1, 2, 3
SIZES = {0: 0, INET: 12, INET6: 36, UNIX: 216}


class ProxyHeader(msgspec.Struct, frozen=True):
    """What a proxy says of the connection behind it.

    `source` and `destination` are (host, port), or the path of a unix socket; both are None when the proxy speaks for
    itself (LOCAL, as for its health checks) or does not know (UNKNOWN): then the connection's own addresses hold.
    """

    version: int
    source: Peer | None = None
    destination: Peer | None = None
    extensions: bytes = b""
    """The type-length-value fields of version 2, as they came, their lengths checked."""
    via: Peer | None = None
    """The proxy's own address, which the header does not tell: the one that accept(2) gave."""

    def fields(self) -> Iterator[tuple[int, bytes]]:
        """The extensions one by one: type and value."""
        rest = self.extensions
        while rest:
            kind, length = struct.unpack_from("!BH", rest)
            yield kind, rest[3 : 3 + length]
            rest = rest[3 + length :]

    def field(self, kind: int) -> bytes | None:
        """The value of the first extension of this type (0x02 is the name that the client asked TLS for), or None."""
        return next((value for found, value in self.fields() if found == kind), None)


class HeaderReader:
    """Takes the bytes of one header as they come; `needs` says how many more there must be at least."""

    __slots__ = ("_data", "needs")

    def __init__(self) -> None:
        self._data = b""
        self.needs = SHORTEST

    @property
    def began(self) -> bool:
        """Whether a byte has come."""
        return bool(self._data)

    def feed(self, data: bytes) -> ProxyHeader | None:
        """Take at most `needs` bytes: the header once it is whole, None before.

        Raises BadProxyHeader as soon as this can become no header, ValueError if more is fed than was asked for.
        """
        if len(data) > self.needs:
            raise ValueError(f"{len(data)} bytes were fed where {self.needs} were needed")
        self._data += data
        header: ProxyHeader | None = None
        if b"PROXY ".startswith(self._data[:6]):
            header = self._feed_v1()
        elif SIGNATURE.startswith(self._data[: len(SIGNATURE)]):
            header = self._feed_v2()
        else:
            raise BadProxyHeader(f"the connection begins with {self._data[:SHORTEST]!r}")
        return header

    def _feed_v1(self) -> ProxyHeader | None:
        line = self._data
        if line.endswith(b"\r\n"):
            self.needs = 0
            return _parsed_v1(line[:-2])
        if b"\n" in line or b"\r" in line[:-1]:
            raise BadProxyHeader("a line of version 1 ends with CR LF, and has neither before")
        if len(line) < SHORTEST:
            self.needs = SHORTEST - len(line)
            return None
        self.needs = _least_v1(line)
        if len(line) + self.needs > LONGEST_V1:
            raise BadProxyHeader(f"a line of version 1 has at most {LONGEST_V1} bytes")
        return None

    def _feed_v2(self) -> ProxyHeader | None:
        data = self._data
        if len(data) < FIXED_V2:
            self.needs = (SHORTEST if len(data) < SHORTEST else FIXED_V2) - len(data)
            return None
        self.needs = FIXED_V2 + int.from_bytes(data[14:16], "big") - len(data)
        return _parsed_v2(data) if not self.needs else None


def _least_v1(line: bytes) -> int:
    """How many bytes a line that has not ended yet needs at least."""
    if line.endswith(b"\r"):
        return 1
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        return 2
    if words[1] not in FAMILIES:
        raise BadProxyHeader(f"version 1 has no family {words[1]!r}")
    address = FAMILIES[words[1]][1]
    shortest = (0, 0, address, address, 1, 1)
    if len(words) > len(shortest):
        raise BadProxyHeader("a line of version 1 has six words")
    last = max(0, shortest[len(words) - 1] - len(words[-1]))
    return last + sum(1 + each for each in shortest[len(words) :]) + len(b"\r\n")


def _parsed_v1(line: bytes) -> ProxyHeader:
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        return ProxyHeader(1)
    if len(words) != 6 or words[1] not in FAMILIES:
        raise BadProxyHeader("a line of version 1 is: PROXY TCP4 or TCP6, two addresses, two ports")
    family = FAMILIES[words[1]][0]
    hosts = [_host(family, word) for word in words[2:4]]
    ports = [_port(word) for word in words[4:6]]
    return ProxyHeader(1, (hosts[0], ports[0]), (hosts[1], ports[1]))


def _host(family: int, word: bytes) -> str:
    try:
        raw = socket.inet_pton(family, word.decode("ascii"))
    except (OSError, ValueError):
        raise BadProxyHeader(f"{word!r} is no address of its family") from None
    return plain(socket.inet_ntop(family, raw))


def _port(word: bytes) -> int:
    if not word.isdigit() or len(word) > 5 or (word[:1] == b"0" and word != b"0") or int(word) > 65535:
        raise BadProxyHeader(f"{word!r} is no port")
    return int(word)


def _parsed_v2(data: bytes) -> ProxyHeader:
    version, command = data[12] >> 4, data[12] & 15
    family, transport = data[13] >> 4, data[13] & 15
    if version != 2 or command > 1:
        raise BadProxyHeader(f"version {version}, command {command} is not known")
    if command == 0:
        return ProxyHeader(2)  # LOCAL: whatever stands in the block is to be passed over
    if family not in SIZES or transport > 2:
        raise BadProxyHeader(f"family {family}, transport {transport} is not known")
    block = data[FIXED_V2:]
    if len(block) < SIZES[family]:
        raise BadProxyHeader(f"{len(block)} bytes are no pair of addresses of family {family}")
    extensions = block[SIZES[family] :]
    _check_extensions(data, extensions)
    source, destination = _addresses(family, block)
    return ProxyHeader(2, source, destination, extensions)


def _addresses(family: int, block: bytes) -> tuple[Peer | None, Peer | None]:
    if family == UNIX:
        return _path(block[:108]), _path(block[108:216])
    if family == 0:
        return None, None
    size, kind = (4, socket.AF_INET) if family == INET else (16, socket.AF_INET6)
    one, other = (plain(socket.inet_ntop(kind, block[at : at + size])) for at in (0, size))
    ports = struct.unpack_from("!HH", block, 2 * size)
    return (one, ports[0]), (other, ports[1])


def _path(raw: bytes) -> str:
    """A unix socket's path; an abstract name begins with NUL, and is written with @ as elsewhere."""
    head = "@" if raw[:1] == b"\0" and raw.strip(b"\0") else ""
    return head + os.fsdecode(raw[len(head) :].split(b"\0", 1)[0])


def _check_extensions(data: bytes, extensions: bytes) -> None:
    place, end = 0, len(extensions)
    start = len(data) - end
    while place < end:
        if end - place < 3:
            raise BadProxyHeader("an extension is cut short")
        kind, length = struct.unpack_from("!BH", extensions, place)
        place += 3
        if place + length > end:
            raise BadProxyHeader("an extension is longer than the header")
        if kind == CRC32C:
            _check_sum(data, start + place, length)
        place += length


def _check_sum(data: bytes, place: int, length: int) -> None:
    """The checksum is of the whole header, with zeros where it stands itself."""
    blank = data[:place] + b"\0" * length + data[place + length :]
    if length != 4 or int.from_bytes(data[place : place + 4], "big") != crc32c(blank):
        raise BadProxyHeader("its checksum is wrong")


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum (RFC 3720, appendix B.4), bit by bit: headers are short, and few carry one."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (0x82F63B78 & -(remainder & 1))
    return remainder ^ 0xFFFFFFFF
