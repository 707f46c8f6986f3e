"""What a worker has for handing connections over: the queue, its orders, and the messages between two workers.

Law: an old worker offers a connection in the queue: its descriptor, what is written down of it, and a token. Whoever
takes the token has the connection; the old worker keeps its copy of the descriptor, unread, until it knows who that is.
So whichever process is killed, and whenever, never have two of them one connection. The supervisor says who offers and
who takes; a worker that was not promoted, or is on its way out, takes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Protocol

import msgspec

from pronghorn.connection.channel import AnyChannel
from pronghorn.connection.interfaces import Loop
from pronghorn.connection.moving import Facts
from pronghorn.system.descriptor_queue import DescriptorQueue

PATIENCE = 2.0  # seconds after which an old worker takes back what nobody has taken
LONGEST_WHY = 300  # characters
MOST_REASONS = 8
LONGEST_PAUSE = 1e6


class Offer(msgspec.Struct, array_like=True):
    """A connection in the queue, beside its descriptor, the token's and that of the socket for the answer. One that
    is too long for a message is in a file, to which a fourth descriptor leads. `worker` is the process it comes from.
    """

    worker: int
    facts: Facts
    state: bytes = b""


class Answer(msgspec.Struct, array_like=True):
    """What became of an offer, by the connection's number in the worker that made it: taken after a `pause` in seconds,
    or not, and `why`."""

    number: int
    pause: float
    why: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What became of an old worker's connections: how many moved, after which pause at most, and how many stay with it,
    for each reason."""

    moved: int = 0
    pause: float = 0.0
    stay: dict[str, int] = {}

    @property
    def stayed(self) -> int:
        return sum(self.stay.values())

    def told(self) -> dict[str, float]:
        """As the control socket tells it."""
        return {"moved": self.moved, "stayed": self.stayed, "longest_pause": round(self.pause, 6)}

    def at_most(self, open: int) -> Outcome:
        """The same when so many connections are left."""
        return Outcome(self.moved, self.pause, {why: min(count, open) for why, count in self.stay.items() if open})

    def believed(self, most: int) -> Outcome:
        """The same with nothing absurd in it: another process has sent it."""
        stay = {why[:LONGEST_WHY]: min(max(count, 0), most) for why, count in [*self.stay.items()][:MOST_REASONS]}
        pause = self.pause if 0.0 <= self.pause < LONGEST_PAUSE else 0.0
        return Outcome(min(max(self.moved, 0), most), pause, stay)

    def since(self, moved: int) -> Outcome:
        """What is new of it, if so many had `moved` before."""
        new = self.moved - moved
        return Outcome(new, self.pause if new else 0.0, self.stay)

    def __add__(self, other: Outcome) -> Outcome:
        stay = Counter(self.stay) + Counter(other.stay)
        return Outcome(self.moved + other.moved, max(self.pause, other.pause), dict(stay))


encode = msgspec.msgpack.encode
offers, answers = msgspec.msgpack.Decoder(Offer), msgspec.msgpack.Decoder(Answer)


class Place(Loop, Protocol):
    """What both sides ask of the loop that has the channels."""

    @property
    def open(self) -> dict[int, AnyChannel]: ...
    def context_at(self, listener: str, /) -> Context: ...


class Handover:
    """The queue and the orders of one worker; `report` is called with what became of its connections."""

    def __init__(self, queue: DescriptorQueue, report: Callable[[Outcome], None]) -> None:
        self.queue = queue
        self.report = report
        self.take_over: Callable[[], object] = _nothing
        """The order: from now on take what is in the queue. Set by the loop."""
        self.hand_over: Callable[[], object] = _nothing
        """The order: offer what is open."""


def summed(reasons: Iterable[str]) -> dict[str, int]:
    """How many there are for each reason; of many reasons, those with the most."""
    return dict(Counter(each[:LONGEST_WHY] for each in reasons).most_common(MOST_REASONS))


def _nothing() -> None:
    return None
