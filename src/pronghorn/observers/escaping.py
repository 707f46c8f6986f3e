"""Texts for records: escaped and capped, with counts, dates and tracebacks in words.

Law: a text that a peer or a handler can choose becomes printable, and no longer than a record may be; the lines of a
traceback stand indented behind their record. Nothing here knows events.
"""

from __future__ import annotations

import os
import time
import traceback
from signal import Signals

from pronghorn.errors import printable

LONGEST_TEXT = 300
LONGEST_TRACE = 60
MOST_NAMES = 10
LONGEST_PART = LONGEST_TRACE * LONGEST_TEXT  # an error's text may be as long as a message
HOUSE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def escaped(text: object, longest: int = LONGEST_TEXT) -> str:
    """`text` as one printable line of at most `longest` characters: control characters, line ends and the like are
    written as escapes."""
    try:
        line = str(text)[: longest + 1]
    except BaseException:  # of a class of the handler's, whose __str__ raises
        line = "<str() failed>"
    line = printable(line, longest + 1).replace("\n", "\\n")
    return line if len(line) <= longest else line[: longest - 3] + "..."


def peer_name(peer: tuple[str, int] | str) -> str:
    """A peer as the log names it: `127.0.0.1 at PORT 51234`."""
    if isinstance(peer, str):
        return f"unix socket {escaped(peer)}" if peer else "a unix socket"
    return f"{escaped(peer[0])} at PORT {peer[1]}"


def trace(error: BaseException, *, ours: bool = False) -> str:
    """The traceback of `error`, from the first frame that is not `ours`, each line escaped and indented."""
    whole = traceback.TracebackException.from_exception(error, limit=-LONGEST_TRACE)
    link: traceback.TracebackException | None = whole
    while link is not None and not ours:
        theirs = [place for place, frame in enumerate(link.stack) if not frame.filename.startswith(HOUSE)]
        if theirs:
            del link.stack[: theirs[0]]
        link = link.__cause__
    parts = (part[:LONGEST_PART].rstrip("\n") for part in whole.format())
    return indented([line for part in parts for line in part.split("\n")])


def with_count(text: str, more: int) -> str:
    """A record that stands for `more` others too: its first line says how many."""
    head, line_end, rest = text.partition("\n")
    return head + (f" ({more:,} more since the last such line)" if more else "") + line_end + rest


def indented(lines: list[str], longest: int = LONGEST_TEXT) -> str:
    """Lines that follow their record: each escaped, and the middle of very many left out."""
    if len(lines) > LONGEST_TRACE:
        lines = [*lines[: LONGEST_TRACE // 2], "...", *lines[-LONGEST_TRACE // 2 :]]
    return "".join(f"\n  {escaped(line, longest)}" for line in lines)


def frames(stack: str) -> str:
    """Stacks as faulthandler writes them, without our frames, each line escaped and indented."""
    lines = stack.split("\n") if stack else []
    theirs = [line for line in lines if f'File "{HOUSE}' not in line and 'File "<frozen runpy>"' not in line]
    pairs = zip(theirs, [*theirs[1:], ""], strict=False)
    return indented([each for each, after in pairs if after.startswith("  ") or not each.startswith("Thread 0x")])


def crashed_at(stack: str) -> str:
    """The innermost line of Python of a stack, as faulthandler writes it."""
    return next((line.strip() for line in stack.split("\n") if line.lstrip().startswith("File ")), "")


def raised_at(error: BaseException) -> tuple[str, int]:
    """The file and the line where an error was raised."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return (place.tb_frame.f_code.co_filename, place.tb_lineno) if place is not None else ("", 0)


def counted(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"


def date(seconds: float) -> str:
    """An instant as people write it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def kind_and_text(error: BaseException) -> str:
    """`ValueError: the text`, or the name alone."""
    name, text = escaped(type(error).__name__), escaped(error)
    return f"{name}: {text}" if text else name


MEANS = {
    "SIGKILL": " (perhaps out of memory: see the kernel's log)",
    "SIGXCPU": ": it had used all of its CPU time (--max-process-cpu, or ulimit -t)",
}


def ending(status: int) -> str:
    """How a process ended, from its exit code, or minus the signal that killed it."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}{MEANS.get(name, '')}"
