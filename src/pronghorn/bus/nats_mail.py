"""What one host sends by NATS, and which answers it waits for: subjects, kinds of messages, and large ones in parts.

Law: the first byte of a message says what it is. An answer is known by a number, which is the last part of the subject
that it comes back by; a server answers on that subject too, when nobody has subscribed to what was sent. Anybody may
send here: what is no message of a carrier raises NotOurs where it is decoded, and nowhere else.

Subjects, behind the prefix: `name.NAME` for the hosts that have NAME, `host.ID.in` for what is sent to one host,
`host.ID.NUMBER` for an answer to it, and `hosts`, where each host says once a second that it is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic
from typing import TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from pronghorn.bus.carrier import HOST_ID, PATIENCE, Away, NotOurs
from pronghorn.bus.nats_connection import NatsConnection
from pronghorn.bus.wire import LONGEST_NAME

DATA, JOINS, LEAVES, WHO, ONE, ROSTER, PROBE, AGAIN, PART, BEAT, GOODBYE = (bytes([each]) for each in b"DJLWOR?APBG")
"""Kinds: data for all; a host joins, leaves; who has this name; data for one; who has a name, as the answer to JOINS;
whether a host is there; that a host shall tell its names again; a part of a message; a host is there, or goes."""

ANSWERED, NOBODY, LATE, AWAY, LOST = range(5)
"""How waiting ends, or goes on: an answer has come, nobody was there, nothing has come in time, nothing was sent, the
connection was lost, and nobody knows."""

Heard = Callable[[int, bytes], bool]
"""What is called with one of these and what came; whether more is waited for, which is so after ANSWERED only."""

STOOD_STILL = 1.0
"""Seconds between two ticks in which this process did not run, or was very busy."""
FIRST, LAST = 1, 2  # of the parts of a message
MOST_UNFINISHED = 16 * 1024 * 1024
"""Bytes of messages in parts whose end has not come; beyond that the oldest is forgotten."""

encode = msgspec.msgpack.Encoder().encode

Fields = TypeVar("Fields")
Join = tuple[str, float, bool, bool]
"""Of JOINS: the host, since when its member counts, whether alone, and whether only if the name is free."""
State = tuple[bytes, str, int, list[str], tuple[float, bool] | None]
"""Of ROSTER: the name, the host, its state, the hosts of its roster, since when it is a member, and whether alone."""
Listing = list[tuple[str, float, bool]]
"""The answer to WHO: each host that has the name, since when, and whether alone."""
_join, _state = msgspec.msgpack.Decoder(Join), msgspec.msgpack.Decoder(State)
_listing, _host = msgspec.msgpack.Decoder(Listing), msgspec.msgpack.Decoder(str)


def token(name: bytes) -> str:
    """A name as one part of a subject: letters, digits and a few marks stand for themselves, so that people can read
    it; other bytes are written as %XX."""
    return quote_from_bytes(name, safe=":/@+,;=!$&()-_~").replace(".", "%2E")


class Mail:
    """What is sent and waited for by one host; `connection` is None while the broker is away, and `why` says why."""

    def __init__(self, host: str, prefix: str) -> None:
        self.id = host
        self.connection: NatsConnection | None = None
        self.why = "The NATS server has not been reached yet."
        self.hosts = f"{prefix}.hosts"
        self.names = f"{prefix}.name."
        self.mine = f"{prefix}.host.{host}."
        self._host = f"{prefix}.host."
        self._waits: dict[int, tuple[float, Heard]] = {}
        self._last = 0
        self._parts: dict[bytes, list[bytes]] = {}
        self._unfinished = 0
        self._ticked = 0.0

    def connected(self) -> NatsConnection:
        """The connection. Raises Away."""
        if self.connection is None:
            raise Away(self.why)
        return self.connection

    def subject(self, name: bytes) -> str:
        """Where the hosts that have this name hear each other, and publishers."""
        return self.names + token(name)

    def inbox(self, host: str) -> str:
        """Where a host hears what is sent to it alone."""
        return f"{self._host}{host}.in"

    # What is sent.

    def to_name(self, name: bytes, data: bytes, heard: Heard | None = None) -> None:
        self.send(self.subject(name), data, heard)

    def to_host(self, host: str, data: bytes, heard: Heard | None = None) -> None:
        if HOST_ID.fullmatch(host):
            self.send(self.inbox(host), data, heard)
        elif heard is not None:
            heard(NOBODY, b"")

    def answer(self, subject: str, data: bytes) -> None:
        """Answer what came with that subject for answers; nothing happens if it had none."""
        if subject.startswith(self._host):
            self.send(subject, data)

    def send(self, subject: str, data: bytes, heard: Heard | None = None) -> None:
        """Send, and wait for answers if somebody wants to hear them: they end with NOBODY, LATE, AWAY or LOST."""
        connection = self.connection
        number = ""
        if heard is not None:
            if connection is None:
                heard(AWAY, b"")
                return
            self._last += 1
            self._waits[self._last] = monotonic() + PATIENCE, heard
            number = f"{self.mine}{self._last}"
        if connection is None:
            return
        if len(data) > connection.longest:
            sent = self._send_parts(connection, subject, data, number)
        else:
            sent = connection.publish(subject, data, number)
        if heard is not None and not sent:
            del self._waits[int(number.rpartition(".")[2])]
            heard(AWAY, b"")

    def _send_parts(self, connection: NatsConnection, subject: str, data: bytes, reply: str) -> bool:
        """A message that is longer than the server takes: its parts in order, each with who has sent it and a number
        for it, and whether it is the first or the last one. Only the last one asks for an answer."""
        self._last += 1
        head = encode((self.id, self._last))
        size = connection.longest - len(head) - 3
        last = (len(data) - 1) // size
        for place in range(last + 1):
            part = (
                b"%s%c%c%s" % (PART, len(head), LAST if place == last else FIRST if not place else 0, head)
                + data[place * size : (place + 1) * size]
            )
            if not connection.publish(subject, part, reply if place == last else ""):
                return False
        return True

    # What comes.

    def whole(self, data: bytes) -> bytes:
        """The message that this part completes, or what came if it is no part; empty if parts are still to come. One
        whose first part was not heard is not put together. Raises NotOurs."""
        if not data.startswith(PART):
            return data
        if len(data) < 3 or len(data) < 3 + data[1]:
            raise NotOurs("a part of a message that is cut off")
        length, place = data[1], data[2]
        head, part = data[3 : 3 + length], data[3 + length :]
        if place == FIRST:
            self._forget(head)
            self._parts[head] = []
        elif head not in self._parts:
            return b""
        self._parts[head].append(part)
        self._unfinished += len(part)
        if place == LAST:
            return b"".join(self._forget(head))
        while self._unfinished > MOST_UNFINISHED:
            self._forget(next(iter(self._parts)))
        return b""

    def _forget(self, head: bytes) -> list[bytes]:
        parts = self._parts.pop(head, [])
        self._unfinished -= sum(map(len, parts))
        return parts

    def answered(self, number: int, data: bytes, nobody: bool) -> None:
        wait = self._waits.get(number)
        if wait is not None and (not wait[1](NOBODY if nobody else ANSWERED, data) or nobody):
            self._waits.pop(number, None)

    def tick(self, clock: float) -> None:
        """What is late is not waited for; but what has come while this process stood still is read first."""
        stood_still, self._ticked = clock - self._ticked > STOOD_STILL, clock
        if stood_still:
            return
        while self._waits:
            number = next(iter(self._waits))
            due, heard = self._waits[number]
            if due > clock:
                return
            del self._waits[number]
            heard(LATE, b"")

    def lose(self, why: str) -> None:
        """The broker is away: nothing comes any more."""
        self.connection, self.why = None, why
        self._parts.clear()
        self._unfinished = 0
        waits, self._waits = self._waits, {}
        for _, heard in waits.values():
            heard(LOST, b"")


# What others have sent, taken apart. All of it raises NotOurs.


def name_of(text: str) -> bytes:
    """The name that a part of a subject stands for."""
    name = unquote_to_bytes(text)
    if not 0 < len(name) <= LONGEST_NAME:
        raise NotOurs("a message for a name that is too long")
    return name


def number_of(text: str) -> int:
    """The number of an answer."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise NotOurs("a message for an address that no host has")
    return int(text)


