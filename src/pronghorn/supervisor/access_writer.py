"""The supervisor's side of the access log: opens it, has the process that writes it, and tells what was lost.

Law: nothing here waits, but for the first opening, at the start, before anything is served, and for the last look at
the end. Later the log is opened by a helper: when a reload has changed its path, at SIGUSR1, and when the process finds
that it was renamed. The pipe's end to read stays open here: a process that dies loses what it had in hand, and no more.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pronghorn import events
from pronghorn.errors import PronghornError
from pronghorn.scoreboard.counts import believed
from pronghorn.supervisor.helper_task import HelperTask
from pronghorn.supervisor.rereading import answer_of
from pronghorn.supervisor.side_process import SideProcess, SideProcesses
from pronghorn.system.access_writer import ANEW, DROPPED, END, LEFT, WANTED, WHY
from pronghorn.system.helper import Answer, Helper
from pronghorn.system.log_file import STANDARD_OUTPUT, open_access_log
from pronghorn.system.stdio import dropped

if TYPE_CHECKING:
    from pronghorn.supervisor.fleet import Fleet

PATIENCE = 10.0  # seconds that opening may take
PAUSE = 0.5  # seconds between two openings that the process asks for
LAST_LINES = 2.0  # seconds that the process gets at the end for what is left
QUIET = 10.0  # seconds between two records of what was lost


class _Process(SideProcess):
    def end(self, leave: bool = False) -> None:
        """Behind its last line, it ends once the pipe is empty."""
        if not self._over:
            self.send({END: True})
        super().end(leave)


def _no_pipe() -> int:
    return -1


class AccessWriter:
    """No log, until `open` or `follow` names one; none is written before `attach`."""

    def __init__(self) -> None:
        self._path, self._fd, self._form = "", -1, ""
        self._fleet: Fleet
        self._sides: SideProcesses
        self._pipe: Callable[[], int] = _no_pipe
        self._lines = -1
        self._socks: tuple[socket.socket, ...] = ()
        self._opening: HelperTask | None = None  # with the process
        self._wanted = ""  # the path that is to be opened
        self._next = 0.0  # not before
        self._lost: dict[str, int] = {}  # lines by the reason, which the log has not told yet
        self._tell_at = 0.0

    def open(self, path: str) -> None:
        """The log at this path, absolute or `-`, empty for none. Raises BadSetting if it cannot be opened."""
        if path:
            self._fd, self._path = open_access_log(path), path

    def attach(self, fleet: Fleet, sides: SideProcesses, pipe: Callable[[], int]) -> None:
        """Belongs to a supervisor from now on; `pipe` is asked for the pipe's end to read, when there is a log."""
        self._fleet, self._sides, self._pipe = fleet, sides, pipe
        for planned in (True, False):  # of the first generation
            fleet.observe(fleet.serving.plan.access_log(planned=planned))

    def follow(self, path: str, form: str) -> None:
        """The log is at this path from now on, in this format, for all workers.

        Where there shall be none any more, older workers go on
        with the one that there was."""
        if path and self._opening is None:
            self._start()
        if form != self._form:
            self._form = form
            self._send()
        self._wanted = path if path != self._path else ""

    def _start(self) -> None:
        ours, theirs = self._socks = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        self._lines = self._pipe()
        self._opening = HelperTask(self._fleet.poller)
        process = _Process(
            "access log",
            "pronghorn.observers.access_format",
            descriptors={"lines": self._lines, "files": theirs.fileno()},
            hear=self._hear,
            stays=True,
            outlives=True,
            patience=LAST_LINES,
        )
        self._sides.add(process)

    def reopen(self) -> None:
        """Open it anew, should it have been renamed."""
        if self._path != STANDARD_OUTPUT:
            self._wanted = self._wanted or self._path

    def turn(self, now: float) -> None:
        """To be called in each turn of the supervisor."""
        opening, path = self._opening, self._wanted
        if opening is None:
            return
        if self._lost and now >= self._tell_at:
            self._tell(now)
        opening.turn(now)
        helpers = self._fleet.workers.helpers
        if not path or opening.busy or opening.last in helpers:
            return

        def opened(helper: Helper) -> None:
            answer = answer_of(helper)
            if isinstance(answer, PronghornError):
                self._fleet.observe(events.LogNotReopened(path, answer.why or answer.what))
            else:
                self._become(path, answer[1][0])

        def work() -> Answer:
            return b"", [open_access_log(path)]

        try:
            opening.begin(lambda: Helper(work, PATIENCE, helpers, self._fleet.kept()), opened)
        except OSError:
            return
        self._wanted = ""

    def descriptors(self) -> list[int]:
        """What no worker and no helper shall keep, beside those of the process."""
        ours = self._socks[0].fileno() if self._socks else -1
        return [each for each in (self._fd, ours) if each >= 0]

    def close(self) -> None:
        """After the end of the process: count what is left in the pipe, and close everything."""
        if left := _left_in(self._lines) if self._lines >= 0 else 0:
            self._lost[LEFT] = self._lost.get(LEFT, 0) + left
        self._tell(math.inf)
        if self._opening is not None:
            self._opening.close()
        for sock in self._socks:
            sock.close()
        for fd in (self._lines, self._fd):
            if fd >= 0:
                os.close(fd)
        self._lines = self._fd = -1

    def _become(self, path: str, fd: int) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._path, self._fd = path, fd
        self._send()

    def _send(self) -> None:
        if self._fd < 0 or not self._socks:
            return
        try:
            socket.send_fds(self._socks[0], [os.fsencode(f"{self._form}\0{self._path}")], [self._fd])
        except OSError:
            pass  # it does not read: it asks again, when it goes on or is another

    def _hear(self, message: dict[str, Any]) -> None:
        now = time.monotonic()
        if message.get(WANTED) == ANEW and now >= self._next:
            self._next = now + PAUSE
            self.reopen()
        elif WANTED in message:
            self._send()
        elif isinstance(lost := message.get(DROPPED), int):
            why = str(message.get(WHY))[:300]
            dropped["access"] += believed(lost)
            self._lost[why] = self._lost.get(why, 0) + believed(lost)
            if now >= self._tell_at and why != LEFT:
                self._tell(now)

    def _tell(self, now: float) -> None:
        self._tell_at = now + QUIET
        for why, lines in self._lost.items():
            self._fleet.observe(events.AccessLogDropped(lines, why))
        self._lost.clear()


def _left_in(pipe: int) -> int:
    """How many lines are in the pipe still."""
    left = 0
    try:
        while data := os.read(pipe, 65536):
            left += data.count(b"\n")
    except BlockingIOError:
        pass
    return left
