"""What the kernel says of a process tree, and processes that end when their block does.

Law: Linux only, read from /proc (proc(5)); nothing here knows what the processes do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SCHEDULER_CLOCK = 2  # with a process id in the upper bits: clock_getcpuclockid(3)


def tree(root: int) -> dict[int, list[str]]:
    """The fields of /proc/PID/stat after the name (state, ppid, …), of `root` and all that descend from it."""
    found: dict[int, list[str]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[int(entry)] = text.rpartition(")")[2].split()
    family = {root}
    while grown := {pid for pid in found if int(found[pid][1]) in family} - family:
        family |= grown
    return {pid: found[pid] for pid in family if pid in found}


def spent(root: int) -> float:
    """Seconds of CPU of the tree: the clock of each process (to the nanosecond, threads that ended included), and the
    cutime and cstime of stat, which hold the children that were reaped.

    /proc/PID/stat alone would lose up to a tick (10 ms) per process: all that a forked child uses, as a rule.
    """
    total = 0.0
    for pid, fields in tree(root).items():
        with suppress(OSError):  # it is gone: its parent's cutime has it
            total += time.clock_gettime(~pid << 3 | SCHEDULER_CLOCK)
        total += (int(fields[13]) + int(fields[14])) / TICK
    return total


def settled(root: int) -> float:
    """`spent`, once the tree is at rest: as many processes as a moment ago and next to no CPU (two seconds at most)."""
    count, before = len(tree(root)), spent(root)
    for _ in range(20):
        time.sleep(0.1)
        count_now, now = len(tree(root)), spent(root)
        if count_now == count and now - before < 0.002:
            break
        count, before = count_now, now
    return now


def held(root: int) -> int:
    """Bytes of anonymous memory of the tree, what processes share counted once (Pss_Anon)."""
    total = 0
    for pid in tree(root):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(rollup.partition("Pss_Anon:")[2].split()[0]) * 1024
    return total


def worker_resident(root: int) -> int:
    """RSS in bytes of the process that serves: the largest below `root`, or `root` where it has no children."""
    family = {pid: fields for pid, fields in tree(root).items() if fields[0] != "Z"}
    return max(int(fields[21]) * PAGE for pid, fields in family.items() if pid != root or len(family) == 1)


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
