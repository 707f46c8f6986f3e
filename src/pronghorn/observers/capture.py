"""Records that are not the server's: what handlers log, and errors that Python itself reports.

Law: these records go where the server's own go, in the same form, each escaped, so that nobody forges a record. What
can come in floods is limited: asyncio's own logger, threads and objects that failed, warnings. What a handler logs is
not limited. Where a user has set up logging, or a hook, that stays as it is.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Hashable
from types import FunctionType
from typing import Any, Protocol

from pronghorn.observers.escaping import LONGEST_PART, escaped, indented, kind_and_text, raised_at, trace, with_count
from pronghorn.observers.log_line import ERROR, WARNING

ASYNCIO = "asyncio"
LONGEST_RECORD = 8000  # characters of a line that a handler logs

Say = Callable[[int, str], None]


class Limits(Protocol):
    """Which kinds of records were logged lately."""

    def left_out(self, kind: Hashable, now: float) -> int | None: ...


class Capture:
    """Hands the records to `say`, from `begin` to `end`."""

    def __init__(self, say: Say, floods: Limits, clock: Callable[[], float]) -> None:
        self._say = say
        self._floods = floods
        self._clock = clock
        self._undo: list[Callable[[], object]] = []

    def begin(self, level: int) -> None:
        """Takes the hooks that nobody has set. Records of handlers of `level` and above are logged, unless the handler
        sets a level of its own."""
        asyncio, root = Forward(self._of_asyncio, WARNING), logging.getLogger()
        logging.getLogger(ASYNCIO).addHandler(asyncio)
        self._undo.append(lambda: logging.getLogger(ASYNCIO).removeHandler(asyncio))
        if not root.handlers:
            before = root.level
            root.setLevel(level)  # Python begins with WARNING, which hides what handlers log at INFO
            self._undo.append(lambda: root.setLevel(before))
        self._replace(logging, "lastResort", Forward(self._of_handlers, logging.NOTSET))
        self._replace(logging, "basicConfig", wanting_little(logging.basicConfig))
        self._replace(sys, "unraisablehook", self._unraised)
        self._replace(threading, "excepthook", self._of_threads)
        if isinstance(warnings.showwarning, FunctionType):
            self._replace(warnings, "showwarning", self._warned)

    def level(self, level: int) -> None:
        """From now on records of handlers of this level and above are logged."""
        if not logging.getLogger().handlers:
            logging.getLogger().setLevel(level)

    def end(self) -> None:
        """Puts all hooks back as they were found."""
        while self._undo:
            self._undo.pop()()

    def _replace(self, module: Any, name: str, new: Any) -> None:
        before = getattr(module, name)
        setattr(module, name, new)
        self._undo.append(lambda: setattr(module, name, before))

    def _say_limited(self, kind: Hashable, level: int, tell: Callable[[], str]) -> None:
        more = self._floods.left_out(kind, self._clock())
        if more is not None:
            self._say(level, with_count(tell(), more))

    def _of_handlers(self, record: logging.LogRecord, text: Callable[[], str]) -> None:
        """A record that no handler of Python's logging has taken."""
        head, *lines = text().split("\n")
        name = "" if record.name == "root" else f"{escaped(record.name)}: "
        self._say(record.levelno, name + escaped(head, LONGEST_RECORD) + indented(lines, LONGEST_RECORD))

    def _of_asyncio(self, record: logging.LogRecord, text: Callable[[], str]) -> None:
        """A task or a callback failed, and nothing has awaited it."""
        if logging.getLogger().handlers:
            return  # the root's handlers get it
        error = record.exc_info[1] if record.exc_info else None
        what: Hashable = raised_at(error) if error is not None else str(record.msg)[:30]

        def tell() -> str:
            head, *lines = text()[:LONGEST_PART].split("\n")
            return escaped(head) + indented(lines)

        self._say_limited((ASYNCIO, type(error), what), record.levelno, tell)

    def _of_threads(self, args: Any) -> None:
        """A thread ended with an exception (threading.excepthook)."""
        error = args.exc_value
        if error is None or isinstance(error, SystemExit):
            return
        name = args.thread.name if args.thread is not None else "?"
        kind = "thread", type(error), raised_at(error)
        self._say_limited(kind, ERROR, lambda: f"Thread {escaped(name)} failed: {kind_and_text(error)}{trace(error)}")

    def _unraised(self, args: Any) -> None:
        """An exception could not be raised (sys.unraisablehook). A server name that cannot be decoded is left out: the
        handshake fails, and that is logged."""
        error = args.exc_value
        if error is None or (isinstance(args.object, bytes) and isinstance(error, UnicodeDecodeError)):
            return
        what = escaped(args.err_msg or "Exception ignored in")
        kind = "unraisable", type(error), raised_at(error)
        self._say_limited(kind, ERROR, lambda: f"{what}: {escaped(args.object)}: {kind_and_text(error)}{trace(error)}")

    def _warned(
        self, message: Any, category: type, filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        """A warning (warnings.showwarning)."""
        place = f"{escaped(filename)}:{lineno}"
        kind = "warning", category, filename, lineno
        self._say_limited(kind, WARNING, lambda: f"{escaped(category.__name__)}: {escaped(message)} ({place})")


def wanting_little(basic_config: Callable[..., None]) -> Callable[..., None]:
    """A logging.basicConfig that makes no handler where only Python's default is wanted, as by `logging.info(...)`,
    which calls it by itself: records go to standard error anyway, in the log's own form."""

    def basicConfig(**wanted: Any) -> None:
        root = logging.getLogger()
        if root.handlers or not wanted.keys() <= {"level"}:
            basic_config(**wanted)
        elif wanted.get("level") is not None:
            root.setLevel(wanted["level"])

    return basicConfig


class Forward(logging.Handler):
    """Hands on each record with a function that makes its text, and that never raises."""

    def __init__(self, to: Callable[[logging.LogRecord, Callable[[], str]], None], level: int) -> None:
        super().__init__(level)
        self._to = to

    def emit(self, record: logging.LogRecord) -> None:
        def text() -> str:
            try:
                return self.format(record)
            except BaseException as error:  # its arguments do not fit, or their text raises
                return f"{escaped(record.msg)} ({kind_and_text(error)}, at {record.pathname}:{record.lineno})"

        self._to(record, text)
