"""Memory that processes share: a file without a name, and the file in memory.

Law: nothing here knows what stands in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterator

writers: set[int] = set()
"""Descriptors by which this process alone writes: whoever is forked from it, and runs the user's code, closes them."""


def locked(fd: int, patience: float) -> bool:
    """Takes the lock of a file (fcntl(2), F_SETLK), unless somebody holds it for longer than `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)


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
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def readable(fd: int) -> int:
    """A descriptor of the same unnamed file that can only read; the file's mode keeps other users from opening it anew
    for more. The same one where the system has no such thing."""
    try:
        os.fchmod(fd, 0o400)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
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


@contextlib.contextmanager
def as_file(content: bytes) -> Iterator[str]:
    """A path to read `content` from, for calls that take no bytes; in memory where that is possible, private anyway."""
    fd = os.memfd_create("pronghorn-pem") if hasattr(os, "memfd_create") else -1
    if fd >= 0 and os.path.exists(f"/proc/self/fd/{fd}"):
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{fd}"
        return
    if fd >= 0:
        os.close(fd)
    import tempfile

    with tempfile.NamedTemporaryFile() as named:
        named.write(content)
        named.flush()
        yield named.name


def anonymous_file(content: bytes) -> int:
    """A descriptor, inheritable, from which `content` can be read; the file has no name. With a content nobody can
    change it any more, where the system can seal it."""
    kept = content
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("pronghorn-boot", os.MFD_ALLOW_SEALING)
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.set_inheritable(fd, True)
    while content:
        content = content[os.write(fd, content) :]
    os.lseek(fd, 0, os.SEEK_SET)
    if kept and hasattr(fcntl, "F_ADD_SEALS") and hasattr(os, "memfd_create"):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    return fd
