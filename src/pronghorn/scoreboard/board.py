"""The scoreboard: one map that all processes of a server share. Each worker writes its own row, anyone may sum.

Law: a row has one writer at a time, its worker; before the worker lives and after it has died, its supervisor. So
there is no lock between those who serve, save that of --accept-rate (limits.py). Two supervisors, as during an upgrade,
share the map: the one that takes or frees a row holds fcntl's lock for that moment. No supervisor waits for a worker.
A reader may find a row half written: each number is one aligned word, so none is torn, but two need not go together.

The map is a sparse file without a name: only what is touched takes memory, 4 KiB for a row and 128 KiB for the table
of sources of a worker that counts them. It lives on over the exec of an upgrade; magic and format stand in its head.
Words are signed 64-bit, in the machine's own order; a row begins with its counters (counts.py).

Any worker can write anywhere in it, by a fault or on purpose, and may be another user's. So nobody believes what is
absurd, nor keeps here what he has to rely on: a worker counts in its own memory and copies that here, again with each
heartbeat; the supervisor knows which rows it took, and for whom, and mends what differs (`mend`). The file cannot be
cut short. What a hostile worker still can do is to lie with numbers that could be true, for as long as it lives.

What is counted beside rows, for those who read metrics, is in regions behind the map (details.py).
"""

from __future__ import annotations

import errno
import os
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pronghorn.errors import End, PronghornError
from pronghorn.scoreboard.counts import CLOSED_WORD, COUNTERS, MOST, NAMES, OPEN, Counts, ListenerCounts, believed
from pronghorn.scoreboard.gone_details import GoneDetails
from pronghorn.scoreboard.map import (
    BEAT,
    CHANGES_LOCK,
    DIRECTORY,
    FILE_SIZE,
    FIRST,
    FORMAT,
    H_CHANGES,
    H_FORMAT,
    H_PAUSE,
    H_REFUSED,
    H_ROW,
    H_SERVING,
    HEAD,
    KEY,
    LISTENER_WORDS,
    LISTENERS,
    MAGIC,
    MOST_LISTENERS,
    PID,
    ROW_BYTES,
    ROW_WORDS,
    ROWS,
    SLOT,
    SOURCES,
    STARTED,
    STATE,
    Lock,
    Map,
)
from pronghorn.scoreboard.row import STARTING, Row
from pronghorn.scoreboard.sources import SOURCE_WORDS
from pronghorn.scoreboard.suspects import REFUSED_WORDS, Refused
from pronghorn.system.memory import anonymous_file
from pronghorn.system.processes import lives

MOST_CHANGES = 2**62
PATIENCE = 1.0  # seconds


