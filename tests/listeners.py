"""Listeners in the test's own process: what waits at one, and what is accepted from it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

from pronghorn import peers
from pronghorn.listening.listener import Listener

Open = Callable[..., list[Listener]]


def readable(descriptor: Any, seconds: float = 5.0) -> bool:
    return bool(select.select([descriptor], [], [], seconds)[0])


@contextlib.contextmanager
def accepted(each: Listener) -> Iterator[tuple[socket.socket, peers.Peer]]:
    assert readable(each)
    got = each.accept()
    assert got is not None
    with socket.socket(fileno=got[0]) as connection:
        yield connection, got[1]


def ended(what: Callable[[], object]) -> int:
    """The wait status of a forked process that does it, and ends without closing anything, as after a kill."""
    child = os.fork()
    if not child:
        try:
            what()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]
