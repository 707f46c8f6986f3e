"""What one server tells those of other hosts of its connections: a record, which the bus's carrier brings as bytes.

Law: another host is believed nothing: what cannot be true, or is of another format, is no record.
"""

from __future__ import annotations

import math

import msgspec

FORMAT = 1
SERVER = 16
"""Letters and digits by which a server is known."""
MOST_SOURCES = 4096
"""Sources in one record: those with the most connections."""
MOST_CONNECTIONS = 2**24
LONGEST = 20 * MOST_SOURCES  # bytes


class Record(msgspec.Struct, array_like=True):
    """`server` is the same for all programs of one server, and no other server has it. `demand` is how many connections
    come in a second, or less than 0 from a server that ends; `sources` has the connections of each source that has
    many, by its word: an IPv4 address, or a /64 of IPv6 (scoreboard/suspects.py)."""

    format: int
    server: str
    demand: float
    sources: dict[int, int]


_decoder = msgspec.msgpack.Decoder(Record)


def packed(server: str, demand: float, sources: dict[int, int]) -> bytes:
    """The bytes of a record; of too many sources those with the fewest connections are left out."""
    if len(sources) > MOST_SOURCES:
        sources = dict(sorted(sources.items(), key=lambda each: each[1], reverse=True)[:MOST_SOURCES])
    return msgspec.msgpack.encode(Record(FORMAT, server, demand, sources))


def unpacked(raw: bytes) -> Record | None:
    """The record, or None if it is none."""
    if len(raw) > LONGEST:
        return None
    try:
        record = _decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return None
    sound = record.format == FORMAT and math.isfinite(record.demand) and len(record.server) == SERVER
    words = all(-(2**63) <= each < 2**63 for each in record.sources)
    counts = all(0 < each <= MOST_CONNECTIONS for each in record.sources.values())
    return record if sound and words and counts and len(record.sources) <= MOST_SOURCES else None
