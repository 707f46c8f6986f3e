"""What a side process begins with: its settings, its named descriptors, and its line to the supervisor.

Law: imported by both ends. The supervisor writes a SideBoot into an anonymous file whose descriptor is the only
argument of the new program. The program reads it with `begin`, after its imports and before anything else: from then on
it has the privileges of the workers, no signal to a process group ends it, and the end of its line is when it has to
end. Both ends speak JSON objects on the line, one in each; what a side process prints on standard error, tracebacks
too, comes to the server's log.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
from typing import Any

import msgspec

from pronghorn.system import privileges
from pronghorn.system.lines import LineReader
from pronghorn.system.privileges import Person
from pronghorn.system.processes import death_signal, name_process
from pronghorn.system.signals import SignalPipe, nothing

LONGEST = 1024 * 1024  # bytes of one line, in either direction
LOG, READY, LEVEL, BEAT = "log", "ready", "level", "beat"
"""What the supervisor understands by itself on a line: a record for the log with its level, that it is up, and a sign
of life."""
CHANGED = "changed"
"""What the admin process is told after a reload: the settings that are not their defaults, as people write them."""
LEAVE = "leave"
"""What the supervisor says by itself, to a side process that wants to know: end soon, another one takes over."""


class SideBoot(msgspec.Struct):
    """What the supervisor hands over: numbers of descriptors, and plain values."""

    name: str
    line: int
    descriptors: dict[str, int]
    settings: dict[str, Any]
    person: Person | None = None
    outlives: bool = False


class Side:
    """A side process as its own code sees it: `settings` and `descriptors` by their names, and the line.

    The line is a socket: `fileno()` is readable when `take` has something; a program with a loop of its own may also
    read and write `line` itself. Where the line ends, the supervisor wants the process to end, or is gone.
    """

    def __init__(self, boot: SideBoot) -> None:
        self.name, self.settings, self.descriptors = boot.name, boot.settings, boot.descriptors
        self.line = socket.socket(fileno=boot.line)
        self._lines = LineReader(self.line, LONGEST)

    def fileno(self) -> int:
        return self.line.fileno()

    @property
    def ended(self) -> bool:
        """The line has ended: finish, and exit."""
        return self._lines.ended

    def take(self) -> list[Any]:
        """What the supervisor has sent, as far as it has come; never blocks."""
        return [msgspec.json.decode(line) for line in self._lines.take()]

    def send(self, message: dict[str, Any]) -> bool:
        """Sends an object to the supervisor, which reads at all times; False once the line has ended."""
        try:
            self.line.sendall(msgspec.json.encode(message) + b"\n")
        except OSError:
            return False
        return True

    def ready(self) -> None:
        """The process is up: `ctl status` says so, and a later death of it is followed by a short pause."""
        self.send({READY: True})

    def beat(self) -> None:
        """A sign of life, for a process that is killed when it is silent."""
        self.send({BEAT: True})

    def say(self, level: str, text: str) -> None:
        """A record for the server's log: debug, info, warning or error."""
        self.send({LOG: text, LEVEL: level})


def begin() -> Side:
    """The side process of this program, whose only argument is a SideBoot's descriptor. To be called after all imports:
    afterwards this process may be somebody who cannot read the package. Ends the process if it was started by hand, or
    cannot have the workers' privileges."""
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
        sys.exit("Error: This is a part of Pronghorn.\nStart a server with: pronghorn serve")
    with open(int(sys.argv[1]), "rb") as file:
        boot = msgspec.json.decode(file.read(), type=SideBoot)
    del sys.argv[1:]
    for number in SignalPipe.TAKEN:
        if number != signal.SIGCHLD:
            signal.signal(number, nothing)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SignalPipe.TAKEN)
    faulthandler.enable(file=2)
    for fd in (boot.line, *boot.descriptors.values()):
        os.set_inheritable(fd, False)
    name_process(boot.name)
    ask_for_death = death_signal()  # a change of credentials clears what was asked for before
    privileges.person = boot.person
    privileges.drop()
    if not boot.outlives:
        ask_for_death(signal.SIGKILL)
    return Side(boot)
