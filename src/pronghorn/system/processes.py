"""What a process asks of the kernel about itself and its children.

Law: only worker, supervisor and server come here; whatever lies below them knows neither signals nor processes (save
the fork model and programs, which have their own). Nothing here decides anything.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import Any

from pronghorn.errors import BadHandler

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PIDFD_GETFD = 438  # the number of the system call
PR_SET_NO_NEW_PRIVS = 38
OOM_STEP = 50
# A worker writes its stacks on it. Real-time signals have no names, and libraries take them from the other end.
ASK_STACKS = int(signal.SIGRTMAX) - 1 if hasattr(signal, "SIGRTMAX") else 0
DEFAULT_IN_WORKERS = (signal.SIGTERM, signal.SIGCHLD, signal.SIGWINCH)


class Stopped(BaseException):
    """A signal ends the start of a server; `status` is the exit status that it asks for."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class SignalPipe:
    """The signals that the supervisor obeys, from the first moment to the last, as bytes to read.

    Entered, it takes the signals: TERM, QUIT and Ctrl-C end the start by an exception (Stopped, KeyboardInterrupt), and
    the others wait. From `listen` on no handler does anything: the kernel's number goes into a pipe
    (signal.set_wakeup_fd), and whoever reads it decides. On leaving, when all is cleaned up, what was set before comes
    back; in a process that ends then (`last`) the signals are ignored, for Python's own end takes a while.
    """

    TAKEN = tuple(getattr(signal, f"SIG{name}") for name in "TERM INT QUIT HUP USR1 USR2 TTIN TTOU WINCH CHLD".split())

    def __init__(self, *, last: bool = False) -> None:
        self._last = last
        self._depth = 0

    def __enter__(self) -> SignalPipe:
        self._depth += 1
        if self._depth > 1:
            return self
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._before = {number: signal.getsignal(number) for number in self.TAKEN}
        self._wake_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in self.TAKEN:
            if number in (signal.SIGTERM, signal.SIGQUIT):
                signal.signal(number, end_start)
            elif number != signal.SIGINT:
                signal.signal(number, nothing)
            elif self._before[number] is signal.default_int_handler:
                signal.signal(number, end_start)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.TAKEN)  # the command line has blocked them
        return self

    def listen(self) -> None:
        """The start is over: whoever reads decides."""
        for number in self.TAKEN:
            signal.signal(number, nothing)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._depth -= 1
        if self._depth:
            return
        for number, handler in self._before.items() if not self._last else ():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._last:
            ignore_signals()
        signal.set_wakeup_fd(self._wake_before)
        self.close()

    def fileno(self) -> int:
        return self._reader

    def take(self) -> bytes:
        """The signals that have come, one byte each, in their order."""
        try:
            return os.read(self._reader, 65536)
        except BlockingIOError:
            return b""

    def put(self, numbers: Iterable[int]) -> None:
        """Has signals come once more, as far as there is room."""
        try:
            os.write(self._writer, bytes(numbers))
        except BlockingIOError:
            pass

    def close(self) -> None:
        for fd in self.descriptors():
            os.close(fd)

    def descriptors(self) -> list[int]:
        """Both ends: a child closes them."""
        return [self._reader, self._writer]


def nothing(number: int, frame: FrameType | None) -> None:
    """A signal handler that does nothing."""


def end_start(number: int, frame: FrameType | None) -> None:
    """A signal handler for a process that starts: the first signal ends the start, and what follows changes nothing."""
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(each, nothing)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(0 if number == signal.SIGTERM else 128 + number)


def take_term() -> None:
    """The first thing that a server's process does: TERM ends its start in order, from here on. The kernel keeps from
    process 1 what it has no handler for (pid_namespaces(7))."""
    signal.signal(signal.SIGTERM, end_start)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def ignore_signals() -> None:
    """The last thing that a server's process does. Not by a handler: Python takes these back before it has ended."""
    for number in SignalPipe.TAKEN:
        signal.signal(number, signal.SIG_IGN)


