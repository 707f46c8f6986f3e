"""Where the scoreboard counts for each listener: its number, by its name, the same in all generations and programs."""

from __future__ import annotations

from collections.abc import Iterable

from pronghorn.scoreboard.map import MOST_LISTENERS


class ListenerNumbers:
    """Numbers from 0 on; a name that had one keeps it, whether or not there is such a listener now."""

    def __init__(self, known: dict[str, int] | None = None) -> None:
        self.known = dict(known or {})

    def of(self, names: Iterable[str]) -> dict[str, int]:
        """The number of each name; there is none for names beyond MOST_LISTENERS."""
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            if name not in self.known and len(self.known) < MOST_LISTENERS:
                self.known[name] = len(self.known)
        return {name: self.known[name] for name in wanted if name in self.known}
