"""Counters: a block of words, each with a meaning of its own.

Law: a word is signed, 64 bits wide, and has one writer. Nothing here knows where the block lies: at the head of a row
of the scoreboard, in what a child of the fork model shares with its worker, or in this process alone.

Any process of the server can write there, by a fault or on purpose. So whoever counts keeps the truth in memory of its
own and only copies it there (`add`), and whoever reads another's takes what is absurd for nothing (`believed`).
"""

from __future__ import annotations

import mmap
import socket
import struct
from array import array

from pronghorn.errors import End
from pronghorn.peers import packed

NAMES = ("open", "accepted", "refused", "messages", "bytes_in", "bytes_out", "handler_errors", "closed")
OPEN, ACCEPTED, REFUSED, MESSAGES, BYTES_IN, BYTES_OUT, HANDLER_ERRORS, CLOSED = range(len(NAMES))
SLOW_CALLBACKS, PROBES, HANDED_OVER, TAKEN_OVER = 20, 21, 22, 23  # words behind the reasons
MOST = 2**53 - 1  # more than can be counted; every reader of JSON holds that exactly
COUNTERS = 24  # CLOSED and what follows: one word for each reason, and room for more
PID, PROGRAM, BORN, ADDRESS = COUNTERS, COUNTERS + 1, COUNTERS + 2, COUNTERS + 3  # of an entry, see ChildCounts
END_BY = COUNTERS + 5
"""Of an entry: when the child has to have ended that is told to drain (monotonic, ns); 0: it knows, NEVER: no time."""
ASKED, ENDED = COUNTERS + 6, COUNTERS + 7
"""Of an entry, written by the parent: the child shall tell of its connection; the operator has ended it."""
NEVER = -1
ENTRY_WORDS = COUNTERS + 8  # words
_NOTHING = memoryview(bytes(ENTRY_WORDS * 8)).cast("q")
CLOSED_WORD = {end.value: CLOSED + index for index, end in enumerate(End)}


def believed(value: int, most: int = MOST) -> int:
    """A number that another process wrote down, or 0 if it cannot be true."""
    return value if 0 <= value <= most else 0


def believed_instant(seconds: float) -> float:
    """The same of a monotonic instant."""
    return seconds if 0.0 <= seconds < 2**40 else 0.0


def word(index: int, doc: str, most: int = MOST) -> property:
    def get(self: Counts) -> int:
        return believed(self.words[index], most)

    def put(self: Counts, value: int) -> None:
        if index < COUNTERS:
            self.own[index] = value
        self.words[index] = value

    return property(get, put, None, doc)


class Counts:
    """A block of counters, in `words`; whoever counts there keeps what he counted in `own`."""

    __slots__ = ("own", "words")

    def __init__(self, words: memoryview[int] | None = None) -> None:
        self.words = words if words is not None else memoryview(bytearray(COUNTERS * 8)).cast("q")
        self.own: array[int] = array("q", bytes(COUNTERS * 8))

    def add(self, index: int, count: int = 1) -> None:
        """Count: only for the one process whose block it is."""
        self.own[index] = value = self.own[index] + count
        self.words[index] = value

    def begin(self) -> None:
        """Count a connection that begins."""
        own, words = self.own, self.words
        own[ACCEPTED] = words[ACCEPTED] = own[ACCEPTED] + 1
        own[OPEN] = words[OPEN] = own[OPEN] + 1

    def end(self, word: int) -> None:
        """Count a connection that ends, under this word."""
        own, words = self.own, self.words
        own[word] = words[word] = own[word] + 1
        own[OPEN] = words[OPEN] = own[OPEN] - 1

    def pass_by(self, bytes_in: int, bytes_out: int, messages: int) -> None:
        """Count what has come and gone."""
        own, words = self.own, self.words
        own[BYTES_IN] = words[BYTES_IN] = own[BYTES_IN] + bytes_in
        own[BYTES_OUT] = words[BYTES_OUT] = own[BYTES_OUT] + bytes_out
        own[MESSAGES] = words[MESSAGES] = own[MESSAGES] + messages

    open = word(OPEN, "Connections that are open now: a gauge.")
    accepted = word(ACCEPTED, "Connections that were accepted and given to the handler.")
    refused = word(REFUSED, "Connections that were accepted and closed unserved.")
    messages = word(MESSAGES, "Messages that a framing cut.")
    bytes_in = word(BYTES_IN, "Bytes received.")
    bytes_out = word(BYTES_OUT, "Bytes sent.")
    handler_errors = word(HANDLER_ERRORS, "Exceptions that handlers raised.")

    probes = word(PROBES, "Connections that have ended without a byte from either side, and without a fault.")
    slow_callbacks = word(SLOW_CALLBACKS, "Callbacks that have held up a loop for longer than --slow-callback.")
    handed_over = word(HANDED_OVER, "Connections that another worker has taken over from this one.")
    taken_over = word(TAKEN_OVER, "Connections that this worker has taken over from another one.")

    @property
    def closed(self) -> dict[str, int]:
        """Connections that have ended, by reason: the keys are those of errors.End."""
        return {name: believed(self.words[index]) for name, index in CLOSED_WORD.items()}

    @property
    def unaccounted(self) -> int:
        """Connections that came here, and were neither refused nor closed nor handed over: of a process that has ended,
        those that its death has cost. Never less than 0, whatever stands there."""
        words = [believed(value) for value in self.words[:COUNTERS].tolist()]
        left = words[REFUSED] + words[HANDED_OVER] + sum(self.closed.values())
        return max(0, words[ACCEPTED] + words[TAKEN_OVER] - left)

    def take(self, others: Counts) -> None:
        """Move the counters of `others` here; its gauge is left to the caller, and what is absurd is lost. Cut short by
        a death, this loses one number at most and counts none twice."""
        theirs = others.words
        for index, value in enumerate(theirs[:COUNTERS].tolist()):
            if value and index != OPEN:
                theirs[index] = 0
                self.add(index, min(believed(value), MOST - self.own[index]))


