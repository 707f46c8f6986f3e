"""`EventCounts`: the observer that counts, on the scoreboard, what a supervisor does and what befalls its workers."""

from __future__ import annotations

import os

from pronghorn import events
from pronghorn.events import Event
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.system.stdio import dropped

NAMES: dict[type[Event], str] = {
    events.Reloaded: "reload_done",
    events.ReloadFailed: "reload_failed",
    events.Upgraded: "upgrade_done",
    events.UpgradeFailed: "upgrade_failed",
    events.WorkerStarted: "worker_started",
    events.WorkerNotStarted: "worker_not_started",
    events.WorkerSilent: "worker_silent",
    events.WorkerDoomed: "worker_doomed",
    events.WorkerRetired: "worker_retired",
    events.SupervisorFailed: "faults",
    events.SourceSuspected: "sources_suspected",
    events.Resized: "resized",
    events.CertificateRefused: "certificate_refused",
    events.ObserverFailed: "observer_failures",
}


class EventCounts:
    """Counts the events of this process, and none of those that its workers observe by the same observers; and with
    each event what its logs have not taken."""

    __slots__ = ("_board", "_dropped", "_pid")

    def __init__(self, board: Scoreboard) -> None:
        self._board, self._pid = board, os.getpid()
        self._dropped = dict(dropped)

    def __call__(self, event: Event) -> None:
        name = NAMES.get(type(event), "")
        if isinstance(event, events.WorkerExited):
            name = "exit_wanted" if event.wanted else "exit_signal" if event.status < 0 else "exit_unwanted"
        if (name or dropped != self._dropped) and os.getpid() == self._pid:
            if name:
                self._board.count(name)
            for log, count in dropped.items():
                if new := count - self._dropped[log]:
                    self._board.count(f"{log}_dropped", new)
            self._dropped = dict(dropped)

    def hears(self, kind: type[Event]) -> bool:
        """Whether it does something with such an event: it looks at each, in its own process."""
        return os.getpid() == self._pid
