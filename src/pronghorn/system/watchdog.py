"""A watchdog: a timer of the kernel (timer_create(2)) that kills this process unless it is put off.

Law: the signal is SIGKILL, which needs no code of this process: a handler that computes in C keeps the interpreter, and
no Python code could end it. A timer belongs to the process that made it; a forked process has none. Where the system
has no such timers, a watchdog does nothing.

Tried and dropped: alarm(2), whose signal belongs to handlers; a limit of processor time (setrlimit(2)), which programs
would inherit; faulthandler.dump_traceback_later, a new thread each time that it is put off.
"""

from __future__ import annotations

import sys
from typing import Any

MONOTONIC, PROCESS_TIME, THREAD_TIME = 1, 2, 3
"""clock_gettime(2): time since boot, and processor time of the process or of the thread that asks."""
KILL = 9


class Watchdog:
    """Kills this process when `clock` has gone on for as long as the last `put_off` said; not before the first."""

    __slots__ = ("_libc", "_timer")

    def __init__(self, clock: int = MONOTONIC) -> None:
        self._libc: Any = None
        if not sys.platform.startswith("linux"):
            return
        import ctypes

        class Notice(ctypes.Structure):  # struct sigevent, sigevent(3type); its first value is SIGEV_SIGNAL
            _fields_ = (("value", ctypes.c_void_p), ("signal", ctypes.c_int), ("how", ctypes.c_int * 17))

        libc, self._timer = ctypes.CDLL(None), ctypes.c_void_p()
        try:
            if libc.timer_create(clock, ctypes.byref(Notice(signal=KILL)), ctypes.byref(self._timer)) == 0:
                self._libc = libc
        except AttributeError:
            pass  # a libc without it

    def put_off(self, seconds: float) -> None:
        """The process ends in so many seconds, unless this is called again before."""
        if self._libc is None:
            return
        import ctypes

        whole = int(seconds)
        when = (ctypes.c_long * 4)(0, 0, whole, max(1, int((seconds - whole) * 1e9)))  # struct itimerspec: once
        self._libc.timer_settime(self._timer, 0, when, None)
