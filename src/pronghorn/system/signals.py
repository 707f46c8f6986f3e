"""Signals of a server's processes: taken as bytes on a pipe, put back in a fork, held over exec(2).

Law: no handler of the supervisor decides anything: the kernel's number goes into a pipe, and the loop reads it. Only
worker, supervisor, server and command come here; what lies below the worker knows no signals (save the fork model and
programs, whose children have their own).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

# A worker writes its stacks on it. Real-time signals have no names, and libraries take them from the other end.
ASK_STACKS = int(signal.SIGRTMAX) - 1 if hasattr(signal, "SIGRTMAX") else 0
DEFAULT_IN_WORKERS = (signal.SIGTERM, signal.SIGCHLD, signal.SIGWINCH)


class Stopped(BaseException):
    """A signal has ended the start of a server; `status` is the exit status for it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class SignalPipe:
    """The signals of the supervisor, from its first moment to its last, as bytes to read.

    From its entry on TERM, QUIT and Ctrl-C end the start by an exception (Stopped, KeyboardInterrupt), and the others
    wait. From `listen` on no signal handler does anything: the number of a signal goes into a pipe
    (signal.set_wakeup_fd), for the loop to read. On leaving, the signal handlers of before come back; in a process that
    ends then (`last`) the signals are ignored, since Python's own end takes a while.
    """

    TAKEN = tuple(getattr(signal, f"SIG{name}") for name in "TERM INT QUIT HUP USR1 USR2 TTIN TTOU WINCH CHLD".split())

    def __init__(self, *, last: bool = False) -> None:
        self._last = last

    def __enter__(self) -> SignalPipe:
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
        """The start is over: no signal raises any more."""
        for number in self.TAKEN:
            signal.signal(number, nothing)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
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

    def close(self) -> None:
        for fd in self.descriptors():
            os.close(fd)

    def descriptors(self) -> list[int]:
        """Both ends, which a child closes."""
        return [self._reader, self._writer]


def nothing(number: int, frame: FrameType | None) -> None:
    """A signal handler that does nothing."""


def end_start(number: int, frame: FrameType | None) -> None:
    """A signal handler for a process that starts: the first signal ends the start, and later ones do nothing."""
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(each, nothing)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(0 if number == signal.SIGTERM else 128 + number)


def take_term() -> None:
    """The first thing that a server's process does: from here on TERM ends its start in order. A process 1 gets no
    signal that it has no handler for (pid_namespaces(7))."""
    signal.signal(signal.SIGTERM, end_start)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def ignore_signals() -> None:
    """The last thing that a server's process does. SIG_IGN, since Python takes handlers back before it has ended."""
    for number in SignalPipe.TAKEN:
        signal.signal(number, signal.SIG_IGN)


def hold_signals() -> None:
    """Before exec(2): a signal waits until the new program has handlers, and does not kill it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(SignalPipe.TAKEN) - {signal.SIGINT, signal.SIGQUIT})


def reset_signals() -> None:
    """In a new worker or helper: puts back what the supervisor has set.

    TERM, CHLD and WINCH get the system's default. The others may reach a whole process group, and only the supervisor
    acts on them: here they get a handler that does nothing, not SIG_IGN, so that a program that is started from here
    has the default again after exec(2).
    """
    signal.set_wakeup_fd(-1)
    for number in SignalPipe.TAKEN:
        signal.signal(number, signal.SIG_DFL if number in DEFAULT_IN_WORKERS else nothing)


def keep_signals_in_forks(settle: Callable[[], None] = lambda: None) -> None:
    """From here on no child that this process forks, by whatever library, loses a signal of its first moments: in the
    child Python forgets signals that come between fork(2) and its own preparations (PyOS_AfterFork_Child). Signals wait
    until then, and until the child has called `settle`."""
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


def leave_signals_to_others() -> None:
    """The calling thread takes no signals: they reach the main thread, and wake what it waits in."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
