"""Watches files for `--reload`: a process of its own, so that the supervisor stays one thread that waits at one place.

Law: it says which file changed, one line for a burst of changes, and knows nothing of what follows. It looks at the
*.py files below the folders that it is given, and at the files that it is given; hidden folders, virtual environments
and caches are left out. watchfiles hears of changes from the system; without it, files are looked at twice a second. It
ends when its parent has.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator

from pronghorn.processes import die_with_parent

LOOK = 0.5  # seconds between two looks
SETTLE = 0.1  # seconds without another change that end a burst: editors write a file in several steps
LEFT_OUT = {"__pycache__", "node_modules", "site-packages", "build", "dist"}


class Watcher:
    """The process, as the supervisor sees it; readable when something has changed. Raises OSError if none starts."""

    def __init__(self, paths: Iterable[str]) -> None:
        command = [sys.executable, "-P", "-m", "pronghorn.watcher", *paths]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self.pid = self._process.pid

    def fileno(self) -> int:
        return self._output.fileno()

    def read(self) -> list[str]:
        """The files that have changed; empty when the process has ended."""
        return (self._output.read() or b"").decode(errors="replace").splitlines()

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()
        self._output.close()


def main() -> None:
    """What `python -m pronghorn.watcher PATH...` does: one line on standard output for each burst of changes."""
    import signal

    parent = os.getppid()
    die_with_parent(signal.SIGKILL)
    try:
        for path in changes(sys.argv[1:]):
            if path:
                print(path, flush=True)
            if os.getppid() != parent:
                return
    except (KeyboardInterrupt, BrokenPipeError):
        pass


def changes(paths: list[str]) -> Iterator[str]:
    """A changed file for each burst, and an empty string now and then."""
    try:
        import watchfiles
    except ImportError:
        yield from _by_looking(paths)
        return
    there = [path for path in paths if os.path.exists(path)]
    for found in watchfiles.watch(
        *there, watch_filter=lambda _, path: _counts(path, paths), rust_timeout=1000, yield_on_timeout=True,
        debounce=int(SETTLE * 4000), step=int(SETTLE * 1000), raise_interrupt=False,
    ):  # fmt: skip
        yield sorted(path for _, path in found)[0] if found else ""


def _by_looking(paths: list[str]) -> Iterator[str]:
    before = _look(paths)
    while True:
        time.sleep(LOOK)
        now = _look(paths)
        changed = sorted(path for path in now.keys() | before.keys() if now.get(path) != before.get(path))
        while changed:
            time.sleep(SETTLE)
            later = _look(paths)
            if later == now:
                break
            now = later
        before = now
        yield changed[0] if changed else ""


def _look(paths: list[str]) -> dict[str, tuple[int, int, int]]:
    found: dict[str, tuple[int, int, int]] = {}
    for path in paths:
        for each in _files(path):
            try:
                status = os.stat(each)
            except OSError:
                continue
            found[each] = status.st_mtime_ns, status.st_size, status.st_ino
    return found


def _files(path: str) -> Iterator[str]:
    if not os.path.isdir(path):
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not _is_left_out(os.path.join(folder, name))]
        yield from (os.path.join(folder, name) for name in names if name.endswith(".py"))


def _is_left_out(folder: str) -> bool:
    name = os.path.basename(folder)
    return name.startswith(".") or name in LEFT_OUT or os.path.exists(os.path.join(folder, "pyvenv.cfg"))


def _counts(path: str, paths: list[str]) -> bool:
    if path in paths:
        return True
    for root in paths:
        inside = os.path.relpath(path, root)
        if path.endswith(".py") and not inside.startswith(os.pardir):
            folder, parts = root, inside.split(os.sep)[:-1]
            for part in parts:
                folder = os.path.join(folder, part)
                if _is_left_out(folder):
                    return False
            return True
    return False


if __name__ == "__main__":
    main()
