"""How the server's own program is started, by the command line and again for an upgrade; and what it is handed.

Law: the settings travel in a descriptor, so that they show in no `ps` and need no quoting.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from pronghorn.errors import PronghornError
from pronghorn.settings.layers import Layers


def server_command(fd: int) -> list[str]:
    """The command that makes a server of the Boot in descriptor `fd`."""
    return module_command("pronghorn.server", str(fd))


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with the flags of this interpreter (-X, -W, -O, -I ...), and -P: the working
    folder is the handler's."""
    import subprocess  # here: whatever the supervisor has imported, every fork copies

    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    if not {"-P", "-I"} & set(flags):
        flags.append("-P")
    return [sys.executable, *flags, "-m", module, *arguments]


class Boot(msgspec.Struct):
    """What the command line, or an older program of this server, hands to the server, as JSON.

    `report_fd`, if it is one, gets one line on how the start went: `{"listening": [...], "model": ..., "pid": ...}`, or
    `{"error": ...}` with an error's parts (errors.from_parts), and is closed then. `argv0` is the program's name that
    the handler finds in `sys.argv`. `handed` is what an upgrade hands over.
    """

    layers: Layers
    report_fd: int = -1
    argv0: str = "pronghorn"
    handed: Handed | None = None


class Handed(msgspec.Struct):
    """What the new program of an upgrade takes over: descriptors, the number of its first generation, the limit of
    descriptors that programs get back, and the variables by which systemd is told."""

    board: int
    listeners: list[dict[str, Any]]
    control: list[int]
    generation: int
    descriptors: int
    environment: dict[str, str] = {}
    predecessors: list[tuple[int, str]] = []
    """The programs that look after old workers: see supervisor/old_workers.py."""
    queue: list[int] = []
    """Where old workers hand their connections over: see system/descriptor_queue.py."""
    listener_numbers: dict[str, int] = {}
    """Where the scoreboard counts for each listener, by its name."""
    admin: list[dict[str, Any]] = []
    """The listeners of the admin process."""
    statsd: int = -1
    """The file of what StatsD was told."""
    bus: list[int] = []
    """The door to the hub of the bus, then the bus socket and its lock, if there is one."""
    workers: int | None = None
    """How many there were, if somebody has resized the server."""


class Starter:
    """The process that has started the server and waits on a descriptor for how the start went; -1: there is none."""

    def __init__(self, fd: int = -1) -> None:
        self._fd = fd
        if fd >= 0:
            os.set_inheritable(fd, False)

    def tell(self, record: dict[str, Any]) -> None:
        """Sends the record and closes the descriptor."""
        if self._fd >= 0:
            try:
                os.write(self._fd, msgspec.json.encode(record) + b"\n")
            except OSError:
                pass  # that process has ended
        self.close()

    def failed(self, error: PronghornError) -> None:
        self.tell({"error": error.parts(kind=True)})

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def descriptors(self) -> list[int]:
        return [self._fd] if self._fd >= 0 else []
