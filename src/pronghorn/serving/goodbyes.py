"""Goodbyes, said to one connection after the other: whose turn it is, and how many may be said by now.

Law: no clock, no I/O; the time is an argument, and how goodbye is said is a function's affair. Of n connections and s
seconds the turns are s/n apart. Each process begins at another part of that, so that the sum over many is even, also
where each has a single connection. What has to wait for its quiet moment is caught up with at CATCH_UP times the even
pace at most: no storm follows when many of them become quiet at once.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Mapping

LOOK = 0.05  # seconds between two looks, at least
SHARE = 20  # looks may take this part of the processor's time
REST = 1.0  # seconds until the next look when all have had their turn
CATCH_UP = 1.5
AT_ONCE = 0.1  # seconds whose goodbyes may be said in one look, as when a look came late
GOLDEN = 0.6180339887498949  # multiples of it, without their whole part, lie far apart, however many there are


class Answer(enum.Enum):
    """What became of a goodbye."""

    SAID = enum.auto()
    LATER = enum.auto()  # the connection has no quiet moment now
    STAYS = enum.auto()  # it was told, and its handler wants to stay


SAID, LATER, STAYS = Answer
Say = Callable[[int, float], Answer]


def part_of(slot: int) -> float:
    """Where a worker begins, as a part of the time between two turns."""
    return slot * GOLDEN % 1.0


class Pace:
    """So many goodbyes over so many seconds, from `began` on (monotonic); `part` is where in the first step."""

    __slots__ = ("_began", "_free_at", "_part", "said", "step", "turns")

    def __init__(self, count: int, seconds: float, part: float, began: float) -> None:
        self.step = seconds / max(1, count)
        self._began, self._part = began, part
        self._free_at = began
        self.turns = 0
        self.said = 0

    def turn(self, now: float) -> bool:
        """Whether it is the turn of one more connection, which is counted."""
        if now < self.next_turn:
            return False
        self.turns += 1
        return True

    @property
    def next_turn(self) -> float:
        """When the next connection has its turn."""
        return self._began + (self.turns + self._part) * self.step

    def allows(self, now: float) -> bool:
        """Whether one more goodbye may be said now."""
        return now >= self._free_at - AT_ONCE

    def say(self, now: float) -> None:
        """One was said."""
        self.said += 1
        self._free_at = max(self._free_at, now) + self.step / CATCH_UP


class Goodbyes:
    """The goodbyes of one process to the connections that are open when they begin, and to those that come later; they
    are known by numbers."""

    def __init__(self, conns: Mapping[int, object], seconds: float, part: float, now: float) -> None:
        self._next = deque(list(conns))  # another flow of control may add some
        self._known = set(self._next)
        self.pace = Pace(len(self._next), seconds, part, now)
        self.next_look = now
        self._through = False
        self._stay = 0
        self._due: dict[int, float] = {}  # by number: since when it has been its turn

    def is_through(self, now: float, patience: float) -> bool:
        """True once: when all have had their turn, and none waits for a quiet moment, or for longer than `patience`
        (seconds)."""
        if self._through or self._next or any(now - since < patience for since in self._due.values()):
            return False
        self._through = True
        return True

    @property
    def left(self) -> int:
        """Connections that had their turn and go on."""
        return self._stay + len(self._due)

    @property
    def said(self) -> int:
        return self.pace.said - self._stay

    def look(
        self,
        conns: Mapping[int, object],
        clock: Callable[[], float],
        say: Say,
        worked: Callable[[], float],
    ) -> None:
        """Say what is due. `say` is called with a connection's number, and for how many seconds it has waited.
        `worked` tells the processor time of this thread, which decides how soon the next look may be."""
        now, began = clock(), worked()
        pace = self.pace
        while (number := self._take(conns)) is not None and pace.turn(now):
            self._next.popleft()
            if number in conns:
                self._due[number] = now
        for number, since in list(self._due.items()):
            if not pace.allows(now):
                break
            if number not in conns:
                del self._due[number]
            elif (answer := say(number, now - since)) is not LATER:
                del self._due[number]
                pace.say(now)
                self._stay += answer is STAYS
        pause = max(LOOK, SHARE * (worked() - began))
        if self._due:
            self.next_look = now + pause
        else:
            self.next_look = max(now + pause, pace.next_turn if self._next else now + REST)

    def _take(self, conns: Mapping[int, object]) -> int | None:
        """The connection that is next."""
        if not self._next and len(conns) > len(self._known & conns.keys()):
            more = [number for number in list(conns) if number not in self._known]
            self._known.update(more)
            self._next.extend(more)
        return self._next[0] if self._next else None
