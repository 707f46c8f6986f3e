"""The main function of the process that shares limits, for `python -P -m pronghorn.shared_limits`: one asyncio loop.

Law: as a host of the bus's carrier of its own it joins one name, and twice a second publishes there what this server
has. It reads no clock but its own: what another server has told is true for EXPIRY after it was heard. While the broker
is away nothing is known of others, and the limits are this host's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
from collections.abc import Iterable

from pronghorn.bus.carrier import Away, Carrier, told_of
from pronghorn.bus.carriers import carrier_in_any_case
from pronghorn.scoreboard.map import Map
from pronghorn.shared_limits.counting import Counting
from pronghorn.shared_limits.records import Record, packed, unpacked
from pronghorn.system.processes import forgo_privileges
from pronghorn.system.side_boot import LEAVE, Side, begin

NAME = b"\0limits"
"""What all these processes join. Whoever else publishes there is heard by them, and sends no record."""
BEAT = 0.5
"""Seconds from one record of a server to its next."""
EXPIRY = 2.0
"""Seconds for which a record is true, and what others have while the broker does not answer."""
PATIENCE = 1.0
"""Seconds in which a record is sent."""
MOST_SERVERS = 256
LIMITS, SHARED, CARRIER = "limits", "shared", "carrier"
"""On the line to the supervisor: after a reload the limits, and the broker's URL; and how sharing goes."""


class Sharing:
    """What this process hears of others, and tells the supervisor: the carrier's `Host`."""

    joins = True

    def __init__(self, side: Side, counting: Counting, loop: asyncio.AbstractEventLoop) -> None:
        self._side, self._counting, self._loop = side, counting, loop
        self._id = secrets.token_hex(8)
        self._heard: dict[str, tuple[float, Record]] = {}
        self._began = loop.time()
        self._up: bool | None = None
        self._good_at = 0.0
        self._told: dict[str, object] = {}
        self._why = "The broker has not answered yet."
        self.reached = asyncio.Event()
        self._not_ours = False  # was said of what came

    # The carrier's side

    @property
    def id(self) -> str:
        return self._id

    def hear(self, data: bytes) -> None:
        record = unpacked(data)
        if record is None:
            return self.not_ours("what is no record")
        if record.server == self._counting.server:
            return
        if record.demand < 0:
            self._heard.pop(record.server, None)
        elif record.server in self._heard or len(self._heard) < MOST_SERVERS:
            self._heard[record.server] = self._loop.time(), record

    def here(self) -> Iterable[tuple[bytes, float, bool]]:
        return [(NAME, 0.0, False)]

    def evict(self, name: bytes, before: float) -> None:
        """Nobody holds the name alone."""

    def gone(self, host: str) -> None:
        """What it has told counts until it is too old."""

    def not_ours(self, what: str) -> None:
        if not self._not_ours:
            self._not_ours = True
            self._side.say("warning", told_of(what))

    def up(self) -> None:
        self.reached.set()

    def down(self, why: str) -> None:
        self._why = why

    # Twice a second

    async def beat(self, carrier: Carrier) -> None:
        """Tell the others, and write down what they have told."""
        now = self._loop.time()
        try:
            async with asyncio.timeout(PATIENCE):
                await carrier.to_all(NAME, self._counting.record())
        except (Away, TimeoutError) as error:
            self._failed(str(error) or "The broker does not answer.")
        else:
            self._good_at = now
            self._heard = {each: heard for each, heard in self._heard.items() if now - heard[0] < EXPIRY}
            self._counting.write([record for _, record in self._heard.values()], EXPIRY)
            if not self._up:
                self._side.say("info", "The broker is there: limits are shared with the servers of other hosts.")
            self._up = True
        self._tell(up=bool(self._up), hosts=1 + len(self._heard) if self._up else 0, why="" if self._up else self._why)

    def _failed(self, why: str) -> None:
        self._counting.failed()
        self._why = why
        if self._loop.time() - (self._good_at or self._began) < EXPIRY:
            return
        self._counting.alone()  # each time: a worker may have written there
        if self._up is False:
            return
        self._up = False
        self._heard.clear()
        self._side.say("warning", f"Limits are shared with no other host, and are this host's own: {why}")

    def _tell(self, **state: object) -> None:
        if state != self._told:
            self._told = state
            self._side.send({SHARED: state})

    async def goodbye(self, carrier: Carrier) -> None:
        """Others need not wait until what this server has told is over."""
        with contextlib.suppress(Away, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await carrier.to_all(NAME, packed(self._counting.server, -1.0, {}))


async def share(side: Side) -> None:
    loop = asyncio.get_running_loop()
    over, stays = asyncio.Event(), False
    counting = Counting(Map(side.descriptors["board"]), *side.settings[LIMITS])
    sharing = Sharing(side, counting, loop)
    carrier = carrier_in_any_case(side.settings[CARRIER], sharing)

    def heard() -> None:
        nonlocal stays
        for message in side.take():
            if LIMITS in message:
                counting.per_source, counting.rate = message[LIMITS]
            if CARRIER in message:
                carrier.renew(message[CARRIER])
            if LEAVE in message:  # an upgrade: the new program tells what this one did, of the same server
                stays = True
                over.set()
        if side.ended:
            loop.remove_reader(side.fileno())
            over.set()

    loop.add_reader(side.fileno(), heard)
    side.ready()
    running = loop.create_task(carrier.run())
    await first({loop.create_task(sharing.reached.wait()), loop.create_task(over.wait())}, PATIENCE)
    while not over.is_set():
        began = loop.time()
        await sharing.beat(carrier)
        side.beat()
        await first({loop.create_task(over.wait())}, max(0.05, BEAT - (loop.time() - began)))
        if running.done():
            running.result()  # a fault of ours ends the process, which is started again
    if not stays:
        await sharing.goodbye(carrier)
    running.cancel()
    await asyncio.wait({running}, timeout=PATIENCE)


async def first(tasks: set[asyncio.Task[bool]], seconds: float) -> None:
    """Wait for the first of these, but no longer than that."""
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for each in tasks:
        each.cancel()


def main() -> int:
    side = begin()
    forgo_privileges()
    asyncio.run(share(side))
    return 0


if __name__ == "__main__":
    sys.exit(main())
