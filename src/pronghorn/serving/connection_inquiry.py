"""An inquiry into the open connections of a worker: which are meant, in which order, and their rows page by page.

Law: the flow of control that answers also serves, or accepts. So an inquiry goes forward by steps of SLICE seconds and
pages of PAGE bytes, each when it is asked for; whoever asks sets the pace, and nothing here waits. All rows are chosen
first, by what this process knows; only of those that are told the kernel is asked, unless a filter or the order needs
it of all.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, Protocol, cast

import msgspec

from pronghorn.connection.base import AnyConnection
from pronghorn.connection.blocking import Connection, ConnectionBase, cut
from pronghorn.connection.channel import AnyChannel
from pronghorn.errors import EndedByOperator
from pronghorn.peers import Networks, Peer
from pronghorn.serving.connection_rows import ConnectionRow, Facts, State

SLICE = 0.002  # seconds of a step
LOOKS = 32  # connections between two looks at the clock
PAGE = 12 * 1024  # bytes of rows, about: what a few inquiries leave in a socket at once fits into it
ABOUT = 400  # bytes of a row without a handler's fields
MOST_ROWS = 10_000
MOST_AT_ONCE = 8  # inquiries of one worker

Sort = Literal[
    "age",
    "idle",
    "bytes",
    "bytes_in",
    "bytes_out",
    "rate",
    "messages",
    "rtt_us",
    "retransmits",
    "send_queue",
    "receive_queue",
    "peer",
    "id",
]
ASCENDING = ("peer", "id")  # the others begin with the greatest
Text = Annotated[str, msgspec.Meta(max_length=256)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which connections are meant: those that fit everything that is said, `limit` of them in the order of `sort`."""

    peer: Annotated[tuple[Text, ...], msgspec.Meta(max_length=64)] = ()
    """Addresses and networks, `192.0.2.7`, `192.0.2.7:4711`, `2001:db8::/32`, `unix`: one of them."""
    listener: Text = ""
    """The listener's name."""
    worker: Annotated[int, msgspec.Meta(ge=0)] = 0
    """The number of the worker's slot, or its process id; 0 for all."""
    older: Seconds = 0.0
    """Accepted so long ago or longer."""
    idle: Seconds = 0.0
    """Without a byte in either direction for so long or longer."""
    state: State | Literal[""] = ""
    fields: Annotated[dict[Text, Text], msgspec.Meta(max_length=32)] = {}
    """The handler's own: all of them, with these texts."""
    sort: Sort = "age"
    reverse: bool = False
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROWS)] = 100

    @property
    def needs_details(self) -> bool:
        """Whether more than listener and age decides. (Behind a proxy, only who has read its header knows the peer.)"""
        return bool(self.idle or self.state or self.fields or self.peer) or self.sort not in ("age", "id")

    def order(self, row: ConnectionRow | Facts) -> tuple[bool, Any, int]:
        """By what rows are put in order, the smallest first. What is not known comes last. Of connections with as many
        unsent bytes, as with none, that with the longer round trip is the slower one."""
        value = row.number if self.sort == "id" else getattr(row, self.sort)
        if value is None:
            return True, 0, row.number
        if (self.sort in ASCENDING) is self.reverse:
            value = [-ord(each) for each in value] if isinstance(value, str) else -value
        if self.sort == "send_queue":
            trip = row.rtt_us or 0
            value = value, trip if self.reverse else -trip
        return False, value, row.number


class Peers:
    """The filter by peer. Raises ValueError for what is no address."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._exact: set[Peer] = set()
        networks = []
        for text in texts:
            if (ends := endpoint(text)) is not None:
                self._exact.add(ends)
            else:
                networks.append(text)
        self._networks = Networks(networks)

    def holds(self, peer: Peer) -> bool:
        try:
            return peer in self._exact or self._networks.holds(peer)
        except ValueError:  # a child has told of no address
            return False


def endpoint(text: str) -> tuple[str, int] | None:
    """Address and port of `192.0.2.7:4711` or `[2001:db8::1]:4711`; None for another text."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not (port.isascii() and port.isdigit()) or (":" in host and not bracketed) or not host:
        return None
    return host.strip("[]"), int(port)


class Apart(Protocol):
    """Connections that processes of their own have, under the fork model: what their parent knows of each, by its
    number."""

    def numbers(self) -> list[int]:
        """Of the connections that are open."""

    def facts(self, number: int, now: float) -> Facts | None:
        """Of one, at an instant (monotonic); None if it is not open any more."""

    def gather(self, numbers: Iterable[int], then: Callable[[], None]) -> None:
        """Asks the processes of these connections; `then` is called when all have told, or time is up: now or later."""

    def end(self, number: int) -> bool:
        """Has it ended as a cut does; False if it is not open any more."""


class Inquiry:
    """One query, on its way through the connections that were open when it began; `facts_of` makes the Facts of one,
    None if it is gone. Raises ValueError for a query that cannot be."""

    def __init__(self, query: Query, conns: Iterable[Any], facts_of: Callable[[Any], Facts | None]) -> None:
        self.matched = 0
        self.over = False
        self._query, self._peers = query, Peers(query.peer)
        self._facts_of = facts_of
        self._steps = self._go(list(conns))

    def step(self) -> list[ConnectionRow]:
        """Go forward by one slice of time: the rows that have become ready; `over` is set with the last of them."""
        return next(self._steps, [])

    def _go(self, conns: list[Any]) -> Iterator[list[ConnectionRow]]:
        chosen: list[tuple[tuple[bool, Any, int], Any]] = []
        query, limit = self._query, self._query.limit
        until = time.monotonic() + SLICE
        for place, conn in enumerate(conns):
            facts = self._facts_of(conn)
            if facts is not None and self._fits(facts):
                self.matched += 1
                chosen.append((query.order(facts), conn))
            if place % LOOKS == 0 and time.monotonic() >= until:
                if len(chosen) > 2 * limit:
                    chosen = heapq.nsmallest(limit, chosen, key=_first)
                yield []
                until = time.monotonic() + SLICE
        chosen = heapq.nsmallest(limit, chosen, key=_first)
        page: list[ConnectionRow] = []
        size, until = 0, time.monotonic() + SLICE
        for _, conn in chosen:
            if (facts := self._facts_of(conn)) is None:
                continue
            page.append(row := facts.row())
            size += ABOUT + sum(len(name) + len(value) for name, value in row.fields.items())
            if size >= PAGE or time.monotonic() >= until:
                yield page
                page, size, until = [], 0, time.monotonic() + SLICE
        self.over = True
        yield page

    def _fits(self, facts: Facts) -> bool:
        query = self._query
        if query.peer and not self._peers.holds(facts.address):
            return False
        if query.listener and facts.listener != query.listener:
            return False
        if query.older and facts.age < query.older:
            return False
        if query.idle and ((idle := facts.idle) is None or idle < query.idle):
            return False
        if query.state and facts.state != query.state:
            return False
        return not query.fields or query.fields.items() <= facts.fields.items()


def end_now(conn: AnyConnection) -> None:
    """End a connection as a cut does, because the operator says so: its handler learns of it as of a broken one."""
    if isinstance(conn, AnyChannel):
        conn.cut(EndedByOperator())
    elif isinstance(conn, ConnectionBase):
        cut(cast(Connection, conn), EndedByOperator())


def _first(pair: tuple[Any, Any]) -> Any:
    return pair[0]
