"""Memory for the stack traces of a worker that crashes, or is asked for them: its supervisor reads it.

Law: faulthandler writes from C while the process dies, and no limit of the log can be kept there. So it writes to a
file in memory of a fixed size, and the supervisor logs what it finds, as seldom as any other record. A worker and its
forked children share one file and its offset; when two of them crash at the same moment, their lines may be mixed. The
process may have been taken over: what it has written is bounded, and no more than text.
"""

from __future__ import annotations

import contextlib
import os

import msgspec

from pronghorn.scoreboard.counts import ChildCounts
from pronghorn.system.memory import anonymous_file

SIZE = 32 * 1024  # bytes
BEGIN = "Fatal Python error: "
OUT_OF_TIME = "Stack (most recent call first)"  # at a limit of CPU time (system/process_limits.py)


class Remains(msgspec.Struct, frozen=True):
    """What the supervisor reads of a dead worker: its stack traces, and what its children and programs have counted.
    `careful`: workers died a moment ago, and the first connections of this one may be those that they died of."""

    stacks: Stacks
    children: ChildCounts | None = None
    careful: bool = False


class Stacks:
    """An empty file for the stacks of one worker. Raises OSError if there is none to be had."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = anonymous_file("stacks", size=SIZE)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def rewind(self) -> None:
        """What is written from here on takes the place of what stands there."""
        with contextlib.suppress(OSError):
            os.lseek(self._fd, 0, os.SEEK_SET)

    def written(self) -> str:
        """What was written since it was rewound, of whatever process."""
        try:
            size = min(os.lseek(self._fd, 0, os.SEEK_CUR), SIZE)
            return os.pread(self._fd, max(0, size), 0).decode("ascii", "replace")
        except OSError:
            return ""

    def take(self) -> str:
        """The last stacks that were written since the last time; "" if there are none that are whole. Empty lines are
        left out, and the list of C modules."""
        data = self.written()
        self.rewind()
        begun = max(data.rfind(BEGIN), data.rfind(OUT_OF_TIME))
        lines = data[begun:].splitlines() if begun >= 0 else []
        return "\n".join(line for line in lines if line.strip() and not line.startswith("Extension modules:"))
