"""A short-lived process that imports the handler, to learn its style before anything is bound.

Law: the supervisor never imports the user's code, for it could not be rid of it again. So a fork of it does, says
what it found over a pipe, and ends. What the module prints meanwhile is held back, since every worker will print it
again; if the import fails it is shown, because it may be all that the user gets to know.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
import time
from collections.abc import Iterable
from select import POLLIN, poll
from typing import IO, NoReturn

import msgspec

from pronghorn.errors import BadHandler, PronghornError, WorkerFailedToStart
from pronghorn.handlers import Facts, Source
from pronghorn.processes import die_with_parent, flush_streams, kill, reset_signals
from pronghorn.settings import Settings
from pronghorn.worker import Failed, load_handler

LONGEST_OUTPUT = 16 * 1024


class Answer(msgspec.Struct):
    """What the probe says: facts, or why there are none."""

    facts: Facts | None = None
    failed: Failed | None = None


def ask(source: Source, settings: Settings) -> Facts:
    """The facts of a handler that only an import can tell.

    Raises what the import raised (BadHandler, BadSetting), BadHandler if it killed its process, and WorkerFailedToStart
    if it takes longer than `start_timeout`. The process is gone afterwards.
    """
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as output, open(reader, "rb", buffering=0) as answers:
        flush_streams()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pid = 0
        try:
            pid = os.fork()
            if pid == 0:
                _answer(source, settings, writer, output, mask)
            os.close(writer)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            line = _line(answers, settings.start_timeout)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            status = _end(pid) if pid else 0
        try:
            return _facts(source, settings, line, status)
        except PronghornError:
            _show(output)
            raise


def _answer(source: Source, settings: Settings, writer: int, output: IO[bytes], mask: Iterable[int]) -> NoReturn:
    code = 1
    try:
        reset_signals()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        faulthandler.disable()  # its stacks would be ours as well; the signal's name says enough
        die_with_parent(signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        try:
            answer = Answer(facts=load_handler(source, settings).facts)
        except PronghornError as error:
            answer = Answer(failed=Failed.of(error))
        flush_streams()
        with open(writer, "wb") as pipe:
            pipe.write(msgspec.json.encode(answer) + b"\n")
        code = 0
    finally:
        os._exit(code)


def _line(answers: IO[bytes], seconds: float) -> bytes | None:
    """One line, or what there is before the end; None when the time is over. The end alone would not do: a process
    that the import started may hold the pipe open."""
    deadline = time.monotonic() + seconds
    poller = poll()
    poller.register(answers, POLLIN)
    line = b""
    while not line.endswith(b"\n"):
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        more = answers.read(65536)
        if not more:
            break
        line += more
    return line


def _end(pid: int) -> int:
    """Waits for the probe, which has said what it had to say; returns its exit code or minus its signal."""
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _facts(source: Source, settings: Settings, line: bytes | None, status: int) -> Facts:
    if line is None:
        raise WorkerFailedToStart(
            f"{source.name!r} is not imported.", f"After {settings.start_timeout:g} s the import still runs.",
            "If it needs that long, raise --start-timeout.",
        )  # fmt: skip
    if not line:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        raise BadHandler(f"{source.name!r} cannot be imported.", f"The process that imported it {how}.")
    answer = msgspec.json.decode(line, type=Answer)
    if answer.failed is not None:
        raise answer.failed.error()
    assert answer.facts is not None
    return answer.facts


def _show(output: IO[bytes]) -> None:
    """The end of what the handler's module printed, on standard error."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - LONGEST_OUTPUT))
    try:
        os.write(2, output.read())
    except OSError:
        pass  # nobody listens