class ListenerCounts(Counts):
    """The first counters, up to HANDLER_ERRORS, of one listener in one worker."""

    __slots__ = ()

    def __init__(self, words: memoryview[int]) -> None:
        self.words = words
        self.own = array("q", bytes(len(words) * 8))

    def copy(self) -> None:
        """Write them anew, should somebody else have written there."""
        self.words[:] = self.own


class ChildCounts:
    """Entries that a process lends to its children: what they count there is left when they are gone, even if they were
    killed. Anonymous memory, which needs no descriptor; `most` entries of it. An entry says, beside its counters, which
    child it is, which program that has started, and when whose connection began: so that others can go on with it when
    the process that lent it is dead. Only what that one reads is believed; whoever reads it then has to check.
    """

    __slots__ = ("_free", "_fresh", "_words", "most")

    def __init__(self, most: int) -> None:
        self._words = memoryview(mmap.mmap(-1, most * ENTRY_WORDS * 8)).cast("q")
        self._free: list[Counts] = []
        self._fresh = 0
        self.most = most

    def lend(self, peer: tuple[str, int] | str = "", opened: float = 0.0) -> Counts:
        """An entry of zeros, for the connection of one child; MemoryError if `most` are out."""
        if not self._free and self._fresh >= self.most:
            raise MemoryError("all entries are lent")
        counts = self._free.pop() if self._free else self.block(self._next())
        words = counts.words
        words[BORN] = int(opened * 1e9)
        if not isinstance(peer, str):
            words[ADDRESS], words[ADDRESS + 1] = struct.unpack("qq", packed(peer[0]).rjust(16, b"\0"))
        return counts

    def _next(self) -> int:
        entry, self._fresh = self._fresh, self._fresh + 1
        return entry

    def back(self, counts: Counts) -> None:
        """Its child was never born, or is done."""
        counts.words[:] = _NOTHING
        self._free.append(counts)

    def settle(self, counts: Counts, into: Counts, reason: End | None = End.KILLED) -> End | None:
        """Its child is gone: what it counted goes `into` others, and the connection that it had is open no more. If the
        child has not said itself how that ended, it is counted as closed for `reason`, or for OPERATOR if it was killed
        at the operator's word: then returns that, and None otherwise."""
        words, counted = counts.words, None
        if reason is not None and not words[REFUSED] and not any(words[CLOSED:COUNTERS]):
            counted = End.OPERATOR if reason is End.KILLED and words[ENDED] else reason
            words[CLOSED_WORD[counted]] = 1
        into.take(counts)
        into.add(OPEN, -1)
        self.back(counts)
        return counted

    # For the supervisor, once the worker is dead.

    def block(self, entry: int) -> Counts:
        """The entry of this number, from 0."""
        return Counts(self._words[entry * ENTRY_WORDS : (entry + 1) * ENTRY_WORDS])

    def used(self) -> list[int]:
        """The numbers of the entries that are lent to a child, or to a program."""
        pids, programs = self._words[PID::ENTRY_WORDS].tolist(), self._words[PROGRAM::ENTRY_WORDS].tolist()
        return [entry for entry, both in enumerate(zip(pids, programs, strict=True)) if any(both)]

    def place_of(self, pid: int) -> int:
        """The place of a child's entry, from 1 on; 0 if it has none."""
        return next((entry + 1 for entry in self.used() if self.pid(entry) == pid), 0)

    def pid(self, entry: int) -> int:
        return self._words[entry * ENTRY_WORDS + PID]

    def program(self, entry: int) -> int:
        """The process id of the program that the connection was given to; 0 if there is none."""
        return self._words[entry * ENTRY_WORDS + PROGRAM]

    def born(self, entry: int) -> float:
        """When its connection was accepted: monotonic seconds."""
        return self._words[entry * ENTRY_WORDS + BORN] / 1e9

    def host(self, entry: int) -> str:
        """The address of its peer; empty for a unix socket."""
        start = entry * ENTRY_WORDS + ADDRESS
        raw = struct.pack("qq", *self._words[start : start + 2].tolist())
        if not any(raw):
            return ""
        if not any(raw[:12]):
            return socket.inet_ntop(socket.AF_INET, raw[12:])
        return socket.inet_ntop(socket.AF_INET6, raw)
