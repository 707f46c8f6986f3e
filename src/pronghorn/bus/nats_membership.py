"""Who has what, by NATS: the rosters of the names that have members here, kept the same with the other hosts.

Law: a host subscribes first, and then says that it joins, with an address for answers: each host that has the name
answers, or the server, that nobody has it. While that lasts the host is no member yet: what it is asked on that subject
waits. Since when a member counts is said by its own host alone, which moves it behind all that had joined before, if
its clock is behind: all hosts compare the same instants, and so they find the same order. Of two that join at the same
time each hears the other, or is answered by it, since a connection keeps the order of what is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from random import random

from pronghorn.bus.carrier import NOT_BACK, Away, Host, NotOurs
from pronghorn.bus.nats_mail import (
    ANSWERED,
    AWAY,
    JOINS,
    LEAVES,
    LOST,
    ROSTER,
    Mail,
    encode,
    join_of,
    leaver_of,
    state_of,
)
from pronghorn.bus.nats_rosters import STEP, Roster
from pronghorn.bus.wire import REFUSE, SHARED

ROUTES = 0.05
"""Seconds after which the servers of a cluster know what a client of another one has subscribed to."""
AGAIN_AFTER = 0.5
"""Seconds after which, in a cluster, a host says again what it has joined: both may have joined too close to each
other to hear of it."""
GRACE = 0.1
"""Seconds in which a host that has a name answers, where others that are about to join have answered before it."""
MOST_HELD = 1000  # messages that wait for one join to be over

ABSENT, PENDING, MEMBER, TAKEN = range(4)
"""What a host says of itself to one that joins: it has no member any more; it is about to join as well; it has; and
the name, which the other wanted only if it was free, is taken."""


class Joining:
    """A join that is not over yet."""

    def __init__(self, since: float, mode: int, was_member: bool) -> None:
        self.wanted = self.since = since
        self.mode, self.was_member = mode, was_member
        self.alone = mode != SHARED
        loop = asyncio.get_running_loop()
        self.round: asyncio.Future[int] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self.answered: set[str] = set()
        self.expected: set[str] = set()
        self.absent: set[str] = set()
        self.beaten_by: set[tuple[str, float]] = set()
        self.before = 0.0  # the latest of those that had joined before
        self.taken = self.left = False
        self.doubtful = False  # a host that is not there now may have the name
        self.held: list[Callable[[], None]] = []

    def end_round(self, how: int) -> None:
        if not self.round.done():
            self.round.set_result(how)

    @property
    def all_answered(self) -> bool:
        return bool(self.answered) and self.expected - self.absent <= self.answered


class Membership:
    """The names that have members here, and their rosters. `met` is called for each host that is heard of."""

    def __init__(
        self,
        mail: Mail,
        host: Host,
        now: Callable[[], float],
        met: Callable[[str], None],
        one_may_be_back: Callable[[], Awaitable[bool]],
    ) -> None:
        self._one_may_be_back = one_may_be_back
        self.rosters: dict[bytes, Roster] = {}
        self._joins: dict[bytes, Joining] = {}
        self._turns: dict[bytes, list[asyncio.Event]] = {}
        """Joins that wait for one before them, each with whether the name has been left since it was called."""
        self._moved: dict[bytes, float] = {}  # since when by this host's own clock
        self._mail, self._host, self._now, self._met = mail, host, now, met
        self._id = mail.id

    def latest(self, name: bytes) -> str:
        """The host whose member is the latest, if this host is a member; else an empty text."""
        roster = self.rosters.get(name)
        return roster.latest() if roster is not None and self._id in roster.hosts else ""

    # What this host does.

    async def join(self, name: bytes, since: float, mode: int) -> bool:
        """See Carrier.join."""
        if name in self._joins and await self._left_meanwhile(name):
            return True
        connection = self._mail.connected()
        roster = self.rosters.setdefault(name, Roster())
        joining = Joining(since, mode, self._id in roster.hosts)
        if mode == REFUSE and roster.hosts.keys() - {self._id}:
            return False
        self._joins[name] = joining
        try:
            if not joining.was_member:
                connection.subscribe(self._mail.subject(name))
                if connection.routed and mode == REFUSE:
                    await asyncio.sleep(ROUTES)
                joining.doubtful = mode == REFUSE and await self._one_may_be_back()
            return await self._announce(name, joining)
        finally:
            del self._joins[name]
            joining.over.set_result(None)
            for each in joining.held:
                each()

    async def _left_meanwhile(self, name: bytes) -> bool:
        """Wait for the joins that were called before; whether the name has been left since then."""
        turn = asyncio.Event()
        turns = self._turns.setdefault(name, [])
        turns.append(turn)
        try:
            while (other := self._joins.get(name)) is not None:
                await asyncio.wait([other.over])
        finally:
            turns.remove(turn)
            if not turns:
                self._turns.pop(name, None)
        return turn.is_set()

    async def _announce(self, name: bytes, joining: Joining) -> bool:
        roster = self.rosters[name]
        joining.before = max((when for host, (when, _) in roster.hosts.items() if host != self._id), default=0.0)
        while True:
            if joining.before >= joining.since:
                joining.since = joining.before + STEP * (1 + random())
            how = await self._say(name, joining)
            if how in (AWAY, LOST):
                if not joining.was_member:
                    self._withdraw(name, joining)
                raise Away(self._mail.why)
            if joining.taken or joining.left:
                if not joining.was_member or joining.left:
                    self._withdraw(name, joining)
                return not joining.taken
            if joining.before < joining.since:
                break
        if joining.doubtful:
            self._withdraw(name, joining)
            raise Away(NOT_BACK, soon=True)
        roster.enter(self._id, joining.since, joining.alone)
        self._moved.pop(name, None)
        if joining.since != joining.wanted:
            self._moved[name] = joining.wanted
        if (connection := self._mail.connection) is not None and connection.routed:
            asyncio.get_running_loop().call_later(AGAIN_AFTER, self.tell_again, name)
        return True

    async def _say(self, name: bytes, joining: Joining) -> int:
        """Tell all others of the join, and wait for their answers: how that ended."""
        said = JOINS + encode((self._id, joining.since, joining.alone, joining.mode == REFUSE))
        if joining.was_member and not joining.alone:
            self._mail.to_name(name, said)
            return ANSWERED
        joining.round = asyncio.get_running_loop().create_future()
        joining.answered.clear()
        self._mail.to_name(name, said, partial(self._heard_back, name, joining))
        return await joining.round

    def _heard_back(self, name: bytes, joining: Joining, how: int, data: bytes) -> bool:
        """An answer to a join. All hosts that are named by a member have to answer. Raises NotOurs."""
        if how != ANSWERED:
            joining.end_round(how)
            return False
        about, host, state, hosts, entry = state_of(data)
        if about != name or (state == MEMBER and entry is None):
            raise NotOurs("an answer to another question")
        if joining.over.done():
            self.take_roster(data)
        elif state == TAKEN:
            joining.taken = True
            joining.end_round(how)
        elif state == PENDING and entry:
            self.rosters[name].enter(host, *entry)
            self._met(host)
            self._yield_to(name, joining, host, *entry)
        elif state == MEMBER and entry:
            since, alone = entry
            self._met(host)
            self.rosters[name].enter(host, since, alone)
            joining.answered.add(host)
            joining.expected.update(hosts)
            joining.expected.discard(self._id)
            if (host, since) not in joining.beaten_by:
                joining.before = max(joining.before, since)
            if joining.all_answered:
                joining.end_round(how)
        if state in (PENDING, ABSENT):
            asyncio.get_running_loop().call_later(GRACE, joining.end_round, how)
        return True

    def _yield_to(self, name: bytes, joining: Joining, host: str, since: float, alone: bool) -> None:
        """Another host joins at the same time: the later one goes before."""
        joining.beaten_by.add((host, since))
        if joining.mode == REFUSE:
            return
        if alone:
            self._host.evict(name, since if joining.since < since else min(since, joining.wanted))

    def leave(self, name: bytes) -> None:
        """The last member here has left this name."""
        joining = self._joins.get(name)
        for turn in self._turns.get(name, ()):
            turn.set()
        if joining is not None:
            joining.left = True
        elif name in self.rosters:
            self._withdraw(name)

    def _withdraw(self, name: bytes, joining: Joining | None = None) -> None:
        """Have no member of a name any more. Others have taken this host for a member since it has said that it joins,
        unless it wanted the name only if it was free."""
        roster = self.rosters.pop(name, None)
        self._moved.pop(name, None)
        if self._mail.connection is None or roster is None:
            return
        was_member = roster.hosts.pop(self._id, None) is not None
        if (was_member and roster.hosts) or (joining is not None and joining.mode != REFUSE):
            self._mail.to_name(name, LEAVES + encode(self._id))
        self._mail.connection.unsubscribe(self._mail.subject(name))

    async def come_back(self) -> None:
        """The broker is there: subscribe to all that has members here, and say so."""
        connection = self._mail.connected()
        self.forget()
        for name, since, alone in list(self._host.here()):
            self.rosters[name] = roster = Roster()
            roster.enter(self._id, since, alone)
            connection.subscribe(self._mail.subject(name))
            if not len(self.rosters) % 1000:
                await asyncio.sleep(0)
        await self.tell_all()
        if connection.routed:
            asyncio.get_running_loop().call_later(AGAIN_AFTER, self.tell_all_soon)

    def tell_all_soon(self) -> None:
        self._telling = asyncio.create_task(self.tell_all())

    async def tell_all(self) -> None:
        """Say of each name that it has members here."""
        connection = self._mail.connection
        for name in list(self.rosters):
            if connection is None or self._mail.connection is not connection:
                return
            self.tell_again(name)
            await connection.room()

    def tell_again(self, name: bytes) -> None:
        """Say that a name has members here, without being the latest by that."""
        roster = self.rosters.get(name)
        if roster is not None and self._id in roster.hosts:
            self._mail.to_name(name, JOINS + encode((self._id, *roster.hosts[self._id], False)))

    # What other hosts say.

    def hold(self, name: bytes, call: Callable[[], None]) -> bool:
        """Whether this host is about to join: then the call waits until it has joined."""
        joining = self._joins.get(name)
        if joining is None or joining.was_member or len(joining.held) >= MOST_HELD:
            return False
        joining.held.append(call)
        return True

    def other_joins(self, name: bytes, reply: str, data: bytes) -> None:
        """Another host joins, or says that it has. Raises NotOurs."""
        host, since, alone, refuse = join_of(data)
        roster, joining = self.rosters.get(name), self._joins.get(name)
        taken = False
        if refuse:
            taken = bool(self.latest(name)) or self._is_before(joining, since, host)
        elif roster is not None:
            self._met(host)
            roster.enter(host, since, alone)
            if joining is not None:
                joining.taken |= joining.mode == REFUSE
                self._yield_to(name, joining, host, since, alone)
            elif alone and self._id in roster.hosts:
                mine, _ = roster.hosts[self._id]
                self._host.evict(name, since if mine < since else min(since, self._moved.get(name, since)))
        answer = self._state(name, taken)
        if reply:
            self._mail.answer(reply, answer)
        elif self.latest(name):
            self._mail.to_host(host, answer)

    def _state(self, name: bytes, taken: bool) -> bytes:
        """What this host says of itself to one that joins: its state, and its roster."""
        roster, joining = self.rosters.get(name), self._joins.get(name)
        entry: tuple[float, bool] | None = None
        hosts: list[str] = []
        if roster is not None and self._id in roster.hosts:
            state, entry, hosts = MEMBER, roster.hosts[self._id], list(roster.hosts)
        elif roster is not None and joining is not None:
            state, entry = PENDING, (joining.since, joining.alone) if joining.mode != REFUSE else None
        else:
            state = ABSENT
        return ROSTER + encode((name, self._id, TAKEN if taken else state, hosts, entry))

    def _is_before(self, joining: Joining | None, since: float, host: str) -> bool:
        """Whether a join here that is not over goes before one of another host that wants the name if it is free."""
        if joining is None:
            return False
        if joining.mode != REFUSE or (joining.since, self._id) < (since, host):
            return True
        joining.taken = True
        return False

    def other_leaves(self, name: bytes, data: bytes) -> None:
        """Another host has no member any more. Raises NotOurs."""
        self._without(name, leaver_of(data))

    def take_roster(self, data: bytes) -> None:
        """What another host that has a name says of itself, where this one did not just join. Raises NotOurs."""
        name, host, state, _, entry = state_of(data)
        roster = self.rosters.get(name)
        if roster is None or state != MEMBER or entry is None:
            return
        since, alone = entry
        self._met(host)
        roster.enter(host, since, alone)
        mine = roster.hosts.get(self._id)
        if alone and mine is not None and mine[0] < since and name not in self._joins:
            self._host.evict(name, since)

    def _without(self, name: bytes, host: str) -> None:
        roster, joining = self.rosters.get(name), self._joins.get(name)
        if roster is not None:
            roster.hosts.pop(host, None)
        if joining is not None:
            joining.absent.add(host)
            if joining.all_answered:
                joining.end_round(ANSWERED)

    def lose(self, host: str) -> None:
        """A host is gone."""
        for name in self.rosters:
            self._without(name, host)

    def forget(self) -> None:
        """The broker is away: who has what will have to be told again."""
        self.rosters.clear()
        self._moved.clear()
