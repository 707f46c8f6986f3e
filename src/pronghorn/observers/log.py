"""The log: events in words, on standard error.

Law: the words are those of words.py. What asyncio logs by itself, of tasks and callbacks that failed with nobody there
to be told, is escaped as they are, unless the user has set up logging. Kinds that a peer can cause at will are limited
to one line in ten seconds each, with the count of those left out, of a process and all that it forks together. A log
that nobody reads may not stop the server: what standard error does not take at once is dropped and counted.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import sys
import time
from collections.abc import Callable, Hashable
from datetime import UTC, datetime

import msgspec

from pronghorn.events import Event
from pronghorn.observers.words import DEBUG, ERROR, INFO, LONGEST_PART, WARNING, WORDS, escaped, indented, limited_kind
from pronghorn.standard import outlet

NAME = "pronghorn.error"
ASYNCIO = "asyncio"
QUIET = 10.0
COLOURS = {DEBUG: 36, INFO: 32, WARNING: 33, ERROR: 31}


class LogObserver:
    """Tells events to the logger `pronghorn.error`.

    A logger that already has handlers is left as its owner made it; otherwise records of `level` and above go to
    standard error until `close`, as lines of `form`: text or json. `clock` is monotonic, in seconds.
    """

    def __init__(self, level: str = "info", clock: Callable[[], float] = time.monotonic, form: str = "text") -> None:
        self._clock = clock
        self._seldom = Seldom()
        self._logger = logging.getLogger(NAME)
        self._handler: logging.Handler | None = None
        if not self._logger.handlers:
            self._handler = StandardError(form)
            self._logger.addHandler(self._handler)
            self._logger.setLevel(level.upper())
            self._logger.propagate = False
            self._others = Others(self._handler)
            logging.getLogger(ASYNCIO).addHandler(self._others)
            sys.unraisablehook, self._unraisable = self._unraised, sys.unraisablehook

    def __call__(self, event: Event) -> None:
        most, tell = WORDS.get(type(event), (0, None))
        if tell is None or not self._logger.isEnabledFor(most):
            return
        kind = limited_kind(event)
        if kind is None:
            level, text = tell(event)
            self._logger.log(level, "%s", text)
        elif (more := self._seldom.left_out(kind, self._clock())) is not None:
            level, text = tell(event)
            head, line_end, rest = text.partition("\n")
            head += f" ({more:,} more since the last such line)" if more else ""
            self._logger.log(level, "%s", head + line_end + rest)

    def close(self) -> None:
        """Leaves the loggers as they were found."""
        if self._handler is not None:
            logging.getLogger(ASYNCIO).removeHandler(self._others)
            sys.unraisablehook = self._unraisable
            self._logger.removeHandler(self._handler)
            self._logger.setLevel(logging.NOTSET)
            self._logger.propagate = True
            self._handler = None

    def _unraised(self, told: sys.UnraisableHookArgs) -> None:
        """Leave out what ssl says of a client that asks for a name that is none: the handshake's end tells of it."""
        if not (isinstance(told.object, bytes) and isinstance(told.exc_value, UnicodeDecodeError)):
            self._unraisable(told)


class Seldom:
    """When each kind was told last, and how many records were left out since: in memory that a process shares with
    those that it forks, so that a thousand children with one fault do not tell of it a thousand times.

    Without a lock: two who come at the same instant may both tell. Of more kinds than there is room for, the one that
    was told longest ago is forgotten.
    """

    PLACES, NEAR = 512, 8
    KEY, TOLD, LEFT_OUT, WORDS = range(4)

    def __init__(self) -> None:
        memory = memoryview(mmap.mmap(-1, self.PLACES * self.WORDS * 8))
        self._words, self._floats = memory.cast("q"), memory.cast("d")

    def left_out(self, kind: Hashable, now: float) -> int | None:
        """None if one of this kind was told within the last ten seconds; else it may be told, and with it this many."""
        key = hash(kind) or 1
        places = [(key + each) % self.PLACES * self.WORDS for each in range(self.NEAR)]
        place = next((each for each in places if self._words[each] == key), -1)
        if place < 0:
            place = min(places, key=lambda each: self._floats[each + self.TOLD] if self._words[each] else -math.inf)
            self._words[place], self._words[place + self.LEFT_OUT] = key, 0
        elif now - self._floats[place + self.TOLD] < QUIET:
            self._words[place + self.LEFT_OUT] += 1
            return None
        self._floats[place + self.TOLD] = now
        more, self._words[place + self.LEFT_OUT] = self._words[place + self.LEFT_OUT], 0
        return more


class StandardError(logging.Handler):
    """Writes to descriptor 2 and does not wait for who reads it: a record that it does not take is dropped and counted,
    and told of once it takes records again."""

    def __init__(self, form: str = "text") -> None:
        super().__init__()
        self._dropped = 0
        coloured = os.isatty(2) and not os.environ.get("NO_COLOR")
        self.setFormatter(Json() if form == "json" else formatter(coloured, os.isatty(2)))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
            if self._dropped:
                line += f"({self._dropped:,} records were dropped: standard error did not take them)\n"
            outlet.write(line.encode("utf-8", "backslashreplace"))
            self._dropped = 0
        except (OSError, ValueError, TypeError):
            self._dropped += 1


class Others(logging.Handler):
    """Gives the records of another's logger to ours, each as one line with its traceback indented behind it; where
    somebody else hears them they are left to him."""

    def __init__(self, ours: logging.Handler) -> None:
        super().__init__(WARNING)
        self._ours = ours

    def emit(self, record: logging.LogRecord) -> None:
        if logging.getLogger().handlers:
            return
        head, *lines = self.format(record)[:LONGEST_PART].split("\n")
        text = escaped(head) + indented(lines)
        self._ours.handle(logging.LogRecord(record.name, record.levelno, "", 0, text, None, None))


def formatter(coloured: bool, terminal: bool) -> logging.Formatter:
    """How records look: `INFO:     ...` on a terminal, else the prefix that everyone's log parsers know."""
    if not terminal:
        return logging.Formatter("[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s", "%Y-%m-%d %H:%M:%S %z")
    return Terminal(coloured)


class Terminal(logging.Formatter):
    def __init__(self, coloured: bool) -> None:
        super().__init__()
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        name = record.levelname
        gap = " " * max(1, 9 - len(name))
        if self._coloured:
            name = f"\x1b[{COLOURS.get(record.levelno, 0)}m{name}\x1b[0m"
        return f"{name}:{gap}{record.getMessage()}"


class Json(logging.Formatter):
    """A record as one JSON object in one line: time (RFC 3339), level, process and message."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC)
        said = {"time": when, "level": record.levelname, "process": record.process, "message": record.getMessage()}
        return msgspec.json.encode(said).decode()
