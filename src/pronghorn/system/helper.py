"""A helper: a short-lived fork that calls what may block, and sends back bytes and descriptors.

Law: what may wait for a disk, a name server or a device is called in a helper, by a process that may not wait itself. A
helper has a deadline: one that is late is killed, and that is an error like any other. The end of a helper is not
waited for: one that cannot die (its file system hangs) is left behind, and the reaper looks for it now and then.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable
from select import POLLIN, poll
from typing import NoReturn

import msgspec

from pronghorn.errors import PronghornError, WorkerFailedToStart, from_parts
from pronghorn.system.processes import close_descriptors, die_with_parent, flush_streams, kill
from pronghorn.system.signals import reset_signals

Answer = tuple[bytes, list[int]]
"""What a helper sends back: bytes, and descriptors that it has opened."""

HEAD = struct.Struct("!?QQ")  # whether it is an answer or an error; how many bytes follow, and how many descriptors
AT_ONCE = 200  # descriptors in one message (SCM_MAX_FD is 253)
AFTERMATH = 1.0  # seconds that a helper gets to end by itself once it has sent all, or has hung up


class Reaper(set[int]):
    """The process ids of children that are no workers: only the reaper waits for them (waitpid(2))."""

    def __init__(self) -> None:
        super().__init__()
        self._dismissed: dict[int, float] = {}  # and when it is killed

    def dismiss(self, pid: int, after: float = 0.0) -> None:
        """A child is needed no more: it is killed `after` so many seconds if it has not ended, and reaped."""
        self.add(pid)
        self._dismissed[pid] = time.monotonic() + after
        self.turn(time.monotonic())

    def forget(self, pid: int) -> None:
        """A child has been reaped."""
        self._dismissed.pop(pid, None)
        self.discard(pid)

    def turn(self, now: float) -> None:
        """Reaps the dismissed children that have ended, and kills those that are late. Never waits."""
        for pid, late in list(self._dismissed.items()):
            if status_of(pid) is not None:
                self.forget(pid)
            elif now >= late:
                kill(pid, signal.SIGKILL)

    def finish(self) -> None:
        """Waits for the children that were dismissed, two seconds at most; one that cannot die is left behind."""
        until = time.monotonic() + 2 * AFTERMATH
        while self._dismissed and (now := time.monotonic()) < until:
            self.turn(now)
            time.sleep(0.001)


def status_of(pid: int) -> int | None:
    """The exit code of a child, or minus its signal; None while it runs."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    return os.waitstatus_to_exitcode(status) if done else None


