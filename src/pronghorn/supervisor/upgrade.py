"""An upgrade: a new program takes the listeners over while the old one still serves.

Law: a transaction, as a reload is. The new program is started with the listeners, the scoreboard and the control socket
as descriptors, and reports on a pair of sockets how its start went. Until it reports that it serves, nothing changes
here; if it ends, reports an error or takes too long, it is killed. What is handed over is not removed here: the path of
a unix socket, the lock beside it and the process id file are the new program's from then on.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterable
from typing import Any, NoReturn

import msgspec

from pronghorn import events
from pronghorn.boot import server_command
from pronghorn.errors import WorkerFailedToStart, from_parts
from pronghorn.serving.handover import Outcome
from pronghorn.supervisor.callbacks import Callbacks, NewProgram
from pronghorn.supervisor.change import Change
from pronghorn.supervisor.fleet import Fleet
from pronghorn.supervisor.generation import Worker
from pronghorn.supervisor.poller import Done
from pronghorn.system.lines import LineReader
from pronghorn.system.memory import anonymous_file
from pronghorn.system.processes import flush_streams, kill
from pronghorn.system.signals import SignalPipe, hold_signals, reset_signals

GRACE = 1.0  # seconds that a new program gets to leave by itself
FAILED = {"kind": WorkerFailedToStart.__name__, "what": "The new program failed."}  # if it does not say what
LONGEST_REPORT = 256 * 1024  # bytes
MARGIN = 5.0  # seconds beyond start_timeout: for the interpreter, and for a probe that takes all of its own time


class Upgrade(Change):
    """One upgrade under way: `successor` is the new program's process. Raises OSError when none can be started.

    This process does not wait for exec(2), nor for the folder: a disk that hangs holds up the new process alone.
    """

    kind, failure = "upgrade", events.UpgradeFailed

    def __init__(self, program: NewProgram, fleet: Fleet, callbacks: Callbacks, done: Done) -> None:
        super().__init__(fleet, done)
        self._handed_over = callbacks.handed_over
        self._takes = False
        self._deadline = time.monotonic() + 2 * fleet.serving.plan.settings.start_timeout + MARGIN
        fleet.observe(events.UpgradeStarted())
        self._line, theirs = socket.socketpair()
        self._lines = LineReader(self._line, LONGEST_REPORT)
        writer = theirs.fileno()
        file = anonymous_file("boot", program.boot.replace(b'"report_fd":-1', b'"report_fd":%d' % writer))
        flush_streams()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.successor = os.fork()
            if self.successor == 0:
                _become(file, program.folder, [*program.passed, file, writer], writer, mask)
        except OSError:
            self._line.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(file)
            theirs.close()
        fleet.workers.helpers.add(self.successor)
        fleet.serving.plan.board.share(self.successor)
        fleet.poller.add(self._line, self._listen)

    def look(self, now: float) -> None:
        if not self.over and now >= self._deadline:
            self.fail(WorkerFailedToStart("The new program did not become ready.", "Its time is over."))

    def undo(self) -> None:
        self._hang_up()
        kill(self.successor, signal.SIGTERM)
        self.fleet.workers.helpers.dismiss(self.successor, GRACE)

    def replaced(self) -> list[Worker]:
        return [*self.fleet.workers.living.values()]

    def take_over(self) -> None:
        try:
            self._handed_over()
        finally:
            self.fleet.observe(events.Upgraded(self.successor))
            self.fleet.step_aside(self._takes)

    def succeeded(self, seconds: float, accepting: int, outcome: Outcome) -> dict[str, Any]:
        left, spread = self.fleet.workers.left_open(), self.fleet.serving.plan.settings.old_workers_spread
        told = {"pid": self.successor, "accepting": accepting}
        return told | outcome.told() | {"left": left, "spread": spread}

    def _hang_up(self) -> None:
        self.fleet.poller.remove(self._line)
        self._line.close()

    def _listen(self) -> None:
        for line in self._lines.take():
            try:
                said = msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.MsgspecError:
                said = {}
            if "listening" in said:
                self.over, self._takes = True, bool(said.get("takes"))
                return self._hang_up()
            return self.fail(from_parts({**FAILED, **said.get("error", {})}))
        if self._lines.ended:
            self.fail(WorkerFailedToStart("The new program ended before it was ready.", "The log says more."))


def _become(file: int, folder: str, kept: list[int], writer: int, mask: Iterable[int]) -> NoReturn:
    """In the child: the new program, or what keeps it from being that, on the line that it would report by."""
    program = sys.executable
    try:
        reset_signals()
        for number in SignalPipe.TAKEN:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        hold_signals()
        for fd in kept:
            os.set_inheritable(fd, True)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder)
        os.environ["PWD"] = folder
        os.execv(program, server_command(file))
    except OSError as error:
        why = f"{error.strerror}: {error.filename or program}."
        failure = WorkerFailedToStart("The new program cannot be started.", why)
        os.write(writer, msgspec.json.encode({"error": failure.parts(kind=True)}) + b"\n")
    finally:
        os._exit(1)
