"""Whether a silent worker is being debugged: then it waits for a person, and does not hang.

Law: the supervisor asks and never waits. The kernel says which process traces a worker (gdb, strace). A debugger in
Python (pdb and its descendants, debugpy) shows in the stacks: the worker is sent a signal that is used for nothing
else, on which faulthandler writes the stacks from C into the worker's own memory, and they are read a turn later. That
is text of a process that may have been taken over; but an attacker in a worker can write its heartbeat, too. Where the
system does not say which signals a process catches (no /proc), no worker is asked, and none is spared.

Source: proc(5), proc_pid_status(5).
"""

from __future__ import annotations

import re

from pronghorn.scoreboard.stacks import Stacks
from pronghorn.system.processes import kill
from pronghorn.system.signals import ASK_STACKS
from pronghorn.tracebacks import debugger_in

PATIENCE = 2.0  # seconds for the stacks to appear
SPARED = 5.0  # seconds until it is asked anew
FRAME = re.compile(r'^  File "(.*)", line \d+ in (.*)$', re.MULTILINE)  # as faulthandler writes it


class Question:
    """What is known of one worker: whether it is debugged, and when that is asked anew."""

    __slots__ = ("_ask_at", "_late_at", "_pending", "_pid", "_stacks", "_written", "spared")

    def __init__(self, pid: int, stacks: Stacks) -> None:
        self._pid = pid
        self._stacks = stacks
        self._ask_at = self._late_at = 0.0
        self._pending = False
        self._written = ""
        self.spared = ""
        """How it is debugged, as far as is known; "" if it is not."""

    def answer(self, now: float) -> str | None:
        """How it is debugged; "" if it is not; None as long as that is not known."""
        if not self._pending:
            return self._ask(now) if now >= self._ask_at else self.spared
        written = self._stacks.written()
        if found := debugger(written):
            self._settle(now, found)
        elif now < self._late_at and (not written or written != self._written):
            self._written = written  # there may be more to come
            return self.spared or None
        else:
            self._settle(now, "")
        return self.spared

    def _settle(self, now: float, how: str) -> None:
        self._pending, self.spared = False, how
        self._ask_at = now + SPARED
        self._stacks.rewind()  # room for what the worker writes when it is killed

    def _ask(self, now: float) -> str | None:
        status = _status(self._pid)
        tracer = status.get("TracerPid", "0")
        if tracer != "0":
            self.spared = f"process {tracer} traces it"
            return self.spared
        if status.get("State", "T")[0] in "TZX" or not _catches(status, ASK_STACKS):
            self.spared = ""
            return ""
        self._stacks.rewind()
        self._written = ""
        kill(self._pid, ASK_STACKS)
        self._pending, self._late_at = True, now + PATIENCE
        return self.spared or None


def debugger(stacks: str) -> str:
    """The debugger of Python's that stands in some stacks, in words; "" for none."""
    return debugger_in(FRAME.findall(stacks))


def _status(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            pairs = [line.partition(":") for line in file.read(65536).splitlines()]
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in pairs}


def _catches(status: dict[str, str], number: int) -> bool:
    try:
        return number > 0 and bool(int(status.get("SigCgt", "0"), 16) >> (number - 1) & 1)
    except ValueError:
        return False
