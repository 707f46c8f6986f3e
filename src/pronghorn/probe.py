"""A short-lived process that imports the handler, to learn its style before anything is bound.

Law: the supervisor never imports the user's code, for it could not be rid of it again. So a fork of it does, says
what it found over a pipe, and ends. What the module prints meanwhile is held back, since every worker will print it
again; if the import fails it is shown, because it may be all that the user gets to know. It leaves nothing behind that
the import made for a while (temporary files and folders, child processes), but runs no exit functions: these belong to
who has served. A probe never blocks whoever
waits for it: `ask` does, at the first start, when nobody else has to be served.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Iterable
from select import POLLIN, poll
from typing import NoReturn

import msgspec

from pronghorn import ending, privileges
from pronghorn.errors import BadHandler, PronghornError, WorkerFailedToStart
from pronghorn.handlers import Facts, Source
from pronghorn.processes import close_descriptors, die_with_parent, flush_streams, kill, reset_signals
from pronghorn.program import anonymous_file
from pronghorn.settings import Settings
from pronghorn.worker import Failed, load_handler

LONGEST_OUTPUT = 16 * 1024


class Answer(msgspec.Struct):
    """What the probe says: facts, or why there are none."""

    facts: Facts | None = None
    failed: Failed | None = None


class Probe:
    """One probe at work. Its descriptor is readable when it has more to say; `deadline` (monotonic) is
    `start_timeout` from its start. `left` are descriptors that it must not keep. Raises OSError when none can be
    started."""

    def __init__(self, source: Source, settings: Settings, left: Iterable[int] = ()) -> None:
        self._source = source
        self._limit = settings.start_timeout
        self.deadline = time.monotonic() + self._limit
        self._line = b""
        self._ended = False
        output = anonymous_file(b"")
        os.set_inheritable(output, False)
        self._output = open(output, "rb")
        self._reader, writer = os.pipe()
        flush_streams()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _answer(source, settings, writer, self._output.fileno(), mask, [*left, self._reader])
        except OSError:
            os.close(self._reader)
            self._output.close()
            raise
        finally:
            os.close(writer)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def fileno(self) -> int:
        return self._reader

    def listen(self) -> bool:
        """Takes what the probe says, once its descriptor is readable; True when it has said all. The end alone would
        not do: a process that the import started may hold the pipe open."""
        more = os.read(self._reader, 65536)
        self._line += more
        self._ended = not more or self._line.endswith(b"\n")
        return self._ended

    def facts(self) -> Facts:
        """What it found. Ends the probe, and raises what the import raised (BadHandler, BadSetting), BadHandler if it
        killed its process, WorkerFailedToStart if it has not answered yet."""
        status = self.close()
        try:
            return self._facts(status)
        except PronghornError:
            self._show()
            raise
        finally:
            self._output.close()

    def close(self) -> int:
        """Ends the process, at once unless it has answered; its exit code or minus its signal."""
        os.close(self._reader)
        deadline = time.monotonic() + (1.0 if self._ended else 0.0)
        try:
            while time.monotonic() < deadline:
                done, status = os.waitpid(self.pid, os.WNOHANG)
                if done:
                    return os.waitstatus_to_exitcode(status)
                time.sleep(0.001)
            kill(self.pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            return 0

    def _facts(self, status: int) -> Facts:
        name = repr(self._source.name)
        if not self._ended:
            raise WorkerFailedToStart(
                f"{name} is not imported.", f"After {self._limit:g} s the import still runs.",
                "If it needs that long, raise --start-timeout.",
            )  # fmt: skip
        if not self._line:
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
            raise BadHandler(f"{name} cannot be imported.", f"The process that imported it {how}.")
        answer = msgspec.json.decode(self._line, type=Answer)
        if answer.failed is not None:
            raise answer.failed.error()
        assert answer.facts is not None
        return answer.facts

    def _show(self) -> None:
        """The end of what the handler's module printed, on standard error."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - LONGEST_OUTPUT))
        try:
            os.write(2, self._output.read())
        except OSError:
            pass  # nobody listens


def ask(source: Source, settings: Settings) -> Facts:
    """The facts of a handler that only an import can tell; blocks until they are there, and raises as Probe.facts."""
    probe = Probe(source, settings)
    poller = poll()
    poller.register(probe, POLLIN)
    try:
        while poller.poll(max(0.0, probe.deadline - time.monotonic()) * 1000):
            if probe.listen():
                break
    except BaseException:
        probe.close()
        raise
    return probe.facts()


def _answer(
    source: Source, settings: Settings, writer: int, output: int, mask: Iterable[int], left: list[int]
) -> NoReturn:
    code = 1
    try:
        reset_signals()
        close_descriptors(left)
        ending.begin(keep_imports=False)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        faulthandler.disable()  # its stacks would be ours as well; the signal's name says enough
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.dup2(output, 1)
        os.dup2(output, 2)
        try:
            die_with_parent(signal.SIGKILL)
            privileges.drop()
            die_with_parent(signal.SIGKILL)  # who changes his credentials loses it
            answer = Answer(facts=load_handler(source, settings).facts)
        except PronghornError as error:
            answer = Answer(failed=Failed.of(error))
        ending.remove_temporary_folders()
        ending.flush_files()
        ending.end_children()
        with open(writer, "wb") as pipe:
            pipe.write(msgspec.json.encode(answer) + b"\n")
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
        flush_streams()
    finally:
        os._exit(code)
