"""Old workers, and the programs before this one in upgrades: how long they may stay.

Law: an old worker goes on with the connections that it has. The program of its supervisor stays until its last worker
is gone, or until the program that serves, which stops last, tells it to stop. A process is known by its process id and
by when it started: an id that has become another's is left alone.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable

import msgspec

from pronghorn.system.processes import kill, start_of

Record = tuple[int, str]


class Predecessors:
    """`records` are what `record` said in the programs themselves, which may have ended since."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._records = list(records)

    def living(self) -> list[int]:
        """Their process ids, the oldest first."""
        self._records = [each for each in self._records if start_of(each[0]) == each[1]]
        return [pid for pid, _ in self._records]

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to each: TERM drains what they have."""
        for pid in self.living():
            kill(pid, number)

    def records(self, pid: int) -> list[Record]:
        """What the program that follows needs to know: those that live, and this one, whose process id is `pid`."""
        self.living()
        return [*self._records, (pid, start_of(pid))]


class OldWorker(msgspec.Struct, frozen=True):
    """A worker that was told to let go, of this program or of another; `pid` is 0 for those of others. `since` is when
    it started."""

    generation: int
    slot: int
    since: float
    pid: int = 0


def too_many(old: Iterable[OldWorker], serving: int, most: int, room: int) -> dict[OldWorker, str]:
    """Those that have to drain now, and why: `most` generations live at once, the `serving` one included, and so do as
    many workers of one slot; and there is `room` for so many on the scoreboard."""
    newest = sorted(old, key=lambda each: (-each.generation, -each.since))
    generations = sorted({serving, *(each.generation for each in newest)}, reverse=True)[:most]
    many = f"there are more than {most} generations (--max-generations)"
    found: dict[OldWorker, str] = {}
    seen: dict[int, int] = {}
    for each in newest:
        if each.generation not in generations:
            found[each] = many
            continue
        seen[each.slot] = seen.get(each.slot, 0) + 1
        if seen[each.slot] >= most:
            found[each] = f"slot {each.slot} has more than {most} workers (--max-generations)"
        elif sum(seen.values()) > room:
            found[each] = "the scoreboard has no room for more workers"
    return found
