"""The observer that tells systemd how the server is: ready, reloading, stopping, alive (sd_notify(3)).

Law: one process sends, the supervisor that has read the variables; in a worker the inherited observer is silent. The
variables are taken out of the environment, so that a program that the server starts does not take itself for the
service. What cannot be sent is dropped, and nothing waits for longer than a second.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping

from pronghorn import events
from pronghorn.events import Event
from pronghorn.observers.escaping import escaped

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
PATIENCE = 1.0  # seconds, for what systemd acts upon; a status and a sign of life do not wait


class SystemdObserver:
    """Sends events to the socket in NOTIFY_SOCKET; an address that begins with @ is abstract.

    A sign of life (WATCHDOG) goes out every half of WATCHDOG_USEC, as long as no worker is silent; the supervisor looks
    once a second, so that a watchdog below two seconds asks for too much. `clock` is CLOCK_MONOTONIC, in seconds.
    """

    def __init__(self, environment: MutableMapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        address, usec, pid = (environment.pop(name, "") for name in VARIABLES)
        self._clock = clock
        self._pid = os.getpid()
        self._address = "\0" + address[1:] if address.startswith("@") else address if address.startswith("/") else ""
        watched = usec.isdecimal() and pid in ("", str(self._pid))
        self._half = int(usec) / 2e6 if watched else 0.0
        self._last = clock()
        self._strength: tuple[int, int] | None = None
        self._serving = "Serving"
        self.handed = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": usec if watched else ""}
        """Variables for the environment of an upgrade's new program."""

    def __bool__(self) -> bool:
        """Whether there is a systemd to notify."""
        return bool(self._address)

    def hears(self, kind: type[Event]) -> bool:
        return bool(self._address) and os.getpid() == self._pid

    def __call__(self, event: Event) -> None:
        if not self.hears(type(event)):
            return
        match event:
            case events.ServerStarted(handler=handler, model=model):
                self._serving = f"Serving {handler} under {model}"
                self._say("READY=1", f"MAINPID={self._pid}", f"STATUS={self._serving}")
            case events.ReloadStarted(why=why):
                # Without its time systemd could take the READY of an earlier reload for the end of this one.
                self._say("RELOADING=1", f"MONOTONIC_USEC={int(self._clock() * 1e6)}", f"STATUS=Reloading ({why})")
            case events.Reloaded(generation=number):
                self._say("READY=1", f"STATUS=Reloaded: generation {number} serves")
            case events.ReloadFailed(what=what):
                self._say("READY=1", f"STATUS=Reload failed, and nothing has changed: {what}")
            case events.UpgradeStarted():
                self._say("STATUS=Upgrading")
            case events.UpgradeFailed(what=what):
                self._say(f"STATUS=Upgrade failed, and nothing has changed: {what}")
            case events.Upgraded(pid=pid):
                # systemd has ignored the new process so far: it listens to the service's main process alone.
                self._say(f"MAINPID={pid}", f"STATUS={self._serving}")
                self._address = ""  # this process stops; the service does not
            case events.DrainDelayed(why=why, seconds=seconds, stops=True):
                self._say("STOPPING=1", f"STATUS=Draining in {seconds:g} s ({why})")
            case events.DrainStarted(why=why):
                self._say("STOPPING=1", f"STATUS=Draining ({why})")
            case events.Pulse():
                self._pulse(event)

    def _pulse(self, event: events.Pulse) -> None:
        now = self._clock()
        if self._half and not event.silent and now - self._last >= self._half - 0.5:  # half a tick early, never late
            self._last = now
            self._say("WATCHDOG=1", patience=0.0)
        strength = event.ready, event.wanted
        if self._strength is not None and strength != self._strength:
            self._say(f"STATUS={self._serving}: {event.ready} of {event.wanted} workers", patience=0.0)
        self._strength = strength

    def _say(self, *lines: str, patience: float = PATIENCE) -> None:
        """Each line is escaped: a file's name or an error's text cannot add a line."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(patience)
                sock.sendto("\n".join(map(escaped, lines)).encode(), self._address)
        except OSError:
            pass
