"""Rosters: which hosts have members of a name, since when, and whether alone; each of these hosts keeps one.

Law: pure. Hosts that have heard the same have the same roster, in the same order, whatever their clocks say.
"""

from __future__ import annotations

STEP = 1e-3
"""Seconds by which a member that joins is later than all others, at least, where its host's clock is behind."""

Entry = tuple[float, bool]
"""Since when a host's latest member has joined, and whether it holds the name alone."""


class Roster:
    """The hosts that have members of one name."""

    __slots__ = ("hosts",)

    def __init__(self) -> None:
        self.hosts: dict[str, Entry] = {}

    def enter(self, host: str, since: float, alone: bool) -> None:
        """A host has members, the latest of which counts since then."""
        self.hosts[host] = since, alone

    def by_age(self) -> list[str]:
        """The hosts, the one whose member is the latest last."""
        return sorted(self.hosts, key=lambda host: (self.hosts[host][0], host))

    def latest(self) -> str:
        """The host whose member is the latest; an empty text if there is none."""
        return max(self.hosts, key=lambda host: (self.hosts[host][0], host), default="")

    def listing(self) -> list[tuple[str, float, bool]]:
        """All that the roster says."""
        return [(host, *entry) for host, entry in self.hosts.items()]
