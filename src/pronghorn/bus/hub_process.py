"""The hub's process: the hub of the local bus on an asyncio loop, until its line to the supervisor has ended.

Law: run as `python -P -m pronghorn.bus.hub_process FD`, by supervisor/bus_side.py, when a process of the server has put
a connection into the door, a queue of descriptors that all of them have. Others come in by a unix socket, and are
admitted if they are the server's user, its workers', or root (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable

from pronghorn.bus.hub import SETTLING, Hub, Link
from pronghorn.system.descriptor_queue import receive
from pronghorn.system.peer_credentials import peer_uid
from pronghorn.system.processes import forgo_privileges
from pronghorn.system.side_boot import Side, begin

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop

TICK, BEAT = 0.25, 1.0  # seconds
FAREWELL = 1.0  # seconds in which the broker is told of the end


class Guarded(Link):
    """A link that has come in by the unix socket."""

    def __init__(self, hub: Hub, admitted: set[int]) -> None:
        super().__init__(hub)
        self._admitted = admitted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        uid = peer_uid(transport.get_extra_info("socket"))
        if uid not in self._admitted:
            self.refuse(f"A process of user {uid} is not admitted to the bus.")


class Door:
    """Where the processes of the server put their connections."""

    def __init__(self, hub: Hub, end: socket.socket) -> None:
        self._hub, self._end = hub, end
        self._opening: set[asyncio.Task[object]] = set()
        self.server: asyncio.AbstractServer | None = None
        """For those who come in by the unix socket: uvloop closes its listener with a server that nobody refers to."""

    def take(self) -> None:
        """Take in all who wait."""
        loop = asyncio.get_running_loop()
        while (taken := receive(self._end)) is not None:
            for fd in taken[1]:
                try:
                    sock = socket.socket(fileno=fd)
                except OSError:  # a process that has been broken into may put anything there
                    os.close(fd)
                    continue
                sock.setblocking(False)
                task = loop.create_task(loop.connect_accepted_socket(lambda: Link(self._hub), sock))
                self._opening.add(task)
                task.add_done_callback(self._opening.discard)


async def serve(side: Side) -> None:
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    hub = Hub(side.settings["longest"], loop.time, lambda text: side.say("warning", text))
    door = Door(hub, socket.socket(fileno=side.descriptors["door"]))
    loop.add_reader(side.descriptors["door"], door.take)
    if "socket" in side.descriptors:
        admitted = {0, os.geteuid(), *side.settings["admitted"]}
        listener = socket.socket(fileno=side.descriptors["socket"])
        door.server = await loop.create_unix_server(lambda: Guarded(hub, admitted), sock=listener)

    def heard() -> None:
        side.take()
        if side.ended and not over.done():
            loop.remove_reader(side.fileno())
            over.set_result(None)

    def beat() -> None:
        side.beat()
        loop.call_later(BEAT, beat)

    def tick() -> None:
        hub.tick()
        loop.call_later(TICK, tick)

    loop.add_reader(side.fileno(), heard)
    tick()
    side.ready()
    beat()
    await asyncio.sleep(SETTLING)  # whoever was linked to the hub before is back then
    carrying = carry(hub, side) if side.settings.get("carrier") else None
    hub.settled()
    await over
    if carrying is not None:
        carrying.cancel()
        await asyncio.wait([carrying], timeout=FAREWELL)


def carry(hub: Hub, side: Side) -> asyncio.Task[None]:
    """From now on other hosts are reached."""
    from pronghorn.bus.carriers import carrier_of  # here: most servers have one host
    from pronghorn.bus.others import Others

    url = side.settings["carrier"]
    hub.others = Others(hub, lambda far: carrier_of(url, far), lambda text: side.say("warning", text))
    return asyncio.get_running_loop().create_task(hub.others.far.carrier.run())


def main() -> int:
    side = begin()
    forgo_privileges()
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(serve(side))
    return 0


if __name__ == "__main__":
    sys.exit(main())
