"""How handlers of a worker reach the bus: its place, which costs nothing before one of them joins or publishes."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

from pronghorn.identity import BusPlace
from pronghorn.settings import Settings
from pronghorn.settings.bus import DROP_OLDEST
from pronghorn.system.descriptor_queue import DescriptorQueue


def bus_place(door: DescriptorQueue, settings: Settings, slow: Callable[[Any, bool, bool], None]) -> BusPlace:
    """The place of the bus whose hub takes connections from this door; for `slow` see there."""

    def connect() -> socket.socket:
        ours, hub = socket.socketpair()
        with hub:
            if door.put(b"link", [hub.fileno()]):
                return ours
        ours.close()
        raise BlockingIOError(errno.EAGAIN, "the door to the hub is full")

    def join(*about: Any) -> None:
        from pronghorn.connection import groups  # here: only what is used

        groups.join(*about)

    return BusPlace(
        connect=connect,
        join=join,
        longest=settings.bus_max_message,
        most_unsent=settings.max_write_buffer,
        drops_oldest=settings.bus_slow == DROP_OLDEST,
        slow=slow,
    )
