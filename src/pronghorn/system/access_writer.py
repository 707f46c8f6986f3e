"""The process that writes the access log: records out of a pipe, as lines into a file, a pipe or whatever the log is.

Law: this is the only process that waits for the log's disk or reader. The supervisor opens the log, since this process
may not be allowed to, and sends its descriptor over a socket of their own; once a second in which there is something to
write, it is looked at whether the log still has its name, else the supervisor is asked to open it anew. A line that
cannot be written is lost and counted. The process ends when the supervisor says so and the pipe is empty, or the log
takes no more; without a supervisor, when no worker is left that could write to the pipe.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import stat
import time
from collections.abc import Callable

from pronghorn.system.log_file import STANDARD_OUTPUT
from pronghorn.system.side_boot import Side
from pronghorn.system.stdio import taken_back

DROPPED, WHY, WANTED, END = "dropped", "why", "wanted", "end"
"""What is said on the line: so many lines were lost, for that reason; the log's descriptor is wanted, the one that
there is (HERE) or one of the file that has the name now (ANEW); and, to this process, to end."""
HERE, ANEW = "here", "anew"
LEFT = "they were not written before the server's end"
CHUNK = 64 * 1024  # bytes in hand at most
REST = 0.005  # seconds in which records gather: to wake this process for each would cost a worker more than they do
LOOK = 1.0  # seconds between two looks at the log's name
PAUSE = 1.0  # seconds between two reports of what was lost
PATIENCE = 1.0  # seconds for the supervisor's answer
LAST = 1.5  # seconds for a reader that sleeps, once the server ends
PIECE = min(select.PIPE_BUF, 4096)  # bytes that a pipe takes without a wait, once it takes any (pipe(7))


class Writer:
    """Records come from descriptor `lines`, and the log's descriptors over the socket `files`. `line_of` gives, for the
    name of a format, the function that makes a line of a record; what that raises costs the record."""

    def __init__(self, side: Side, line_of: Callable[[str], Callable[[bytes], bytes]]) -> None:
        self._side, self._line_of = side, line_of
        self._line = line_of("text")
        self._form = "text"
        self._begun = b""  # of a record that has not come whole
        self._lines = side.descriptors["lines"]
        self._files = socket.socket(fileno=side.descriptors["files"])
        self._files.setblocking(False)
        self._log, self._path = -1, ""
        self._look_at = 0.0
        self._lost: dict[str, int] = {}
        self._tell_at = 0.0
        self._torn = False  # the log ends in the middle of a line
        self._over = False
        self._gives_up_at = math.inf

    def run(self) -> None:
        side = self._side
        side.send({WANTED: HERE})
        while self._log < 0 and self._heard():
            self._await_log()
        side.ready()
        poller = select.poll()
        poller.register(self._lines, select.POLLIN)
        poller.register(self._files, select.POLLIN)
        poller.register(side, select.POLLIN)
        while True:
            due = max(0.0, self._tell_at - time.monotonic()) * 1000 if self._lost else None
            ready = {fd for fd, _ in poller.poll(0 if self._over else due)}
            if self._files.fileno() in ready:
                self._take_log()
            if side.fileno() in ready and not self._heard():
                poller.unregister(side)
            if self._lost and time.monotonic() >= self._tell_at:
                self._tell()
            if self._over or self._lines in ready:
                data = self._read()
                if data:
                    self.write(self._lines_of(data))
                    if len(data) < CHUNK and not self._over:
                        time.sleep(REST)
                elif self._over or data is not None:
                    break
        self._tell()

    def _heard(self) -> bool:
        """Whether the supervisor is there still."""
        if any(isinstance(each, dict) and END in each for each in self._side.take()) and not self._over:
            self._over, self._gives_up_at = True, time.monotonic() + LAST
        return not self._side.ended

    def _read(self) -> bytes | None:
        """Whole lines, as each was written in one piece; empty if nobody is left who writes, None if nothing came."""
        try:
            return os.read(self._lines, CHUNK)
        except BlockingIOError:
            return None

    def _lines_of(self, data: bytes) -> bytes:
        """The lines of the records that have come whole."""
        *records, self._begun = (self._begun + data).split(b"\n")
        made = []
        if len(self._begun) > CHUNK:  # no record, whatever it is
            self._begun = b""
            self._lose(1, "a record was too long")
        for each in records:
            try:
                made.append(self._line(each))
            except Exception:  # the rest of a record of which a process before this one had a part
                self._lose(1, "a record was cut")
        return b"".join(made)

    def write(self, data: bytes) -> None:
        """All of it, however long that takes, but for what cannot be written: that is lost."""
        self._look()
        if self._torn:
            data = b"\n" + data
        rest, status = data, None
        try:
            status = os.fstat(self._log)
            waits = not stat.S_ISREG(status.st_mode)
            while rest:
                if waits and not self._takes_more():
                    self._lose(rest.count(b"\n"), LEFT)
                    return
                try:
                    rest = rest[os.write(self._log, _piece(rest) if waits else rest) :]
                except BlockingIOError:  # somebody else has made it so
                    poller = select.poll()
                    poller.register(self._log, select.POLLOUT)
                    poller.poll()
            self._torn = False
        except OSError as error:
            done = data[: len(data) - len(rest)]
            piece = done[done.rfind(b"\n") + 1 :]
            self._torn = bool(piece) and not (status is not None and taken_back(self._log, status, piece))
            why = error.strerror or str(error)
            if self._log < 0:
                why = "it is not open"
            elif error.errno == errno.EPIPE:
                why = "nobody reads it any more (Broken pipe)"
            self._lose(rest.count(b"\n"), why)

    def _takes_more(self) -> bool:
        """Wait until the log's reader has room for a piece. False if the server ends, and the reader still sleeps."""
        poller = select.poll()
        poller.register(self._log, select.POLLOUT)
        if not self._side.ended:
            poller.register(self._side, select.POLLIN)
        while not any(fd == self._log for fd, _ in poller.poll(self._patience())):
            if time.monotonic() >= self._gives_up_at:
                return False
            if not self._side.ended and not self._heard():
                poller.unregister(self._side)
        return True

    def _patience(self) -> int | None:
        """Milliseconds to wait for the reader; None without an end."""
        left = self._gives_up_at - time.monotonic()
        return None if left == math.inf else math.ceil(max(0.0, left) * 1000)

    def _lose(self, lines: int, why: str) -> None:
        self._lost[why] = self._lost.get(why, 0) + lines
        if time.monotonic() >= self._tell_at:
            self._tell()

    def _tell(self) -> None:
        if self._lost:
            self._tell_at = time.monotonic() + PAUSE
        for why, lines in self._lost.items():
            self._side.send({DROPPED: lines, WHY: why})
        self._lost.clear()

    # The log's descriptor

    def _look(self) -> None:
        """Whether the log still has its name; if not, wait a moment for the file that shall have it."""
        now = time.monotonic()
        if now < self._look_at or not self._path:
            return
        self._look_at = now + LOOK
        try:
            named, ours = os.stat(self._path), os.fstat(self._log)
            renamed = (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino)
        except FileNotFoundError:
            renamed = True
        except OSError:  # this process may not look there: then a signal has to tell
            renamed = False
        if renamed and self._side.send({WANTED: ANEW}):
            self._await_log()

    def _await_log(self) -> None:
        poller = select.poll()
        poller.register(self._files, select.POLLIN)
        if poller.poll(PATIENCE * 1000):
            self._take_log()

    def _take_log(self) -> None:
        """The newest that was sent."""
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self._files, 65536, 8)
                form, _, path = os.fsdecode(message).partition("\0")
            except OSError:
                return
            if not path:
                return
            for fd in fds:
                if self._log >= 0:
                    os.close(self._log)
                self._log, self._torn = fd, False
                os.set_inheritable(fd, False)
            self._path = "" if path == STANDARD_OUTPUT else path
            if form != self._form:
                self._line, self._form = self._line_of(form), form


def _piece(data: bytes) -> bytes:
    """The first lines of these, as many as a pipe takes whole."""
    return data[: data.rfind(b"\n", 0, PIECE) + 1 or PIECE]
