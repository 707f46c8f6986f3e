"""Where a process writes its stacks when it crashes: memory that whoever reaps it reads.

Law: what faulthandler writes, it writes from C while the process dies, and no rule can be kept there. So it goes to a
file in memory of a fixed size instead of the log, and who reads it tells of it as seldom as of any other record. A
worker and its forked children share one file and its offset; when two of them crash at the same moment, their lines may
be mixed. What stands there is the word of a process that may have been taken over: it is bounded, and no
more than text.
"""

from __future__ import annotations

import os

import msgspec

from pronghorn.counts import Shared
from pronghorn.shared_memory import bounded

SIZE = 32 * 1024  # bytes
BEGIN = b"Fatal Python error: "


class Remains(msgspec.Struct, frozen=True):
    """What others read when a worker is dead: what it wrote when it crashed, and its children and programs."""

    stacks: Stacks
    rows: Shared | None = None


class Stacks:
    """An empty file for the stacks of one worker. Raises OSError if there is none to be had."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = bounded("pronghorn-stacks", SIZE)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def take(self) -> str:
        """The last stacks that were written since the last time; "" if there are none that are whole. Empty lines are
        left out, and the list of C modules."""
        try:
            size = min(os.lseek(self._fd, 0, os.SEEK_CUR), SIZE)
            data = os.pread(self._fd, max(0, size), 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        except OSError:
            return ""
        begun = data.rfind(BEGIN)
        lines = data[begun:].decode("ascii", "replace").splitlines() if begun >= 0 else []
        return "\n".join(line for line in lines if line.strip() and not line.startswith("Extension modules:"))
