"""The log file, `--log-file`: standard error leads to it, and to a new one when it has been renamed.

Law: descriptor 2 is the log, for what a handler prints, and so is the copy of it for records and the stacks of
faulthandler (stdio.py). The file takes the place of both, and nothing that writes there changes. dup2(2) swaps the file
in one step: what is written before is in the old file, what is written after in the new one, and no line is lost.

Root opens the file for workers of another user. Where that user may change the folder, as is usual, the file is opened
as that user (act_as.py), else by way of trusted_paths.py: no link that another user has put there is followed. A file
is given to the workers' user when it is created, and never one that was there before.
"""

from __future__ import annotations

import errno
import os
import signal
from types import FrameType

from pronghorn.errors import BadSetting
from pronghorn.events import LogNotReopened, Observer
from pronghorn.system import privileges
from pronghorn.system.act_as import act_as
from pronghorn.system.drain import Wake
from pronghorn.system.stdio import outlet
from pronghorn.system.trusted_paths import Place, Untrusted, may_write

MODE = 0o640
STANDARD_OUTPUT = "-"  # as an --access-log


class LogFile:
    """The file at `path`, in the folder that is the working one now; an empty path leaves standard error as it is.

    It is appended to; a new one belongs to the workers' user. Raises BadSetting if it cannot be opened.
    """

    def __init__(self, path: str = "") -> None:
        self._path = os.path.abspath(path) if path else ""
        self._before = -1
        if path:
            fd = open_log(self._path, "--log-file")
            self._before = os.dup(2)
            _become_standard_error(fd)

    @property
    def path(self) -> str:
        """Absolute; empty if there is no file."""
        return self._path

    def reopen(self, observe: Observer) -> None:
        """Open the path again, and go on there: a new file if the old one was renamed. On failure the old one stays."""
        if self._path:
            try:
                _become_standard_error(_opened(self._path))
            except OSError as error:
                observe(LogNotReopened(self._path, error.strerror or str(error)))

    def opened(self) -> int:
        """The file that has the name now, for `become`, perhaps in another process. Raises BadSetting."""
        try:
            return _opened(self._path)
        except OSError as error:
            raise BadSetting(f"--log-file is {self._path!r}.", f"{error.strerror or error}.") from None

    def become(self, fd: int) -> None:
        """Go on in the file that `opened` has opened; the descriptor is closed."""
        if self._before >= 0:
            _become_standard_error(fd)
        else:
            os.close(fd)

    def descriptors(self) -> list[int]:
        return [self._before] if self._before >= 0 else []

    def close(self) -> None:
        """Put standard error back."""
        if self._before >= 0:
            _become_standard_error(self._before)
            self._before = -1


current = LogFile()
"""This server's log file. Set by the server, and inherited by fork(2)."""


class Reopener:
    """Opens the log file again at SIGUSR1, in a worker: the signal makes a descriptor readable, which the loop watches.
    A signal that comes while the handler is imported waits for the loop."""

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._wake = Wake()
        self._pid = os.getpid()
        signal.signal(signal.SIGUSR1, self._heard)

    def fileno(self) -> int:
        return self._wake.fileno()

    def on_readable(self) -> None:
        self._wake.clear()
        current.reopen(self._observe)

    def close(self) -> None:
        self._wake.close()

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._pid:  # a forked child has closed the descriptor, and its number may be a client's now
            self._wake.set()


def open_log(path: str, flag: str) -> int:
    """A log file to append to, whose path is the value of this `flag`; a new one belongs to the workers' user. Raises
    BadSetting if it cannot be opened."""
    try:
        return _opened(path)
    except OSError as error:
        raise BadSetting(f"{flag} is {path!r}.", f"{error.strerror or error}.", _hint(path, error)) from None


def open_access_log(path: str) -> int:
    """A descriptor of the access log at this absolute path, or of standard output for `-`. Raises BadSetting."""
    return os.dup(1) if path == STANDARD_OUTPUT else open_log(path, "--access-log")


def _opened(path: str) -> int:
    """A descriptor to append to; a pipe without a reader is an error and no wait."""
    person = privileges.person if os.geteuid() == 0 else None
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with Place(path, follow=True) as place:
        if person is not None and may_write(os.fstat(place.fd), person.uid, person.groups):
            fd = act_as(person.uid, person.gid, person.groups, lambda: place.open(flags, MODE))
        else:
            fd = place.open(flags, MODE, (person.uid, person.gid) if person is not None else None)
    os.set_blocking(fd, True)
    return fd


def _hint(path: str, error: OSError) -> str:
    person = privileges.person
    if error.errno == errno.ENXIO:
        return "It is a named pipe that nobody reads yet: start its reader first."
    if isinstance(error, Untrusted):
        return "Remove it, or choose a folder that only root may write to."
    if isinstance(error, PermissionError) and person is not None and os.path.lexists(path):
        name = person.name or person.uid
        return f"It is opened as user {name}, who may change its folder. Give the file to {name} (chown), or remove it."
    return "Choose a path in a folder that exists and that this user may write to."


def _become_standard_error(fd: int) -> None:
    os.dup2(fd, 2)
    outlet.follow()
    os.close(fd)
