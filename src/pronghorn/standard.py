"""Standard input, output and error: that they are open, and how an error is told to whoever started us.

Law: the command and the server it becomes speak with one voice; only their ends come here. Nothing here raises: when
nobody can be told, the exit status says it.
"""

from __future__ import annotations

import os
import sys

from pronghorn.errors import PronghornError

HEAD = "Error:"


def keep_standard_descriptors() -> None:
    """Whoever started us may have closed 0, 1 or 2: the next socket would get that number, and a stray print would be
    sent to a client."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:  # as Python has it when 2 was closed
        sys.stderr = open(2, "w", closefd=False)


def complain(error: PronghornError) -> int:
    """Say on standard error what happened, why, and what to do; the exit status that belongs to it."""
    lines = f"{HEAD} {error}".splitlines()
    try:
        if sys.stderr.isatty():
            lines = [part for line in lines for part in _fitted(line)]
            if not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
                lines[0] = lines[0].replace(HEAD, f"\x1b[1;31m{HEAD}\x1b[0m", 1)
        print(*lines, sep="\n", file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        pass  # closed, or full
    return error.exit_code


def _fitted(line: str) -> list[str]:
    """A line as wide as the terminal at most, and what follows as far in: tracebacks keep their shape."""
    import shutil
    import textwrap

    width = max(20, shutil.get_terminal_size().columns - 1)
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, drop_whitespace=True) or [""]
