"""Which part of a rate each host has: by how many clients come to each.

Law: all parts together are the whole, if all hosts know the same of each other. What nobody needs is spread evenly;
where more come than may, those with the fewest have what they need, and the rest is shared by the others evenly
(max-min fairness). A host to which nobody comes keeps a little, for its next clients.
"""

from __future__ import annotations

from collections.abc import Sequence

KEPT = 8
"""An eighth of the rate is kept for hosts to which nobody comes, together."""


def part(rate: float, mine: float, others: Sequence[float]) -> float:
    """This host's part of a rate, from 0 to 1, where `mine` and `others` are what comes in a second."""
    hosts = 1 + len(others)
    least = rate / KEPT / hosts
    wanted = [max(least, each) for each in (mine, *others)]
    spare = rate - sum(wanted)
    if spare >= 0:
        return (wanted[0] + spare / hosts) / rate
    return min(wanted[0], _level(rate, wanted)) / rate


def _level(rate: float, wanted: Sequence[float]) -> float:
    """How much each may have at most, so that all together have the rate; they want more than that."""
    left = rate
    rest = sorted(wanted)
    for place, each in enumerate(rest):
        level = left / (len(rest) - place)
        if each > level:
            return level
        left -= each
    return rest[-1]
