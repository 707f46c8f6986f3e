"""Side processes, which are neither workers nor helpers: started, watched, started again and ended by the supervisor.

A side process does for the server what may neither wait in the supervisor nor cost a worker anything: it answers HTTP,
or writes a file. It is a program of its own, `python -P -m pronghorn.MODULE`, whose main function begins with
`system.side_boot.begin()` and is handed settings, named descriptors, and a line.

    side = SideProcess("admin", "pronghorn.admin", settings={...}, descriptors={"listener": fd}, hear=answer)
    supervisor.sides.add(side)          # before the supervisor runs; it starts, and starts again, by itself
    side.send({"event": ...})           # never waits; False if it was dropped
    side.state()                        # what `ctl status` shows

Law: nothing here waits, but for `close` at the very end of the server, within a bound. A side process holds up no
start, reload, upgrade or stop, and its death changes nothing but its own state: it is started again after a pause,
which grows up to half a minute while it does not live long. The supervisor believes nothing that comes over the line:
it is read within bounds, and a process that sends what is no JSON object is killed. Descriptors that a side process
needs are opened by whoever adds it, stay open here, and so survive the death of the process; no worker and no helper
has them.

Life: the first start is in the supervisor's first turn; after an upgrade it is when the new program serves, so that
there is never a process of the new program beside one of the old that does the same. At the upgrade the old program's
one ends at once, or, if it `stays`, with the old supervisor. At a stop all end last, after the workers: their line is
ended, which is how they learn of it, and they have `patience` seconds until SIGKILL. If the supervisor dies, so does
the process; one that `outlives` it sees its line end and ends by itself.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import msgspec

from pronghorn import events
from pronghorn.boot import module_command
from pronghorn.errors import printable
from pronghorn.events import Observer
from pronghorn.supervisor.generation import NEVER
from pronghorn.supervisor.poller import Poller
from pronghorn.supervisor.side_lines import ROOM, Errors, Line
from pronghorn.system import privileges
from pronghorn.system.helper import Reaper, status_of
from pronghorn.system.memory import anonymous_file
from pronghorn.system.processes import flush_streams, kill, prefer_when_out_of_memory
from pronghorn.system.side_boot import BEAT, LEAVE, LEVEL, LOG, LONGEST, READY, SideBoot
from pronghorn.system.signals import SignalPipe, reset_signals

SHORTEST_PAUSE, LONGEST_PAUSE = 0.25, 30.0  # seconds before a process is started again
STEADY = 30.0  # seconds after which the next death is a first one
PATIENCE = 2.0  # seconds that it gets to end by itself, once its line has ended
LAST_MOMENTS = 1.0  # seconds for SIGKILL; a process that the kernel holds is left behind
AGAIN = 1.0  # seconds between two SIGKILLs for such a process
LEVELS = ("debug", "info", "warning", "error")
MOST_RECORDS, WINDOW = 50, 10.0  # records of one process in the log, in so many seconds
LONGEST_RECORD = 8192  # characters
ONE_PIECE = 0.1  # seconds in which what is printed becomes one record: a traceback is written in pieces

Hear = Callable[[dict[str, Any]], None]


def ignore(message: dict[str, Any]) -> None:
    """Hears nothing."""


class SideProcess:
    """One side process. `hear` is called with each object that it sends, but for those that side_boot.py names.

    `descriptors` are the numbers, by name, of what it inherits; they stay the caller's, who closes them after the
    server's end. `shown` is told with its state. `stays` and `outlives`: see above. With `holds`, what is sent while
    there is no process waits for the next one. One that `leaves` ends by itself at an upgrade, when it is told to, and
    can talk to the supervisor until then. One that is ready and says nothing for `silence` seconds hangs, and is
    killed: side_boot.py has a BEAT for those that have nothing to say. `nice` is added to its niceness.
    """

    def __init__(
        self,
        name: str,
        module: str,
        *,
        settings: Mapping[str, Any] | None = None,
        descriptors: Mapping[str, int] | None = None,
        shown: Mapping[str, Any] | None = None,
        hear: Hear = ignore,
        stays: bool = False,
        outlives: bool = False,
        holds: bool = False,
        leaves: bool = False,
        silence: float = NEVER,
        patience: float = PATIENCE,
        nice: int = 0,
    ) -> None:
        self.name, self.stays, self.patience = name, stays, patience
        self.descriptors, self._shown = dict(descriptors or {}), dict(shown or {})
        self.pid = 0  # 0 while there is none
        self.restarts = 0
        self.ready = False
        self.dropped = 0  # messages that were not sent
        self._module, self._settings, self._outlives, self._nice = module, dict(settings or {}), outlives, nice
        self._hear, self._holds, self._leaves = hear, holds, leaves
        self._silence, self._heard_at = silence, 0.0
        self._backlog = bytearray()  # what waits for the next start
        self._line: Line | None = None
        self._errors: Errors | None = None
        self._start_at, self._started_at, self._kill_at, self._tell_at = 0.0, 0.0, NEVER, NEVER
        self._pause = 0.0
        self._why = ""  # the last death
        self._said_since, self._said = 0.0, 0
        self._over = False

    def join(self, poller: Poller, reaper: Reaper, observe: Observer) -> None:
        """Belongs to a supervisor from now on."""
        self._poller, self._reaper, self._observe = poller, reaper, observe

    def state(self) -> dict[str, Any]:
        """What `ctl status` tells."""
        words = "ended" if self._over else "running" if self.ready else "starting" if self.pid else "waiting"
        known = {"name": self.name, "state": words, "pid": self.pid, "restarts": self.restarts, "why": self._why}
        return known | self._shown

    def send(self, message: Any) -> bool:
        """Sends an object, or holds it until the process reads; False if it was dropped, since ROOM is used up, or
        since there is no process and it does not `hold`. What a process that dies has not read is lost."""
        data = msgspec.json.encode(message) + b"\n"
        if self._line is not None:
            sent = self._line.send(data)
        elif sent := self._holds and not self._over and len(self._backlog) + len(data) <= ROOM:
            self._backlog += data
        self.dropped += not sent
        return sent

    def set(self, name: str, value: Any) -> None:
        """Another value of a setting, for the next process that is started; the one that runs has to be told of it."""
        self._settings[name] = value

    def show(self, **facts: Any) -> None:
        """More of what `state` tells."""
        self._shown |= facts

    def turn(self, now: float) -> None:
        """In each turn of the supervisor: reaps it, starts it, kills it when it is late."""
        if now >= self._tell_at:
            self._tell()
        if self.pid:
            if (status := status_of(self.pid)) is not None:
                self._died(status, now)
            elif now >= self._kill_at:
                kill(self.pid, signal.SIGKILL)
                self._kill_at = now + AGAIN  # not in each turn: the kernel may hold it for as long as its disk hangs
            elif now >= self._silent_at:
                self._listen(now)
        elif now >= self._start_at and not self._over:
            self._start(now)

    def due(self) -> float:
        """The instant (monotonic) at which `turn` has something to do."""
        return min(
            self._tell_at, min(self._kill_at, self._silent_at) if self.pid else NEVER if self._over else self._start_at
        )

    def end(self, leave: bool = False) -> None:
        """Ends its line, behind what was sent, and has it killed if it is late; it is not started again. One that
        `leaves` is told so, when that is wanted, and has its line until it ends."""
        self._over = True
        if self.pid and self._kill_at == NEVER:
            self._kill_at = time.monotonic() + self.patience
            if leave and self._leaves:
                self.send({LEAVE: True})
            elif self._line is not None:
                self._line.finish()

    @property
    def _silent_at(self) -> float:
        return self._heard_at + self._silence if self.ready and not self._over and self._kill_at == NEVER else NEVER

    def _listen(self, now: float) -> None:
        """It has said nothing for so long, unless this process has not listened."""
        self._heard()
        if self.pid and now >= self._silent_at:
            self._fault(f"has said nothing for {self._silence:g} s")

    def _start(self, now: float) -> None:
        self.ready, self._kill_at, self._started_at = False, NEVER, now
        try:
            self._fork()
        except OSError as error:
            self._why = f"fork: {error.strerror}"
            self._start_at = now + self._next_pause()
            self._observe(events.SideProcessNotStarted(self.name, self._why, self._start_at - now))

    def _fork(self) -> None:
        ends: list[socket.socket] = []
        file = -1
        try:
            for _ in range(2):
                ends += socket.socketpair()
            ours, line, ours_too, errors = ends
            fds = self.descriptors
            boot = SideBoot(self.name, line.fileno(), fds, self._settings, privileges.person, self._outlives)
            file = anonymous_file("side", msgspec.json.encode(boot))
            command = module_command(self._module, str(file))
            flush_streams()
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                self.pid = os.fork()
                if self.pid == 0:
                    _become(command, [file, line.fileno(), *fds.values()], errors.fileno(), self._nice)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        except OSError:
            for each in ends:
                each.close()
            raise
        finally:
            if file >= 0:
                os.close(file)
        line.close()
        errors.close()
        self._reaper.add(self.pid)
        self._line = Line(ours, self._poller, self._heard, bytes(self._backlog))
        self._errors = Errors(ours_too, self._poller, self._printed)
        self._backlog.clear()

    # What it says

    def _heard(self) -> None:
        line = self._line
        if line is None:
            return
        for each in line.lines.take():
            self._heard_at = time.monotonic()
            try:
                message = msgspec.json.decode(each, type=dict[str, Any])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return self._fault("sent what is no JSON object")
            if LOG in message:
                self._log(str(message.get(LEVEL)), str(message[LOG]))
            elif READY in message:
                self.ready = True
            elif BEAT not in message:
                self._hear(message)
        if line.lines.too_long:
            self._fault(f"sent more than {LONGEST:,} bytes in one line")
        elif line.lines.ended:  # it ends, or has to
            self._hang_up()
            self._kill_at = min(self._kill_at, time.monotonic() + self.patience)

    def _fault(self, why: str) -> None:
        self._log("error", f"is killed: it {why}")
        if self.pid:
            kill(self.pid, signal.SIGKILL)
        self._kill_at = 0.0
        self._hang_up()

    def _printed(self) -> None:
        errors = self._errors
        if errors is None:
            return
        if errors.take():
            self._tell_at = min(self._tell_at, time.monotonic() + ONE_PIECE)
        if errors.lines.too_long:  # it would wait for ever for somebody who reads on
            self._fault(f"printed more than {LONGEST:,} bytes in one line")
        if errors.lines.ended:
            self._poller.remove(errors.sock)

    def _tell(self) -> None:
        """Logs what it has printed since."""
        self._tell_at = NEVER
        if self._errors is not None and (text := self._errors.told()):
            self._log("warning", text)

    def _log(self, level: str, text: str) -> None:
        now = time.monotonic()
        if now >= self._said_since + WINDOW:
            self._said_since, self._said = now, 0
        self._said += 1
        if self._said > MOST_RECORDS:
            return
        if self._said == MOST_RECORDS:
            text += f"\n(more of it is left out for {self._said_since + WINDOW - now:.0f} s)"
        known = level if level in LEVELS else "warning"
        self._observe(events.SideProcessSaid(self.name, known, printable(text, LONGEST_RECORD)))

    # Its end

    def _died(self, status: int, now: float) -> None:
        pid, self.pid, self.ready, self._kill_at = self.pid, 0, False, NEVER
        self._reaper.forget(pid)
        self._heard()
        self._printed()
        self._tell()
        self._hang_up()
        last = ""
        if self._errors is not None:
            self._errors.close()
            last, self._errors = self._errors.last, None
        if self._over:
            return
        self.restarts += 1
        if now >= self._started_at + STEADY:
            self._pause = 0.0
        self._start_at = now + self._next_pause()
        self._why = printable(last, 300) or f"status {status}"
        self._observe(events.SideProcessEnded(self.name, pid, status, self._pause))

    def _next_pause(self) -> float:
        self._pause = min(max(self._pause * 2, SHORTEST_PAUSE), LONGEST_PAUSE)
        return self._pause

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


class SideProcesses:
    """All side processes of a supervisor; none costs a thing where there are none."""

    def __init__(self, poller: Poller, reaper: Reaper, observe: Observer) -> None:
        self._about = poller, reaper, observe
        self._all: list[SideProcess] = []
        self._going: list[SideProcess] = []  # they end, and are not waited for

    def __iter__(self) -> Iterator[SideProcess]:
        return iter(self._all)

    def add(self, side: SideProcess) -> None:
        """It is started in the next turn."""
        side.join(*self._about)
        self._all.append(side)

    def remove(self, side: SideProcess) -> None:
        """Ends it; whoever it belongs to wants it no more."""
        if side in self._all:
            self._all.remove(side)
            self._going.append(side)
            side.end(leave=True)

    def descriptors(self) -> list[int]:
        """What no worker and no helper shall have, beside the lines, which are the poller's."""
        return [fd for each in (*self._all, *self._going) for fd in each.descriptors.values()]

    def turn(self, now: float) -> None:
        """In each turn of the supervisor in which they may be started."""
        for each in (*self._all, *self._going):
            each.turn(now)
        if self._going:
            self._going = [each for each in self._going if each.pid]

    def due(self) -> float:
        """The instant (monotonic) at which `turn` has something to do."""
        return min((each.due() for each in (*self._all, *self._going)), default=NEVER)

    def state(self) -> list[dict[str, Any]]:
        """What `ctl status` tells."""
        return [each.state() for each in self._all]

    def hand_over(self) -> None:
        """Another program serves, with side processes of its own: those end that do not stay."""
        for each in [each for each in self._all if not each.stays]:
            self.remove(each)

    def close(self) -> None:
        """At the server's end: tells all to end, and hears them until they have, each within its patience."""
        everyone = (*self._all, *self._going)
        for each in everyone:
            each.end()
        until = max((time.monotonic() + each.patience for each in everyone if each.pid), default=0.0) + LAST_MOMENTS
        while any(each.pid for each in everyone) and time.monotonic() < until:
            self._about[0].wait(0.01)
            for each in everyone:
                each.turn(time.monotonic())


def _become(command: list[str], inherited: Iterable[int], errors: int, nice: int) -> NoReturn:
    """In the child: the new program. Its signals wait until it has handlers for them (system/side_boot.py)."""
    try:
        reset_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, SignalPipe.TAKEN)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        for fd in inherited:
            os.set_inheritable(fd, True)
        prefer_when_out_of_memory()
        if nice:
            os.nice(nice)
        os.execv(sys.executable, command)
    except OSError as error:
        os.write(errors, f"cannot be started: {error.strerror}: {sys.executable}\n".encode())
    finally:
        os._exit(1)
