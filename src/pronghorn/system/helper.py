"""A short-lived process that does what may block, for a supervisor that may not.

Law: whatever waits for a disk, a name server or a device is called in a fork, which says what came of it over a pair of
sockets and ends: bytes, and descriptors that it has opened. It has a deadline; one that is late is killed, and that is
an error like any other. Nobody ever waits for a helper's end: one that cannot die (a file system that hangs) is left
behind, and the reaper asks after it now and then.
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
"""What a helper sends back: bytes, and descriptors."""

HEAD = struct.Struct("!?QQ")  # whether it is an answer or an error; how many bytes follow, and how many descriptors
AT_ONCE = 200  # descriptors in one message (SCM_MAX_FD is 253)
AFTERMATH = 1.0  # seconds that a helper gets to end by itself once it has said all, or has hung up


class Reaper(set[int]):
    """Children that are no workers, by their process ids: nobody else shall wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self._dismissed: dict[int, float] = {}  # and when it is killed

    def dismiss(self, pid: int, after: float = 0.0) -> None:
        """It is needed no more: it is killed `after` so many seconds if it has not ended, and buried in any case."""
        self.add(pid)
        self._dismissed[pid] = time.monotonic() + after
        self.turn(time.monotonic())

    def forget(self, pid: int) -> None:
        """It has been waited for."""
        self._dismissed.pop(pid, None)
        self.discard(pid)

    def turn(self, now: float) -> None:
        """Buries the dead and kills the late; never waits."""
        for pid, late in list(self._dismissed.items()):
            if status_of(pid) is not None:
                self.forget(pid)
            elif now >= late:
                kill(pid, signal.SIGKILL)

    def finish(self) -> None:
        """On the way out: waits for those that were dismissed, twice as long as any of them gets at most; one that
        cannot die is left behind."""
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
    """One at work: a fork that calls `work`, which returns an Answer or raises a PronghornError.

    Its descriptor is readable when it has more to say; `deadline` (monotonic) is `limit` seconds from its start. `left`
    are descriptors that it must not keep, `reaper` takes its process; what it prints goes to descriptor `output`, if
    there is one. Raises OSError when none can be started.
    """

    def __init__(
        self, work: Callable[[], Answer], limit: float, reaper: Reaper, left: Iterable[int] = (), output: int = -1
    ) -> None:
        self.deadline = time.monotonic() + limit
        self.limit = limit
        self.ended = False  # it has said all that it will
        self.status: int | None = None
        self._reaper = reaper
        self._said = b""
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
        """Takes what it says, once its descriptor is readable; True when it has said all, or can say no more."""
        if self.ended:
            return True
        try:
            said, descriptors, _, _ = socket.recv_fds(self._line, 1024 * 1024, AT_ONCE)
        except BlockingIOError:
            return False
        except OSError:
            said, descriptors = b"", []
        for fd in descriptors:
            os.set_inheritable(fd, False)  # recv_fds of older Pythons passes no flags on
        self._said += said
        self._descriptors += descriptors
        if not said:
            self._hung_up = time.monotonic()
        self.ended = not said or self._whole
        return self.ended

    @property
    def _whole(self) -> bool:
        if len(self._said) < HEAD.size:
            return False
        _, length, count = HEAD.unpack_from(self._said)
        return bool(len(self._said) >= HEAD.size + length and len(self._descriptors) >= count)

    def over(self, now: float) -> bool:
        """Whether `answer` can be called: it has answered, or its time is over, or it is known how it died."""
        if self._whole or now >= self.deadline:
            return True
        if self.ended and self.status is None:
            self.status = status_of(self.pid)
        return self.ended and (self.status is not None or now >= self._hung_up + AFTERMATH)

    def wait(self) -> None:
        """Blocks until it is over."""
        poller = poll()
        poller.register(self, POLLIN)
        while not self.over(now := time.monotonic()):
            if self.listen():  # the end of the line stays readable
                time.sleep(0.001)
            else:
                poller.poll(max(0.0, self.due() - now) * 1000)

    def due(self) -> float:
        """The instant (monotonic) at which to look whether it is over, if nothing is heard before."""
        return min(self.deadline, self._hung_up + AFTERMATH) if self.ended else self.deadline

    def answer(self) -> Answer | None:
        """What it said; None if it ended without a word (`status` says how, or None if that is not known). It is
        dismissed. Raises the error that it raised, and WorkerFailedToStart if it has not answered yet."""
        self._dismiss()
        if not self.ended:
            self._drop()
            raise WorkerFailedToStart(
                f"It is not done after {self.limit:g} s.", "A disk, a name server or a device does not answer.",
                "If it needs that long, raise --start-timeout.",
            )  # fmt: skip
        if not self._whole:
            self._drop()
            return None
        good, _, _ = HEAD.unpack_from(self._said)
        said = self._said[HEAD.size :]
        if not good:
            raise from_parts(msgspec.json.decode(said))
        descriptors, self._descriptors = self._descriptors, []
        return said, descriptors

    def close(self) -> None:
        """Ends it at once; what it may have sent is dropped."""
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
        faulthandler.disable()  # its stacks would be ours as well; the signal's name says enough
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
        pass  # nobody wants to know any more
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
