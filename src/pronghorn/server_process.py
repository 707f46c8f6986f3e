"""A server in a process of its own, for whoever starts one: its start, the report on how that went, and its end.

Law: the server is what users run: a fresh interpreter, `python -P -m pronghorn.server`, in a process group of its own,
with the caller's working folder and path, so that it can import what the caller can. All its processes have a mark in
their environment, by which those are found at the end whose supervisor was killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO, Any

import msgspec
import psutil

from pronghorn.boot import Boot, server_command
from pronghorn.errors import PronghornError, from_parts
from pronghorn.settings.layers import Layers

MARK = "PRONGHORN_SERVING"
PATIENCE = 15.0  # seconds for an end
LATE = 5.0  # seconds beyond --start-timeout, for the server to report that it is over


def started(layers: Layers, log: IO[bytes], mark: str) -> tuple[subprocess.Popen[bytes], int]:
    """The process, whose output goes to `log`, and the descriptor on which it tells how the start went."""
    reader, writer = os.pipe()
    try:
        with tempfile.TemporaryFile() as boot:
            boot.write(msgspec.json.encode(Boot(layers, report_fd=writer)))
            boot.seek(0)
            path = os.pathsep.join(each for each in sys.path if each)
            process = subprocess.Popen(
                server_command(boot.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(boot.fileno(), writer),
                env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", MARK: mark},
                process_group=0,
            )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return process, reader


def ready_report(
    process: subprocess.Popen[bytes], reports: IO[bytes], seconds: float, log: IO[bytes]
) -> dict[str, Any]:
    """The ready report. Raises PronghornError for any other."""
    deadline = time.monotonic() + seconds
    poller = select.poll()
    poller.register(reports, select.POLLIN)
    line = b""
    while not line.endswith(b"\n"):
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise PronghornError("The server does not serve.", f"It said nothing for {seconds:g} s.", whole(log))
        more = reports.read(65536)
        if not more:
            break
        line += more
    if not line:
        status = process.wait(PATIENCE)
        raise PronghornError(f"The server ended with status {status} and said nothing.", whole(log))
    report: dict[str, Any] = msgspec.json.decode(line)
    if "error" in report:
        error = from_parts(report["error"])
        error.exit_code = process.wait(PATIENCE)
        raise error
    return report


def whole(log: IO[bytes]) -> str:
    """All that the server has written so far."""
    # pread: the server writes through the same open file, whose offset must not move.
    return os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0).decode("utf-8", "backslashreplace")


def end(process: subprocess.Popen[bytes], family: list[psutil.Process], mark: str) -> None:
    """End the supervisor so that it ends all others; then kill the processes that are left."""
    ended = False
    if process.poll() is None:
        process.send_signal(signal.SIGQUIT)
        try:
            ended = process.wait(PATIENCE) >= 0
        except subprocess.TimeoutExpired:
            pass
    elif process.returncode >= 0:
        ended = True
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for each in family if ended else [*family, *_strays(mark)]:
        with contextlib.suppress(psutil.Error):
            each.kill()  # only if it is still the same process
    process.wait()


def _strays(mark: str) -> Iterator[psutil.Process]:
    """Programs in sessions of their own, whose supervisor was killed: MARK is in their environment."""
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if each.environ().get(MARK) == mark:
                yield each
