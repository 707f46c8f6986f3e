"""`--reload`: a reload for each batch of changes that the process of file_watcher.py tells of.

Law: it is started once the server serves, and ends with it or with an upgrade, whose program has one of its own.
"""

from __future__ import annotations

import os
from typing import Any

from pronghorn import events
from pronghorn.supervisor.changes import Changes
from pronghorn.supervisor.file_watcher import FileWatcher, places
from pronghorn.supervisor.fleet import Fleet


class Autoreload:
    """Reloads when the handler that `source` names, or the settings `file`, has changed after `since` (ns of the wall
    clock). Where no process can be started for it, the log says so."""

    def __init__(self, source: Any, file: str, since: int, fleet: Fleet, changes: Changes) -> None:
        self._fleet = fleet
        self._changes = changes
        self._watcher: FileWatcher | None = None
        try:
            self._watcher = FileWatcher(places(source, file), since)
        except OSError as error:  # the server can do without
            return self._unwatched(f"The process that watches for them cannot be started: {error.strerror}.")
        fleet.workers.helpers.add(self._watcher.pid)
        fleet.poller.add(self._watcher, self._changed)

    def close(self) -> None:
        """Ends the process."""
        if self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            self._fleet.poller.remove(watcher)
            watcher.close()

    def _changed(self) -> None:
        assert self._watcher is not None
        paths = self._watcher.read()
        if paths:
            self._changes.reload(f"{os.path.relpath(paths[0])} changed")
        if self._watcher.ended:
            self.close()
            self._unwatched("The process that watches for them has ended; a restart or an upgrade brings another.")

    def _unwatched(self, why: str) -> None:
        what = "Changes are not noticed from now on."
        self._fleet.observe(events.ReloadFailed(what, f"{what}\n{why}"))
