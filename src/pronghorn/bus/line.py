"""The line: a second connection to the hub, over which a thread that publishes waits for its result itself.

Law: one thread at a time, and nothing but publications. What comes over the link's connection wakes the link's thread,
which wakes the one that waits: on a free processor each of these costs as much as the hub's whole work. A line that is
taken, or has ended, sends nothing: then the link does.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any

from pronghorn.bus.errors import BusLost, BusUnavailable, HubSilent
from pronghorn.bus.wire import HELLO, REFUSED, RESULT, BadFrame, Reader, frame

BUFFER = 4096  # a result has a few bytes
LONGEST = 3600.0  # seconds that the kernel is told to wait


class Line:
    """`connect` gives a new connection to the hub, or raises OSError or BusUnavailable."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._taken = threading.Lock()
        self._sock: socket.socket | None = None
        self._reader = Reader()
        self._seconds = 0.0  # how long the kernel waits
        self._last = 0

    def request(self, seconds: float, kind: int, *fields: Any) -> Sequence[Any] | None:
        """Ask, and wait for the fields of the result; None if nothing was sent. Raises BusUnavailable if the hub
        refuses this process, BusLost if it went away meanwhile, HubSilent if it says nothing for so many seconds."""
        if not 0 < seconds <= LONGEST or not self._taken.acquire(blocking=False):
            return None
        try:
            sock = self._sent(seconds, kind, fields)
            return None if sock is None else self._result(sock)
        except BlockingIOError:
            self.let_go()
            raise HubSilent(seconds) from None
        except (OSError, BadFrame):
            self.let_go()
            raise BusLost() from None
        except BaseException:  # of a signal's handler: the result is still to come
            self.let_go()
            raise
        finally:
            self._taken.release()

    def close(self) -> None:
        """Whoever waits is told that the hub is gone."""
        if (sock := self._sock) is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        if self._taken.acquire(blocking=False):
            self.let_go()
            self._taken.release()

    def let_go(self) -> None:
        """Let go of the connection, which other processes may have too."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def _sent(self, seconds: float, kind: int, fields: Sequence[Any]) -> socket.socket | None:
        self._last += 1
        try:
            sock = self._sock or self._open()
            if seconds != self._seconds:
                limit = struct.pack("ll", int(seconds), max(1, int(seconds % 1 * 1_000_000)))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
                self._seconds = seconds
            sock.sendall(frame(kind, self._last, *fields))
        except (OSError, BusUnavailable):
            self.let_go()  # half a frame is none
            return None
        return sock

    def _open(self) -> socket.socket:
        sock = self._connect()
        sock.sendall(frame(HELLO, os.getpid()))
        self._sock, self._reader, self._seconds = sock, Reader(), 0.0
        return sock

    def _result(self, sock: socket.socket) -> Sequence[Any]:
        while data := sock.recv(BUFFER):
            for each in self._reader.feed(data):
                if each[0] == RESULT and each[1] == self._last:
                    return each[2:]
                if each[0] == REFUSED:
                    raise BusUnavailable(each[1])
        raise BusLost()
