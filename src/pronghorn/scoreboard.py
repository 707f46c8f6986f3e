"""The scoreboard: one map that all processes of a server share. Each worker writes its own page, anyone may sum.

Law: a page has one writer at a time, its worker; before the worker lives and after it has died, its supervisor. So
there is no lock between those who serve. Two supervisors, as during an upgrade, share the map: whoever takes or frees a
page holds fcntl's lock for that moment. Nothing here waits for a worker. Whoever reads may find a page half written and
has to live with it: each number is one aligned word, so none of them is torn, but two need not belong together.

The map is a sparse file without a name: only what is touched takes memory, 4 KiB for a page and 128 KiB for the table
of sources of a worker that counts them. It lives on over the exec of an upgrade; magic and format stand in its head.
Words are signed 64-bit, in the machine's own order; a page begins with its counters (counts.py).

Left out: a histogram of latencies. There is no clock per message in a worker, and none shall be.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pronghorn.counts import CLOSED_WORD, COUNTERS, OPEN, Counts, word
from pronghorn.errors import PronghornError
from pronghorn.shared_memory import bounded, mapped
from pronghorn.sources import SOURCE_WORDS, buckets
from pronghorn.suspects import REFUSED_WORDS, TABLE_WORDS, OpenSources, Refused

MAGIC = int.from_bytes(b"Pronghrn", sys.byteorder)
FORMAT = 2
PAGES = 1024  # workers at once; page 0 has the counters of those that are gone
PAGE = max(4096, mmap.PAGESIZE)  # bytes
WORDS = PAGE // 8
STARTING, SERVING, DRAINING, LEAVING = 1, 2, 3, 4
STATES = {0: "free", STARTING: "starting", SERVING: "serving", DRAINING: "draining", LEAVING: "leaving"}
SILENT = 2.5  # seconds without a beat, and nobody waits for this worker to take a connection

# The words of a page behind its counters.
SLOT, GENERATION, SUPERVISOR, PID, STATE, STARTED, BEAT, SOURCES = range(COUNTERS, COUNTERS + 8)
CONNECTED = 64  # and what follows: the sources that are connected (suspects.py)

# The words of the head. Behind it stands the directory: a word for each page, its supervisor's process id or 0; then
# what --accept-rate needs (limits.py): three words for each page, which are not cleared when it is given back.
H_MAGIC, H_FORMAT, H_PAGE, H_PAGES, H_CHANGES, H_HIGHEST = range(6)
KEY = slice(64, 80)  # bytes
H_REFUSED = 16  # and what follows: who is refused (suspects.py)
DIRECTORY = WORDS
TAKEN, SEEN, SINCE = (DIRECTORY + each * PAGES for each in (1, 2, 3))
FIRST = DIRECTORY + (4 * PAGES * 8 + PAGE - 1) // PAGE * WORDS
TABLES = (FIRST + PAGES * WORDS) * 8  # bytes
SIZE = TABLES + PAGES * SOURCE_WORDS * 4


class Page(Counts):
    """What one worker tells of itself. Made without a board it belongs to nobody, and nobody reads it."""

    __slots__ = ("_board", "_changes", "_others", "_table", "floats", "index")

    def __init__(self, board: Scoreboard | None = None, index: int = 0) -> None:
        self.index = index
        self._board = board
        self._changes = -1
        self._others: list[int] = []
        self._table: memoryview[int] | None = None
        start = FIRST + index * WORDS
        super().__init__(board.words[start : start + WORDS] if board else memoryview(bytearray(PAGE)).cast("q"))
        self.floats = self.words.cast("B").cast("d")

    slot = word(SLOT, "The worker's place in its supervisor.")
    generation = word(GENERATION, "Which reload or upgrade it came with.")
    supervisor = word(SUPERVISOR, "The supervisor's process id.")
    pid = word(PID, "The worker's process id, 0 until it has said so.")
    state = word(STATE, "STARTING, SERVING, LEAVING (it accepts no more) or DRAINING; 0 is a free page.")

    @property
    def started(self) -> float:
        """When the page was taken: monotonic seconds."""
        return self.floats[STARTED]

    @property
    def beat(self) -> float:
        """The last sign of life of the loop that serves: monotonic seconds."""
        return self.floats[BEAT]

    def starting(self, pid: int) -> None:
        """The worker lives; said by itself, before anything else."""
        self.words[PID] = pid
        self.floats[BEAT] = time.monotonic()

    def now_serving(self, pid: int) -> None:
        """The worker has entered its loop: from now on it is counted among those that accept."""
        self.starting(pid)
        self.words[STATE] = SERVING

    def tick(self, now: float) -> None:
        """The heartbeat, written by the loop that serves; `now` is monotonic."""
        self.floats[BEAT] = now

    def head(self) -> memoryview[int]:
        """What stands before all pages; without a board, as much that nobody else has."""
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
        less = self.words[OPEN] - 1
        if less <= 0:
            return False
        emptier = [
            start for start in self._elsewhere(board) if words[start + OPEN] < less and words[start + STATE] == SERVING
        ]
        return bool(emptier) and max(board.floats[start + BEAT] for start in emptier) > time.monotonic() - SILENT

    def everywhere(self, index: int) -> int:
        """The sum of one counter over all workers, this one included."""
        board, count = self._board, self.words[index]
        return count + sum(board.words[start + index] for start in self._elsewhere(board)) if board else count

    def source_everywhere(self, peer: tuple[str, int] | str) -> int:
        """Connections that this source has open with all workers (see Scoreboard.source_count)."""
        if self._board is not None:
            return self._board.source_count(peer)
        return min((self._sources()[bucket] for bucket in self._buckets(peer)), default=0)

    def source_add(self, peer: tuple[str, int] | str) -> None:
        """Count one more connection of this source (see sources.py); unix sockets have none."""
        for bucket in self._buckets(peer):
            self._sources()[bucket] += 1

    def source_remove(self, peer: tuple[str, int] | str) -> None:
        """Take back what `source_add` counted."""
        for bucket in self._buckets(peer):
            table = self._sources()
            table[bucket] = max(0, table[bucket] - 1)

    def _elsewhere(self, board: Scoreboard) -> list[int]:
        """Where the pages of the other workers begin."""
        changes = board.words[H_CHANGES]
        if changes != self._changes:
            self._changes = changes
            self._others = [FIRST + each * WORDS for each in board.taken() if each != self.index]
        return self._others

    def _buckets(self, peer: tuple[str, int] | str) -> tuple[int, ...]:
        return () if isinstance(peer, str) else buckets(self._board.key if self._board else b"", peer[0])

    def _sources(self) -> memoryview[int]:
        if self._table is None:
            board = self._board
            self._table = board.table(self.index) if board else memoryview(bytearray(SOURCE_WORDS * 4)).cast("I")
            self.words[SOURCES] = 1
        return self._table


class Scoreboard:
    """The whole map. A supervisor creates it, or adopts that of the one it follows, and takes a page for each worker
    before the fork; the worker finds its page in the memory that it inherits."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_inheritable(fd, False)
        self._map, self._copy = mapped(fd, SIZE)
        whole = memoryview(self._map)
        self.words: memoryview[int] = whole[:TABLES].cast("q")
        self.floats: memoryview[float] = whole[:TABLES].cast("d")
        self._tables: memoryview[int] = whole[TABLES:].cast("I")
        self.key = bytes(whole[KEY])
        self._seen = -1
        self._taken: list[int] = []

    @classmethod
    def create(cls) -> Scoreboard:
        """A new, empty one. OSError if the system has no room for it."""
        fd = bounded("pronghorn-scoreboard", SIZE)
        os.pwrite(fd, os.urandom(KEY.stop - KEY.start), KEY.start)
        board = cls(fd)
        for index, value in ((H_FORMAT, FORMAT), (H_PAGE, PAGE), (H_PAGES, PAGES), (H_MAGIC, MAGIC)):
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
        if head[H_FORMAT] != FORMAT or os.fstat(fd).st_size != SIZE or head[H_PAGE] != PAGE:
            why = f"Its format is {head[H_FORMAT]}, and this program writes {FORMAT}."
            raise PronghornError("The running server's scoreboard cannot be shared.", why, hint)
        return cls(fd)

    def fileno(self) -> int:
        """The map's file: close-on-exec, unless an upgrade makes it inheritable."""
        return self._fd

    def descriptors(self) -> list[int]:
        """All that this process holds of it: the file, and the copy that the mmap module keeps. A child may close them;
        the map remains."""
        return [fd for fd in (self._fd, self._copy) if fd >= 0]

    def close(self) -> None:
        """Close the descriptor; the map stays readable."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # What supervisors do.

    def take(self, slot: int, generation: int) -> Page:
        """A page for the worker that is about to be forked. What dead supervisors left behind is folded in first.

        Raises OSError (EAGAIN) if all pages are taken."""
        with self._locked():
            for index in self.taken():
                if self._is_abandoned(index):
                    self._free(index)
            for index in range(1, PAGES):
                if not self.words[DIRECTORY + index]:
                    break
            else:
                raise OSError(errno.EAGAIN, f"the scoreboard has room for {PAGES - 1} workers")
            self.words[H_HIGHEST] = max(index, self.words[H_HIGHEST])
            page = self.page(index)
            page.words[SLOT], page.words[GENERATION] = slot, generation
            page.words[SUPERVISOR] = self.words[DIRECTORY + index] = os.getpid()
            page.floats[STARTED] = page.floats[BEAT] = time.monotonic()
            page.words[STATE] = STARTING
            return page

    def release(self, index: int) -> int:
        """The worker of this page has been reaped: its counters go to those of the gone, its gauges and its sources
        are cleared, and the page is free again. Connections that ended with it are counted as closed, `killed`; the
        result is how many these were."""
        with self._locked():
            return self._free(index)

    # What everybody may do.

    def page(self, index: int) -> Page:
        """The page of this number, taken or not."""
        return Page(self, index)

    def taken(self) -> list[int]:
        """The numbers of the pages that belong to a worker now."""
        changes = self.words[H_CHANGES]
        if changes != self._seen or changes % 2:
            entries = self.words[DIRECTORY : DIRECTORY + PAGES].tolist()
            self._taken = [index for index, pid in enumerate(entries) if pid]
            self._seen = changes
        return self._taken

    @property
    def room(self) -> int:
        """How many workers there may be at once."""
        return PAGES - 1

    def pages(self) -> list[Page]:
        """The pages that belong to a worker now, of every generation and of both supervisors."""
        return [self.page(index) for index in self.taken()]

    def totals(self) -> dict[str, Any]:
        """What all workers counted, those that are gone included; `open` is of now, `closed` is a dict by reason."""
        for _ in range(5):
            before = self.words[H_CHANGES]
            blocks = [self.page(index).words[:COUNTERS].tolist() for index in (0, *self.taken())]
            if self.words[H_CHANGES] == before and not before % 2:
                break  # else a page was folded in meanwhile, and may be missing or stand here twice
        sums = Counts()
        for index, values in enumerate(zip(*blocks, strict=True)):
            sums.words[index] = sum(values)
        names = ("open", "accepted", "refused", "messages", "bytes_in", "bytes_out", "handler_errors", "closed")
        return {name: getattr(sums, name) for name in names}

    def connected(self) -> set[int]:
        """The sources that are, or were a while ago, connected to a worker."""
        return {source for page in self.pages() for source in page.connected().seen()}

    def refused(self) -> Refused:
        """The sources that are refused now, because workers died of them."""
        return Refused(self.words[H_REFUSED : H_REFUSED + REFUSED_WORDS])

    def source_count(self, peer: tuple[str, int] | str) -> int:
        """Connections that this source has open with all workers: never less than the truth, seldom more (a count-min
        sketch: the minimum over the rows of the sum over the workers)."""
        if isinstance(peer, str):
            return 0
        first, second = buckets(self.key, peer[0])
        low = high = 0
        for index in self.taken():
            if self.words[FIRST + index * WORDS + SOURCES]:
                start = index * SOURCE_WORDS
                low += self._tables[start + first]
                high += self._tables[start + second]
        return min(low, high)

    def table(self, index: int) -> memoryview[int]:
        """The counts per source of one worker: two rows of buckets."""
        return self._tables[index * SOURCE_WORDS : (index + 1) * SOURCE_WORDS]

    # Inner workings: under the lock.

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among the supervisors. The count of changes is odd meanwhile; one who died in here left it odd."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            self.words[H_CHANGES] |= 1
            yield
        finally:
            self.words[H_CHANGES] += 1
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def _free(self, index: int) -> int:
        page = self.page(index)
        page.words[STATE] = 0
        lost = page.unaccounted
        page.words[CLOSED_WORD["killed"]] += lost
        self.page(0).take(page)
        if page.words[SOURCES]:
            self.table(index)[:] = memoryview(bytes(SOURCE_WORDS * 4)).cast("I")
        page.words[:] = memoryview(bytes(PAGE)).cast("q")
        self.words[DIRECTORY + index] = 0
        return lost

    def _is_abandoned(self, index: int) -> bool:
        """Nobody will release it: its supervisor was killed, and its worker has left too."""
        pid = self.words[FIRST + index * WORDS + PID]
        return not _lives(self.words[DIRECTORY + index]) and not (pid and _lives(pid))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's: it lives
    return True
