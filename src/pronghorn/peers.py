"""Peers: their addresses, the networks that these are in, and who may connect.

Law: text in, yes or no out; no name is resolved and no socket is touched. An IPv4-mapped IPv6 address
(`::ffff:192.0.2.1`, in whatever spelling: RFC 4291, 2.5.5.2) is the IPv4 address, everywhere, and so is a network of
such: a filter that takes them for two lets one of them through. A zone (`%eth0`) says by which interface an address is
reached and is no part of it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

MAPPED = b"\0" * 10 + b"\xff\xff"
UNIX = "unix"
Peer = tuple[str, int] | str
"""(host, port), or a unix peer's path, which is mostly empty."""


def packed(host: str) -> bytes:
    """The 4 or 16 bytes of an address in figures; ValueError if it is none."""
    host = host.partition("%")[0]
    try:
        if ":" not in host:
            return socket.inet_pton(socket.AF_INET, host)
        raw = socket.inet_pton(socket.AF_INET6, host)
    except (OSError, ValueError):
        raise ValueError(f"{host!r} is no address in figures") from None
    return raw[12:] if raw.startswith(MAPPED) else raw


def plain(host: str) -> str:
    """An IPv4-mapped IPv6 address as the IPv4 address; any other text as it stands."""
    try:
        raw = packed(host) if ":" in host else b""
    except ValueError:
        return host
    return socket.inet_ntoa(raw) if len(raw) == 4 else host


def short_peer(peer: Peer | int) -> Peer | int:
    """A peer of IPv4 as one number, which takes a quarter of the memory; any other as it is."""
    if not isinstance(peer, tuple) or ":" in peer[0]:
        return peer
    try:
        number = int.from_bytes(socket.inet_pton(socket.AF_INET, peer[0]), "big") << 16 | peer[1]
    except (OSError, ValueError):
        return peer
    return number if peer_of(number) == peer else peer


def peer_of(number: int) -> Peer:
    """The peer that `short_peer` has made a number of."""
    return socket.inet_ntoa((number >> 16).to_bytes(4, "big")), number & 0xFFFF


def network(text: str) -> tuple[bytes, int]:
    """The first address of a network, packed, and the length of its prefix; ValueError says what is wrong.

    `192.0.2.0/24`, `2001:db8::/32`, or one address without a prefix (RFC 4632, 3.1; RFC 4291, 2.3).
    """
    host, slash, digits = text.partition("/")
    if "%" in host:
        raise ValueError(f"{text!r} has a zone, which is no part of a network")
    raw = packed(host)
    most = 128 if ":" in host else 32
    if slash and not (digits.isascii() and digits.isdigit() and int(digits) <= most):
        raise ValueError(f"{text!r} has no prefix length from 0 to {most}")
    length = int(digits) if slash else most
    if most == 128 and len(raw) == 4:
        if length < 96:
            raise ValueError(f"{text!r} is partly IPv4 and partly not: write the IPv4 network")
        length -= 96
    first = _masked(raw, length)
    if first != raw:
        family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
        raise ValueError(f"{text!r} has bits beyond its prefix: write {socket.inet_ntop(family, first)}/{length}")
    return first, length


def _masked(raw: bytes, length: int) -> bytes:
    beyond = len(raw) * 8 - length
    return (int.from_bytes(raw, "big") >> beyond << beyond).to_bytes(len(raw), "big")


class Networks:
    """A set of networks, and `unix` if it was among them. Finding costs one look for each length of prefix."""

    __slots__ = ("_lengths", "unix")

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """Raises ValueError for what `network` cannot read."""
        found: dict[tuple[int, int], set[bytes]] = {}
        self.unix = False
        for text in texts:
            if text == UNIX:
                self.unix = True
                continue
            first, length = network(text)
            found.setdefault((len(first), length), set()).add(first)
        # The narrowest first.
        self._lengths = [(size, length, found[size, length]) for size, length in sorted(found, reverse=True)]

    def __bool__(self) -> bool:
        return self.unix or bool(self._lengths)

    def longest(self, address: bytes) -> int:
        """The length of the prefix of the narrowest network that holds a packed address; -1 if none does."""
        for size, length, firsts in self._lengths:
            if size == len(address) and _masked(address, length) in firsts:
                return length
        return -1

    def holds(self, peer: Peer) -> bool:
        """Whether the peer is in one of the networks; a unix peer, in `unix`."""
        if isinstance(peer, str):
            return self.unix
        return bool(self._lengths) and self.longest(packed(peer[0])) >= 0


class Access:
    """Who may connect: of two sets of networks the narrowest that holds a peer decides, and deny when both are alike.

    A peer in none of them may connect if no network is allowed, and may not otherwise. Unix peers pass: the permissions
    of the socket's file have decided.
    """

    __slots__ = ("_allow", "_deny", "everybody")

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        self._allow, self._deny = Networks(allow), Networks(deny)
        self.everybody = not (self._allow or self._deny)

    def permits(self, peer: Peer) -> bool:
        if self.everybody or isinstance(peer, str):
            return True
        address = packed(peer[0])
        denied, allowed = self._deny.longest(address), self._allow.longest(address)
        if denied < 0 and allowed < 0:
            return not self._allow
        return allowed > denied
