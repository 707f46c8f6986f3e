"""Whether an accepting flow of control or a loop calls accept(2) now, or rests.

Law: pure; the clock is an argument, and nothing here knows listeners or descriptors. Loops have one gate for each
acceptor, flows of control one for all listeners.
"""

from __future__ import annotations

ALONE = 8  # connections that are taken one by one where workers have just died
ALONE_PAUSE = 0.05  # seconds between two of those: a thread on a busy machine is to read, and perhaps to crash, within
FAIR_PAUSE = 0.002  # seconds that an acceptor rests for an emptier worker's sake
EXHAUSTED_PAUSE = 0.1  # seconds that an acceptor rests when descriptors or memory ran out (sshd, trio, Ranch: the same)


class Gate:
    """Open, or closed until an instant (monotonic seconds). A gate that has closed for want of descriptors, or of room,
    opens sooner if a connection ends. `alone` connections come one by one at first, with a pause after each."""

    __slots__ = ("_short", "_until", "alone")

    def __init__(self, alone: int = 0) -> None:
        self.alone = alone
        self._until = 0.0
        self._short = False

    def is_open(self, now: float) -> bool:
        return now >= self._until

    def wait(self, now: float) -> float:
        """Seconds until the gate opens; 0 if it is open."""
        return max(0.0, self._until - now)

    def rest(self, seconds: float, now: float) -> None:
        """Close for so long; infinity is for ever."""
        self._until, self._short = now + seconds, False

    def run_short(self, now: float) -> None:
        """There is no descriptor, or no room: close for a while, or until a connection ends."""
        self.rest(EXHAUSTED_PAUSE, now)
        self._short = True

    def relieve(self) -> bool:
        """A connection has ended: open if the gate had closed for want of room, and return whether that is so."""
        short, self._short = self._short, False
        if short:
            self._until = 0.0
        return short

    def took_one(self, now: float) -> None:
        """One of the `alone` connections was accepted: close for a moment."""
        self.alone -= 1
        self.rest(ALONE_PAUSE, now)
