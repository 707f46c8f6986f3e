"""What is counted: a block of words, each with a meaning of its own.

Law: a word is signed, 64 bits wide, and has one writer. Nothing here knows where the block lies: at the head of a page
of the scoreboard, in what a child of the fork model shares with its worker, or in this process alone.
"""

from __future__ import annotations

import mmap

OPEN, ACCEPTED, REFUSED, MESSAGES, BYTES_IN, BYTES_OUT, HANDLER_ERRORS, CLOSED = range(8)
COUNTERS = 24  # CLOSED and what follows: one word for each reason, and room for more
REASONS = ("done", "draining", "aborted", "reset", "timeout", "error", "killed", "handshake")
REASON_OF = {
    "ConnectionResetError": "reset", "BrokenPipeError": "reset", "ConnectionAbortedError": "aborted",
    "PeerTimeout": "timeout", "TimeoutError": "timeout", "idle": "timeout", "message timeout": "timeout",
    "write timeout": "timeout", "age": "done", "write buffer": "aborted",
    "TlsFailed": "reset", "HandshakeFailed": "handshake",
    "truncated": "done",
}  # fmt: skip
CLOSED_WORD = {name: CLOSED + index for index, name in enumerate(REASONS)}


def closed_word(reason: str) -> int:
    """The word that counts connections closed for `reason`: one of REASONS, or the name of the error that it was."""
    return CLOSED_WORD.get(reason) or CLOSED_WORD[REASON_OF.get(reason, "error")]


def word(index: int, doc: str) -> property:
    def get(self: Counts) -> int:
        return self.words[index]

    def put(self: Counts, value: int) -> None:
        self.words[index] = value

    return property(get, put, None, doc)


class Counts:
    """A block of counters, in `words`; whoever counts often writes there (`words[MESSAGES] += 1`)."""

    __slots__ = ("words",)

    def __init__(self, words: memoryview[int] | None = None) -> None:
        self.words = words if words is not None else memoryview(bytearray(COUNTERS * 8)).cast("q")

    open = word(OPEN, "Connections that are open now: a gauge.")
    accepted = word(ACCEPTED, "Connections that were accepted and given to the handler.")
    refused = word(REFUSED, "Connections that were accepted and closed unserved.")
    messages = word(MESSAGES, "Messages that a framing cut.")
    bytes_in = word(BYTES_IN, "Bytes received.")
    bytes_out = word(BYTES_OUT, "Bytes sent.")
    handler_errors = word(HANDLER_ERRORS, "Exceptions that handlers raised.")

    @property
    def closed(self) -> dict[str, int]:
        """Connections that have ended, by reason: the keys are REASONS."""
        return {name: self.words[index] for name, index in CLOSED_WORD.items()}

    @property
    def unaccounted(self) -> int:
        """Connections that were accepted, and neither refused nor closed: of a process that has ended, those that its
        death has cost. Never less than 0, whatever stands there."""
        return max(0, self.words[ACCEPTED] - self.words[REFUSED] - sum(self.closed.values()))

    def take(self, others: Counts) -> None:
        """Move the counters of `others` here; its gauge is left to the caller. Cut short by a death, this loses one
        number at most and counts none twice."""
        ours, theirs = self.words, others.words
        for index, value in enumerate(theirs[:COUNTERS].tolist()):
            if value and index != OPEN:
                theirs[index] = 0
                ours[index] += value


class Shared:
    """Blocks that a process lends to its children: what they count there is left when they are gone, even if they were
    killed. Anonymous memory, which needs no descriptor; `most` blocks of it."""

    __slots__ = ("_free", "_fresh", "_words")

    def __init__(self, most: int) -> None:
        self._words = memoryview(mmap.mmap(-1, most * COUNTERS * 8)).cast("q")
        self._free: list[Counts] = []
        self._fresh = 0

    def lend(self) -> Counts:
        """A block of zeros, for one child; at most `most` are out."""
        if self._free:
            return self._free.pop()
        start, self._fresh = self._fresh, self._fresh + COUNTERS
        return Counts(self._words[start : start + COUNTERS])

    def back(self, counts: Counts) -> None:
        """Its child was never born."""
        self._free.append(counts)

    def settle(self, counts: Counts, into: Counts) -> bool:
        """Its child is gone: what it counted goes `into` others, and the connection that it had is open no more. True
        if it has not said itself how that ended: it was killed."""
        killed = not counts.words[REFUSED] and not any(counts.words[CLOSED:COUNTERS])
        if killed:
            counts.words[CLOSED_WORD["killed"]] = 1
        into.take(counts)
        into.words[OPEN] -= 1
        counts.words[OPEN] = 0
        self._free.append(counts)
        return killed
