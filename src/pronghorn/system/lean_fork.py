"""fork(2) for a process that forks often: where it has one thread, without what is done about the others.

Law: Python calls what os.register_at_fork was given around each fork(2), and every such call costs the new process
pages of memory that it copies. What `threading` and `logging` register there puts right what other threads held, or
were, at that moment. A process of which the kernel knows one thread has nothing to put right: so these are left out of
that one fork(2), and no others are. In the new process they are there again, for what it forks itself.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

from pronghorn.system.drain import ANYBODY, Drain

OF_THREADS = ("threading", "logging")
ONE_THREAD = 3  # links of the folder of a process's threads: each is a folder, and there are the folder's own two

Function = Callable[[], Any]


def _registered() -> list[list[Function]]:
    """The lists in which Python keeps what it calls before fork(2), and after it in the parent and in the child. They
    are found by what stands in them; none of them where that cannot be."""
    found: list[list[Function]] = []
    marks: list[Function] = [lambda: None, lambda: None, lambda: None]
    os.register_at_fork(before=marks[0], after_in_parent=marks[1], after_in_child=marks[2])
    for mark in marks:
        for each in gc.get_referrers(mark):
            if type(each) is list and each is not marks and each[-1] is mark:
                each.pop()
                found.append(each)
    return found


def has_one_thread() -> bool:
    """Whether this process has no thread but the one that calls, of whatever language (Linux; elsewhere nobody says
    so). No Python thread can begin during the call."""
    try:
        return os.stat("/proc/self/task").st_nlink == ONE_THREAD
    except OSError:
        return False


class LeanFork:
    """Calls os.fork when it is called. To be made in the main thread, before gc.freeze.

    The new process becomes the owner of `drain`, which is nobody's meanwhile: a signal may find it at once.
    """

    __slots__ = ("_drain", "_is_alone")

    def __init__(self, drain: Drain) -> None:
        self._drain = drain
        self._is_alone = False  # during such a fork(2), in both processes
        for registered in _registered():
            registered[:] = [self._unless_alone(each) if _is_of_threads(each) else each for each in registered]

    def __call__(self) -> int:
        """As os.fork: 0 in the child. Raises OSError."""
        drain, pid = self._drain, -1
        owner = drain.owner
        self._is_alone = has_one_thread()
        drain.owner = ANYBODY
        try:
            pid = os.fork()
        finally:
            self._is_alone = False
            drain.owner = owner if pid else os.getpid()
        return pid

    def _unless_alone(self, call: Function) -> Function:
        """To be registered in its place: to take a function out of the lists, and to put it there again in each new
        process, cost that process twenty page faults."""

        def registered() -> None:
            if not self._is_alone:
                call()

        return registered


def _is_of_threads(call: Function) -> bool:
    return getattr(call, "__module__", "") in OF_THREADS
