"""Counts per source: where an address has its counters in a table of fixed size (a count-min sketch).

Law: no memory grows with the number of sources. An address has one bucket in each of two lines; the hash is keyed, so
that nobody can choose addresses that collide. IPv4 counts by address, also when it comes mapped into IPv6; IPv6 counts
by /64, which is what one customer has (RFC 6177).
"""

from __future__ import annotations

from functools import lru_cache

from pronghorn.peers import packed

WIDTH = 16384
SOURCE_WORDS = 2 * WIDTH


def network(host: str) -> bytes:
    """What of an address counts as one source: 4 bytes of IPv4, or the first 8 of IPv6. ValueError if it is neither."""
    return packed(host)[:8]


def prepare() -> None:
    """Before workers become a user who may not read what `buckets` imports."""
    import hashlib  # noqa: F401


@lru_cache(maxsize=1024)
def buckets(key: bytes, host: str) -> tuple[int, int]:
    """The places of an address in a table of two lines of WIDTH buckets, under this key."""
    import hashlib  # here, since it brings OpenSSL, and most servers limit no source

    digest = hashlib.blake2b(network(host), key=key, digest_size=4).digest()
    return int.from_bytes(digest[:2], "little") % WIDTH, WIDTH + int.from_bytes(digest[2:], "little") % WIDTH
