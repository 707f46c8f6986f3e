"""The supervisor's end of a worker's line: what the worker says, read within bounds.

Law: what comes here was written by a process that runs the user's code, perhaps as another user, and is believed in
nothing. A turn reads one buffer at most, so that the other workers are heard; a report is looked at once, however many
pieces it comes in; what is kept of it is shorter than LONGEST_REPORT. A worker says ten things in its life: one that
says more, or what is no report, has a `fault`, and is not heard again. Descriptors that are sent along are never taken
(recvmsg(2): without room for control data they are closed). Nothing here waits. What is sent to a worker, a line now
and then, is dropped if the worker does not read.
"""

from __future__ import annotations

import socket

import msgspec

from pronghorn.worker.reports import LONGEST_TRACE, Crashed, Finished, Report, Word

BUFFER = 64 * 1024  # bytes that a turn reads of one worker
LONGEST_REPORT = 256 * 1024  # bytes; a trace of LONGEST_TRACE characters, each escaped, fits in
MOST_REPORTS = 64
LAST_TURNS = 8  # buffers that are read of a line whose worker is dead
TOLD = 40  # bytes of rubbish that are told
MOST_CUT = 2**31

_decoder = msgspec.json.Decoder(Report)
_buffer = bytearray(BUFFER)  # made once: to hear a worker takes no memory when there is none
_view = memoryview(_buffer)


class ReportReader:
    """What one worker has said over `line`, which is left open. `fault` is why it is not heard any more, or empty."""

    __slots__ = ("_count", "_pending", "ended", "fault", "line")

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.ended = False
        self.fault = ""
        self._pending = bytearray()
        self._count = 0

    def take(self) -> list[Report]:
        """The reports that have become complete by one more read. Never blocks; sets `ended` at the line's end."""
        if self.ended or self.fault:
            return []
        try:
            length = self.line.recv_into(_buffer, BUFFER, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:
            length = 0
        self.ended = not length
        return self._cut(length)

    def say(self, word: Word) -> None:
        """Send a word to the worker. Never blocks: one that has not read earlier ones does not hear it."""
        try:
            self.line.send(msgspec.json.encode(word) + b"\n", socket.MSG_DONTWAIT)
        except OSError:
            pass

    def rest(self) -> list[Report]:
        """The last words of a dead worker: what is there still, of a line that others may hold open and write to."""
        found: list[Report] = []
        for _ in range(LAST_TURNS):
            before = len(self._pending), self._count
            found += self.take()
            if self.ended or self.fault or before == (len(self._pending), self._count):
                break
        return found

    def _cut(self, length: int) -> list[Report]:
        found: list[Report] = []
        start = 0
        while not self.fault and (end := _buffer.find(b"\n", start, length)) >= 0:
            self._pending += _view[start:end]
            start = end + 1
            if len(self._pending) <= LONGEST_REPORT and (report := self._report()) is not None:
                found.append(report)
            self._count += 1
            if self._count > MOST_REPORTS:
                self.fault = f"it said more than {MOST_REPORTS} things on its line to the supervisor"
            self._check_length()
            self._pending.clear()
        if not self.fault:
            self._pending += _view[start:length]
            self._check_length()
        return found

    def _check_length(self) -> None:
        if len(self._pending) > LONGEST_REPORT:
            self.fault = f"a report on its line to the supervisor is longer than {LONGEST_REPORT // 1024} KiB"
            self._pending = bytearray()

    def _report(self) -> Report | None:
        try:
            return _bounded(_decoder.decode(self._pending))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            said = ascii(bytes(self._pending[:TOLD]))[1:]
            self.fault = f"{said} on its line to the supervisor is no report"
            return None


def _bounded(report: Report) -> Report:
    """The report with nothing in it that is absurd."""
    if isinstance(report, Crashed) and len(report.trace) > LONGEST_TRACE:
        return Crashed(report.trace[-LONGEST_TRACE:])
    if isinstance(report, Finished):
        return Finished(min(max(report.cut, 0), MOST_CUT))
    return report
