"""Memory that processes share: a file without a name, and the file in memory.

Law: nothing here knows what stands in it.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable


def unnamed() -> int:
    """The descriptor of an empty file that no folder has."""
    create: Callable[..., int] | None = getattr(os, "memfd_create", None)
    if create is not None:
        return create("pronghorn-scoreboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    import tempfile

    fd, path = tempfile.mkstemp(prefix="pronghorn-scoreboard-")
    os.unlink(path)
    return fd


def mapped(fd: int, size: int) -> tuple[mmap.mmap, int]:
    """The file in memory, and the number of the copy of `fd` that the mmap module makes for itself, or -1."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, trackfd=False), -1
    copy = os.dup(fd)  # the lowest number that is free: the module's own copy will have it
    os.close(copy)
    memory = mmap.mmap(fd, size)
    try:
        found = os.path.sameopenfile(copy, fd)
    except OSError:
        found = False
    return memory, copy if found else -1