def hold_signals() -> None:
    """Before exec(2): what comes until the new program has handlers waits, and does not kill it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(SignalPipe.TAKEN) - {signal.SIGINT, signal.SIGQUIT})


def reset_signals() -> None:
    """In a new worker: puts back what the supervisor set.

    TERM, CHLD and WINCH are as the system has them. The others may reach a whole process group, and what they mean is
    the supervisor's to decide: they get a handler that does nothing, not SIG_IGN, so that a program that is started
    from here has the default again after exec(2).
    """
    signal.set_wakeup_fd(-1)
    for number in SignalPipe.TAKEN:
        signal.signal(number, signal.SIG_DFL if number in DEFAULT_IN_WORKERS else nothing)


def keep_signals_in_forks(settle: Callable[[], None] = lambda: None) -> None:
    """From here on no child that this process forks, by whatever library, loses a signal of its first moments: Python
    forgets, in the child, what came between fork(2) and its own preparations (PyOS_AfterFork_Child), and whoever has
    told the child waits for its end. Signals wait until then, and until the child has called `settle`."""
    here = threading.local()
    every = set(map(int, signal.valid_signals()))
    mask: Any = signal._signal.pthread_sigmask  # type: ignore[attr-defined]  # signal's own makes 120 enums of each mask

    def hold() -> None:
        here.mask = mask(signal.SIG_BLOCK, every)

    def release() -> None:
        mask(signal.SIG_SETMASK, here.mask)

    def begin() -> None:
        try:
            settle()
        finally:
            release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=begin)


def die_with_parent(number: signal.Signals) -> None:
    """Asks for a signal when the parent dies (Linux). An addition to the end of a line between the two, for a process
    whose main thread is stuck; a parent that died before this call is noticed by the line alone."""
    _prctl(PR_SET_PDEATHSIG, number)


def adopt_orphans() -> bool:
    """Makes this process the parent of all its descendants that lose theirs (Linux); False where that cannot be."""
    return _prctl(PR_SET_CHILD_SUBREAPER, 1)


def forgo_privileges() -> bool:
    """No program that this process starts, nor any of its children, gains privileges by its file: by a setuid or setgid
    bit, or by capabilities (Linux, prctl(2), PR_SET_NO_NEW_PRIVS). For good; False where that cannot be."""
    return _prctl(PR_SET_NO_NEW_PRIVS, 1)


def _prctl(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    try:
        return int(ctypes.CDLL(None).prctl(option, value, 0, 0, 0)) == 0
    except (OSError, AttributeError):
        return False


def leave_orphans() -> None:
    """The opposite of `adopt_orphans`; those that were adopted stay ours."""
    _prctl(PR_SET_CHILD_SUBREAPER, 0)


def start_of(pid: int) -> str:
    """When a process started, in whatever unit the system has; empty if it has ended, also if nobody has reaped it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # proc_pid_stat(5): from the third field on
            return "" if fields[0] in b"ZX" else fields[19].decode()
    except OSError:
        if os.path.exists("/proc/self/stat"):
            return ""
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.Error:
        return ""


def children() -> list[int]:
    """The process ids of this process's children, dead ones too; none where the kernel has no such list (Linux has it
    with CONFIG_PROC_CHILDREN). Only for a process of one thread: each thread has children of its own."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


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
    """Whether a child has a session of its own (setsid(2)), as somebody gives it who wants it to outlive him."""
    try:
        return os.getsid(pid) != os.getsid(0)
    except OSError:
        return False


def kill(pid: int, number: int) -> None:
    """kill(2) on a child that we have not reaped, so that its number cannot be another's; it may have ended, or have
    become what we may not touch."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


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


def found(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command with its program's whole path; BadHandler if there is no such program."""
    import shutil  # here: whatever the supervisor has imported, every fork copies

    path = shutil.which(command[0])
    if path is None:
        raise BadHandler(
            f"The program {command[0]!r} cannot be run.",
            "It is neither on the PATH nor an executable file.",
            "Check its spelling, its mode (chmod +x), or give its whole path.",
        )
    return (path, *command[1:])
