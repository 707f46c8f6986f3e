"""EMFILE at accept(2): a spare descriptor is closed, so that clients can be accepted and closed in order.

Law: only admission.py uses it. Without it a client in the kernel's queue would wait for ever, and a loop would turn for
ever, since its listener stays readable (accept(2), libev(3): "The special problem of accept()ing when you can't").
"""

from __future__ import annotations

import errno
import io
import math
import os
import time
from collections.abc import Iterator

from pronghorn.listening.listener import Exhausted, Listener
from pronghorn.peers import Peer

SPARE_TURN = 16  # clients that are turned away at once, when there is no descriptor left for them
AGAIN = 1.0  # seconds within which a second shortage is the same one


class SpareDescriptor:
    """A descriptor kept back for when there are none left: it is closed then, so that clients in the kernel's queue can
    be accepted and closed in order, and do not wait for ever."""

    __slots__ = ("_fd", "_until")

    def __init__(self) -> None:
        self._fd = -1
        self._until = -math.inf
        self._refill()

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            io.FileIO(self._fd).close()  # at once, also where gevent has put its own os.close
            self._fd = -1

    def accepted(self, listener: Listener, shortage: Exhausted) -> Iterator[tuple[int, Peer]]:
        """Connections for the caller to close, each before the next is accepted. None at the first shortage in a while:
        another worker may have room, and the shortage may last for a moment only."""
        now = time.monotonic()
        again, self._until = now < self._until, now + AGAIN
        if shortage.errno != errno.EMFILE or not again:
            return
        self.close()
        try:
            for _ in range(SPARE_TURN):
                got = listener.accept()
                if got is None:
                    return
                yield got
        except OSError:
            return  # another flow of control was faster
        finally:
            self._refill()

    def _refill(self) -> None:
        try:
            self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1
