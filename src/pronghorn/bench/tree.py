"""A process and all that descend from it: the processor time and the memory of the tree.

Law: the kernel is asked (proc(5)), and nothing here knows what the processes do. On systems without /proc psutil asks,
which tells less: processor time to a hundredth of a second, and resident memory in which shared pages count each time.
"""

from __future__ import annotations

import os
import threading
import time

from pronghorn.system.processes import children_of, resident_memory, stat_fields

TICK = os.sysconf("SC_CLK_TCK")
SCHEDULER_CLOCK = 2  # with a process id in the upper bits: clock_getcpuclockid(3)
LOOKS = 20
PAUSE = 0.1
REST = 0.002  # seconds of processor time between two looks


def family(root: int) -> list[int]:
    """The process ids of `root` and of all that descend from it; empty once `root` has been reaped."""
    if not os.path.exists(f"/proc/self/task/{threading.get_native_id()}/children"):
        return _family_by_psutil(root)
    found = [root] if os.path.exists(f"/proc/{root}") else []
    for each in found:  # the list grows while it is read
        found += children_of(each)
    return found


def spent(root: int) -> float:
    """Seconds of processor time, user and system, of the tree: of its threads and of those that ended, of its children
    that were reaped, and of theirs. What a child has used whose parent ignores SIGCHLD is lost (getrusage(2), NOTES).

    The clock of a process counts nanoseconds; /proc/PID/stat would lose up to a tick (10 ms) of each process, which is
    all that a forked child uses, as a rule.
    """
    return sum(map(_spent_by, family(root)))


def _spent_by(pid: int) -> float:
    fields = stat_fields(pid)
    if not fields:
        return 0.0 if os.path.exists("/proc/self/stat") else _spent_by_psutil(pid)
    reaped = (int(fields[13]) + int(fields[14])) / TICK  # cutime, cstime
    try:
        return reaped + time.clock_gettime(~pid << 3 | SCHEDULER_CLOCK)
    except OSError:  # the process has ended, and is not reaped: its clock is gone, its times are there
        return reaped + (int(fields[11]) + int(fields[12])) / TICK


def settled(root: int) -> float:
    """`spent`, once the tree is at rest: as many processes as a moment ago, and next to no processor time between two
    looks. After two seconds, whatever it is then."""
    count, before = len(family(root)), spent(root)
    now = before
    for _ in range(LOOKS):
        time.sleep(PAUSE)
        count_now, now = len(family(root)), spent(root)
        if count_now == count and now - before < REST:
            break
        count, before = count_now, now
    return now


def held(root: int) -> int:
    """Bytes of memory that the tree holds: anonymous pages, each page that processes share counted once (Pss_Anon of
    proc_pid_smaps(5)). Of a process that the kernel tells only the size of, its resident set."""
    return sum(map(_held_by, family(root)))


def _held_by(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss_Anon:"):
                    return int(line.split()[1]) * 1024
    except ProcessLookupError:
        return 0  # the process has ended
    except OSError:
        pass
    return resident_memory(pid)


def _family_by_psutil(root: int) -> list[int]:
    import psutil

    try:
        process = psutil.Process(root)
        return [root, *(each.pid for each in process.children(recursive=True))]
    except psutil.Error:
        return []


def _spent_by_psutil(pid: int) -> float:
    import psutil

    try:
        return float(sum(psutil.Process(pid).cpu_times()[:4]))
    except psutil.Error:
        return 0.0


def waited(root: int) -> float:
    """Seconds that the living threads of the tree could have run, and others had the processors (Linux; 0 where the
    kernel does not tell): proc(5), /proc/PID/task/TID/schedstat."""
    total = 0
    for pid in family(root):
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for thread in threads:
            try:
                with open(f"/proc/{pid}/task/{thread}/schedstat", "rb") as file:
                    total += int(file.read().split()[1])
            except (OSError, IndexError, ValueError):
                continue
    return total / 1e9