def join_of(data: bytes) -> Join:
    """Who joins, of JOINS."""
    host, since, alone, refuse = _fields(_join, data)
    return _known(host), _instant(since), alone, refuse


def leaver_of(data: bytes) -> str:
    """Who leaves, of LEAVES."""
    return _known(_fields(_host, data))


def state_of(data: bytes) -> State:
    """What a host says of itself, of ROSTER."""
    if not data.startswith(ROSTER):
        raise NotOurs("another answer than was asked for")
    name, host, state, hosts, entry = _fields(_state, data[1:])
    return name, _known(host), state, [_known(each) for each in hosts], entry and (_instant(entry[0]), entry[1])


def listing_of(data: bytes) -> Listing:
    """Who has a name, as the answer to WHO."""
    return [(_known(host), _instant(since), alone) for host, since, alone in _fields(_listing, data)]


def one_of(data: bytes) -> tuple[bytes, bytes, bool]:
    """Of ONE: the name, what is for its member, and whether that may be any."""
    if len(data) < 3 or len(data) < 3 + data[2]:
        raise NotOurs("a message for one connection that is cut off")
    return data[3 : 3 + data[2]], data[3 + data[2] :], bool(data[1])


def beating_host_of(data: bytes) -> str:
    """The host that says that it is there, or goes."""
    return _known(data[1:].decode("ascii", "replace"))


def _fields(decoder: msgspec.msgpack.Decoder[Fields], data: bytes) -> Fields:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise NotOurs("a message that has another form") from None


def _known(host: str) -> str:
    if not HOST_ID.fullmatch(host):
        raise NotOurs("a message of a host whose id is none")
    return host


def _instant(since: float) -> float:
    if not math.isfinite(since):
        raise NotOurs("an instant that is none")
    return since
