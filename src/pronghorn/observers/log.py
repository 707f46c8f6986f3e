"""The log: events as records on standard error, or for the handlers of Python's logging.

Law: the words are in log_lines.py; records of handlers and of Python itself come from capture.py. Kinds that a peer
can cause at will are limited to one line in ten seconds each, with the count of those left out, for a process and all
that it forks together. A log that nobody reads may not stop the server: a record that standard error does not take at
once is dropped and counted.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import time
from collections.abc import Callable, Hashable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from pronghorn.events import Event, LogLevelSet
from pronghorn.observers.capture import Capture
from pronghorn.observers.escaping import escaped, kind_and_text, with_count
from pronghorn.observers.log_line import DEBUG, ERROR, INFO, WARNING
from pronghorn.observers.log_lines import WORDS
from pronghorn.system.connection_filter import fields_here, peer_text
from pronghorn.system.stdio import dropped, outlet

NAME = "pronghorn.error"
QUIET = 10.0
Tell = Callable[[str, int, str, dict[str, Any]], bool]
FIELD_NAMES = {"slot": "worker", "limit": "reason", "why": "reason", "seconds": "duration"}
NOT_FIELDS = frozenset({"stack", "trace", "number", "cut_off"})
"""Of the message alone; and what `id` says."""
MOST_MEMBERS = 32  # of a list in a field
COLOURS = {DEBUG: 36, INFO: 32, WARNING: 33, ERROR: 31}


class LogObserver:
    """Logs events as records named `pronghorn.error`, whatever the user's handler does with `logging` later: it may
    disable loggers, take their handlers away, or set a level.

    A logger `pronghorn.error` that already has handlers is left as it is, and its handlers get all records from then
    on; with `configured`, inherited handlers count too (`--log-config`). Otherwise records of `level` and above go to
    standard error until `close`, as lines of `form`: text or json; and so do the records of capture.py. `clock` is
    monotonic, in seconds.
    """

    def __init__(
        self,
        level: str = "info",
        clock: Callable[[], float] = time.monotonic,
        form: str = "text",
        *,
        configured: bool = False,
    ) -> None:
        self._clock = clock
        self._floods = Floods()
        self._logger = logging.getLogger(NAME)
        self._ours: logging.Handler | None = None
        self._tell: Tell | None = None
        self._tells_fields = True  # users' handlers find them in `record.fields`
        self._copy: Callable[[int, str], None] | None = None
        if self._logger.handlers or (configured and self._logger.hasHandlers()):
            self._handlers = tuple(_heard_by(self._logger))
            self._level = self._logger.getEffectiveLevel()
            return
        self._ours, self._tells_fields = StandardError(form), form == "json"
        self._handlers = (self._ours,)
        self._logger.addHandler(self._ours)
        self._logger.setLevel(level.upper())
        self._logger.propagate = False
        self._level = self._logger.level
        self._capture = Capture(self._say, self._floods, clock)
        self._capture.begin(self._level)

    def __call__(self, event: Event) -> None:
        if isinstance(event, LogLevelSet):
            self._set_level(event.level.upper())
        line = WORDS.get(type(event))
        if line is None or line.most < self._level:
            return
        kind = line.flood(event)
        more = 0 if kind is None else self._floods.left_out(kind, self._clock())
        if more is None:
            return
        try:
            level, text = line.level(event), line.text(event)
        except MemoryError:
            level, text = line.most, f"{type(event).__name__}: there is no memory to tell of it"
        self._say(level, with_count(text, more), fields=fields_of(event) if self._tells_fields else None)

    def hears(self, kind: type[Event]) -> bool:
        line = WORDS.get(kind)
        return kind is LogLevelSet or (line is not None and line.most >= self._level)

    def _set_level(self, level: str) -> None:
        if self._ours is not None and level != logging.getLevelName(self._level):
            self._logger.setLevel(level)
            self._level = self._logger.level
            self._capture.level(self._level)

    def close(self) -> None:
        """Leaves the loggers as they were found."""
        if self._ours is not None:
            self._capture.end()
            self._logger.removeHandler(self._ours)
            self._logger.setLevel(logging.NOTSET)
            self._logger.propagate = True
            self._ours, self._handlers = None, ()

    def _say(self, level: int, text: str, name: str = NAME, fields: dict[str, Any] | None = None) -> None:
        if level < self._level:
            return
        if self._copy is not None:
            self._copy(level, text)
        if self._tell is None or not self._tell(name, level, text, fields or {}):
            record = logging.LogRecord(name, level, "", 0, text, None, None)
            if fields is not None:
                record.fields = fields
            self.hear(record)

    def hear(self, record: logging.LogRecord) -> None:
        """Hands a record to the handlers."""
        for handler in self._handlers:
            if record.levelno >= handler.level:
                handler.handle(record)

    def copy_to(self, copy: Callable[[int, str], None]) -> None:
        """From now on `copy` gets the level and the text of each record too, in this process and all that it forks."""
        self._copy = copy

    def have_told_by(self, tell: Tell) -> None:
        """From now on `tell` gets each record first (logger, level, text, fields), if the handlers are not the log's
        own; a record that it does not take, by returning False, goes to the handlers. What they hold is flushed."""
        if self._ours is None:
            for handler in self._handlers:
                handler.flush()
            self._tell = tell


def _heard_by(logger: logging.Logger | None) -> Iterator[logging.Handler]:
    """The handlers that get a logger's records, those of its parents included."""
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


