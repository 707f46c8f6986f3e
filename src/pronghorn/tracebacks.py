"""Tracebacks of what the user's code has raised, with its own frames and none of ours, as text."""

from __future__ import annotations

import contextlib
import os
import re
import traceback
from collections.abc import Iterable

HOUSE = os.path.dirname(os.path.abspath(__file__)) + os.sep
MACHINERY = ("<frozen importlib", HOUSE, contextlib.__file__)
ASYNCIO = os.path.join(os.path.dirname(os.path.abspath(contextlib.__file__)), "asyncio") + os.sep
DEBUGGERS = re.compile(r"(^|[/\\.])(pdb|bdb|ipdb|pudb|debugpy|_?pydevd\w*)([/\\.]|$)")


def of_users(error: BaseException) -> str:
    """The traceback of `error` without the frames that lead from Pronghorn to the user's code."""
    found = traceback.TracebackException.from_exception(error)
    kept = [each for each in found.stack if not _is_machinery(each.filename)]
    first = next((place for place, each in enumerate(kept) if not each.filename.startswith(ASYNCIO)), 0)
    found.stack = traceback.StackSummary.from_list(kept[first:])  # a loop of the connection's own led there
    return "".join(found.format()).rstrip()


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised in a frame of Pronghorn's own, and not in the user's code that it called."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and place.tb_frame.f_code.co_filename.startswith(HOUSE)


def debugger_in(frames: Iterable[tuple[str, str]]) -> str:
    """The debugger of Python's that a stack shows, by files and functions, in words; "" for none."""
    for file, function in frames:
        if found := DEBUGGERS.search(file):
            return f"{found[2]} is in its stacks"
        if file.endswith(("/code.py", "\\code.py")) and function == "interact":
            return "an interactive interpreter is in its stacks"
    return ""


def _is_machinery(filename: str) -> bool:
    return filename.startswith(MACHINERY) or filename.endswith(f"importlib{os.sep}__init__.py")