class Helper:
    """A fork that calls `work`, which returns an Answer or raises a PronghornError.

    The helper's descriptor is readable when there is more to take; `deadline` (monotonic) is `limit` seconds from its
    start. `left` are descriptors that the helper must close, `reaper` takes its process; what it prints goes to
    descriptor `output`, if there is one. Raises OSError when no process can be started.
    """

    def __init__(
        self, work: Callable[[], Answer], limit: float, reaper: Reaper, left: Iterable[int] = (), output: int = -1
    ) -> None:
        self.deadline = time.monotonic() + limit
        self.limit = limit
        self.ended = False  # all has come that will come
        self.status: int | None = None
        self._reaper = reaper
        self._received = b""
        self._descriptors: list[int] = []
        self._hung_up = 0.0
        self._line, theirs = socket.socketpair()
        flush_streams()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _help(work, theirs, mask, [*left, self._line.fileno()], output)
        except OSError:
            self._line.close()
            raise
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._line.setblocking(False)
        reaper.add(self.pid)

    def fileno(self) -> int:
        return self._line.fileno()

    def listen(self) -> bool:
        """Takes what has come, once the descriptor is readable; True when all has come, or nothing more will."""
        if self.ended:
            return True
        try:
            sent, descriptors, _, _ = socket.recv_fds(self._line, 1024 * 1024, AT_ONCE)
        except BlockingIOError:
            return False
        except OSError:
            sent, descriptors = b"", []
        for fd in descriptors:
            os.set_inheritable(fd, False)  # recv_fds of older Pythons passes no flags on
        self._received += sent
        self._descriptors += descriptors
        if not sent:
            self._hung_up = time.monotonic()
        self.ended = not sent or self._whole
        return self.ended

    @property
    def _whole(self) -> bool:
        if len(self._received) < HEAD.size:
            return False
        _, length, count = HEAD.unpack_from(self._received)
        return bool(len(self._received) >= HEAD.size + length and len(self._descriptors) >= count)

    def over(self, now: float) -> bool:
        """Whether `answer` can be called: the helper has answered, or is late, or it is known how it ended."""
        if self._whole or now >= self.deadline:
            return True
        if self.ended and self.status is None:
            self.status = status_of(self.pid)
        return self.ended and (self.status is not None or now >= self._hung_up + AFTERMATH)

    def wait(self) -> None:
        """Blocks until the helper is over."""
        poller = poll()
        poller.register(self, POLLIN)
        while not self.over(now := time.monotonic()):
            if self.listen():  # the end of the line stays readable
                time.sleep(0.001)
            else:
                poller.poll(max(0.0, self.due() - now) * 1000)

    def due(self) -> float:
        """The instant (monotonic) at which to look whether the helper is over, if nothing comes before."""
        return min(self.deadline, self._hung_up + AFTERMATH) if self.ended else self.deadline

    def answer(self) -> Answer | None:
        """What the helper sent; None if it ended without an answer (`status` says how, or None if that is not known).
        It is dismissed. Raises the error that the helper raised, and WorkerFailedToStart if it is late."""
        self._dismiss()
        if not self.ended:
            self._drop()
            why = "A disk, a name server or a device does not answer."
            hint = "If it needs that long, raise --start-timeout."
            raise WorkerFailedToStart(f"It is not done after {self.limit:g} s.", why, hint)
        if not self._whole:
            self._drop()
            return None
        good, _, _ = HEAD.unpack_from(self._received)
        answer = self._received[HEAD.size :]
        if not good:
            raise from_parts(msgspec.json.decode(answer))
        descriptors, self._descriptors = self._descriptors, []
        return answer, descriptors

    def close(self) -> None:
        """Ends the helper at once; what it may have sent is dropped."""
        self._dismiss()
        self._drop()

    def _dismiss(self) -> None:
        if self._line.fileno() >= 0:
            self._line.close()
            if self.status is None:
                self._reaper.dismiss(self.pid, AFTERMATH if self.ended else 0.0)
            else:
                self._reaper.forget(self.pid)

    def _drop(self) -> None:
        close_descriptors(self._descriptors)
        self._descriptors = []


def _help(
    work: Callable[[], Answer], line: socket.socket, mask: Iterable[int], left: list[int], output: int
) -> NoReturn:
    code = 1
    try:
        reset_signals()
        close_descriptors(left)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        faulthandler.disable()  # its file is the parent's; the signal's name says enough
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if output >= 0:
            os.dup2(output, 1)
            os.dup2(output, 2)
        die_with_parent(signal.SIGKILL)
        try:
            (said, descriptors), good = work(), True
        except Exception as error:
            if not isinstance(error, PronghornError):
                error = PronghornError("The server failed to do it.", f"{type(error).__name__}: {error}")
            said, descriptors, good = msgspec.json.encode(error.parts(kind=True)), [], False
        flush_streams()
        _send(line, good, said, descriptors)
        code = 0
    except ConnectionError:
        pass  # the answer is not wanted any more
    except BaseException:
        import traceback

        traceback.print_exc()
        flush_streams()
    finally:
        os._exit(code)


def _send(line: socket.socket, good: bool, said: bytes, descriptors: list[int]) -> None:
    said = said.ljust(-(-len(descriptors) // AT_ONCE))  # descriptors travel with bytes
    line.setblocking(True)
    line.sendall(HEAD.pack(good, len(said), len(descriptors)))
    for place in range(0, len(descriptors), AT_ONCE):
        part = descriptors[place : place + AT_ONCE]
        socket.send_fds(line, [said[:1]], part)
        said = said[1:]
    if said:
        line.sendall(said)
