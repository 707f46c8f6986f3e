"""Anonymous files in memory: bytes that processes share, or that a program is given, and that no folder has.

Law: nothing here knows what stands in them.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import sys
from collections.abc import Iterator

writers: set[int] = set()
"""Descriptors by which this process alone writes: a process that is forked from it to run the user's code closes them.
"""


def anonymous_file(name: str, content: bytes = b"", size: int = 0) -> int:
    """The descriptor, close-on-exec, of a file that has `content`, or `size` zero bytes, or nothing yet; at its begin.

    Where the system can seal it, a content can no more be changed, nor a size. It is a file in memory, `name` in what
    the kernel says of it (memfd_create(2)), or a temporary one without a name.
    """
    in_memory = hasattr(os, "memfd_create")
    if in_memory:
        fd = os.memfd_create(f"pronghorn-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        import tempfile

        fd, path = tempfile.mkstemp(prefix=f"pronghorn-{name}-")
        os.unlink(path)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        os.ftruncate(fd, size or len(content))
        os.lseek(fd, 0, os.SEEK_SET)
        if (content or size) and in_memory and hasattr(fcntl, "F_ADD_SEALS"):
            last = fcntl.F_SEAL_WRITE if content else fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | last)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.contextmanager
def as_file(content: bytes) -> Iterator[str]:
    """A path to read `content` from, for calls that take no bytes: of an anonymous file where /proc has such paths,
    else of a temporary one that only this user can read."""
    fd = anonymous_file("pem", content)
    try:
        path = f"/proc/self/fd/{fd}"
        if os.path.exists(path):
            yield path
            return
    finally:
        os.close(fd)
    import tempfile

    with tempfile.NamedTemporaryFile() as named:
        named.write(content)
        named.flush()
        yield named.name


def readable(fd: int) -> int:
    """A descriptor of the same unnamed file that can only read; the file's mode keeps other users from opening it anew
    for more. The same one where the system has no such thing."""
    try:
        os.fchmod(fd, 0o400)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return fd


def mapped(fd: int, size: int, offset: int = 0) -> tuple[mmap.mmap, int]:
    """The file in memory, and the number of the copy of `fd` that the mmap module makes for itself, or -1."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, offset=offset, trackfd=False), -1
    copy = os.dup(fd)  # the lowest number that is free: the module's own copy will have it
    os.close(copy)
    memory = mmap.mmap(fd, size, offset=offset)
    try:
        found = os.path.sameopenfile(copy, fd)
    except OSError:
        found = False
    return memory, copy if found else -1
