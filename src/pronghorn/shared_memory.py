"""Memory that processes share: a file without a name, and the file in memory.

Law: nothing here knows what stands in it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from collections.abc import Callable


def unnamed(name: str = "pronghorn-scoreboard") -> int:
    """The descriptor of an empty file that no folder has."""
    create: Callable[..., int] | None = getattr(os, "memfd_create", None)
    if create is not None:
        return create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    import tempfile

    fd, path = tempfile.mkstemp(prefix=f"{name}-")
    os.unlink(path)
    return fd


def bounded(name: str, size: int) -> int:
    """The descriptor of a file of `size` zero bytes; where the system can seal it, it stays so large."""
    fd = unnamed(name)
    try:
        os.ftruncate(fd, size)
        if hasattr(fcntl, "F_ADD_SEALS") and hasattr(os, "memfd_create"):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException:
        os.close(fd)
        raise
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
