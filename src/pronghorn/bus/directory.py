"""The directory: which connections have joined which names, in the order in which they joined.

Law: pure; nothing here sends. A connection is known by its link and its number there. When it joined is what its own
process says (a clock that all processes of a machine share), so that the order, and who holds a name alone, are the
same again after links have come back to a new hub. What one link may hold is bounded, so that no process can fill the
memory of the hub.
"""

from __future__ import annotations

from collections.abc import Iterable

from pronghorn.bus.wire import REFUSE, SHARED

MOST_NAMES = 1_000_000
"""Names that the connections of one link have joined."""

Member = tuple[int, int]
"""A connection: the number of its link, and its own there."""


class Directory:
    """Names and their members, the latest last: of each, since when it is one (seconds), and whether alone."""

    def __init__(self) -> None:
        self._names: dict[bytes, dict[Member, tuple[float, bool]]] = {}
        self._joined: dict[int, dict[int, set[bytes]]] = {}  # by link, and by connection
        self._held: dict[int, int] = {}  # how many each link has joined
        self._emptied: set[bytes] | None = None

    def join(self, member: Member, name: bytes, mode: int, since: float) -> list[Member] | None:
        """Add a member. Gives those that have to leave, and have left: those that joined before, if it wants the name
        alone (REPLACE and REFUSE), or the member itself, if somebody has wanted the name alone after `since`. None if
        the name is taken, and the member does not take it from others (REFUSE), or if its link has joined too many."""
        link, number = member
        members = self._names.get(name, {})
        others = [each for each in members if each != member]
        if mode == REFUSE and others:
            return None
        if any(alone and when > since for each, (when, alone) in members.items() if each != member):
            self.leave(member, name)
            return [member]
        before = [each for each in others if members[each][0] <= since] if mode != SHARED else []
        for each in before:
            self.leave(each, name)
        if member not in members:
            if self._held.get(link, 0) >= MOST_NAMES:
                return None
            self._held[link] = self._held.get(link, 0) + 1
            self._joined.setdefault(link, {}).setdefault(number, set()).add(name)
        members = self._names.setdefault(name, {})
        members.pop(member, None)
        late = bool(members) and next(reversed(members.values()))[0] > since
        members[member] = since, mode != SHARED
        if late:
            self._names[name] = dict(sorted(members.items(), key=lambda item: item[1][0]))
        return before

    def leave(self, member: Member, name: bytes, since: float | None = None) -> None:
        """Take a member away; nothing happens if it is none, or has left and joined again after `since`. An empty name:
        from all that it has joined."""
        link, number = member
        names = self._joined.get(link, {}).get(number)
        if names is None or (since is not None and name in names and self._names[name][member][0] != since):
            return
        for each in names & {name} if name else list(names):
            names.remove(each)
            self._held[link] -= 1
            members = self._names[each]
            del members[member]
            if not members:
                del self._names[each]
                if self._emptied is not None:
                    self._emptied.add(each)
        if not names:
            del self._joined[link][number]

    def lose(self, link: int) -> None:
        """A link has ended, and all its connections have left."""
        for number in list(self._joined.get(link, ())):
            self.leave((link, number), b"")
        self._joined.pop(link, None)
        self._held.pop(link, None)

    def keep_empty(self) -> None:
        """From now on `now_empty` is asked for."""
        self._emptied = set()

    def now_empty(self) -> list[bytes]:
        """Names that have lost their last member since the last call, and have none."""
        if not self._emptied:
            return []
        found = [name for name in self._emptied if name not in self._names]
        self._emptied.clear()
        return found

    def alone(self, name: bytes) -> bool:
        """Whether the only member wants the name alone."""
        members = self._names.get(name, {})
        return len(members) == 1 and next(iter(members.values()))[1]

    def all(self) -> list[tuple[bytes, float, bool]]:
        """Each name, since when its latest member is one, and whether a member wants it alone."""
        return [
            (name, next(reversed(members.values()))[0], any(alone for _, alone in members.values()))
            for name, members in self._names.items()
        ]

    def evict(self, name: bytes, before: float) -> list[Member]:
        """Take away the members that have joined before this instant; who they are."""
        found = [each for each, (since, _) in self._names.get(name, {}).items() if since < before]
        for each in found:
            self.leave(each, name)
        return found

    def members(self, name: bytes) -> Iterable[Member]:
        """Who has joined, the latest last."""
        return self._names.get(name, ())

    def since(self, name: bytes) -> list[tuple[Member, float]]:
        """Who has joined, and when, the latest last."""
        return [(member, when) for member, (when, _) in self._names.get(name, {}).items()]

    def groups(self, prefix: bytes, most: int) -> list[tuple[bytes, int]]:
        """Names that begin so, with their numbers of members, in order; `most` at most."""
        found = sorted(name for name in self._names if name.startswith(prefix))
        return [(name, len(self._names[name])) for name in found[:most]]

    @property
    def joined(self) -> int:
        """How many members all names have."""
        return sum(self._held.values())

    def __len__(self) -> int:
        return len(self._names)
