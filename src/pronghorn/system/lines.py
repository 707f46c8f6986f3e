"""Lines of bytes from a socket, read within bounds and without a wait.

Law: one read of BUFFER bytes at a time, so that other sockets have their turn; a byte is looked at once, however many
pieces a line comes in; an unfinished line takes no more memory than `longest` and one buffer. Descriptors that are sent
along are closed by the kernel (recvmsg(2), without room for control data).
"""

from __future__ import annotations

import socket

BUFFER = 64 * 1024
_buffer = bytearray(BUFFER)  # made once: a read takes no memory when there is none
_view = memoryview(_buffer)


class LineReader:
    """The lines that come over a socket. After `ended` there are no more: the other end has hung up, or a line has more
    than `longest` bytes, which `too_long` says. `rest` is what has come of the unfinished line; it is empty after a
    line that is too long, and after a reset."""

    __slots__ = ("_longest", "_socket", "ended", "rest", "too_long")

    def __init__(self, sock: socket.socket, longest: int) -> None:
        self._socket = sock
        self._longest = longest
        self.rest = bytearray()
        self.ended = self.too_long = False

    def take(self) -> list[bytes]:
        """The lines that one more read completes, each without its LF. Never blocks, and never raises OSError."""
        if self.ended:
            return []
        try:
            length = self._socket.recv_into(_buffer, BUFFER, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:
            length = 0
            self.rest.clear()
        self.ended = not length
        *lines, rest = bytes(_view[:length]).split(b"\n")
        if lines:
            lines[0] = bytes(self.rest) + lines[0]
            self.rest.clear()
        self.rest += rest
        for place, line in enumerate((*lines, self.rest)):
            if len(line) > self._longest:
                self.ended = self.too_long = True
                self.rest.clear()
                return lines[:place]
        return lines
