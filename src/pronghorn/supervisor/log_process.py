"""The process that hands the supervisor's records to handlers that `--log-config` has named.

Law: such a handler may wait for a disk or a network, and the supervisor may not. So a fork of the supervisor calls the
handlers, and is sent each record over a pair of sockets without a wait: a record that does not fit is dropped and
counted, and a fork that has died is followed by another, once in a second at most. Workers call the handlers
themselves. A handler that has started threads works only in the process that has them, which no fork has: then the
supervisor goes on calling it.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from pronghorn.system.helper import Answer, Helper, Reaper, status_of
from pronghorn.system.processes import name_process

LONGEST = 60_000  # characters of one record
ROOM = 1024 * 1024  # bytes that wait for a handler
REST = 1.0  # seconds between a second start and a third, and so on
PATIENCE = 2.0  # seconds that it gets at the end for records that it has not handed on yet


class Said(msgspec.Struct, array_like=True):
    """A record on its way."""

    name: str
    level: int
    text: str
    created: float
    process: int
    fields: dict[str, Any] = {}


class LogProcess:
    """`hear` is called in the process with each record; `left` are descriptors that it must not keep, `reaper` takes
    it. Where there can be none, `tell` says so each time."""

    def __init__(
        self, hear: Callable[[logging.LogRecord], None], reaper: Reaper, left: Callable[[], Iterable[int]]
    ) -> None:
        self._hear, self._reaper, self._left = hear, reaper, left
        self._owner = os.getpid()
        self._line: socket.socket | None = None
        self._helper: Helper | None = None
        self._dropped = 0
        self._start_at = 0.0
        self._possible = hasattr(socket, "SOCK_SEQPACKET") and threading.active_count() == 1

    def tell(self, name: str, level: int, text: str, fields: dict[str, Any]) -> bool:
        """Sends a record to the process. False if this process has to hand it on itself."""
        if not self._possible or os.getpid() != self._owner:
            return False
        more = f" ({self._dropped:,} records before were dropped: the log did not take them)" if self._dropped else ""
        said = msgspec.msgpack.encode(Said(name, level, text[:LONGEST] + more, time.time(), self._owner, fields))
        self._dropped = 0 if self._sent(said) else self._dropped + 1
        return True

    def descriptors(self) -> list[int]:
        """What no other process shall keep."""
        return [each.fileno() for each in (self._line, self._helper) if each is not None and each.fileno() >= 0]

    def close(self) -> None:
        """Ends it, once it has handed on what it has, or after two seconds."""
        if os.getpid() != self._owner or self._helper is None:
            return
        self._possible = False
        if self._line is not None:
            self._line.close()
        until = time.monotonic() + PATIENCE
        while self._helper.status is None and time.monotonic() < until:
            self._helper.status = status_of(self._helper.pid)
            time.sleep(0.002)
        self._helper.close()
        self._reaper.finish()

    def _sent(self, said: bytes) -> bool:
        for _ in range(2):
            if self._line is None and not self._started():
                return False
            assert self._line is not None
            try:
                self._line.send(said)
            except BlockingIOError:
                return False
            except OSError:  # it has died
                self._line.close()
                self._line = None
            else:
                return True
        return False

    def _started(self) -> bool:
        now = time.monotonic()
        if now < self._start_at:
            return False
        if self._helper is not None:
            self._start_at = now + REST
            self._helper.close()
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            return False
        with theirs:
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
            left = [*self._left(), ours.fileno()]
            try:
                self._helper = Helper(lambda: _listen(theirs, self._hear), math.inf, self._reaper, left)
            except OSError:
                ours.close()
                return False
        self._line = ours
        return True


def _listen(line: socket.socket, hear: Callable[[logging.LogRecord], None]) -> Answer:
    """Hands records on until the other end is closed. A signal to the whole group is not for this process."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    name_process("log")
    while said := line.recv(8 * LONGEST):
        each = msgspec.msgpack.decode(said, type=Said)
        record = logging.LogRecord(each.name, each.level, "", 0, each.text, None, None)
        record.created, record.process = each.created, each.process
        record.msecs = float(int(each.created % 1 * 1000))
        record.fields = each.fields
        try:
            hear(record)
        except Exception:
            continue  # as it would be in the supervisor: an observer that fails is none of its business
    logging.shutdown()
    return b"", []
