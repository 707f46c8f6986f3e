"""The details of workers that are gone, and of supervisors: region 0 of the scoreboard, which supervisors write.

Law: called by a supervisor under the scoreboard's lock. While another supervisor shares the map (`shared`) what stands
there counts too, and of each word the greater one; otherwise what this process knows is written there anew. Nothing is
mapped: every process that is forked later would have that too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from pronghorn.errors import End
from pronghorn.scoreboard import details
from pronghorn.scoreboard.counts import believed
from pronghorn.scoreboard.details import END, ENDS_AT, MOST_REASONS, OWN, REASONS, USED, WORD, Details
from pronghorn.scoreboard.map import REGION, REGIONS
from pronghorn.scoreboard.own_metrics import OwnReader, OwnStore

MOST_OPEN = 2**31
NOTHING = bytes(REGION)
OWN_BYTES = OWN * 8


class GoneDetails:
    """Region 0, and what this process knows of it."""

    __slots__ = ("_details", "_fd", "_memory", "_own", "_reader")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._memory = memoryview(bytearray(REGION))
        words = self._memory.cast("q")
        self._details, self._own = Details(words), OwnStore(words)
        words[USED] = self._details.own[USED] = 0
        self._reader = OwnReader()
        self._look()

    def count(self, name: str, count: int, *, shared: bool) -> None:
        """So many more."""
        if shared:
            self._look()
        self._details.add(WORD[name], count)
        self._write()

    def take(self, index: int, killed: Sequence[int], *, shared: bool) -> None:
        """Add what the worker of a row has counted, which is dead; `killed` connections of each listener were open."""
        counted, own = details.read(self._fd, index), self._reader.read(self._fd, index)
        if counted is None and own is None:
            return
        if shared:
            self._look()
        if counted is not None:
            self._details.take(counted)
            for number, count in enumerate(killed):
                if believed(count):
                    self._details.add(ENDS_AT + number * MOST_REASONS + REASONS[End.KILLED], min(count, MOST_OPEN))
        if own is not None:
            self._own.take(own)
        self._write()

    def clear(self, index: int) -> None:
        """The row is another worker's, or nobody's, from now on."""
        where = REGIONS + index * REGION
        if any(os.pread(self._fd, 8, where)):
            os.pwrite(self._fd, NOTHING, where)

    def mend(self, *, shared: bool) -> None:
        """Put right what somebody else has written there."""
        if shared:
            self._look()
        elif not self.is_sound():
            self._write()

    def is_sound(self) -> bool:
        """Whether there stands what was written."""
        if not self._details.own[USED]:
            return True
        return all(
            os.pread(self._fd, end - start, REGIONS + start) == self._memory[start:end] for start, end in self._parts()
        )

    def _parts(self) -> list[tuple[int, int]]:
        """What of the region is in use, in bytes."""
        return [(0, END * 8), *([(OWN_BYTES, REGION)] if self._own.series else [])]

    def _look(self) -> None:
        """What stands there counts too."""
        if any(os.pread(self._fd, 8, REGIONS)):
            raw = os.pread(self._fd, REGION, REGIONS)
            if len(raw) == REGION:
                self._memory[:] = raw
                self._details.inherit()
                self._own.inherit()

    def _write(self) -> None:
        self._details.own[USED] = 1
        self._details.copy()
        self._own.copy()
        for start, end in self._parts():
            os.pwrite(self._fd, self._memory[start:end], REGIONS + start)
