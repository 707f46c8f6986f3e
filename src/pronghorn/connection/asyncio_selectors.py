"""asyncio's selectors, made to survive that a handler or a library closes a watched descriptor by its number.

Law: the loop goes on, and a descriptor that was closed and cannot be taken out of the kernel's set is reported no more.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import selectors
import time
from typing import Any

from pronghorn.connection.socket_facts import identity

TRUST = 1.0  # seconds that a new set is kept at least

Ready = list[tuple[selectors.SelectorKey, int]]


class WarySelect(selectors.SelectSelector):
    """select(2): a descriptor that is closed is ready, so that its owner finds out."""

    def select(self, timeout: float | None = None) -> Ready:
        try:
            return super().select(timeout)
        except (OSError, ValueError):
            gone = [(key, key.events) for key in list(self.get_map().values()) if not identity(key.fd)]
            if not gone:
                raise
            return gone


if hasattr(select, "epoll"):

    class WaryEpoll(selectors.EpollSelector):
        """epoll(7): of a closed descriptor of which a copy lives elsewhere the kernel goes on telling, under its old
        number (question 6); then the set is made anew."""

        _selector: Any
        _doubted = False
        _trusted_until = 0.0

        def unregister(self, fileobj: Any) -> selectors.SelectorKey:
            key = selectors._BaseSelectorImpl.unregister(self, fileobj)
            try:
                self._selector.unregister(key.fd)
            except OSError:  # it was closed
                self._doubted = True
            return key

        def select(self, timeout: float | None = None) -> Ready:
            if self._doubted and time.monotonic() >= self._trusted_until:
                self._doubted, self._trusted_until = False, time.monotonic() + TRUST
                self._selector.close()
                self._selector = select.epoll()
                for key in list(self.get_map().values()):
                    with contextlib.suppress(OSError):
                        reads, writes = key.events & selectors.EVENT_READ, key.events & selectors.EVENT_WRITE
                        self._selector.register(key.fd, select.EPOLLIN * bool(reads) | select.EPOLLOUT * bool(writes))
            return super().select(timeout)


HELD = re.compile(rb"tfd:\s*(\d+) events:\s*([0-9a-f]+) .* ino:([0-9a-f]+)")


def make_anew(number: int) -> None:
    """Puts a set of epoll(7) without what was closed in the place of the one that has this number and is libuv's: the
    kernel goes on telling of a closed descriptor while a copy lives, here or in a child, or when its number is
    another's by now. What is watched the kernel says (proc_pid_fdinfo(5)); where it does not, nothing happens."""
    try:
        with open(f"/proc/self/fdinfo/{number}", "rb") as file:
            held = [(int(fd), int(events, 16), int(inode, 16)) for fd, events, inode in HELD.findall(file.read())]
        fresh = select.epoll()
    except (OSError, AttributeError):
        return
    with fresh:
        for fd, events, inode in held:
            if identity(fd) == inode:
                fresh.register(fd, events)
        os.dup2(fresh.fileno(), number, inheritable=False)
