"""The memory of the scoreboard: its layout, and what each process that has the map can read of it.

Law: every offset is named here. Whatever stands in the map may be false (see board.py): a number is believed only where
it can be true.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import time
from array import array
from collections.abc import Callable, Iterator

from pronghorn.scoreboard.counts import COUNTERS
from pronghorn.scoreboard.sources import SOURCE_WORDS
from pronghorn.system.memory import mapped

MAGIC = int.from_bytes(b"Pronghrn", sys.byteorder)
FORMAT = 8
ROWS = 1024  # workers at once; row 0 has the counters of those that are gone
ROW_BYTES = max(8192, mmap.PAGESIZE)
ROW_WORDS = ROW_BYTES // 8

# The words of the head. Behind it stands the directory: a word for each row, its supervisor's process id or 0.
H_MAGIC, H_FORMAT, H_ROW, H_ROWS, H_CHANGES, H_SERVING, H_FILLING, H_PAUSE = range(8)
HEAD = [MAGIC, FORMAT, ROW_BYTES, ROWS]  # what never changes
KEY = slice(64, 80)  # bytes
H_UNREAD_HEADERS = 10  # a bit for each listener that was told of (serving/unread_headers.py)
H_REFUSED = 16  # and what follows: the sources that are refused (suspects.py)
H_SHARED = 160  # and what follows: SHARED_WORDS of limits that are shared with other hosts (shared_limits.py)
SHARED_WORDS = 8
H_RATES = 256  # and what follows: as H_FILLING, of a listener with --accept-rate of its own, by its number
DIRECTORY = ROW_WORDS
FIRST = DIRECTORY + (ROWS * 8 + ROW_BYTES - 1) // ROW_BYTES * ROW_WORDS

# The words of a row, behind its counters.
SLOT, GENERATION, SUPERVISOR, PID, STATE, STARTED, BEAT, SOURCES = range(COUNTERS, COUNTERS + 8)
CONNECTED = 64  # and what follows: the sources that are connected (suspects.py)
LISTENERS = 384  # and what follows: LISTENER_WORDS for each listener, by its number (counts.py)
LISTENER_WORDS = 7
MOST_LISTENERS = (ROW_WORDS - LISTENERS) // LISTENER_WORDS

# Behind all rows: a table of the connections per source for each row.
TABLES = (FIRST + ROWS * ROW_WORDS) * 8  # bytes
SOURCE_RATES = TABLES + ROWS * SOURCE_WORDS * 4  # and behind these: as H_FILLING, of sources (--accept-rate-per-source)
MESSAGE_RATES = SOURCE_RATES + SOURCE_WORDS * 8  # the same of messages (--message-rate-per-source)
ELSEWHERE = MESSAGE_RATES + SOURCE_WORDS * 8  # and behind these: a table of the connections per source at other hosts
NOTED = ELSEWHERE + SOURCE_WORDS * 4  # and the sources that other hosts are told of
SIZE = NOTED + SOURCE_WORDS * 8  # what every process maps

# Behind the map, in the same file: a region for each row, which is mapped where somebody counts there (details.py).
REGION = 128 * 1024  # bytes
REGIONS = (SIZE + REGION - 1) // REGION * REGION  # bytes
FILE_SIZE = REGIONS + ROWS * REGION

# The bytes of the file that are locked; what stands there has nothing to do with it.
CHANGES_LOCK, RATE_LOCK, MESSAGE_LOCK = 0, 1, 2
REGION_LOCKS = 64  # and what follows: of each row's region, by its number
IMPATIENCE = 10.0  # seconds after patience was over in which nobody is waited for


class Lock:
    """A lock between processes, on one byte of the map's file (fcntl(2)): the kernel frees it when its holder dies. One
    that is not free within `patience` seconds is not waited for in the ten seconds after, and whoever wants it goes on
    without."""

    __slots__ = ("_byte", "_fd", "_impatient_until", "_inode", "_patience", "_rest")

    def __init__(self, fd: int, byte: int, patience: float, rest: Callable[[], object]) -> None:
        self._fd, self._byte, self._patience, self._rest = fd, byte, patience, rest
        self._inode = os.fstat(fd).st_ino
        self._impatient_until = 0.0

    def take(self) -> bool:
        """Whether this process has the lock now, and has to give it back."""
        deadline = 0.0
        while True:
            try:
                if os.fstat(self._fd).st_ino != self._inode:
                    return False  # somebody has closed it; the number may be another file's
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._byte)
                return True
            except OSError:
                now = time.monotonic()
                deadline = deadline or now + self._patience
                if now < self._impatient_until:
                    return False
                if now >= deadline:
                    self._impatient_until = now + IMPATIENCE
                    return False
            self._rest()

    def give_back(self) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._byte)


class Map:
    """The map of an open file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_inheritable(fd, False)
        self._map, self._copy = mapped(fd, SIZE)
        whole = memoryview(self._map)
        self.words: memoryview[int] = whole[:TABLES].cast("q")
        self.floats: memoryview[float] = whole[:TABLES].cast("d")
        self._tables: memoryview[int] = whole[TABLES:SOURCE_RATES].cast("I")
        self.source_rates: memoryview[int] = whole[SOURCE_RATES:MESSAGE_RATES].cast("q")
        self.message_rates: memoryview[int] = whole[MESSAGE_RATES:ELSEWHERE].cast("q")
        self.elsewhere: memoryview[int] = whole[ELSEWHERE:NOTED].cast("I")
        self.noted: memoryview[int] = whole[NOTED:].cast("q")
        self.key = bytes(whole[KEY])
        self._seen = -1
        self._taken: list[int] = []

    def fileno(self) -> int:
        """The map's file: close-on-exec, unless an upgrade makes it inheritable."""
        return self._fd

    def descriptors(self) -> list[int]:
        """All that this process holds of the map: the file, and the copy that the mmap module keeps. A child may close
        them; the map remains."""
        return [fd for fd in (self._fd, self._copy) if fd >= 0]

    def close(self) -> None:
        """Close the descriptor; the map stays readable."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def directory(self) -> list[int]:
        """For each row, the process id of its supervisor, or 0."""
        return self.words[DIRECTORY : DIRECTORY + ROWS].tolist()

    def taken(self) -> list[int]:
        """The numbers of the rows that belong to a worker now."""
        changes = self.words[H_CHANGES]
        if changes != self._seen or changes % 2:
            self._taken = [index for index, pid in enumerate(self.directory()) if pid]
            self._seen = changes
        return self._taken

    def look_again(self) -> None:
        """What is known of others is read anew next time, whether or not it seems to have changed."""
        self._seen = -1

    def table(self, index: int) -> memoryview[int]:
        """The connections per source of one worker: two lines of buckets."""
        return self._tables[index * SOURCE_WORDS : (index + 1) * SOURCE_WORDS]

    def start_sources(self, index: int) -> memoryview[int]:
        """The table, empty, of a worker that counts sources from now on."""
        table = self.table(index)
        table[:] = array("I", bytes(SOURCE_WORDS * 4))
        self.words[FIRST + index * ROW_WORDS + SOURCES] = 1
        return table

    def source_tables(self) -> Iterator[memoryview[int]]:
        """The tables of all workers that count sources: see sources.count_everywhere."""
        for index in self.taken():
            if self.words[FIRST + index * ROW_WORDS + SOURCES]:
                yield self.table(index)
