"""Trials that a busy machine can spoil, and how that is known: by the pauses that a heartbeat has.

Law: a trial whose limits are shorter than a pause of a busy machine is made anew only where the machine was busy while
it was made, which the heartbeat tells, whatever the trial found. On a quiet machine its first fault is its last.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

BEAT = 0.01
"""Seconds between two beats."""
QUIET = 0.008
"""Seconds that a beat is late at most while the machine is quiet; with some processes for each processor it is later
several times in each second."""
TIMES = 5


class Heartbeat(threading.Thread):
    """Asks for the processor a hundred times in each second, from entering to leaving."""

    def __init__(self) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self.latest = 0.0
        """Seconds that the latest beat of all was late."""
        self._over = threading.Event()

    def run(self) -> None:
        over = False
        while not over:
            due = time.monotonic() + BEAT
            over = self._over.wait(BEAT)
            self.latest = max(self.latest, time.monotonic() - due)

    def __enter__(self) -> Heartbeat:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    @property
    def was_quiet(self) -> bool:
        return self.latest <= QUIET


def undisturbed(trial: Callable[[], T], times: int = TIMES) -> T:
    """What a trial returns. One that fails, by an AssertionError or an OSError, is made anew if the machine was busy
    meanwhile, until it was made so often."""
    for number in range(times):
        with Heartbeat() as heartbeat:
            try:
                return trial()
            except (AssertionError, OSError) as fault:
                if heartbeat.was_quiet or number == times - 1:
                    raise
                print(f"made anew, since the machine was busy (a beat {heartbeat.latest * 1000:.0f} ms late): {fault}")
    raise AssertionError("unreachable")
