"""What others say in a process of ours: what handlers log, and what Python and asyncio tell of errors nobody caught.

Law: it goes where the server's own records go, in their form, each escaped, so that nobody forges a record. What can
come in floods is limited as they are: asyncio's own logger, threads and objects that failed, warnings. What the handler
logs is not, for it is meant. Whoever sets up logging or a hook of his own has it: nothing is put before it.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Hashable
from types import FunctionType
from typing import Any, Protocol

from pronghorn.observers.phrases import LONGEST_PART, escaped, indented, kind_and_text, raised_at, trace, with_count
from pronghorn.observers.words import ERROR, WARNING

ASYNCIO = "asyncio"
LONGEST_RECORD = 8000  # characters of a line that a handler logs

Say = Callable[[int, str], None]


class Limits(Protocol):
    """Which kinds of records were told lately."""

    def left_out(self, kind: Hashable, now: float) -> int | None: ...


class Others:
    """Has `say` told of what others say, from `begin` to `end`."""

    def __init__(self, say: Say, seldom: Limits, clock: Callable[[], float]) -> None:
        self._say = say
        self._seldom = seldom
        self._clock = clock
        self._undo: list[Callable[[], object]] = []

    def begin(self, level: int) -> None:
        """Takes the places where nobody has put anything yet. Records of handlers of `level` and above are told, unless
        they set a level of their own."""
        asyncio, root = Heard(self._of_asyncio, WARNING), logging.getLogger()
        logging.getLogger(ASYNCIO).addHandler(asyncio)
        self._undo.append(lambda: logging.getLogger(ASYNCIO).removeHandler(asyncio))
        if not root.handlers:
            before = root.level
            root.setLevel(level)  # a WARNING is what Python begins with: what handlers log at INFO would not be shown
            self._undo.append(lambda: root.setLevel(before))
        self._replace(logging, "lastResort", Heard(self._of_handlers, logging.NOTSET))
        self._replace(logging, "basicConfig", wanting_little(logging.basicConfig))
        self._replace(sys, "unraisablehook", self._unraised)
        self._replace(threading, "excepthook", self._of_threads)
        if isinstance(warnings.showwarning, FunctionType):
            self._replace(warnings, "showwarning", self._warned)

    def level(self, level: int) -> None:
        """From now on records of handlers of this level and above are told."""
        if not logging.getLogger().handlers:
            logging.getLogger().setLevel(level)

    def end(self) -> None:
        """Leaves all as it was found."""
        while self._undo:
            self._undo.pop()()

    def _replace(self, module: Any, name: str, new: Any) -> None:
        before = getattr(module, name)
        setattr(module, name, new)
        self._undo.append(lambda: setattr(module, name, before))

    def _seldom_say(self, kind: Hashable, level: int, tell: Callable[[], str]) -> None:
        more = self._seldom.left_out(kind, self._clock())
        if more is not None:
            self._say(level, with_count(tell(), more))

    def _of_handlers(self, record: logging.LogRecord, text: Callable[[], str]) -> None:
        """A record that no logger of the handler's has taken."""
        head, *lines = text().split("\n")
        name = "" if record.name == "root" else f"{escaped(record.name)}: "
        self._say(record.levelno, name + escaped(head, LONGEST_RECORD) + indented(lines, LONGEST_RECORD))

    def _of_asyncio(self, record: logging.LogRecord, text: Callable[[], str]) -> None:
        """Tasks and callbacks that failed with nobody there to be told."""
        if logging.getLogger().handlers:
            return  # somebody else hears it
        error = record.exc_info[1] if record.exc_info else None
        what: Hashable = raised_at(error) if error is not None else str(record.msg)[:30]

        def tell() -> str:
            head, *lines = text()[:LONGEST_PART].split("\n")
            return escaped(head) + indented(lines)

        self._seldom_say((ASYNCIO, type(error), what), record.levelno, tell)

    def _of_threads(self, told: Any) -> None:
        """A thread ended with an exception (threading.excepthook)."""
        error = told.exc_value
        if error is None or isinstance(error, SystemExit):
            return
        name = told.thread.name if told.thread is not None else "?"
        kind = "thread", type(error), raised_at(error)
        self._seldom_say(kind, ERROR, lambda: f"Thread {escaped(name)} failed: {kind_and_text(error)}{trace(error)}")

    def _unraised(self, told: Any) -> None:
        """An exception had nowhere to go (sys.unraisablehook). Of a client that asks for a name that is none, the end
        of the handshake tells."""
        error = told.exc_value
        if error is None or (isinstance(told.object, bytes) and isinstance(error, UnicodeDecodeError)):
            return
        what = escaped(told.err_msg or "Exception ignored in")
        kind = "unraisable", type(error), raised_at(error)
        self._seldom_say(kind, ERROR, lambda: f"{what}: {escaped(told.object)}: {kind_and_text(error)}{trace(error)}")

    def _warned(
        self, message: Any, category: type, filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        """A warning (warnings.showwarning)."""
        place = f"{escaped(filename)}:{lineno}"
        kind = "warning", category, filename, lineno
        self._seldom_say(kind, WARNING, lambda: f"{escaped(category.__name__)}: {escaped(message)} ({place})")


def wanting_little(basic_config: Callable[..., None]) -> Callable[..., None]:
    """logging.basicConfig that makes no handler where none but Python's default is wanted, as by `logging.info(...)`,
    which calls it unasked: records go to standard error as it is, in our form."""

    def basicConfig(**wanted: Any) -> None:
        root = logging.getLogger()
        if root.handlers or not wanted.keys() <= {"level"}:
            basic_config(**wanted)
        elif wanted.get("level") is not None:
            root.setLevel(wanted["level"])

    return basicConfig


class Heard(logging.Handler):
    """A handler that hands on each record, with what makes its text; a record without one is told as such."""

    def __init__(self, hear: Callable[[logging.LogRecord, Callable[[], str]], None], level: int) -> None:
        super().__init__(level)
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        def text() -> str:
            try:
                return self.format(record)
            except BaseException as error:  # its arguments do not fit, or their text raises
                return f"{escaped(record.msg)} ({kind_and_text(error)}, at {record.pathname}:{record.lineno})"

        self._hear(record, text)
