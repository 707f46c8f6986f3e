"""The supervisor's end of a worker's line: what the worker says, read within bounds.

Law: what comes here was written by a process that runs the user's code, perhaps as another user, and is believed in
nothing: its lines are read within the bounds of system/lines.py, and no report is longer than LONGEST_REPORT. A worker
sends ten reports in its life, and one for each question: one that sends more, or what is no report, has a `fault`, and
is not heard again. Nothing here waits. What is sent to a worker, a line now and then, is dropped if the worker does not
read.
"""

from __future__ import annotations

import contextlib
import socket

import msgspec

from pronghorn.serving.connection_inquiry import MOST_AT_ONCE
from pronghorn.system.lines import LineReader
from pronghorn.worker_process.reports import Answer, Order, Question, Report, decoded_report, encoded

LONGEST_REPORT = 256 * 1024  # bytes; a trace of LONGEST_TRACE characters, each escaped, fits in
MOST_REPORTS = 64
LAST_TURNS = 8  # buffers that are read of a line whose worker is dead
QUOTED = 40  # bytes of rubbish that the log quotes


class ReportReader:
    """What one worker has said over `line`, which is left open. `fault` is why it is not heard any more, or empty."""

    __slots__ = ("_count", "_lines", "_most", "asked", "fault", "line")

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.fault = ""
        self._lines = LineReader(line, LONGEST_REPORT)
        self._count, self._most = 0, MOST_REPORTS
        self.asked = 0
        """Questions that it has not answered."""

    @property
    def ended(self) -> bool:
        """The worker has hung up."""
        return self._lines.ended

    def take(self) -> list[Report]:
        """The reports that have become complete by one more read. Never blocks; sets `ended` at the line's end."""
        found: list[Report] = []
        for line in self._lines.take() if not self.fault else ():
            try:
                found.append(decoded_report(line))
            except (msgspec.MsgspecError, ValueError, RecursionError):
                self.fault = f"{ascii(line[:QUOTED])[1:]} on its line to the supervisor is no report"
                return found
            self._count += 1
            if isinstance(found[-1], Answer):
                self.asked -= 1
            if self._count > self._most or self.asked < 0:
                self.fault = f"it said more than {MOST_REPORTS} things unasked on its line to the supervisor"
                return found
        if self._lines.too_long:
            self.fault = f"a report on its line to the supervisor is longer than {LONGEST_REPORT // 1024} KiB"
        return found

    def send(self, order: Order) -> None:
        """Send an order to the worker. Never blocks: it is dropped if the worker has not read earlier ones."""
        with contextlib.suppress(OSError):
            self.line.send(encoded(order), socket.MSG_DONTWAIT)

    def ask(self, question: Question) -> bool:
        """Send a question to the worker, which may answer it once. False if it was not sent: too many have no answer
        yet, or the line is full. Never blocks."""
        if self.asked >= MOST_AT_ONCE or self.line.fileno() < 0:
            return False
        line = encoded(question)
        try:
            whole = self.line.send(line, socket.MSG_DONTWAIT) == len(line)
        except OSError:
            return False
        self.asked += 1
        self._most += 1
        return whole

    def rest(self) -> list[Report]:
        """The last words of a dead worker: what is there still, of a line that others may hold open and write to."""
        found: list[Report] = []
        for _ in range(LAST_TURNS):
            before = len(self._lines.rest), self._count
            found += self.take()
            if self.ended or self.fault or before == (len(self._lines.rest), self._count):
                break
        return found
