"""The ledger's handlers, which give a big answer too to whoever says BIG.

Law: whoever behaves cannot tell these from the ledger's own. Workers import this file, so it needs no test's tools.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(__file__))

from ledger_handler import Callbacks, blocking

CHUNK = bytes(64 * 1024)
CHUNKS = 1024
HOARD = 8 * 1024 * 1024


class Big(Callbacks):
    """Protocol style: writes as much as the peer takes, and waits where it is told to."""

    left, paused = 0, False

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"BIG"):
            self.left = CHUNKS
            self.go_on()
        else:
            super().data_received(data)

    def go_on(self) -> None:
        while self.left and not self.paused:
            self.left -= 1
            self.transport.write(CHUNK)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.go_on()


class Hoards(Callbacks):
    """One that is bad: all of it is in memory at once, for each peer."""

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"BIG"):
            self.transport.write(os.urandom(HOARD))
        else:
            super().data_received(data)


def big_blocking(conn: Any, peer: Any) -> None:
    """Blocking style."""
    if conn.recv(3, socket.MSG_PEEK) != b"BIG":
        return blocking(conn, peer)
    for _ in range(CHUNKS):
        conn.sendall(CHUNK)
    return None
