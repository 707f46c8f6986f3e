"""`--reload`: which files count, the process that watches them, and a reload for each batch of changes.

Law: the process (file_watcher.py) is started once the server serves, and ends with the server or with an upgrade, whose
program has one of its own. A reload that asks for other handlers, even if it fails, brings another process for them.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import os
import socket
import time
from collections.abc import Iterable
from typing import Any

from pronghorn import events
from pronghorn.boot import module_command
from pronghorn.settings.source import Source
from pronghorn.supervisor.changes import Changes
from pronghorn.supervisor.fleet import Fleet
from pronghorn.system.lines import LineReader

LONGEST_PATH = 1024 * 1024


class Autoreload:
    """Reloads when one of the handlers that `sources` name, or one of the `files` of settings, has changed after
    `since` (ns of the wall clock). Where no process can be started for it, the log says so."""

    def __init__(
        self, sources: Iterable[Any], files: Iterable[str], since: int, fleet: Fleet, changes: Changes
    ) -> None:
        self._fleet = fleet
        self._changes = changes
        self._watcher: FileWatcher | None = None
        self._places: list[str] = []
        self._watch(sources, [*files], since)

    def follow(self, sources: Iterable[Any], files: Iterable[str], since: int) -> None:
        """From now on these count, and what has changed of them after `since`. A watcher that has ended stays so."""
        if self._watcher is not None:
            self._watch(sources, [*files], since)

    def _watch(self, sources: Iterable[Any], files: list[str], since: int) -> None:
        try:
            found = [*dict.fromkeys(place for each in sources for place in places(each, files))]
            if self._watcher is not None and found == self._places:
                return
            self.close()
            self._watcher, self._places = FileWatcher(found, since), found
        except OSError as error:  # the server can do without
            self.close()
            return self._unwatched(f"The process that watches for them cannot be started: {error.strerror}.")
        self._fleet.workers.helpers.add(self._watcher.pid)
        self._fleet.poller.add(self._watcher, self._changed)

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


class FileWatcher:
    """A process that watches folders, of which the Python files below them count, and single files, whatever they are;
    all absolute paths, which need not exist yet. For a caller with a poll(2) of its own.

    Its descriptor is readable when there is something to `read`. What has changed after `since` (ns of the wall clock;
    without it, from now on) is reported even if the process looks for the first time only later; `ready` is true once
    it has. Raises OSError if no process can be started.
    """

    def __init__(self, places: Iterable[str], since: int = 0) -> None:
        import subprocess  # here: whatever the supervisor has imported, every fork copies

        self._line, theirs = socket.socketpair()
        try:
            command = module_command("pronghorn.supervisor.file_watcher", str(since or time.time_ns()), *places)
            end = theirs.fileno()
            self._process = subprocess.Popen(command, stdin=end, stdout=end, start_new_session=True)
        except BaseException:
            self._line.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self.ready = self.ended = False
        self._lines = LineReader(self._line, LONGEST_PATH)

    def fileno(self) -> int:
        return self._line.fileno()

    def read(self) -> list[str]:
        """A path for each batch of changes since the last time; never waits. Once the process has ended, `ended` is
        true and the descriptor stays readable: close it then."""
        lines = self._lines.take()
        self.ended = self._lines.ended
        self.ready = self.ready or bool(lines)
        return [os.fsdecode(line) for line in lines if line]

    def close(self) -> None:
        """Ends the process and waits for it, which is a matter of moments: for no longer than a second."""
        import subprocess

        self._line.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a file system that hangs may hold it
            self._process.wait(1.0)


def places(source: Any, files: Iterable[str] = ()) -> list[str]:
    """What to watch for a handler: its folder and the working folder, and the files of settings. An installed package
    is none of what is being written. For a program or for the handler of a script it is these files alone: a program is
    started anew for each client, and an object stays what it is."""
    found = [os.path.abspath(each) for each in files if each]
    if not isinstance(source, Source) or not source.is_users_code:
        return found
    place = source.name.rpartition(":")[0] or source.name
    if place.endswith(".py") or os.sep in place:
        return list(dict.fromkeys([os.path.dirname(os.path.abspath(place)), os.getcwd(), *found]))
    folders = [folder for folder in _folders(place.partition(".")[0]) if not _is_installed(folder)]
    return list(dict.fromkeys([*folders, os.getcwd(), *found]))


def _folders(module: str) -> list[str]:
    """Where a module stands, which is not imported for that; none if it cannot be found."""
    try:
        spec = importlib.machinery.PathFinder.find_spec(module, [os.getcwd()]) or importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    alone = [os.path.dirname(spec.origin)] if spec.origin and spec.has_location else []
    return [os.path.abspath(folder) for folder in spec.submodule_search_locations or alone]


def _is_installed(folder: str) -> bool:
    import sysconfig

    homes = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(os.path.commonpath([folder, home]) == home for home in homes)
