"""The process that watches files for `--reload`, and writes a line for each batch of changes.

Law: a process of its own, so that the supervisor needs neither a thread nor a library for it. What a look at the files
finds is the truth. A notification (watchfiles, if it is installed) only brings the next look forward, so that a file
system without notifications, such as one that is shared over a network, is watched all the same. The process ends when
its standard input does, which its parent holds.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from select import POLLIN, poll
from typing import Any

from pronghorn.system.processes import die_with_parent

PAUSE = 0.5  # seconds from look to look, where nothing tells of changes
PAUSE_IF_TOLD = 1.0
SHARE = 10.0  # a look may take this part of the time: in a large tree they come more rarely
QUIET = 0.1  # a batch of changes is over when this long nothing has changed
LONGEST_BATCH = 2.0
SKIPPED = {"__pycache__", "node_modules", "site-packages"}
MARK_OF_AN_ENVIRONMENT = "pyvenv.cfg"  # PEP 405
NOTICES = {
    "watch_filter": None,
    "recursive": False,
    "ignore_permission_denied": True,
    "debounce": 200,
    "rust_timeout": int(PAUSE_IF_TOLD * 1000),
    "yield_on_timeout": True,
    "raise_interrupt": False,
}

Stamp = tuple[int, int, int]


class Look:
    """What there is at one moment: the stamp of each file, and the folders that they stand in. `cost` in seconds."""

    __slots__ = ("cost", "folders", "stamps")

    def __init__(self, places: Sequence[str]) -> None:
        began = time.monotonic()
        self.stamps: dict[str, Stamp] = {}
        self.folders: set[str] = set()
        single = [place for place in places if not os.path.isdir(place)]
        self._walk([place for place in places if place not in single])
        for place in single:
            self._note(place)
            if os.path.isdir(os.path.dirname(place)):
                self.folders.add(os.path.dirname(place))
        self.cost = time.monotonic() - began

    def changes(self, other: Look) -> set[str]:
        """The files that are not the same in both."""
        every = self.stamps.keys() | other.stamps.keys()
        return {path for path in every if self.stamps.get(path) != other.stamps.get(path)}

    def _note(self, path: str) -> None:
        try:
            status = os.stat(path)
        except OSError:
            return  # it has gone, or points nowhere
        self.stamps[path] = (status.st_mtime_ns, status.st_size, status.st_ino)

    def _walk(self, roots: list[str]) -> None:
        rest = list(roots)
        while rest:
            folder = rest.pop()
            if folder in self.folders:
                continue
            try:
                entries = list(os.scandir(folder))
            except OSError:
                continue
            if folder not in roots and any(entry.name == MARK_OF_AN_ENVIRONMENT for entry in entries):
                continue
            self.folders.add(folder)
            for entry in entries:
                if entry.name.startswith(".") or entry.name in SKIPPED:
                    continue
                if _is_folder(entry):
                    rest.append(entry.path)
                elif entry.name.endswith(".py"):
                    self._note(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


class Parent:
    """Standard input: it ends when the process at its other end does."""

    def __init__(self) -> None:
        self._poll = poll()
        self._poll.register(0, POLLIN)

    def is_gone(self, seconds: float = 0) -> bool:
        """Waits so long, or until it is gone."""
        return bool(self._poll.poll(seconds * 1000))

    is_set = is_gone  # as watchfiles calls it


def watch(places: Sequence[str], since: int, say: Callable[[str], None], parent: Parent) -> None:
    """Says "" after the first look, then a path for each batch of changes, the first of which began at `since` (ns
    of the wall clock); returns when the parent is gone."""
    notices = _notices()
    seen = Look(places)
    say("")
    early = [path for path, stamp in seen.stamps.items() if stamp[0] > since]
    if early:
        seen = _settled(seen, places, parent)
        say(min(early))
    folders: set[str] = set()
    while not parent.is_gone():
        if folders != seen.folders:
            folders = seen.folders
            bell = _told(notices, folders, parent) if notices is not None else iter(())
        if next(bell, parent) is parent:  # nothing tells, or nothing tells any more
            parent.is_gone(max(PAUSE, SHARE * seen.cost))
        now = Look(places)
        changed = now.changes(seen)
        seen = _settled(now, places, parent) if changed else now
        if changed:
            say(min(changed))


def _settled(seen: Look, places: Sequence[str], parent: Parent) -> Look:
    """What there is once a batch of changes is over."""
    deadline = time.monotonic() + LONGEST_BATCH
    while time.monotonic() < deadline and not parent.is_gone(QUIET):
        now = Look(places)
        if not now.changes(seen):
            return now
        seen = now
    return seen


def _notices() -> Any:
    """What tells of changes, if it is installed."""
    try:
        import watchfiles
    except ImportError:
        return None
    return watchfiles.watch


def _told(notices: Any, folders: set[str], parent: Parent) -> Iterator[object]:
    """Comes back when something may have changed, and now and then; ends when the parent does, or when it cannot watch:
    the system has no watches left, or a folder has just gone."""
    try:
        yield from notices(*folders, **NOTICES, stop_event=parent)
    except Exception:
        return


def main() -> int:
    """What `python -P -m pronghorn.supervisor.file_watcher SINCE PLACE...` does."""
    die_with_parent(signal.SIGTERM)

    def say(path: str) -> None:
        os.write(1, os.fsencode(path.replace("\n", "?")) + b"\n")

    try:
        watch(sys.argv[2:], int(sys.argv[1]), say, Parent())
    except (ConnectionError, KeyboardInterrupt):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
