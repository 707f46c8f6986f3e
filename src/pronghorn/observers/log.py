"""The log: events in words, on standard error.

Law: the words are those of words.py. Kinds that a peer can cause at will are limited to one line in ten seconds each,
with the count of those left out. A log that nobody reads may not stop the server: what standard error does not take at
once is dropped and counted.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from select import PIPE_BUF, POLLOUT, poll

import msgspec

from pronghorn.events import Event
from pronghorn.observers.words import DEBUG, ERROR, INFO, WARNING, WORDS, limited_kind

NAME = "pronghorn.error"
QUIET = 10.0
COLOURS = {DEBUG: 36, INFO: 32, WARNING: 33, ERROR: 31}


class LogObserver:
    """Tells events to the logger `pronghorn.error`.

    A logger that already has handlers is left as its owner made it; otherwise records of `level` and above go to
    standard error until `close`, as lines of `form`: text or json. `clock` is monotonic, in seconds.
    """

    def __init__(self, level: str = "info", clock: Callable[[], float] = time.monotonic, form: str = "text") -> None:
        self._clock = clock
        self._told: dict[Hashable, float] = {}
        self._left_out: dict[Hashable, int] = {}
        self._logger = logging.getLogger(NAME)
        self._handler: logging.Handler | None = None
        if not self._logger.handlers:
            self._handler = StandardError(form)
            self._logger.addHandler(self._handler)
            self._logger.setLevel(level.upper())
            self._logger.propagate = False

    def __call__(self, event: Event) -> None:
        most, tell = WORDS.get(type(event), (0, None))
        if tell is None or not self._logger.isEnabledFor(most):
            return
        kind = limited_kind(event)
        if kind is None:
            level, text = tell(event)
            self._logger.log(level, "%s", text)
        elif self._may_tell(kind):
            more = self._left_out.pop(kind, 0)
            level, text = tell(event)
            head, line_end, rest = text.partition("\n")
            head += f" ({more:,} more since the last such line)" if more else ""
            self._logger.log(level, "%s", head + line_end + rest)

    def close(self) -> None:
        """Leaves the logger as it was found."""
        if self._handler is not None:
            self._logger.removeHandler(self._handler)
            self._logger.setLevel(logging.NOTSET)
            self._logger.propagate = True
            self._handler = None

    def _may_tell(self, kind: Hashable) -> bool:
        """True once in ten seconds for each kind; otherwise the record is counted as left out."""
        now = self._clock()
        if now - self._told.get(kind, -QUIET) < QUIET:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        self._told[kind] = now
        return True


class StandardError(logging.Handler):
    """Writes to descriptor 2 and never waits for it: a record that it does not take is dropped and counted."""

    def __init__(self, form: str = "text") -> None:
        super().__init__()
        self._dropped = 0
        self._poll = poll()
        self._poll.register(2, POLLOUT)
        coloured = os.isatty(2) and not os.environ.get("NO_COLOR")
        self.setFormatter(Json() if form == "json" else formatter(coloured, os.isatty(2)))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
            if self._dropped:
                line += f"({self._dropped:,} records were dropped: standard error did not take them)\n"
            self._write(line.encode("utf-8", "backslashreplace"))
            self._dropped = 0
        except (OSError, ValueError, TypeError):
            self._dropped += 1

    def _write(self, data: bytes) -> None:
        # A file takes a record whole, and with O_APPEND no other process's comes between.
        most = len(data) if stat.S_ISREG(os.fstat(2).st_mode) else PIPE_BUF
        while data:
            # Ready means that this much can be written without waiting (select(2), POLLOUT on a pipe).
            if not any(event & POLLOUT for _, event in self._poll.poll(0)):
                raise BlockingIOError
            data = data[os.write(2, data[:most]) :]


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
