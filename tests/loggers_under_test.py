"""Handlers that set up logging, or have Python tell of errors that nobody caught: what the tests of the log ask for.

Law: workers import this file by its name, so it imports no test's tools.
"""

from __future__ import annotations

import asyncio
import logging
import logging.config
import os
import sys
import threading
import warnings
from typing import Any

from pronghorn import lines, message

TIMES = 300
FORGED = "a\r\n[2026-01-01] [1] [INFO] forged\x1b[2J"


class Fails:
    def __del__(self) -> None:
        raise ValueError(FORGED)


def fail() -> None:
    raise ValueError(FORGED)


async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything that tells of errors that nobody caught, many times."""
    loop = asyncio.get_running_loop()
    warnings.simplefilter("always")
    for _ in range(TIMES):
        loop.call_soon(fail)
        loop.create_task(asyncio.to_thread(fail)) if not _ % 100 else None
        Fails()
        warnings.warn(FORGED, stacklevel=1)
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    await asyncio.sleep(0.01)
    writer.write(b"done\n")
    writer.close()


@message(lines)
def logs(line: bytes) -> bytes:
    """Logs at INFO, and at DEBUG; raises for 0."""
    logging.basicConfig(level=logging.INFO)
    log = logging.getLogger("app")
    log.debug("at debug %s", line)
    log.info("at info %s %s", line, FORGED)
    logging.warning("of root")
    log.info("does not fit: %d", "x")
    return b"%d" % (1 // int(line))


def hostile() -> Any:
    """A factory: logging is set up as applications do it, and worse."""
    logging.config.dictConfig({"version": 1, "handlers": {}, "root": {"handlers": [], "level": "CRITICAL"}})
    ours = logging.getLogger("pronghorn.error")
    ours.handlers.clear()
    ours.setLevel(logging.CRITICAL)
    ours.disabled = True
    logging.disable(logging.CRITICAL)
    return logs


@message(lines)
def closes_standard(line: bytes) -> bytes:
    """Closes 0, 1 and 2, as code does that makes a daemon of itself; raises for 0."""
    if line == b"close":
        sys.stderr.close()
        for number in (0, 1, 2):
            try:
                os.close(number)
            except OSError:
                continue
        return b"closed"
    return b"%d" % (1 // int(line))
