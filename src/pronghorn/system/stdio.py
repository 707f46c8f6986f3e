"""The standard streams: kept open, standard error written without a wait, and an error printed as the command's last.

Law: no descriptor is made non-blocking: O_NONBLOCK belongs to the open file (open(2)), which other programs share.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import sys
from select import PIPE_BUF, POLLOUT, poll

from pronghorn.errors import PronghornError

HEAD = "Error:"


def keep_standard_descriptors() -> None:
    """Opens descriptors 0, 1 and 2 where they are closed: the next socket would get that number, and a stray print
    would be sent to a client."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:  # as Python has it when 2 was closed
        sys.stderr = open(2, "w", closefd=False)


dropped = {"log": 0, "access": 0}
"""Records that were not taken, of this process, by the log that they were for; see scoreboard/details.py."""


class Outlet:
    """Standard error, written to without waiting for its reader: 50 ms at the first time that it takes no more, and not
    at all from then on until it takes something again.

    It is descriptor 2, whatever that leads to at the moment; after `keep`, a copy of it with a number of its own. So if
    a handler closes 2, whose number may be a client's then, the log is not written there.

    A pipe, a FIFO and a terminal are opened a second time, by way of /proc, with O_NONBLOCK: a write that they do not
    take fails, however many processes write there. A socket is written to with MSG_DONTWAIT. A file, and a device such
    as /dev/null, never makes a writer wait. Where a pipe cannot be opened again, poll(2) is asked before each PIPE_BUF.
    """

    PATIENCE = 50  # ms
    HIGH = 64  # the lowest number of the copy: those below are soon given out anew

    def __init__(self) -> None:
        self.fd = 2
        self._kept: tuple[int, ...] = ()  # what the copy leads to
        self._next: tuple[int, ...] = ()  # what it is about to lead to
        self._moves = 0  # a count of its steps, by which another thread sees that it was on its way
        self._own = -1
        self._file: tuple[int, ...] = ()  # what `_own` was opened as
        self._full = False
        self._torn = False  # the last thing that was written ends in the middle of a line

    def write(self, data: bytes) -> None:
        """All of it, or BlockingIOError: then some of it may have been written, and the next write begins a new line.
        Raises another OSError if it has no reader, or if the disk is full: a piece that fitted is taken back."""
        status = os.fstat(self.fd)
        if self.fd != 2 and not self._is_ours():
            raise OSError(errno.EBADF, "the log's descriptor has been closed")
        if self._torn:
            data = b"\n" + data
        rest = data
        try:
            while rest:
                rest = rest[self._some(status, rest) :]
        except OSError:
            if len(rest) < len(data) and taken_back(self.fd, status, data[: len(data) - len(rest)]):
                rest = data
            raise
        finally:
            self._torn = self._torn if rest is data else bool(rest)

    def keep(self) -> None:
        """Have a copy of descriptor 2, and write there from now on."""
        if self.fd == 2:
            try:
                self.fd = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, self.HIGH)
            except OSError:  # it is closed, or there is no room above
                return
            self._kept = _identity(self.fd)

    def follow(self) -> None:
        """Descriptor 2 leads elsewhere now: so does the copy."""
        if self.fd != 2:
            self._next = _identity(2)  # before it is so: another thread may write just then
            self._moves += 1
            os.dup2(2, self.fd, inheritable=False)
            self._moves += 1
            self._kept = self._next

    def _is_ours(self) -> bool:
        """Whether the copy is what it was. A look during which it was led elsewhere says nothing: look again."""
        while True:
            moves = self._moves
            if _identity(self.fd) in (self._kept, self._next):
                return True
            if moves == self._moves:
                return False

    def release(self) -> None:
        """Close the copy, and go by descriptor 2 again."""
        if self.fd != 2:
            if _identity(self.fd) == self._kept:
                os.close(self.fd)
            self.fd = 2

    def _some(self, status: os.stat_result, data: bytes) -> int:
        """Writes something, and says how much."""
        fd = self._descriptor(status)
        for last in (self._full, True):
            try:
                done = self._once(fd, status, data)
            except BlockingIOError:
                self._full = True
                if last or not _takes(self.fd if fd < 0 else fd, self.PATIENCE):
                    raise
            else:
                self._full = False
                return done
        raise BlockingIOError

    def _once(self, fd: int, status: os.stat_result, data: bytes) -> int:
        if fd >= 0:
            return os.write(fd, data)  # a file takes it whole, and with O_APPEND no other's record comes between
        if stat.S_ISSOCK(status.st_mode):
            with socket.socket(fileno=os.dup(self.fd)) as sock:
                return sock.send(data, socket.MSG_DONTWAIT)
        if not _takes(self.fd, 0):
            raise BlockingIOError
        return os.write(self.fd, data[:PIPE_BUF])

    def _descriptor(self, status: os.stat_result) -> int:
        """One that can be written to without asking; -1 if there is none."""
        if not (stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode) or os.isatty(self.fd)):
            return self.fd
        if stat.S_ISSOCK(status.st_mode):
            return -1
        # A handler may have closed our own, whose number is a client's then; and the log may lead elsewhere by now.
        ours = self._own >= 0 and _identity(self._own) == self._file
        if ours and self._file == _identity(self.fd):
            return self._own
        if ours:
            os.close(self._own)
        try:
            self._own = os.open(f"/proc/self/fd/{self.fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            self._own, self._file = -1, ()
        else:
            self._file = _identity(self._own)
        return self._own


def taken_back(fd: int, before: os.stat_result, piece: bytes) -> bool:
    """Cut off the piece of a line that still fitted into a file, if it is what the file ends with."""
    try:
        start = os.fstat(fd).st_size - len(piece)
        if not stat.S_ISREG(before.st_mode) or not _ends(fd, start, piece, before):
            return False
        os.ftruncate(fd, start)
        os.lseek(fd, start, os.SEEK_SET)
    except OSError:
        return False
    return True


def _ends(fd: int, start: int, piece: bytes, before: os.stat_result) -> bool:
    try:
        reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # where it may not be read: no other process has written since
        return start == before.st_size
    try:
        return os.pread(reader, len(piece) + 1, start) == piece
    finally:
        os.close(reader)


def _identity(fd: int) -> tuple[int, ...]:
    try:
        status = os.fstat(fd)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_rdev


def _takes(fd: int, milliseconds: float) -> bool:
    """Whether something can be written; waits so long for that."""
    poller = poll()
    poller.register(fd, POLLOUT)
    return any(event & POLLOUT for _, event in poller.poll(milliseconds))


outlet = Outlet()
"""This process's outlet, which a forked process inherits."""


def complain(error: PronghornError) -> int:
    """Prints an error on standard error (what happened, why, and what to do); its exit status."""
    lines = f"{HEAD} {error}".splitlines()
    command = lines[-1] if lines[-1].startswith("    ") else None  # to be copied: the terminal alone may break it
    try:
        if sys.stderr.isatty():
            lines = [part for line in lines for part in ([line] if line == command else _fitted(line))]
            if not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
                lines[0] = lines[0].replace(HEAD, f"\x1b[1;31m{HEAD}\x1b[0m", 1)
        print(*lines, sep="\n", file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        pass  # closed, or full
    return error.exit_code


def _fitted(line: str) -> list[str]:
    """A line wrapped to the width of the terminal, each part indented as the first: tracebacks keep their shape."""
    import shutil
    import textwrap

    width = max(20, shutil.get_terminal_size().columns - 1)
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, drop_whitespace=True) or [""]
