"""The file that holds the supervisor's process id.

Law: it appears once the server serves, whole, and goes with the process that it names. Another live server's file is
never touched; a dead one's is replaced. What is there is never written to, and no link is followed: a new file takes
its place by rename(2).
"""

from __future__ import annotations

import os
import time

from pronghorn.errors import BadSetting

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
        self._written = False
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
        beside = f"{self._path}.{os.getpid()}"
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, b"%d\n" % os.getpid())
                os.rename(beside, self._path)
            except BaseException:
                os.unlink(beside)
                raise
            finally:
                os.close(fd)
        except OSError as error:
            raise self._refusal(f"It cannot be written: {error.strerror}.") from None
        self._written = True

    def remove(self) -> None:
        """Take the file away, if it still holds the id of this process and this process put it there."""
        if self._written and os.getpid() == self._owner and _read(self._path) == self._owner:
            try:
                os.unlink(self._path)
            except OSError:
                pass  # a folder that has gone, or that is not ours any more
        self._written = False

    def _refusal(self, why: str, hint: str = "") -> BadSetting:
        return BadSetting(f"--pid-file is {self._path!r}.", why, hint)


def holder(path: str) -> int:
    """The live process that wrote the file; 0 if there is none. A process that started after the file was written has
    only inherited its number."""
    pid = _read(path)
    if pid <= 0:
        return 0
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (ProcessLookupError, OverflowError):
        return 0
    try:
        written = os.lstat(path).st_mtime
    except OSError:
        return 0
    return 0 if _started(pid) > written + YOUNGER else pid


def _started(pid: int) -> float:
    """When a process started, as the clock of files has it; 0 if nobody can tell."""
    import psutil

    try:
        return min(float(psutil.Process(pid).create_time()), time.time())
    except psutil.Error:
        return 0.0


def _read(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        text = os.read(fd, LONGEST).strip()
        return int(text) if text.isdigit() else 0
    except OSError:
        return 0
    finally:
        os.close(fd)
