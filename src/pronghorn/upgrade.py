"""An upgrade: a new program takes the listeners over while the old one still serves.

Law: a transaction, as a reload is. The new program is started with the listeners, the scoreboard and the control socket
as descriptors, and says on a pipe how its start went; until it has said that it serves, nothing changes here, and if it
ends, says an error or takes too long, it is killed and forgotten. What is handed over is not removed here: the path of
a unix socket, the lock beside it and the process id file are the new program's from then on.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import msgspec

from pronghorn import errors, events
from pronghorn.call import Done
from pronghorn.errors import PronghornError, WorkerFailedToStart
from pronghorn.events import Observer
from pronghorn.processes import kill
from pronghorn.program import anonymous_file, server_command
from pronghorn.watch import Watch

MARGIN = 5.0  # seconds beyond start_timeout: for the interpreter, and for a probe that takes all of its own time


class Upgrade:
    """One upgrade under way: the new program's process `pid`. `over` is true once it is decided; `error` says why
    nothing changes. Raises OSError when no process can be started."""

    def __init__(self, boot: bytes, passed: list[int], folder: str, limit: float, watch: Watch, observe: Observer):
        import subprocess  # here: whatever the supervisor has imported, every fork copies

        self.over = False
        self.error: PronghornError | None = None
        self.done: list[Done] = []
        self._watch = watch
        self._line = b""
        self.deadline = time.monotonic() + 2 * limit + MARGIN
        observe(events.UpgradeStarted())
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        file = anonymous_file(boot.replace(b'"report_fd":-1', b'"report_fd":%d' % writer))
        try:
            self._process = subprocess.Popen(
                server_command(file), cwd=folder, pass_fds=[*passed, file, writer], stdin=subprocess.DEVNULL
            )
        except OSError:
            os.close(self._reader)
            raise
        finally:
            os.close(file)
            os.close(writer)
        self.pid = self._process.pid
        watch.add(self._reader, self._listen)

    def look(self, now: float) -> None:
        """Gives it up when its time is over."""
        if not self.over and now >= self.deadline:
            self.fail(WorkerFailedToStart("The new program did not become ready.", "Its time is over."))

    def fail(self, error: PronghornError) -> None:
        """It is decided: nothing changes, and the new program ends."""
        if not self.over:
            self._decide(error)
            kill(self.pid, signal.SIGTERM)
            import subprocess

            try:
                self._process.wait(1.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _decide(self, error: PronghornError | None) -> None:
        self.over, self.error = True, error
        self._watch.remove(self._reader)
        os.close(self._reader)

    def _listen(self) -> None:
        more = os.read(self._reader, 65536)
        self._line += more
        if self._line.endswith(b"\n"):
            try:
                said = msgspec.json.decode(self._line)
            except msgspec.DecodeError:
                said = {}
            if "listening" in said:
                self._process.returncode = 0  # it is nobody's child to wait for from now on
                self._decide(None)
            else:
                self.fail(_error(said.get("error", {})))
        elif not more:
            self.fail(WorkerFailedToStart("The new program ended before it was ready.", "The log says more."))


def _error(parts: dict[str, Any]) -> PronghornError:
    kind = {each.exit_code: each for each in (errors.BadSetting, errors.BadHandler, errors.CannotBind)}.get(
        parts.get("exit_code", 3), WorkerFailedToStart
    )
    return kind(parts.get("what", "The new program failed."), parts.get("why", ""), parts.get("hint", ""))
