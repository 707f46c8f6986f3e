"""What carries the bus from host to host: one interface, which Redis and NATS implement.

Law: a *host* is whoever takes part by an inbox of its own: the hub of a server, or a client in another process, which
joins nothing. A carrier knows which hosts have members of a name, brings data to them, and reads none of it. All of it
runs on one asyncio loop, and none of its methods raises but Away. It holds a bounded amount for a broker that is away
or slow; what goes beyond that is not sent, and counted.

Instants are seconds of the carrier's own clock, `now()`, which all hosts of one carrier share as well as they can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

HOST_ID = re.compile("[0-9A-Za-z]{1,64}")
"""What the id of a host is; whatever another host calls itself goes into channels and subjects only if it is one."""
PATIENCE = 2.0
"""Seconds that a carrier waits for its broker, and a publisher for another host."""
MAY_BE_BACK = 3.0
"""Seconds for which a host that has gone without a word may be back: its hub is started again, or is replaced."""
NOT_BACK = "The host that has this name has gone without a word, and may be back."
MOST_UNSENT = 8 * 1024 * 1024
"""Bytes that wait for a broker that does not take them."""


class NotOurs(Exception):
    """What came by the broker is no message of the bus. Its text says what it is, in a few words."""


class Away(Exception):
    """The broker cannot be reached now, or says no. Its text says why, without any password. Nothing was sent, unless
    `perhaps`: then the connection was lost before the broker answered, and what it was told may have been done."""

    def __init__(self, why: str, perhaps: bool = False, soon: bool = False) -> None:
        """`soon`: nothing was sent, since the host that has the name is not there at the moment. It has not said that
        it ends, and so it may be back in a moment."""
        super().__init__(why)
        self.perhaps, self.soon = perhaps, soon


class Host(Protocol):
    """What a carrier calls, on its loop; nothing here waits or raises."""

    @property
    def id(self) -> str:
        """Letters and digits; no other host has it, and no other program run of this one."""

    @property
    def joins(self) -> bool:
        """Whether it ever has members; a client has none."""

    def hear(self, data: bytes) -> None:
        """Another host, or this one itself, has sent this here."""

    def here(self) -> Iterable[tuple[bytes, float, bool]]:
        """Every name that has members here, since when its latest is one (`now()`), and whether alone: what a broker
        that has been away is told."""

    def evict(self, name: bytes, before: float) -> None:
        """A connection of another host holds this name alone since then: members that joined before have to leave."""

    def gone(self, host: str) -> None:
        """Another host is gone: it takes nothing more of what was sent to it."""

    def up(self) -> None:
        """The broker is there, and knows `here()`. At first, and each time after `down`."""

    def not_ours(self, what: str) -> None:
        """Something has come by the broker that is no message of the bus, and was passed over."""

    def down(self, why: str) -> None:
        """The broker is away, or not there yet; `why` is for people and holds no password."""


def told_of(what: str) -> str:
    """What people are told of that, once."""
    hint = "Another program sends where the bus does, or a server of another version: ?prefix=NAME keeps them apart."
    return f"The broker has brought {what}, which is no message of the bus and was passed over. {hint}"


class Carrier(Protocol):
    """A connection to a broker, which comes back by itself."""

    @property
    def dropped(self) -> int:
        """What was not sent, since too much waited."""

    async def run(self) -> None:
        """Connect, and go on until cancelled; then whatever it holds is closed, and the broker knows no member of this
        host any more, if it can be told within a second."""

    def renew(self, url: str) -> None:
        """From the next connection on take this URL, which has another password; the one before is taken where the
        broker refuses that one."""

    async def retire(self) -> None:
        """Take nothing more from other hosts: what was sent here before has been heard when this returns, after a
        second at most. The broker still has the names of this host, for a program run that takes its place."""

    def now(self) -> float:
        """The instant, by the clock that all hosts share: the broker's, where it tells one."""

    async def join(self, name: bytes, since: float, mode: int) -> bool:
        """A connection here joins (wire.SHARED, REPLACE, REFUSE), after which other hosts find it. Calls take effect in
        their order, `leave` among them. With REPLACE every other host has been sent `evict`; with REFUSE false is
        returned, and nothing was joined, if another host has a member.
        Raises Away: what `here()` names then is joined when the broker is back (as REPLACE if it was alone)."""

    def leave(self, name: bytes) -> None:
        """The last member here has left this name."""

    async def to_all(self, name: bytes, data: bytes) -> set[str]:
        """Send to the inbox of each *other* host that has members; to which hosts. Raises Away; with `soon` only if
        there is no other, since otherwise it was sent to them."""

    async def to_one(self, name: bytes, data: bytes) -> str:
        """Send to the inbox of the host, maybe this one, whose member has joined last; to which host, an empty text if
        there is none. Exactly one host gets it. Raises Away: with `soon` where nobody would be there but for a host
        that may be back."""

    def send(self, host: str, data: bytes) -> None:
        """Send to the inbox of one host, as the answer to what it has sent, or behind what it was sent. Lost if that is
        gone."""

    async def missing(self, hosts: Iterable[str]) -> set[str]:
        """Which of these hosts hear nothing that is sent to them: they have ended, or have lost the broker, and with it
        whatever they waited for. Raises Away."""
