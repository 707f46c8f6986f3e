"""`--crash-penalty`: the source that makes workers crash, found by who was connected at each death.

Law: pure book-keeping; the clock is an argument. One death says little: all sources that were connected share its
blame, those more that were suspected before, and those less whose other connections ended in order in that worker. A
source that is connected at death after death is blamed more and more; one that is connected by chance is not. Blame
fades, and memory is bounded. What workers have written down about themselves may be false: an attacker who has taken
over a worker can have an address suspected.

The measure is that of sshd(8), PerSourcePenalties: it refuses who made it crash for a while, and longer each time.
"""

from __future__ import annotations

from collections.abc import Iterable

HALF_LIFE = 300.0  # seconds
PRIOR = 0.5  # the blame that everybody has who is connected
ENOUGH = 1.75  # deaths' worth of blame, to be held for guilty: two of them, though some of it has faded
SHARE = 0.6  # of the blame for this death: then it is more likely this source than all others together
LONGEST = 600.0  # seconds of refusal
MOST = 1024  # sources that are remembered
SEEN = 64  # of those that are only seen: two are enough


class Suspect:
    """One source: its blame at the instant `at`, the deaths at which it was connected, and how often it was refused."""

    __slots__ = ("at", "blame", "deaths", "times", "until")

    def __init__(self) -> None:
        self.blame = self.at = self.until = 0.0
        self.deaths = self.times = 0

    def blamed(self, now: float) -> float:
        """Its blame now."""
        return float(self.blame * 0.5 ** ((now - self.at) / HALF_LIFE))

    def refuse(self, now: float, seconds: float) -> float:
        """How long to refuse it: twice as long each time, if the times follow each other."""
        self.times = self.times + 1 if now < self.until + LONGEST else 1
        length = min(seconds * 2.0 ** min(self.times - 1, 20), max(LONGEST, seconds))
        self.until = now + length
        return length


class Suspicion:
    """The sources that were connected when workers died."""

    __slots__ = ("_known", "_seen")

    def __init__(self) -> None:
        self._known: dict[int, Suspect] = {}
        self._seen: dict[int, float] = {}  # the sources that were seen last, and when

    def __len__(self) -> int:
        return len(self._known)

    def death(self, connected: dict[int, int], now: float) -> tuple[int, Suspect] | None:
        """A worker has died; `connected` are the sources that it served, each with how many of its connections had
        ended in order there. The source that it was, if that is clear by now."""
        suspects = {source: self._known.setdefault(source, Suspect()) for source in connected}
        chances = {
            source: (PRIOR + suspect.blamed(now)) / (1 + connected[source]) for source, suspect in suspects.items()
        }
        total, worst = sum(chances.values()), None
        for source, suspect in suspects.items():
            share = chances[source] / total
            suspect.blame, suspect.at = suspect.blamed(now) + share / (1 + connected[source]), now
            suspect.deaths += 1
            if share >= SHARE and suspect.blame >= ENOUGH:
                worst = source, suspect
        self._forget(now)
        return worst

    def see(self, sources: Iterable[int], now: float) -> None:
        """These sources have had connections lately."""
        for source in sources:
            self._seen.pop(source, None)
            self._seen[source] = now
        while len(self._seen) > SEEN:
            del self._seen[next(iter(self._seen))]

    def alone(self, source: int, now: float) -> bool:
        """Whether no other source was seen lately: then it may be a proxy, and everybody comes by it."""
        return not any(each != source and now - at < HALF_LIFE for each, at in self._seen.items())

    def _forget(self, now: float) -> None:
        if len(self._known) > MOST:
            order = sorted(self._known.items(), key=lambda item: item[1].blamed(now), reverse=True)
            self._known = dict(order[: MOST // 2])
