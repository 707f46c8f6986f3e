"""A worker's row of the scoreboard: its counters, its state, its heartbeat, and what it reads of the other rows.

Law: a row has one writer, its worker, which counts in memory of its own (counts.py) and copies that here. What it
reads of the others is taken for nothing where it cannot be true: another worker may have written it, by a fault or on
purpose.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from pronghorn.scoreboard.counts import COUNTERS, OPEN, Counts, ListenerCounts, believed, believed_instant, word
from pronghorn.scoreboard.details import Details
from pronghorn.scoreboard.map import (
    BEAT,
    CONNECTED,
    FIRST,
    GENERATION,
    H_CHANGES,
    LISTENER_WORDS,
    LISTENERS,
    PID,
    ROW_WORDS,
    SLOT,
    SOURCES,
    STARTED,
    STATE,
    SUPERVISOR,
    Map,
)
from pronghorn.scoreboard.sources import SourceCounts
from pronghorn.scoreboard.suspects import TABLE_WORDS, OpenSources
from pronghorn.system.processes import MOST_PID

if TYPE_CHECKING:
    from pronghorn.scoreboard.own_metrics import OwnStore

STARTING, SERVING, DRAINING, LEAVING, ORPHANED = 1, 2, 3, 4, 5
STATES = dict(enumerate(("free", "starting", "serving", "draining", "leaving", "orphaned")))
MOST_OPEN = 2**31
SILENT = 2.5  # seconds without a beat, and nobody waits for this worker to take a connection


class Row(Counts):
    """What one worker tells of itself."""

    __slots__ = (
        "_changes",
        "_listeners",
        "_others",
        "_state",
        "details",
        "floats",
        "index",
        "map",
        "own_metrics",
        "sources",
    )

    def __init__(self, map: Map, index: int) -> None:
        self.index = index
        self.map = map
        self._changes = -1
        self._others: list[int] = []
        self._state = 0
        self._listeners: dict[int, ListenerCounts] = {}
        self.details: Details | None = None  # where somebody reads metrics
        self.own_metrics: OwnStore | None = None  # of a handler that has any
        self.sources = SourceCounts(map.key, partial(map.start_sources, index))
        start = FIRST + index * ROW_WORDS
        super().__init__(map.words[start : start + ROW_WORDS])
        self.floats = self.words.cast("B").cast("d")

    slot = word(SLOT, "The worker's place in its supervisor.", 2**31)
    generation = word(GENERATION, "Which reload or upgrade it came with.", 2**31)
    supervisor = word(SUPERVISOR, "The supervisor's process id.", MOST_PID)
    pid = word(PID, "The worker's process id, 0 until it has said so.", MOST_PID)

    @property
    def state(self) -> int:
        """STARTING, SERVING, LEAVING (it accepts no more), DRAINING, or ORPHANED (dead, but not all of its connections
        are); 0 is a free row."""
        return self.words[STATE]

    @state.setter
    def state(self, value: int) -> None:
        self._state = self.words[STATE] = value

    @property
    def started(self) -> float:
        """When the row was taken: monotonic seconds."""
        return believed_instant(self.floats[STARTED])

    @property
    def beat(self) -> float:
        """The last sign of life of the loop that serves: monotonic seconds; 0.0 if it cannot be true."""
        return believed_instant(self.floats[BEAT])

    def starting(self, pid: int) -> None:
        """The worker lives; said by itself, before anything else."""
        self.words[PID] = pid
        self.floats[BEAT] = time.monotonic()

    def now_serving(self, pid: int) -> None:
        """The worker has entered its loop: from now on it is counted among those that accept."""
        self.starting(pid)
        self.state = SERVING

    def inherit(self) -> None:
        """The worker is dead, and this process goes on with its row, from what can be true of what stands there."""
        self.own[:] = array("q", map(believed, self.words[:COUNTERS].tolist()))
        self.words[:COUNTERS] = self.own
        self.state = ORPHANED
        if self.words[SOURCES]:
            self.sources.inherit(self.map.table(self.index))

    def tick(self, now: float) -> None:
        """The heartbeat, written by the loop that serves; `now` is monotonic. With it goes all that this worker has
        counted, should somebody else have written there, and what it knows of others is read anew."""
        self.floats[BEAT] = now
        self.words[:COUNTERS] = self.own
        if self._state:
            self.words[STATE] = self._state
        if self.sources.copy():
            self.words[SOURCES] = 1
        for each in self._listeners.values():
            each.copy()
        if self.details is not None:
            self.details.copy()
        if self.own_metrics is not None:
            self.own_metrics.copy()
        self._changes = -1
        self.map.look_again()

    def at(self, number: int) -> ListenerCounts:
        """What this worker counts for the listener of this number."""
        if number not in self._listeners:
            start = LISTENERS + number * LISTENER_WORDS
            self._listeners[number] = ListenerCounts(self.words[start : start + LISTENER_WORDS])
        return self._listeners[number]

    def everywhere_at(self, numbers: Iterable[int], index: int) -> int:
        """The sum of one counter of these listeners over all workers, this one included."""
        words, total = self.map.words, 0
        for number in numbers:
            word = LISTENERS + number * LISTENER_WORDS + index
            total += self.at(number).own[index]
            total += sum(believed(words[each + word], MOST_OPEN) for each in self._elsewhere())
        return total

    def connected(self) -> OpenSources:
        """The sources that are connected to this worker."""
        return OpenSources(self.words[CONNECTED : CONNECTED + TABLE_WORDS])

    def crowded(self) -> bool:
        """Whether another worker that accepts, and is alive, has fewer open connections by two or more: then that one
        shall take the next. Always False where there is no other."""
        less = self.own[OPEN] - 1
        if less <= 0:
            return False
        words = self.map.words
        emptier = [each for each in self._elsewhere() if words[each + OPEN] < less and words[each + STATE] == SERVING]
        if not emptier:
            return False
        heard, floats = time.monotonic() - SILENT, self.map.floats
        return any(floats[each + BEAT] > heard for each in emptier)

    def everywhere(self, index: int) -> int:
        """The sum of one counter over all workers, this one included."""
        words = self.map.words
        return self.own[index] + sum(believed(words[each + index], MOST_OPEN) for each in self._elsewhere())

    def _elsewhere(self) -> list[int]:
        """Where the rows of the other workers begin."""
        changes = self.map.words[H_CHANGES]
        if changes != self._changes:
            self._changes = changes
            self._others = [FIRST + each * ROW_WORDS for each in self.map.taken() if each != self.index]
        return self._others
