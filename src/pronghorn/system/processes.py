"""Processes as the kernel knows them: whether one lives, its children, its memory, its name, what prctl(2) sets.

Law: what the kernel can be asked or told, and no decisions. Signals are in signals.py.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable

from pronghorn.errors import BadHandler

PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PIDFD_GETFD = 438  # the number of the system call
OOM_STEP = 50
MOST_PID = 2**22  # PID_MAX_LIMIT (proc(5))


def lives(pid: int) -> bool:
    """Whether there is such a process, of whatever user: a zombie, too. False for what cannot be a process id."""
    if not 0 < pid <= MOST_PID:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def kill(pid: int, number: int) -> None:
    """kill(2) on a child that is not reaped yet, so that its number cannot be another's. Nothing happens if it has
    ended, or has become another user's."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _of_libc(name: str) -> Callable[..., int]:
    """A system call that is Linux's; where there is none, a function that fails as it does."""
    if sys.platform.startswith("linux"):
        import ctypes

        try:
            return getattr(ctypes.CDLL(None), name)  # type: ignore[no-any-return]
        except (OSError, AttributeError):
            pass
    return lambda *arguments: -1


def child_asker() -> Callable[[], bool]:
    """A function that says whether this process has a child, a zombie too (waitid(2)); True where nobody can say. To be
    made in the parent of the process that asks: the exception of os.waitid costs a new process twenty page faults."""
    if not sys.platform.startswith("linux"):
        return lambda: True
    waitid, flags = _of_libc("waitid"), os.WEXITED | os.WNOHANG | os.WNOWAIT
    return lambda: waitid(os.P_ALL, 0, None, flags) == 0


def death_signal(in_earnest: bool = True) -> Callable[[int], object]:
    """A function for a new child: it asks for a signal when the parent dies, or a process that has adopted the child
    since (Linux, PR_SET_PDEATHSIG(2const)); elsewhere none comes. To be made in the parent, so that the child is fast.
    Not `in_earnest` the kernel is asked for something else, which changes nothing.
    """
    prctl, option = _of_libc("prctl"), PR_SET_PDEATHSIG if in_earnest else PR_GET_DUMPABLE
    return lambda number: prctl(option, number, 0, 0, 0)


def die_with_parent(number: int) -> None:
    """Asks for a signal when the parent dies (Linux), for a process whose main thread is stuck and does not see the end
    of its line. The death of a parent before this call is seen by the line alone."""
    death_signal()(number)


def adopt_orphans() -> bool:
    """Makes this process the parent of all its descendants that lose theirs (Linux); False where that cannot be."""
    return _of_libc("prctl")(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def forgo_privileges() -> bool:
    """No program that this process starts, nor any of its children, gains privileges by its file: by a setuid or setgid
    bit, or by capabilities (Linux, prctl(2), PR_SET_NO_NEW_PRIVS). For good; False where that cannot be."""
    return _of_libc("prctl")(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0


def leave_orphans() -> None:
    """The opposite of `adopt_orphans`; those that were adopted stay children of this process."""
    _of_libc("prctl")(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc_pid_stat(5)); none where there is no such file."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode().split()
    except OSError:
        return []


def start_of(pid: int) -> str:
    """When a process started, in whatever unit the system has; empty if it has ended, reaped or not."""
    if fields := stat_fields(pid):
        return "" if fields[0] in "ZX" else fields[19]
    if os.path.exists("/proc/self/stat"):
        return ""
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.Error:
        return ""


def children() -> list[int]:
    """The process ids of this process's children, dead ones too; for a process of one thread, by one file and no list
    of a folder. None where the kernel keeps no such list (Linux does with CONFIG_PROC_CHILDREN)."""
    return _children(os.getpid(), os.getpid())


def children_of(pid: int) -> list[int]:
    """The same of any process, which may have several threads: each thread has children of its own."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    return [child for thread in threads for child in _children(pid, thread)]


def _children(pid: int, thread: int | str) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []  # it has ended


def end_reading(pid: int) -> None:
    """Has a child that we have not reaped find the end of its standard input, if that is a socket (Linux, by
    pidfd_getfd(2)): it looks as if the peer had finished. What has come already can still be read."""
    if not hasattr(os, "pidfd_open"):
        return
    import ctypes

    try:
        process = os.pidfd_open(pid)
    except OSError:
        return
    try:
        copy = ctypes.CDLL(None).syscall(PIDFD_GETFD, process, 0, 0)
        if copy >= 0:
            with socket.socket(fileno=copy) as sock:
                sock.shutdown(socket.SHUT_RD)
    except OSError:
        pass  # no socket, or one that has ended
    finally:
        os.close(process)


def detached(pid: int) -> bool:
    """Whether a child has a session of its own (setsid(2)), which says that it shall outlive its parent."""
    try:
        return os.getsid(pid) != os.getsid(0)
    except OSError:
        return False


def prefer_when_out_of_memory() -> None:
    """In a new worker: when memory runs out, the kernel shall rather end a worker than the supervisor, which can start
    another (proc(5), oom_score_adj). Not after the privileges are dropped: the file is root's then."""
    try:
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
            file.write(b"%d" % min(int(file.read()) + OOM_STEP, 1000))
    except (OSError, ValueError):
        pass


def preload_libgcc() -> None:
    """A threaded Python process aborts at its exit when it cannot load this library, as when descriptors have run out
    (bpo-44434): so it is loaded while there are some."""
    if sys.platform.startswith("linux"):
        import ctypes

        try:
            ctypes.CDLL("libgcc_s.so.1")
        except OSError:
            pass  # a libc that does without it


def close_descriptors(numbers: Iterable[int]) -> None:
    """In a new child: closes what belongs to its parent alone, each number once."""
    for number in set(numbers):
        try:
            os.close(number)
        except OSError:
            pass


def resident_memory(pid: int) -> int:
    """Bytes of memory that a process of ours has in use (resident set); 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        if os.path.exists("/proc/self/statm"):
            return 0
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def cpu_seconds(pid: int) -> float | None:
    """Seconds of processor time that a process of ours has used, with the children that it has reaped; None if it has
    ended, or the system does not tell."""
    if fields := stat_fields(pid):
        return round(sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK"), 3)  # utime, stime, cutime, cstime
    if os.path.exists("/proc/self/stat"):
        return None
    import psutil

    try:
        return round(sum(psutil.Process(pid).cpu_times()[:4]), 3)
    except psutil.Error:
        return None


def descriptors_of(pid: int) -> tuple[int | None, int | None]:
    """How many descriptors a process has open, and how many it may have; None for what the system does not tell, as of
    another user's."""
    try:
        has: int | None = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        has = None
    try:
        with open(f"/proc/{pid}/limits", "rb") as file:
            words = next((line.split() for line in file if line.startswith(b"Max open files")), [])
        return has, int(words[3])
    except (OSError, ValueError, IndexError):
        return has, None


def name_process(title: str) -> None:
    """The name that `ps` shows."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(f"pronghorn: {title}")


def flush_streams() -> None:
    """Empties the buffers of standard output and error, so that a fork does not print them twice; a stream that is
    closed or full loses them."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue


def program_path(command: tuple[str, ...]) -> str:
    """The whole path of a command's program; BadHandler if there is no such program."""
    import shutil  # here: whatever the supervisor has imported, every fork copies

    path = shutil.which(command[0])
    if path is None:
        raise BadHandler(
            f"The program {command[0]!r} cannot be run.",
            "It is neither on the PATH nor an executable file.",
            "Check its spelling, its mode (chmod +x), or give its whole path.",
        )
    return path
