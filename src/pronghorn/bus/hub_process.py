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
from functools import partial
from typing import TYPE_CHECKING

from pronghorn.bus.figures import TOLD, Told
from pronghorn.bus.hub import SETTLING, Hub, Link
from pronghorn.system.descriptor_queue import receive
from pronghorn.system.peer_credentials import peer_uid
from pronghorn.system.processes import forgo_privileges
from pronghorn.system.side_boot import LEAVE, Side, begin

if TYPE_CHECKING:
    from pronghorn.bus.others import Others

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop

TICK, BEAT = 0.25, 1.0  # seconds
CARRIER = "carrier"  # the URL of the broker, in the settings, and after a reload on the line
FAREWELL = 1.0  # seconds in which the broker is told of the end
LAST_WORDS = 0.05  # seconds in which what was said last gets out


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


class Reporter:
    """The hub's clock: it tells the supervisor once a second what is counted, and at once how it stands with the
    broker."""

    def __init__(self, hub: Hub, side: Side) -> None:
        self._hub, self._side = hub, side
        self._loop = asyncio.get_running_loop()
        self._said: Told | None = None

    def beat(self) -> None:
        self._tell()
        self._loop.call_later(BEAT, self.beat)

    def tick(self) -> None:
        self._hub.tick()
        if self._said is not None and self._said.broker != self._hub.broker:
            self._tell()
        self._loop.call_later(TICK, self.tick)

    def _tell(self) -> None:
        told = self._hub.told()
        if told == self._said:
            return self._side.beat()
        self._said = told
        self._side.send({TOLD: told})


class Orders:
    """What the supervisor says: that the hub ends, or is replaced, which `over` is given; and that the broker has
    another URL, with a new password."""

    def __init__(self, side: Side, over: asyncio.Future[bool]) -> None:
        self._side, self._over = side, over
        self.others: Others | None = None

    def hear(self) -> None:
        side, said = self._side, self._side.take()
        for each in said:
            if CARRIER in each:
                side.settings[CARRIER] = each[CARRIER]
                if self.others is not None:
                    self.others.far.carrier.renew(each[CARRIER])
        replaced = any(LEAVE in each for each in said)
        if (side.ended or replaced) and not self._over.done():
            asyncio.get_running_loop().remove_reader(side.fileno())
            self._over.set_result(replaced)


async def serve(side: Side) -> None:
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    hub = Hub(side.settings["longest"], loop.time, lambda text: side.say("warning", text))
    if side.settings[CARRIER]:
        hub.broker_is(False, "")
    door = Door(hub, socket.socket(fileno=side.descriptors["door"]))
    loop.add_reader(side.descriptors["door"], door.take)
    if "socket" in side.descriptors:
        admitted = {0, os.geteuid(), *side.settings["admitted"]}
        listener = socket.socket(fileno=side.descriptors["socket"])
        door.server = await loop.create_unix_server(lambda: Guarded(hub, admitted), sock=listener)

    orders = Orders(side, over)
    reporter = Reporter(hub, side)
    loop.add_reader(side.fileno(), orders.hear)
    reporter.tick()
    side.ready()
    reporter.beat()
    await asyncio.sleep(SETTLING)  # whoever was linked to the hub before is back then
    orders.others = others = others_of(hub, side.settings[CARRIER]) if side.settings[CARRIER] else None
    carrying = None if others is None else loop.create_task(others.far.carrier.run())
    if carrying is not None:
        carrying.add_done_callback(partial(_ended, over))
    hub.settled()
    replaced = await over
    if others is not None and carrying is not None:
        if replaced:
            await part(hub, others)
        else:
            await others.withdraw(LAST_WORDS)
            carrying.cancel()
            await asyncio.wait([carrying], timeout=FAREWELL)


def _ended(over: asyncio.Future[bool], carrying: asyncio.Task[None]) -> None:
    """The carrier has ended by itself: a fault of ours, for which the hub ends too, and is started again."""
    if not over.done() and not carrying.cancelled():
        over.set_exception(carrying.exception() or RuntimeError("the carrier has ended"))


async def part(hub: Hub, others: Others) -> None:
    """The hub is replaced. The next one has the same names in a moment, and so the broker is not told that they end;
    who asks from another host, and has no answer yet, learns that it is lost."""
    await others.withdraw(LAST_WORDS)
    await others.far.carrier.retire()
    hub.others = None
    for each in [each for each in hub.links.values() if isinstance(each, Link)]:
        hub.lose(each)
    await asyncio.sleep(LAST_WORDS)


def others_of(hub: Hub, url: str) -> Others:
    """The other hosts."""
    from pronghorn.bus.carriers import carrier_in_any_case  # here: most servers have one host
    from pronghorn.bus.others import Others

    hub.others = found = Others(hub, lambda far: carrier_in_any_case(url, far))
    return found


def main() -> int:
    side = begin()
    forgo_privileges()
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(serve(side))
    return 0


if __name__ == "__main__":
    sys.exit(main())
