"""How the scoreboard is laid out, and one worker's row of it.

Law: a row has one writer, its worker, which counts in memory of its own (counts.py) and copies that here. What it
reads of the others is taken for nothing where it cannot be true: another worker may have written it, by a fault or on
purpose.
"""

from __future__ import annotations

import mmap
import sys
import time
from array import array
from typing import TYPE_CHECKING

from pronghorn.scoreboard.counts import COUNTERS, OPEN, Counts, believed, believed_instant, word
from pronghorn.scoreboard.sources import SOURCE_WORDS, buckets
from pronghorn.scoreboard.suspects import TABLE_WORDS, OpenSources
from pronghorn.system.processes import MOST_PID

if TYPE_CHECKING:
    from pronghorn.scoreboard.board import Scoreboard

MAGIC = int.from_bytes(b"Pronghrn", sys.byteorder)
FORMAT = 2
ROWS = 1024  # workers at once; row 0 has the counters of those that are gone
ROW_BYTES = max(4096, mmap.PAGESIZE)  # bytes
ROW_WORDS = ROW_BYTES // 8
STARTING, SERVING, DRAINING, LEAVING, ORPHANED = 1, 2, 3, 4, 5
STATES = dict(enumerate(("free", "starting", "serving", "draining", "leaving", "orphaned")))
MOST_OPEN = 2**31
SILENT = 2.5  # seconds without a beat, and nobody waits for this worker to take a connection

# The words of a row behind its counters.
SLOT, GENERATION, SUPERVISOR, PID, STATE, STARTED, BEAT, SOURCES = range(COUNTERS, COUNTERS + 8)
CONNECTED = 64  # and what follows: the sources that are connected (suspects.py)

# The words of the head. Behind it stands the directory: a word for each row, its supervisor's process id or 0; then
# what --accept-rate needs (limits.py): three words for each row, which are not cleared when it is given back.
H_MAGIC, H_FORMAT, H_ROW, H_ROWS, H_CHANGES, H_HIGHEST, H_SERVING = range(7)
HEAD = [MAGIC, FORMAT, ROW_BYTES, ROWS]  # what never changes
KEY = slice(64, 80)  # bytes
H_REFUSED = 16  # and what follows: who is refused (suspects.py)
DIRECTORY = ROW_WORDS
TAKEN, SEEN, SINCE = (DIRECTORY + each * ROWS for each in (1, 2, 3))
FIRST = DIRECTORY + (4 * ROWS * 8 + ROW_BYTES - 1) // ROW_BYTES * ROW_WORDS
TABLES = (FIRST + ROWS * ROW_WORDS) * 8  # bytes
SIZE = TABLES + ROWS * SOURCE_WORDS * 4


class Row(Counts):
    """What one worker tells of itself. Made without a board it belongs to nobody, and nobody reads it."""

    __slots__ = ("_board", "_changes", "_others", "_own_table", "_state", "_table", "floats", "index")

    def __init__(self, board: Scoreboard | None = None, index: int = 0) -> None:
        self.index = index
        self._board = board
        self._changes = -1
        self._others: list[int] = []
        self._state = 0
        self._table: memoryview[int] | None = None
        self._own_table: array[int] = array("I")
        start = FIRST + index * ROW_WORDS
        super().__init__(
            board.words[start : start + ROW_WORDS] if board else memoryview(bytearray(ROW_BYTES)).cast("q")
        )
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
        if self._board is not None and self.words[SOURCES]:
            self._table = self._board.table(self.index)
            self._own_table = array("I", self._table.tolist())

    def tick(self, now: float) -> None:
        """The heartbeat, written by the loop that serves; `now` is monotonic. With it goes all that this worker has
        counted, should somebody else have written there, and what it knows of others is read anew."""
        self.floats[BEAT] = now
        self.words[:COUNTERS] = self.own
        if self._state:
            self.words[STATE] = self._state
        if self._table is not None:
            self.words[SOURCES] = 1
            self._table[:] = self._own_table
        self._changes = -1
        if self._board is not None:
            self._board.look_again()

    def head(self) -> memoryview[int]:
        """What stands before all rows; without a board, as much that nobody else has."""
        return self._board.words[:FIRST] if self._board else memoryview(bytearray(FIRST * 8)).cast("q")

    def connected(self) -> OpenSources:
        """The sources that are connected to this worker."""
        return OpenSources(self.words[CONNECTED : CONNECTED + TABLE_WORDS])

    def crowded(self) -> bool:
        """Whether another worker that accepts, and is alive, has fewer open connections by two or more: then that one
        shall take the next. Always False where there is no other."""
        board = self._board
        if board is None:
            return False
        words = board.words
        less = self.own[OPEN] - 1
        if less <= 0:
            return False
        emptier = [
            start for start in self._elsewhere(board) if words[start + OPEN] < less and words[start + STATE] == SERVING
        ]
        if not emptier:
            return False
        heard = time.monotonic() - SILENT
        return any(board.floats[start + BEAT] > heard for start in emptier)

    def everywhere(self, index: int) -> int:
        """The sum of one counter over all workers, this one included."""
        board, count = self._board, self.own[index]
        if board is None:
            return count
        return count + sum(believed(board.words[start + index], MOST_OPEN) for start in self._elsewhere(board))

    def source_everywhere(self, peer: tuple[str, int] | str) -> int:
        """Connections that this source has open with all workers (see Scoreboard.source_count)."""
        if self._board is not None:
            return self._board.source_count(peer)
        return min((self._sources()[bucket] for bucket in self._buckets(peer)), default=0)

    def source_add(self, peer: tuple[str, int] | str) -> None:
        """Count one more connection of this source (see sources.py); unix sockets have none."""
        self._count_source(peer, 1)

    def source_remove(self, peer: tuple[str, int] | str) -> None:
        """Take back what `source_add` counted."""
        self._count_source(peer, -1)

    def _count_source(self, peer: tuple[str, int] | str, count: int) -> None:
        for bucket in self._buckets(peer):
            table = self._sources()
            table[bucket] = self._own_table[bucket] = max(0, self._own_table[bucket] + count)

    def _elsewhere(self, board: Scoreboard) -> list[int]:
        """Where the rows of the other workers begin."""
        changes = board.words[H_CHANGES]
        if changes != self._changes:
            self._changes = changes
            self._others = [FIRST + each * ROW_WORDS for each in board.taken() if each != self.index]
        return self._others

    def _buckets(self, peer: tuple[str, int] | str) -> tuple[int, ...]:
        return () if isinstance(peer, str) else buckets(self._board.key if self._board else b"", peer[0])

    def _sources(self) -> memoryview[int]:
        if self._table is None:
            board = self._board
            self._table = board.table(self.index) if board else memoryview(bytearray(SOURCE_WORDS * 4)).cast("I")
            self._own_table = array("I", bytes(SOURCE_WORDS * 4))
            self._table[:] = self._own_table
            self.words[SOURCES] = 1
        return self._table


def highest(words: memoryview[int]) -> int:
    """The highest row that was ever taken."""
    return min(believed(words[H_HIGHEST]), ROWS - 1)
