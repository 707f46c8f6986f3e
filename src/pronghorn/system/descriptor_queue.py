"""A queue of messages with descriptors between processes (SCM_RIGHTS, unix(7)), and the token that only one can take.

Law: nothing here knows what the messages say. Any process that has the queue puts and takes; each message is taken
once. What is in the queue outlives the process that put it there. No call blocks.
"""

from __future__ import annotations

import array
import os
import socket

INLINE = 32 * 1024
"""Bytes that a message holds at most: more than the kernel's smallest buffer for a socket takes, is refused by it."""
MOST_DESCRIPTORS = 4
CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_ROOM = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)


class DescriptorQueue:
    """A pair of connected sockets without a name: `put` writes to the one, `take` reads from the other."""

    __slots__ = ("_put", "_take")

    def __init__(self, put: socket.socket, take: socket.socket) -> None:
        self._put, self._take = put, take
        for end in (put, take):
            end.setblocking(False)

    @classmethod
    def create(cls) -> DescriptorQueue:
        """A new queue. Raises OSError."""
        return cls(*message_pair())

    @classmethod
    def adopt(cls, descriptors: list[int]) -> DescriptorQueue:
        """The queue of another program, whose descriptors this process has inherited. Raises OSError."""
        put, take = (socket.socket(fileno=fd) for fd in descriptors)
        for end in (put, take):
            end.set_inheritable(False)
        return cls(put, take)

    def fileno(self) -> int:
        """What is readable when there is a message to take."""
        return self._take.fileno()

    def descriptors(self) -> list[int]:
        return [self._put.fileno(), self._take.fileno()]

    def put(self, message: bytes, descriptors: list[int]) -> bool:
        """Add a message; false if the queue has no room now. The descriptors stay open here. Raises OSError."""
        return send(self._put, message, descriptors)

    def take(self) -> tuple[bytes, list[int]] | None:
        """The oldest message and its descriptors, which are the caller's then; None if there is none. A message whose
        descriptors did not fit into this process comes without some of them. Raises OSError."""
        return receive(self._take)

    def close(self) -> None:
        self._put.close()
        self._take.close()


def message_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that keep the bounds of messages, whichever kind of these the system has."""
    for kind in (socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        try:
            return socket.socketpair(socket.AF_UNIX, kind)
        except OSError as error:
            refusal = error
    raise refusal


def send(end: socket.socket, message: bytes, descriptors: list[int] = []) -> bool:  # noqa: B006 (never changed)
    """Send one message without a wait; false if there is no room. Raises OSError."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    try:
        end.sendmsg([message], rights, socket.MSG_DONTWAIT)
    except (BlockingIOError, InterruptedError):
        return False
    return True


def receive(end: socket.socket) -> tuple[bytes, list[int]] | None:
    """One message without a wait; None if there is none, and after the other end is closed. Raises OSError."""
    try:
        message, rights, _, _ = end.recvmsg(INLINE + 4096, _ROOM, socket.MSG_DONTWAIT | CLOSE_ON_EXEC)
    except (BlockingIOError, InterruptedError):
        return None
    descriptors = array.array("i")
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) // descriptors.itemsize * descriptors.itemsize])
    for fd in () if CLOSE_ON_EXEC else descriptors:
        os.set_inheritable(fd, False)
    return (message, descriptors.tolist()) if message or descriptors else None


class Token:
    """A descriptor that holds one token, for whoever takes it first: of several processes that have the descriptor
    exactly one is told that it took it, whatever happens to the others (eventfd(2), or a pipe with one byte)."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def make(cls) -> Token:
        """A new token. Raises OSError."""
        if hasattr(os, "eventfd"):
            return cls(os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.write(writer, b"1")
        os.close(writer)
        return cls(reader)

    def fileno(self) -> int:
        return self._fd

    def take(self) -> bool:
        """Whether the token was there, and is the caller's now. The descriptor is closed by `close` alone."""
        try:
            return bool(os.read(self._fd, 8))
        except OSError:  # EAGAIN: another has it
            return False

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
