"""Options of TCP connections, set once on the listener: on Linux each connection inherits them (tcp(7)).

Law: nothing per connection where the system does it. Elsewhere `apply_accepted` sets them on what was accepted.
"""

from __future__ import annotations

import contextlib
import math
import socket
import sys

from pronghorn.settings import Settings

ACCEPTED_INHERIT = sys.platform == "linux"
KEEPALIVE_INTERVAL = 10  # seconds between two questions, once it has come to that
KEEPALIVE_COUNT = 6  # of them that go unanswered before the connection is given up
KEEPALIVE_IDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))  # macOS: by the other name

Option = tuple[int, int, int]


def options(settings: Settings) -> list[Option]:
    """What the settings want of each connection; what the system lacks is left out."""
    wanted: list[tuple[int, int | None, int]] = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(settings.keepalive > 0)),
        (socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", None), math.ceil(settings.user_timeout * 1000)),
    ]
    if settings.keepalive:
        wanted += [
            (socket.IPPROTO_TCP, KEEPALIVE_IDLE, math.ceil(settings.keepalive)),
            (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPINTVL", None), KEEPALIVE_INTERVAL),
            (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPCNT", None), KEEPALIVE_COUNT),
        ]
    return [(level, name, value) for level, name, value in wanted if name is not None]


def apply(sock: socket.socket, wanted: list[Option]) -> None:
    """Set them all. Raises OSError, on a connection that has been reset too."""
    for level, name, value in wanted:
        sock.setsockopt(level, name, value)


def apply_accepted(descriptor: int, family: int, wanted: list[Option]) -> None:
    """Set them on an accepted descriptor."""
    accepted = socket.socket(family, socket.SOCK_STREAM, fileno=descriptor)
    with contextlib.suppress(OSError):  # a peer that has reset already
        apply(accepted, wanted)
    accepted.detach()
