"""What the world outside knows a server by, beside its addresses: its control socket, and the files that it watches.

Law: it belongs to the supervisor's process alone. An upgrade hands it on, and what has a name in the file system is
removed by nobody but its last owner.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from pronghorn import events
from pronghorn.control.commands import Commands
from pronghorn.control.server import ControlServer, open_control
from pronghorn.events import Observer
from pronghorn.settings import Settings
from pronghorn.supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from pronghorn.supervisor.file_watcher import FileWatcher


class Presence:
    """Opened when the addresses are bound, `serve`d once the server serves. `address` is the first of them, `control`
    the descriptors of the control socket that an older program hands on. Raises AlreadyRunning, and CannotBind if a
    control socket that was asked for cannot be had."""

    def __init__(self, settings: Settings, address: str, control: list[int], observe: Observer) -> None:
        self.name = settings.name or address
        self._settings = settings
        self._control = (
            ControlServer.adopt(control[0], control[1]) if control else open_control(settings, address, observe)
        )
        self._watcher: FileWatcher | None = None
        self._since = time.time_ns()

    def serve(self, supervisor: Supervisor, source: Any, file: str) -> None:
        """From now on requests are answered, and with `--reload` a change of the handler that `source` names, or of the
        settings `file`, leads to a reload."""
        self._supervisor = supervisor
        if self._control is not None:
            self._control.serve(supervisor.poller, Commands(supervisor, self.name))
        if self._settings.reload:
            from pronghorn.supervisor import (
                file_watcher,  # here: whatever the supervisor has imported, every fork copies
            )

            try:
                self._watcher = file_watcher.FileWatcher(file_watcher.places(source, file), self._since)
            except OSError as error:  # the server can do without
                return self._unwatched(f"The process that watches for them cannot be started: {error.strerror}.")
            supervisor.workers.helpers.add(self._watcher.pid)
            supervisor.poller.add(self._watcher, self._changed)

    def tick(self, now: float) -> None:
        """About once a second, with the monotonic clock."""
        if self._control is not None:
            self._control.tick(now)

    def descriptors(self) -> list[int]:
        """What an upgrade hands on, and no worker keeps."""
        return self._control.descriptors() if self._control is not None else []

    def hand_over(self) -> None:
        """A new program bears the name now."""
        if self._control is not None:
            self._control.hand_over()
        self._end_watcher()

    def close(self) -> None:
        try:
            self._end_watcher()
        finally:
            if self._control is not None:
                self._control.close()

    def _changed(self) -> None:
        assert self._watcher is not None
        paths = self._watcher.read()
        if paths:
            self._supervisor.changes.reload(f"{os.path.relpath(paths[0])} changed")
        if self._watcher.ended:
            self._end_watcher()
            self._unwatched("The process that watches for them has ended; a restart or an upgrade brings another.")

    def _unwatched(self, why: str) -> None:
        what = "Changes are not noticed from now on."
        self._supervisor.observe(events.ReloadFailed(what, f"{what}\n{why}"))

    def _end_watcher(self) -> None:
        if self._watcher is not None:
            self._supervisor.poller.remove(self._watcher)
            self._watcher.close()
            self._watcher = None
