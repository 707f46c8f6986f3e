"""systemd's end of sd_notify(3), in a test: what a server says to its service manager."""

from __future__ import annotations

import socket
import time


class Manager:
    """systemd's end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(15)

    def next(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")

    def until(self, line: str) -> list[str]:
        """The first message that holds `line`."""
        deadline = time.monotonic() + 15
        while line not in (message := self.next()):
            assert time.monotonic() < deadline
        return message

    def waiting(self) -> list[str]:
        """All that has been said and not been heard yet."""
        said: list[str] = []
        self.socket.setblocking(False)
        try:
            while True:
                said += self.next()
        except BlockingIOError:
            return said
        finally:
            self.socket.settimeout(15)
