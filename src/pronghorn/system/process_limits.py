"""Limits of a process that has one connection at a time: its CPU time for each, and its address space (setrlimit(2)).

Law: only soft limits are set, and programs that the process starts inherit them. The kernel counts CPU time in whole
seconds, of all threads, and ends the process with SIGXCPU; where it was then is written down before. Beyond the limit
of memory each call for more fails: Python raises MemoryError.
"""

from __future__ import annotations

import faulthandler
import math
import resource
import signal
import time
from typing import Any

from pronghorn.errors import WorkerFailedToStart
from pronghorn.settings import Settings

SPARE = 0.1  # seconds that a connection may get less, so that a new process does not get one more
FILE_OF_MEMORY = "/proc/self/statm"


class ProcessLimits:
    """What the settings say, in force while a connection is served: `with limits:`. `stacks` is the descriptor of a
    file for the stack at the end of the CPU time; -1: there is none.

    Raises WorkerFailedToStart where this process has more address space already than it may have.
    """

    __slots__ = ("_cpu", "_memory")

    def __init__(self, settings: Settings, stacks: int = -1) -> None:
        self._cpu, self._memory = settings.max_process_cpu, settings.max_process_memory
        if self._cpu and stacks >= 0:
            faulthandler.register(signal.SIGXCPU, file=stacks, all_threads=False, chain=True)
        if self._memory and (has := address_space()) >= self._memory:
            raise WorkerFailedToStart(
                f"A process may have {self._memory:,} bytes of address space (--max-process-memory).",
                f"A worker has {has:,} already when it begins to serve.",
                "Raise the limit, or import less.",
            )

    def __enter__(self) -> None:
        if self._cpu:
            _set(resource.RLIMIT_CPU, math.ceil(time.process_time() + self._cpu - SPARE))
        if self._memory:
            _set(resource.RLIMIT_AS, self._memory)

    def __exit__(self, *_: Any) -> None:
        """What the process does between two connections is no connection's."""
        if self._cpu:
            _set(resource.RLIMIT_CPU, resource.RLIM_INFINITY)


def _set(which: int, limit: int) -> None:
    """A soft limit, within the hard one."""
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY and (limit == resource.RLIM_INFINITY or limit > hard):
        limit = hard
    resource.setrlimit(which, (limit, hard))


def address_space() -> int:
    """The bytes of address space that this process has; 0 where that cannot be told."""
    try:
        with open(FILE_OF_MEMORY) as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0
