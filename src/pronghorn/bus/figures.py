"""What a hub counts, and how it stands with its broker: told to the supervisor, which shows it and exports it.

Law: imported by both ends. Counters are of one hub process and begin at 0 with it; the supervisor adds those of its
predecessors, and believes no number that cannot be true. The words of an outcome are labels of a metric.
"""

from __future__ import annotations

from typing import Any

import msgspec

OUTCOMES = "answered nobody_there cannot_answer late lost handler_failed too_long broker_away broker_lost".split()
"""What becomes of a question, in the order of wire.py's numbers."""
TOLD = "bus"  # the key of what a hub tells, on its line to the supervisor
MOST = 2**53  # what JSON carries exactly


class Counts(msgspec.Struct, kw_only=True):
    """Counters of one hub."""

    publications: int = 0
    """Messages that processes of this server, and clients at its bus socket, have published."""
    deliveries: int = 0
    """How many times a connection of this server has taken one, wherever it was published."""
    questions: dict[str, int] = {}
    """Questions that were asked by these, by their outcome."""
    slow_worker: int = 0
    """Messages for a process of this server that were dropped, since it did not read."""
    slow_broker: int = 0
    """Messages for the broker that were dropped, since it did not take them."""

    def plus(self, other: Counts) -> Counts:
        """The sum of both."""
        both = {each: self.questions.get(each, 0) + other.questions.get(each, 0) for each in OUTCOMES}
        plain = [each for each in self.__struct_fields__ if each != "questions"]
        sums = {each: getattr(self, each) + getattr(other, each) for each in plain}
        return Counts(questions={word: count for word, count in both.items() if count}, **sums)


class Broker(msgspec.Struct, kw_only=True):
    """How a hub stands with its broker."""

    up: bool = False
    why: str = ""
    """Why it is away; empty while it is there, and before the first attempt is over."""
    since: float = 0.0
    """Since when it is there, or away: seconds since 1970."""
    losses: int = 0
    """How often it went away after it had been there."""


class Told(msgspec.Struct, kw_only=True):
    """What a hub tells."""

    counts: Counts
    links: int = 0
    names: int = 0
    members: int = 0
    broker: Broker | None = None


def told(raw: Any) -> Told | None:
    """What came from a hub's process, if that can be true: it is as far from trusted as a worker."""
    try:
        found = msgspec.convert(raw, Told)
    except msgspec.ValidationError:
        return None
    counts = found.counts
    numbers = [getattr(counts, each) for each in counts.__struct_fields__ if each != "questions"]
    numbers += [found.links, found.names, found.members, *counts.questions.values()]
    if not all(0 <= each < MOST for each in numbers) or not set(counts.questions) <= set(OUTCOMES):
        return None
    if found.broker is not None and not (0 <= found.broker.losses < MOST and 0 <= found.broker.since < MOST):
        return None
    return found