class Floods:
    """When each kind was logged last, and how many records were left out since: in memory that a process shares with
    its forks, so that a thousand children with one fault do not log it a thousand times.

    There is no lock: two processes may both log a kind in the same instant. Of more kinds than there is room for, the
    one that was logged longest ago is forgotten.
    """

    PLACES, NEAR = 512, 8
    KEY, LOGGED, LEFT_OUT, WORDS = range(4)

    def __init__(self) -> None:
        memory = memoryview(mmap.mmap(-1, self.PLACES * self.WORDS * 8))
        self._words, self._floats = memory.cast("q"), memory.cast("d")

    def left_out(self, kind: Hashable, now: float) -> int | None:
        """None if one of this kind was logged within the last ten seconds; else how many were left out since."""
        key = hash(kind) or 1
        places = [(key + each) % self.PLACES * self.WORDS for each in range(self.NEAR)]
        place = next((each for each in places if self._words[each] == key), -1)
        if place < 0:
            place = min(places, key=lambda each: self._floats[each + self.LOGGED] if self._words[each] else -math.inf)
            self._words[place], self._words[place + self.LEFT_OUT] = key, 0
        elif now - self._floats[place + self.LOGGED] < QUIET:
            self._words[place + self.LEFT_OUT] += 1
            return None
        self._floats[place + self.LOGGED] = now
        more, self._words[place + self.LEFT_OUT] = self._words[place + self.LEFT_OUT], 0
        return more


class StandardError(logging.Handler):
    """Writes to descriptor 2 without waiting: a record that is not taken is dropped and counted, and the count is
    written once records are taken again."""

    def __init__(self, form: str = "text") -> None:
        super().__init__()
        self._dropped = 0
        coloured = os.isatty(outlet.fd) and not os.environ.get("NO_COLOR")
        self.setFormatter(Json() if form == "json" else formatter(coloured, os.isatty(outlet.fd)))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
            if self._dropped:
                line += f"({self._dropped:,} records were dropped: standard error did not take them)\n"
            outlet.write(line.encode("utf-8", "backslashreplace"))
            self._dropped = 0
        except (OSError, ValueError, TypeError, MemoryError):
            self._dropped += 1
            dropped["log"] += 1


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
    """A record as one JSON object in one line: time (RFC 3339), level, process and message; what the event holds that
    it is about, by name; of a handler's record, which connection it is of."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC)
        said = {"time": when, "level": record.levelname, "process": record.process, "message": record.getMessage()}
        fields = getattr(record, "fields", None)
        here = fields_here()
        if fields is not None:  # an event, which may be of another connection than the one that is served here
            here = {**fields, "worker": here["worker"]} if "worker" in here else fields
        said |= {key: each for key, each in here.items() if key not in said}
        return msgspec.json.encode(said).decode()


def fields_of(event: Event) -> dict[str, Any]:
    """What an event holds, as plain fields for a record: those that mean the same have the names of the access log, and
    `event` is the kind. Texts are escaped and capped; of an error there are class and text, and no traceback."""
    found: dict[str, Any] = {"event": type(event).__name__}
    for name, value in msgspec.structs.asdict(event).items():
        if name in NOT_FIELDS or value is None or value == "" or value == ():
            continue
        if name in ("peer", "proxy"):
            found[name] = peer_text(value)
        elif name == "error":
            found["error"] = kind_and_text(value)
        elif name == "fields":
            found["log"] = {escaped(key): escaped(each) for key, each in value}
        else:
            found[FIELD_NAMES.get(name, name)] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value[:MOST_MEMBERS]]
    return escaped(value)
