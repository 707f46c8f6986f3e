"""The messages between a worker and its supervisor, and the worker's end of the socket pair that carries them.

Law: a message is one line of JSON, encoded and decoded here: a worker sends reports, the supervisor sends orders. The
supervisor believes nothing of what it receives (supervisor/report_reader.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Literal

import msgspec

from pronghorn.serving.connection_inquiry import Query
from pronghorn.serving.connection_rows import ConnectionRow
from pronghorn.serving.handover import Outcome
from pronghorn.system.lines import LineReader

CUT_AT_DEADLINE = 6
"""The exit status of a worker whose drain deadline cut connections."""
LONGEST_TRACE = 32 * 1024  # characters
LONGEST_ORDER = 1024 * 1024  # bytes
MOST_CUT = 2**31


class Starting(msgspec.Struct, tag=True, frozen=True):
    """What a worker does on its way to being ready: what an error names if the worker never is."""

    what: str


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The handler is loaded, and the model has entered its loop."""


class ListenersReleased(msgspec.Struct, tag=True, frozen=True):
    """The worker has closed its listeners: other workers accept the connections that wait there."""


class TermReceived(msgspec.Struct, tag=True, frozen=True):
    """Another process than the supervisor has sent SIGTERM to the worker, which waits for an order to drain."""


class StartFailed(msgspec.Struct, tag=True, frozen=True):
    """The worker cannot start: the parts of the error (errors.from_parts)."""

    parts: dict[str, str | int]


class Crashed(msgspec.Struct, tag=True, frozen=True):
    """The model raised an exception, which is a fault of the server."""

    trace: str


class Drained(msgspec.Struct, tag=True, frozen=True):
    """The drain is over; its deadline cut so many connections."""

    cut: int


class HandedOver(msgspec.Struct, tag=True, frozen=True):
    """The worker has offered its connections to others: what became of them."""

    outcome: Outcome


class Listed(msgspec.Struct, tag=True, frozen=True):
    """An answer to ListConnections, or to GoOn: some rows of the inquiry `ask`, and how many connections fit so far.
    Unless it is `over`, the next part comes after GoOn."""

    ask: int
    rows: list[ConnectionRow]
    matched: int
    over: bool


class Ended(msgspec.Struct, tag=True, frozen=True):
    """The answer to EndConnections: the numbers of those that were open, and have been cut."""

    ask: int
    numbers: list[int]


Answer = Listed | Ended
Report = Ready | Starting | ListenersReleased | TermReceived | StartFailed | Crashed | Drained | HandedOver | Answer


class ReleaseListeners(msgspec.Struct, tag=True, frozen=True):
    """Accept no more, and go on with the open connections until they end by themselves. Connections that wait at the
    addresses `alone`, which no other worker serves, are accepted before. Goodbyes are spread over so many seconds, one
    connection after the other; 0: none are said."""

    alone: tuple[str, ...] = ()
    spread: float = 0.0


class BeginDrain(msgspec.Struct, tag=True, frozen=True):
    """Drain, and end. Sent before SIGTERM, which a handler or its library may have taken."""

    why: str


class HandOver(msgspec.Struct, tag=True, frozen=True):
    """Offer the open connections to the workers that serve. Comes again after each further reload."""


class TakeOver(msgspec.Struct, tag=True, frozen=True):
    """Take the connections that old workers offer, from now on."""


class SetLogLevel(msgspec.Struct, tag=True, frozen=True):
    """Log records of this level and above from now on."""

    level: Literal["debug", "info", "warning", "error"]


class ListConnections(msgspec.Struct, tag=True, frozen=True):
    """Tell of the open connections that the query means: the inquiry has this number."""

    ask: int
    query: Query
    now: float
    """The instant (monotonic) for which ages are told: the same for all workers."""


class GoOn(msgspec.Struct, tag=True, frozen=True):
    """Tell the next part of the inquiry `ask`."""

    ask: int


class EndConnections(msgspec.Struct, tag=True, frozen=True):
    """End the connections of these numbers, as a cut does."""

    ask: int
    numbers: list[int]


Question = ListConnections | GoOn | EndConnections
"""Orders that are answered, once each."""
Order = ReleaseListeners | BeginDrain | HandOver | TakeOver | SetLogLevel | Question

_reports = msgspec.json.Decoder(Report)
_orders = msgspec.json.Decoder(Order)


def encoded(message: Report | Order) -> bytes:
    """The line of a message, with its LF."""
    return msgspec.json.encode(message) + b"\n"


def decoded_report(line: bytes) -> Report:
    """The report of a line, with nothing absurd in it. Raises msgspec.MsgspecError, ValueError or RecursionError."""
    report: Report = _reports.decode(line)
    if isinstance(report, Crashed):
        return Crashed(report.trace[-LONGEST_TRACE:])
    if isinstance(report, Drained):
        return Drained(min(max(report.cut, 0), MOST_CUT))
    if isinstance(report, Listed):
        return Listed(
            report.ask, [row.believed() for row in report.rows], min(max(report.matched, 0), MOST_CUT), report.over
        )
    if isinstance(report, HandedOver):
        return HandedOver(report.outcome.believed(MOST_CUT))
    return report


class LineToSupervisor:
    """The worker's end of the socket pair, as a loop watches it. `obey` is called with each order, and `abandoned` at
    the end of the line: there is no supervisor any more."""

    __slots__ = ("_abandoned", "_lines", "_obey", "_silent", "_socket")

    def __init__(self, end: socket.socket, abandoned: Callable[[], None], obey: Callable[[Order], None]) -> None:
        self._socket = end
        self._lines = LineReader(end, LONGEST_ORDER)
        self._silent: tuple[socket.socket, ...] = ()
        self._abandoned = abandoned
        self._obey = obey

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, report: Report) -> None:
        """Sends one report; it is dropped if there is no supervisor any more."""
        try:
            self._socket.setblocking(True)
            self._socket.sendall(encoded(report))
        except OSError:
            pass

    def on_readable(self) -> None:
        """Takes the orders that have come, or the end of the line."""
        for line in self._lines.take():
            with contextlib.suppress(msgspec.MsgspecError):  # a forked process that shares the line has read a part
                self._obey(_orders.decode(line))
        if self._lines.ended:
            self._abandoned()
            self._fall_silent()

    def may_drain(self) -> bool:
        """Whether the supervisor has ordered a drain, or is gone. If it has not, it is asked: the whole process group
        may have got the signal, and then the supervisor keeps clients out first. Nothing is taken off the line, so that
        a signal handler may call this whatever it interrupts."""
        try:
            received = self._socket.recv(4096, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            received = b"nothing"
        except OSError:
            received = b""
        if received and BeginDrain.__name__.encode() not in received:
            self.send(TermReceived())
            return False
        return True

    def close(self) -> None:
        """Closes this process's descriptor: a forked process shall not speak for the worker."""
        for end in (self._socket, *self._silent):
            end.close()

    def _fall_silent(self) -> None:
        # A socket at its end stays readable, and every loop that still turns would spin on it: a descriptor that is
        # never readable takes its place. The loop's own bookkeeping goes by the number, which stays the same.
        self._silent = socket.socketpair()
        os.dup2(self._silent[0].fileno(), self._socket.fileno(), inheritable=False)
