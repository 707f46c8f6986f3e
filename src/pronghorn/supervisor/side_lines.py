"""The supervisor's ends of what leads to a side process: its line, and its standard error.

Law: nothing waits. What comes is read within bounds, what is sent and not read waits within a bound, or is refused.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from select import POLLIN, POLLOUT

from pronghorn.supervisor.poller import Poller
from pronghorn.system.lines import LineReader
from pronghorn.system.side_boot import LONGEST

ROOM = 1024 * 1024  # bytes that wait until it reads
MOST_LINES = 200  # of one record, of which the log shows the first and the last


class Line:
    """The supervisor's end of a line: `heard` is called when something has come; what is sent waits until it is read.
    `waiting` is what has been sent before there was a line."""

    __slots__ = ("_finish", "_heard", "_poller", "_waiting", "lines", "sock")

    def __init__(self, sock: socket.socket, poller: Poller, heard: Callable[[], None], waiting: bytes) -> None:
        self.sock, self.lines = sock, LineReader(sock, LONGEST)
        self._poller, self._heard = poller, heard
        self._waiting = bytearray(waiting)
        self._finish = False
        self._watch()

    def send(self, data: bytes) -> bool:
        """All of it, sooner or later, or nothing: False."""
        if len(self._waiting) + len(data) > ROOM:
            return False
        idle = not self._waiting
        self._waiting += data
        if idle:
            self._flush()
        return True

    def finish(self) -> None:
        """Ends the line for the other side once all is sent; it is heard until it ends its own."""
        self._finish = True
        self._flush()

    def close(self) -> None:
        self._poller.remove(self.sock)
        self.sock.close()

    def _watch(self) -> None:
        self._poller.add(self.sock, self._ready, POLLIN | POLLOUT if self._waiting else POLLIN)

    def _ready(self) -> None:
        if self._waiting:
            self._flush()
        self._heard()

    def _flush(self) -> None:
        before = bool(self._waiting)
        try:
            if before:
                del self._waiting[: self.sock.send(self._waiting, socket.MSG_DONTWAIT)]
            if self._finish and not self._waiting:
                self.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self._waiting.clear()  # it is dead, as the end of the line will tell
        if before or self._waiting:
            self._watch()


class Errors:
    """What a side process prints on standard error, as whole lines."""

    __slots__ = ("_new", "_poller", "last", "lines", "sock")

    def __init__(self, sock: socket.socket, poller: Poller, printed: Callable[[], None]) -> None:
        self.sock, self.lines, self.last = sock, LineReader(sock, LONGEST), ""
        self._new: list[str] = []
        self._poller = poller
        poller.add(sock, printed)

    def take(self) -> bool:
        """Whether there is anything to be told; `last` is the last line of it that says something."""
        lines = self.lines.take()
        if self.lines.ended and self.lines.rest:
            lines.append(bytes(self.lines.rest))
            self.lines.rest.clear()
        self._new += [line.decode("utf-8", "backslashreplace").rstrip() for line in lines]
        if len(self._new) > MOST_LINES:
            self._new[:-MOST_LINES] = ["..."]
        self.last = next((line for line in reversed(self._new) if line), self.last)
        return bool(self._new)

    def told(self) -> str:
        """What was printed since this was asked before, in one piece."""
        new, self._new = self._new, []
        return "\n".join(new).strip("\n")

    def close(self) -> None:
        self._poller.remove(self.sock)
        self.sock.close()
