"""Handlers that benchmarks serve: lines, and a message that takes as long as $HANDLER_MS says.

Law: replies are those of the upper-case service, so that the load clients check them as any other.
"""

from __future__ import annotations

import os
import time

from pronghorn import message
from pronghorn.framing import lines, stream

SECONDS = float(os.environ.get("HANDLER_MS", "0")) / 1000


@message(lines)
def upper_lines(line: bytes) -> bytes:
    """A line in upper case."""
    return line.upper()


@message(stream)
def waits(data: bytes) -> bytes:
    """The reply after a wait, as for a database."""
    time.sleep(SECONDS)
    return data.upper()


@message(stream)
def computes(data: bytes) -> bytes:
    """The reply after so much time of this thread's on a processor."""
    until = time.thread_time() + SECONDS
    while time.thread_time() < until:
        pass
    return data.upper()
