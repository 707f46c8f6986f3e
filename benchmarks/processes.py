"""Processes that end when their block does, and what the kernel says of one process."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pronghorn.bench.tree import family
from pronghorn.system.processes import resident_memory

__all__ = ["process", "sockets_of", "worker_resident"]


def worker_resident(root: int) -> int:
    """RSS in bytes of the process that serves: the largest below `root`, or `root` where it has no children."""
    below = [pid for pid in family(root) if pid != root]
    return max(map(resident_memory, below or [root]))


def sockets_of(pid: int) -> int:
    """How many sockets a process holds; one that has ended holds none."""
    count = 0
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                count += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
    return count


@contextmanager
def process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own; asked to end and waited for, then killed with what is left of its group."""
    started = subprocess.Popen(command, process_group=0, text=True, **options)
    try:
        yield started
    finally:
        started.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                started.wait(5)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()