class Scoreboard(Map):
    """The whole map. A supervisor creates it, or adopts that of the one it follows, and takes a row for each worker
    before the fork; the worker finds its row in the memory that it inherits."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._lock = Lock(fd, CHANGES_LOCK, PATIENCE, lambda: time.sleep(0.001))
        # What the supervisor knows by itself.
        self._mine: dict[int, array[int]] = {}  # the rows that it took: slot, generation, supervisor, pid
        self._others: set[int] = set()  # supervisors that share the map now: before an upgrade, and after it
        self._known: set[int] = set()  # all of those that there were
        self._gone = Counts(self.words[FIRST : FIRST + COUNTERS])
        self._gone_at = ListenerCounts(self._listeners(0))
        self._details = GoneDetails(fd)
        self._refused_copy = self.words[H_REFUSED : H_REFUSED + REFUSED_WORDS]
        self._refused = array("q", self._refused_copy)

    @classmethod
    def create(cls) -> Scoreboard:
        """A new, empty one. OSError if the system has no room for it."""
        fd = anonymous_file("scoreboard", size=FILE_SIZE)
        os.pwrite(fd, os.urandom(KEY.stop - KEY.start), KEY.start)
        board = cls(fd)
        for index, value in enumerate(HEAD):
            board.words[index] = value
        return board

    @classmethod
    def adopt(cls, fd: int) -> Scoreboard:
        """The one that an earlier program has left at `fd`. Raises PronghornError if it is none, or of another format;
        the descriptor is still open then."""
        hint = "An upgrade cannot bridge that: stop the server, then start the new one."
        if os.fstat(fd).st_size < 16 or os.pread(fd, 8, 0) != MAGIC.to_bytes(8, sys.byteorder):
            raise PronghornError(f"Descriptor {fd} is no scoreboard.", "It does not begin as one does.", hint)
        head = memoryview(os.pread(fd, 40, 0)).cast("q")
        if head[H_FORMAT] != FORMAT or os.fstat(fd).st_size != FILE_SIZE or head[H_ROW] != ROW_BYTES:
            why = f"Its format is {head[H_FORMAT]}, and this program writes {FORMAT}."
            raise PronghornError("The running server's scoreboard cannot be shared.", why, hint)
        board = cls(fd)
        board._others = {pid for pid in board.directory() if lives(pid)}
        board._known |= board._others
        board._sum_up(others=True)
        return board

    # What supervisors do.

    def take(self, slot: int, generation: int) -> Row:
        """A row for the worker that is about to be forked. What dead supervisors left behind is folded in first.

        Raises OSError (EAGAIN) if all rows are taken."""
        with self._locked():
            for index in self.taken():
                if index not in self._mine and self._is_abandoned(index):
                    self._free(index)
            index = self._vacant()
            row = self.row(index)
            self._clear(row)
            self._mine[index] = array("q", [slot, generation, os.getpid(), 0])
            self.words[DIRECTORY + index] = os.getpid()
            self._identity(index)[:] = self._mine[index]
            row.floats[STARTED] = row.floats[BEAT] = time.monotonic()
            row.state = STARTING
            return row

    def born(self, row: Row, pid: int) -> None:
        """The worker of a row that was taken here is this process."""
        self._mine[row.index][3] = pid
        self._identity(row.index)[:] = self._mine[row.index]

    def share(self, pid: int) -> None:
        """Another supervisor is about to take rows, too."""
        self._others.add(pid)
        self._known.add(pid)

    def mend(self) -> bool:
        """Puts right what only supervisors write, should a worker have written there; whether there was anything."""
        if self._is_sound():
            return False
        with self._locked():
            self._repair()
        return True

    def release(self, index: int) -> int:
        """The worker of this row has been reaped: its counters go to those of the gone, its gauges and its sources
        are cleared, and the row is free again. Connections that ended with it are counted as closed, `killed`; the
        result is how many these were."""
        with self._locked():
            return self._free(index)

    def count(self, name: str, count: int = 1) -> None:
        """More of what supervisors count (details.COUNTED)."""
        with self._locked():
            self._details.count(name, count, shared=bool(self._others))

    # What everybody may do.

    def row(self, index: int) -> Row:
        """The row of this number, taken or not."""
        return Row(self, index)

    @property
    def serving(self) -> int:
        """The number of the generation that serves, as its supervisor has written it; 0 before the first does."""
        return self.words[H_SERVING]

    @serving.setter
    def serving(self, number: int) -> None:
        self.words[H_SERVING] = number

    @property
    def room(self) -> int:
        """How many workers there may be at once."""
        return ROWS - 1

    def rows(self) -> list[Row]:
        """The rows that belong to a worker now, of every generation and of both supervisors."""
        return [self.row(index) for index in self.taken()]

    def totals(self) -> dict[str, Any]:
        """What all workers counted, those that are gone included; `open` is of now, `closed` is a dict by reason."""
        for _ in range(5):
            before = self.words[H_CHANGES]
            blocks = [self.row(index).words[:COUNTERS].tolist() for index in (0, *self.taken())]
            if self.words[H_CHANGES] == before and not before % 2:
                break  # else a row was folded in meanwhile, and may be missing or stand here twice
        sums = Counts()
        for index, values in enumerate(zip(*blocks, strict=True)):
            sums.words[index] = min(sum(map(believed, values)), MOST)
        return {name: getattr(sums, name) for name in (*NAMES, "slow_callbacks")}

    @property
    def moved(self) -> int:
        """Connections that one worker has taken over from another; one that has moved twice counts twice."""
        return sum(self.row(index).taken_over for index in (0, *self.taken()))

    @property
    def probes(self) -> int:
        """Connections that have ended without a byte from either side, and without a fault."""
        return sum(self.row(index).probes for index in (0, *self.taken()))

    @property
    def longest_pause(self) -> float:
        """Seconds for which a connection that moved was held up at most."""
        return believed(self.words[H_PAUSE]) / 1e9

    def totals_at(self, number: int) -> dict[str, int]:
        """What all workers counted for the listener of this number; `open` is of now."""
        start, end = number * LISTENER_WORDS, (number + 1) * LISTENER_WORDS
        blocks = [self._listeners(index)[start:end].tolist() for index in (0, *self.taken())]
        sums = [min(sum(map(believed, values)), MOST) for values in zip(*blocks, strict=True)]
        return dict(zip(NAMES[:LISTENER_WORDS], sums, strict=True))

    def connected(self) -> set[int]:
        """The sources that are, or were a while ago, connected to a worker."""
        return {source for row in self.rows() for source in row.connected().seen()}

    def refused(self) -> Refused:
        """The sources that are refused now, because workers died of them."""
        return Refused(memoryview(self._refused), self._refused_copy)

    # Inner workings: under the lock.

    def _listeners(self, index: int) -> memoryview[int]:
        """What the worker of this row counts for listeners."""
        start = FIRST + index * ROW_WORDS + LISTENERS
        return self.words[start : start + MOST_LISTENERS * LISTENER_WORDS]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among the supervisors. The count of changes is odd meanwhile; one who died in here left it odd. Whoever
        does not let go of the lock in time is not waited for: two may take the same row then, and their numbers mix.
        """
        held = self._lock.take()
        try:
            self.words[H_CHANGES] = believed(self.words[H_CHANGES], MOST_CHANGES) | 1
            yield
        finally:
            self.words[H_CHANGES] = believed(self.words[H_CHANGES], MOST_CHANGES) + 1
            if held:
                self._lock.give_back()

    def _vacant(self) -> int:
        """A row that is free; if there is none, one that nobody has whom we know."""
        entries = self.directory()
        free = [index for index in range(1, ROWS) if index not in self._mine and entries[index] not in self._known]
        if not free:
            raise OSError(errno.EAGAIN, f"the scoreboard has room for {ROWS - 1} workers")
        return min(free, key=lambda index: (entries[index] != 0, index))

    def _identity(self, index: int) -> memoryview[int]:
        return self.words[FIRST + index * ROW_WORDS + SLOT :][:4]

    def _free(self, index: int) -> int:
        row = self.row(index)
        row.words[STATE] = 0
        lost = row.unaccounted
        killed = CLOSED_WORD[End.KILLED]
        row.words[killed] = min(believed(row.words[killed]) + lost, MOST)
        self._sum_up()
        self._gone.take(row)
        listeners = self._listeners(row.index).tolist()
        for place, value in enumerate(listeners):
            if value and place % LISTENER_WORDS != OPEN:
                self._gone_at.add(place, min(believed(value), MOST - self._gone_at.own[place]))
        self._details.take(index, listeners[OPEN::LISTENER_WORDS], shared=bool(self._others))
        self._clear(row)
        self._mine.pop(index, None)
        self.words[DIRECTORY + index] = 0
        return lost

    def _clear(self, row: Row) -> None:
        if row.words[SOURCES]:
            self.table(row.index)[:] = memoryview(bytes(SOURCE_WORDS * 4)).cast("I")
        row.words[:] = memoryview(bytes(ROW_BYTES)).cast("q")
        self._details.clear(row.index)

    def _sum_up(self, others: bool = False) -> None:
        """What is known of those that are gone: while `others` count them too, what stands there counts."""
        if others or self._others:
            for counts in (self._gone, self._gone_at):
                for index, value in enumerate(counts.words[: len(counts.own)].tolist()):
                    counts.own[index] = max(counts.own[index], believed(value))
            self._others = {pid for pid in self._others if lives(pid)}
        self._gone.words[:COUNTERS] = self._gone.own
        self._gone_at.copy()
        self._details.mend(shared=others or bool(self._others))

    def _is_sound(self) -> bool:
        words, me = self.words, os.getpid()
        if words[:H_CHANGES].tolist() != HEAD or self._others:
            return False
        entries = self.directory()
        return (
            {index for index, pid in enumerate(entries) if pid} == self._mine.keys()
            and all(entries[index] == me for index in self._mine)
            and bytes(memoryview(self._map)[KEY]) == self.key
            and self._refused_copy == memoryview(self._refused)
            and self._gone.words[:COUNTERS].tolist() == self._gone.own.tolist()
            and self._gone_at.words == memoryview(self._gone_at.own)
            and self._details.is_sound()
            and all(self._identity(index).tolist() == known.tolist() for index, known in self._mine.items())
        )

    def _repair(self) -> None:
        for index, value in enumerate(HEAD):
            self.words[index] = value
        memoryview(self._map)[KEY] = self.key
        self._refused_copy[:] = self._refused
        for index, pid in enumerate(self.directory()):
            if index in self._mine:
                self.words[DIRECTORY + index] = os.getpid()
                if self._identity(index).tolist() != self._mine[index].tolist():
                    self._identity(index)[:] = self._mine[index]
                    self.row(index).floats[STARTED] = time.monotonic()
            elif pid in self._known:
                if self._is_abandoned(index):
                    self._free(index)
            elif pid:
                self._clear(self.row(index))
                self.words[DIRECTORY + index] = 0
        self._sum_up()

    def _is_abandoned(self, index: int) -> bool:
        """Nobody will release it: its supervisor was killed, and its worker has left too."""
        pid = self.words[FIRST + index * ROW_WORDS + PID]
        return not lives(self.words[DIRECTORY + index]) and not lives(pid)
