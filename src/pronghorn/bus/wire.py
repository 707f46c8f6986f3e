"""Frames between the hub and its links: what is said on the bus, as bytes over a unix socket.

Law: imported by both ends. A frame is a length of four bytes (big-endian) and a msgpack array, whose first element says
what it is; the others are given by FIELDS. Neither end believes the other: `Reader` bounds a frame, and whoever reads
one checks what stands in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

LONGEST_NAME = 255
"""Bytes of a name."""
LONGEST_PAYLOAD = 1024 * 1024
"""Bytes of a payload, whatever the settings say."""
LONGEST = LONGEST_PAYLOAD + 1024
"""Bytes of a frame."""
LONGEST_QUESTION = 3600.0
"""Seconds that an answer is waited for at most."""

# What a link says to the hub.
HELLO, JOIN, LEAVE, PUBLISH, ASK, REACHED, ANSWER, GROUPS = range(8)
MEMBERS = 16
# What the hub says to a link.
RESULT, REPLY, DELIVER, QUESTION, EVICT, LISTING, REFUSED, CANCEL = range(8, 16)

FIELDS: dict[int, tuple[type, ...]] = {
    HELLO: (int,),  # process id
    JOIN: (int, int, bytes, int, float),  # request (0: no result is wanted), connection, name, mode, since
    LEAVE: (int, bytes),  # connection, name
    PUBLISH: (int, bytes, bytes, bool),  # request, name, payload, to one
    ASK: (int, bytes, bytes, float),  # request, name, payload, seconds
    REACHED: (int, int),  # delivery, how many connections
    ANSWER: (int, int, bytes),  # delivery, status, payload
    GROUPS: (int, bytes, int),  # request, prefix, how many at most
    MEMBERS: (int, bytes, int),  # request, name, how many at most
    RESULT: (int, int),  # request, count or what became of it
    REPLY: (int, int, bytes),  # request, status, payload
    DELIVER: (int, bytes, bytes, int),  # delivery, name, payload, connection (0: all that have joined)
    QUESTION: (int, bytes, bytes, int),  # delivery, name, payload, connection
    EVICT: (int, bytes),  # connection, name
    LISTING: (
        int,
        list,
    ),  # request, [name, connections] of each group, or [process id, connection, seconds] of each member
    CANCEL: (int,),  # delivery: nobody waits for this answer any more
    REFUSED: (str,),  # why the hub wants nothing to do with this link
}

# How a connection joins.
SHARED, REPLACE, REFUSE = range(3)
# What became of a question.
ANSWERED, NOBODY, MUTE, LATE, LOST, FAILED, TOO_LONG, AWAY, PARTED = OUTCOMES = range(9)
# PARTED: the broker went away meanwhile.
UNSURE = -1
"""In place of a number of connections, between hosts: one may have been reached."""
UNREACHED = -2
"""In place of a number of connections, and less by one for each that was reached here: other hosts were not reached."""
# What became of an attempt to join.
TAKEN, GRANTED, UNDECIDED = range(3)
MOST_REACHED = 1 << 32
"""Connections that one process or one host may say to have reached."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode


def frame(*fields: Any) -> bytes:
    """A frame of these fields."""
    body = _encode(fields)
    return len(body).to_bytes(4, "big") + body


def packed(*fields: Any) -> bytes:
    """The same without a length, for what is carried in messages."""
    return _encode(fields)


def within(seconds: float) -> float:
    """The time of a question, as far as it is one."""
    return min(max(0.0, seconds), LONGEST_QUESTION)  # in this order NaN is 0


class BadFrame(Exception):
    """What came is no frame."""


class Reader:
    """Frames out of bytes that come in pieces."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Sequence[Any]]:
        """The frames that these bytes complete, each as what stands in it. Raises BadFrame."""
        if self._rest:
            data = self._rest + data
        found: list[Sequence[Any]] = []
        at, end = 0, len(data)
        while (begin := at + 4) <= end:
            length = int.from_bytes(data[at:begin], "big")
            if length > LONGEST:
                raise BadFrame(f"a frame of {length:,} bytes")
            if (after := begin + length) > end:
                break
            found.append(checked(data[begin:after]))
            at = after
        self._rest = data[at:]
        return found


def checked(body: bytes, wanted: dict[int, tuple[type, ...]] = FIELDS) -> Sequence[Any]:
    """What stands in a frame. Raises BadFrame unless it is what `wanted` says."""
    try:
        fields = _decode(body)
        known = wanted[fields[0]]
    except (msgspec.MsgspecError, ValueError, TypeError, LookupError, RecursionError):
        raise BadFrame("what is no frame") from None
    if tuple(map(type, fields[1:])) != known:
        raise BadFrame(f"a frame of kind {fields[0]} with other fields")
    return fields
