"""Copies of the log's warnings and errors, for a process that shows the last of them: datagrams, sent without waiting.

Law: a copy is sent by whichever process of the server logs the record, over a pair of sockets that all of them have
from the fork. What does not fit, or comes while nobody reads, is lost: the log itself has it. The reader believes
nothing: it reads within bounds, and takes what is no copy for nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque

import msgspec

LONGEST_TEXT = 2000  # characters
LONGEST = 16 * 1024  # bytes of a datagram
ROOM = 128 * 1024  # bytes that wait for the reader
MOST_KEPT = 50
MOST_AT_ONCE, MOST_IN_A_WINDOW, WINDOW = 50, 200, 10.0  # records read in one turn, and in so many seconds


class Copy(msgspec.Struct, array_like=True, frozen=True):
    """A record: when it was logged (seconds of the wall clock), its level, by which process, and its text."""

    at: float
    level: int
    process: int
    text: str


class Copies:
    """The pair of sockets: `send` is for all processes of the server, `reader` is the descriptor for the one that shows
    the records, whose death loses none that still fit."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for each in (self._ours, self._theirs):
            each.setblocking(False)
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)

    @property
    def reader(self) -> int:
        return self._theirs.fileno()

    def send(self, level: int, text: str) -> None:
        """Sends a copy of a record of `level` WARNING or above; never waits, and never raises for want of a reader."""
        if level < logging.WARNING:
            return
        try:
            sendable = text[:LONGEST_TEXT].encode("utf-8", "backslashreplace").decode()  # a path may have surrogates
            self._ours.send(msgspec.msgpack.encode(Copy(time.time(), level, os.getpid(), sendable)))
        except (OSError, MemoryError):
            pass

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


class LastRecords:
    """The reader's side: the last records that came over descriptor `fd`, oldest first. `clock` is monotonic."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)
        self._sock.setblocking(False)
        self.kept: deque[Copy] = deque(maxlen=MOST_KEPT)
        self.left_out = 0
        """Records that were read, and not kept: there were too many at once."""
        self._since, self._count = 0.0, 0

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    @property
    def crowded(self) -> bool:
        """Whether there were more records lately than are kept in that time."""
        return self._count > MOST_IN_A_WINDOW

    def take(self, now: float) -> int:
        """Reads what has come; how many datagrams that were. `now` is monotonic."""
        if now >= self._since + WINDOW:
            self._since, self._count = now, 0
        for count in range(MOST_AT_ONCE):
            try:
                data = self._sock.recv(LONGEST + 1)
            except OSError:
                return count
            self._keep(data)
        return MOST_AT_ONCE

    def _keep(self, data: bytes) -> None:
        self._count += 1
        copy = _believed(data) if self._count <= MOST_IN_A_WINDOW else None
        if copy is None:
            self.left_out += 1
        else:
            self.kept.append(copy)


def _believed(data: bytes) -> Copy | None:
    """The copy in a datagram; None if it is none, or says what cannot be."""
    if len(data) > LONGEST:
        return None
    try:
        copy = msgspec.msgpack.decode(data, type=Copy)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not (0.0 <= copy.at < 2**40 and 0 <= copy.level < 1000 and 0 < copy.process < 2**31):
        return None
    return msgspec.structs.replace(copy, text=copy.text[:LONGEST_TEXT])
