"""A client of the bus outside all servers: so many questions a second to random devices, each answer looked at.

Law: every question is counted by how it ended: `right`, `wrong` (another device's answer, or another question's), or
the name of the error. For each line of standard input one line of JSON tells the counts so far; for the line `all`
every device is asked once, and the counts are of that alone. The end of standard input is the end of the process.

    python host_asker.py URL RATE DEVICES
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter
from typing import Any

from pronghorn import bus

PATIENCE, PATIENCE_OF_ALL = 10.0, 0.5
AT_ONCE = 1000  # questions, where all are asked


class Asker:
    """Asks `device:0` to `device:N`, and what was answered."""

    def __init__(self, client: Any, devices: int) -> None:
        self.client, self.devices = client, devices
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self.times: list[float] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self, rate: float) -> None:
        """Questions at a steady rate, whatever becomes of those before."""
        began = time.monotonic()
        for number in itertools.count():
            if (wait := began + number / rate - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self._ask(number))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _ask(self, number: int) -> None:
        began = time.monotonic()
        outcome = await self._outcome(random.randrange(self.devices), number, PATIENCE)
        self.counts[outcome] += 1
        if outcome == "right":
            self.times.append(time.monotonic() - began)

    async def _outcome(self, device: int, number: int, patience: float) -> str:
        try:
            answer = await self.client.ask(f"device:{device}", b"%d" % number, timeout=patience)
        except bus.BusError as error:
            outcome, note = type(error).__name__, str(error)
        else:
            if answer == b"%d:%d" % (device, number):
                return "right"
            outcome, note = "wrong", repr(answer)
        self.notes = [
            *self.notes[-99:],
            f"{time.monotonic():.3f} device {device}, question {number}: {outcome}, {note}",
        ]
        return outcome

    async def all(self) -> str:
        """What became of one question to each device."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(device: int) -> str:
            async with gate:
                return await self._outcome(device, -device, PATIENCE_OF_ALL)

        outcomes = await asyncio.gather(*map(one, range(self.devices)))
        return json.dumps({"counts": Counter(outcomes), "notes": self.notes[-5:]})

    def told(self) -> str:
        ordered = sorted(self.times) or [0.0]
        times = {name: ordered[int(len(ordered) * part)] for name, part in (("median", 0.5), ("99 %", 0.99))}
        told = {"counts": self.counts, "notes": self.notes, "times": times, "slowest": ordered[-1]}
        return json.dumps({**told, "under way": len(self.tasks)})


async def main(url: str, rate: float, devices: int) -> None:
    async with bus.aconnect(url) as client:
        asker = Asker(client, devices)
        asking = asyncio.create_task(asker.run(rate))
        while order := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
            print(await asker.all() if order == "all\n" else asker.told(), flush=True)
        asking.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
