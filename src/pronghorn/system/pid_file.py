"""The pid file, `--pid-file`: it holds the supervisor's process id.

Law: the file appears, whole, once the server serves, and is removed at its end. The file of another live server is
never touched; that of a dead one is replaced. A file that is there is never written to, and no link is followed: a new
file takes its place by rename(2), in the folder that is held open (trusted_paths.py).

A lock tells whether the named process has written the file, or has only got the same number later: the writer holds the
lock until it ends (flock(2)), whatever the clock does meanwhile. A file without a lock may be another program's: then
the process must not be younger than the file. A zombie is dead.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from pronghorn.errors import BadSetting
from pronghorn.system.processes import lives, stat_fields
from pronghorn.system.trusted_paths import Place

LONGEST = 32
YOUNGER = 2.0  # seconds: the clock of files is coarse


class PidFile:
    """The file at `path`, in the folder that is the working one now; an empty path is none.

    `before` is the process whose file it may be: the old program, in an upgrade. Raises BadSetting if another live
    process has it, or if no file can be put there.
    """

    def __init__(self, path: str, before: int = 0) -> None:
        self._path = os.path.abspath(path) if path else ""
        self._owner = os.getpid()
        self._lock = -1
        if not path:
            return
        pid = holder(self._path)
        if pid not in (0, os.getpid(), before):
            raise self._refusal(f"Process {pid} is alive, and has it.", "Stop that server, or choose another file.")
        folder = os.path.dirname(self._path)
        if not os.access(folder, os.W_OK | os.X_OK) or os.path.isdir(self._path):
            raise self._refusal("No file can be put there.", "Choose a path in a folder that this user may write to.")

    def write(self) -> None:
        """Put this process's id there. Raises BadSetting if that fails; what was there stays then."""
        if not self._path:
            return
        try:
            with Place(self._path) as place:
                self._lock = _put(place)
        except OSError as error:
            raise self._refusal(f"It cannot be written: {error.strerror}.") from None

    def remove(self) -> None:
        """Take the file away, if it still holds the id of this process and this process put it there."""
        if self._lock < 0:
            return
        try:
            with Place(self._path) as place:
                if os.getpid() == self._owner and _read(place)[0] == self._owner:
                    place.unlink()
        except OSError:
            pass  # a folder that has gone, or that is not ours any more
        os.close(self._lock)
        self._lock = -1

    def descriptors(self) -> list[int]:
        """That of the lock, which no other process may hold."""
        return [self._lock] if self._lock >= 0 else []

    def _refusal(self, why: str, hint: str = "") -> BadSetting:
        return BadSetting(f"--pid-file is {self._path!r}.", why, hint)


def _put(place: Place) -> int:
    """The file, written, locked and in its place; its descriptor."""
    beside = f"{place.name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(beside, flags, 0o644, dir_fd=place.fd)
    except FileExistsError:  # a dead process had this number: in a container it is the same at each start
        os.unlink(beside, dir_fd=place.fd)
        fd = os.open(beside, flags, 0o644, dir_fd=place.fd)
    try:
        text = b"%d\n" % os.getpid()
        if os.write(fd, text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _locked(fd, fcntl.LOCK_EX)
        os.rename(beside, place.name, src_dir_fd=place.fd, dst_dir_fd=place.fd)
    except BaseException:
        os.close(fd)
        os.unlink(beside, dir_fd=place.fd)
        raise
    return fd


def holder(path: str) -> int:
    """The live process that wrote the file; 0 if there is none. A process that started after the file was written has
    only inherited its number."""
    try:
        with Place(path) as place:
            pid, locked = _read(place)
            written = place.stat().st_mtime
    except OSError:
        return 0
    if pid <= 0 or not _lives(pid):
        return 0
    return pid if locked or _age(pid) + YOUNGER >= time.time() - written else 0


def _lives(pid: int) -> bool:
    return lives(pid) and stat_fields(pid)[:1] not in (["Z"], ["X"])


def _age(pid: int) -> float:
    """The age of a process in seconds, whatever the clock was set to meanwhile; infinite if it cannot be told."""
    fields = stat_fields(pid)
    if len(fields) > 19 and hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    import psutil

    try:
        return time.time() - float(psutil.Process(pid).create_time())
    except psutil.Error:
        return float("inf")


def _read(place: Place) -> tuple[int, bool]:
    """The number in the file, 0 if there is none, and whether the file is locked. Raises OSError."""
    fd = place.open(os.O_RDONLY)
    try:
        text = os.read(fd, LONGEST).strip()
        return (int(text) if text.isdigit() else 0), not _locked(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _locked(fd: int, how: int) -> bool:
    """Lock a file; False if another process has. On a file system without locks nothing happens."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
