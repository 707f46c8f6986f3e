"""The carrier over NATS: core NATS only, with subjects, and the server's word that nobody has subscribed.

Law: a name is a subject, and each host that has members of it subscribes and keeps its roster: so a name costs nothing
where it is not joined. Whoever only publishes keeps no roster, and is told one by the hosts that answer. A message for
one member is sent to one host alone (nats_routes.py), so that no two can take it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from functools import partial

from pronghorn.bus.carrier import NOT_BACK, Away, Host, NotOurs
from pronghorn.bus.nats_connection import NatsConnection
from pronghorn.bus.nats_mail import (
    AGAIN,
    ANSWERED,
    AWAY,
    DATA,
    JOINS,
    LATE,
    LEAVES,
    LOST,
    NOBODY,
    ONE,
    PROBE,
    ROSTER,
    WHO,
    Mail,
    encode,
    listing_of,
    name_of,
    number_of,
    one_of,
)
from pronghorn.bus.nats_membership import GRACE, ROUTES, Membership
from pronghorn.bus.nats_presence import Presence
from pronghorn.bus.nats_rosters import Roster
from pronghorn.bus.nats_routes import CUT_OFF, ELSEWHERE, TAKEN, UNKNOWN, UNSENT, Done, Routes
from pronghorn.bus.nats_url import Place, place_of

TICK = 0.25  # seconds
PAUSE = 0.4  # seconds between attempts to connect
ACKNOWLEDGERS = 2  # hosts, those whose members are the latest, that tell a publisher the roster
OUTCOMES = (TAKEN, ELSEWHERE, UNKNOWN, UNSENT, CUT_OFF)  # of ANSWERED, NOBODY and so on
TOOK, LEFT = b"1", b"0"  # what a host says of a message for one
NONE_HERE = encode([])  # what a host that has just left says of who has a name


class NatsCarrier:
    """See carrier.Carrier."""

    def __init__(self, place: Place, host: Host) -> None:
        self._place, self._host = place, host
        self._other: Place | None = None  # the same with the password before
        self._worked: Place | None = None
        self._mail = Mail(host.id, place.prefix)
        self._presence = Presence(self._mail, host.joins, self._lose)
        self._members = Membership(self._mail, host, self.now, self._presence.meet, self._one_may_be_back)
        self._routes = Routes(self)
        self._servers = list(place.servers)
        self._dropped = 0
        self._told = ""

    @property
    def dropped(self) -> int:
        connection = self._mail.connection
        return self._dropped + (0 if connection is None else connection.dropped)

    def now(self) -> float:
        return time.time()

    # The connection.

    async def run(self) -> None:
        ticking = asyncio.create_task(self._ticks())
        try:
            while True:
                try:
                    connection = await self._connect()
                except Away as away:
                    self._down(str(away))
                    await asyncio.sleep(PAUSE)
                    continue
                try:
                    await self._serve(connection)
                finally:
                    self._forget(connection)
                    connection.abandon()
                self._told = ""
                self._down(connection.why)
        finally:
            ticking.cancel()

    def _down(self, why: str) -> None:
        if self._mail.why != why or not self._told:
            self._mail.why = self._told = why
            self._host.down(why)

    async def _connect(self) -> NatsConnection:
        """A connection to the first server that takes this host. Raises Away."""
        reasons: dict[str, None] = {}
        for server in list(self._servers):
            connection = NatsConnection(self._hear)
            try:
                await connection.open(self._place, server)
            except Away as away:
                reasons[str(away)] = None
                continue
            self._worked = self._place
            return connection
        if self._other is not None:  # for the next attempt
            self._place, self._other = self._other, self._place
        raise Away(" ".join(reasons))

    async def _serve(self, connection: NatsConnection) -> None:
        """Join what has members here, and wait for the end of the connection."""
        self._mail.connection = connection
        connection.subscribe(self._mail.mine + "*")
        connection.subscribe(self._mail.hosts)
        coming = asyncio.create_task(self._come_back())
        try:
            await connection.ended()
        except asyncio.CancelledError:
            self._presence.goodbye()
            await connection.close()
            raise
        finally:
            coming.cancel()

    async def _come_back(self) -> None:
        await self._members.come_back()
        await self._settled()
        self._told = ""
        self._host.up()

    def _forget(self, connection: NatsConnection) -> None:
        self._servers = list(dict.fromkeys([connection.server, *self._place.servers, *connection.others]))
        self._dropped += connection.dropped
        self._mail.lose(connection.why or self._mail.why)
        self._members.forget()
        self._routes.forget()

    async def _ticks(self) -> None:
        while True:
            now = time.monotonic()
            self._mail.tick(now)
            if self._mail.connection is not None:
                self._presence.tick(now)
            await asyncio.sleep(TICK)

    def _lose(self, host: str) -> None:
        self._members.lose(host)
        self._routes.forget(host)
        self._host.gone(host)

    def renew(self, url: str) -> None:
        self._other, self._place = self._worked or self._place, place_of(url)

    async def retire(self) -> None:
        self._presence.retire()
        if self._mail.connection is not None:
            await self._mail.connection.retire()

    # Members.

    async def join(self, name: bytes, since: float, mode: int) -> bool:
        return await self._members.join(name, since, mode)

    def leave(self, name: bytes) -> None:
        self._members.leave(name)

    # Sending.

    def send(self, host: str, data: bytes) -> None:
        self._mail.to_host(host, DATA + data)

    async def to_all(self, name: bytes, data: bytes) -> set[str]:
        self._mail.connected()
        if self._members.latest(name):
            self._mail.to_name(name, DATA + data)
            roster = self._members.rosters[name]
        else:
            roster = await self._asked(name, DATA + data)
        return roster.hosts.keys() - {self._host.id}

    async def to_one(self, name: bytes, data: bytes) -> str:
        self._mail.connected()
        return await self._routes.put(name, data)

    async def _asked(self, name: bytes, message: bytes) -> Roster:
        """Send to all hosts that have a name, and learn its roster from the first that answers. Raises Away."""
        subject = self._mail.subject(name)
        how, listing = await self._answer(subject, message)
        if how == NOBODY and self._mail.connected().routed:
            await asyncio.sleep(ROUTES)
            how, listing = await self._answer(subject, message)
        if how in (AWAY, LOST):
            raise Away(self._mail.why, perhaps=how == LOST)
        if how == LATE:
            raise Away("Another host seems to have this name, and does not answer.", perhaps=message != WHO)
        roster = Roster()
        if how == ANSWERED:
            try:
                known = {host: (since, alone) for host, since, alone in listing_of(listing)}
            except NotOurs:
                raise Away("A host says who has this name in no form that is known.", message != WHO) from None
            roster.hosts = {host: entry for host, entry in known.items() if host not in self._presence.absent}
            self._presence.note(roster.hosts)
        if not roster.hosts and await self._one_may_be_back():
            raise Away(NOT_BACK, soon=True)
        return roster

    async def _one_may_be_back(self) -> bool:
        """Whether a host that has gone without a word may have a name that nobody has: each is looked for."""
        for host in self._presence.hosts:
            self._mail.to_host(host, PROBE, partial(self._probed, host))
        await self._settled()
        return self._presence.one_may_be_back()

    def _probed(self, host: str, how: int, data: bytes) -> bool:
        return self._presence.probed(host, how)

    async def _settled(self) -> None:
        """By then the server has taken what was sent before, and has said what it finds nobody for."""
        await self._answer(self._mail.inbox("-"), PROBE)  # which nobody has

    async def _answer(self, subject: str, message: bytes) -> tuple[int, bytes]:
        """Send, and wait for the first answer, or the end of waiting. A host that has just left knows nobody: then
        others have a moment to answer."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[int, bytes]] = loop.create_future()

        def settle(how: int, data: bytes) -> None:
            if not answer.done():
                answer.set_result((how, data))

        def heard(how: int, data: bytes) -> bool:
            if how == ANSWERED and data == NONE_HERE:
                loop.call_later(GRACE, settle, how, data)
                return True
            settle(how, data)
            return False

        self._mail.send(subject, message, heard)
        return await answer

    async def missing(self, hosts: Iterable[str]) -> set[str]:
        self._mail.connected()
        found = [each for each in hosts if each != self._host.id]
        answers = await asyncio.gather(*(self._answer(self._mail.inbox(each), PROBE) for each in found))
        return {host for host, (how, _) in zip(found, answers, strict=True) if how == NOBODY}

    # What routes need.

    def latest(self, name: bytes) -> str:
        return self._members.latest(name)

    async def find(self, name: bytes) -> str:
        return (await self._asked(name, WHO)).latest()

    def bring(self, host: str, name: bytes, data: bytes, any_member: bool, done: Done) -> None:
        if host == self._host.id:
            asyncio.get_running_loop().call_soon(self._host.hear, data)
            done(TAKEN)
            return
        head = b"%s%c%c" % (ONE, any_member, len(name))
        self._mail.to_host(host, head + name + data, partial(self._brought, host, name, done))

    def _brought(self, host: str, name: bytes, done: Done, how: int, data: bytes) -> bool:
        if how == ANSWERED and data != TOOK:
            how = NOBODY
            if (roster := self._members.rosters.get(name)) is not None and data == LEFT:
                roster.hosts.pop(host, None)
        elif how == NOBODY:
            self._presence.miss(host)
        done(OUTCOMES[how])
        return False

    # What comes.

    def _hear(self, subject: str, reply: str, data: bytes, nobody: bool) -> None:
        """Another host has sent this, or the server says that nobody was there. What is no message of a carrier is
        passed over."""
        try:
            if subject.startswith(self._mail.mine):
                last = subject[len(self._mail.mine) :]
                if last == "in":
                    self._hear_directly(reply, self._mail.whole(data))
                else:
                    number = number_of(last)
                    if (data := self._mail.whole(data)) or nobody:
                        self._mail.answered(number, data, nobody)
            elif subject.startswith(self._mail.names):
                if data := self._mail.whole(data):
                    self._hear_by_name(name_of(subject[len(self._mail.names) :]), reply, data)
            else:
                self._presence.hear(data)
        except NotOurs as error:
            self._host.not_ours(str(error))

    def _hear_directly(self, reply: str, data: bytes) -> None:
        kind = data[:1]
        if kind == DATA:
            self._host.hear(data[1:])
        elif kind == ONE:
            self._take_one(reply, *one_of(data))
        elif kind == ROSTER:
            self._members.take_roster(data)
        elif kind == PROBE:
            self._mail.answer(reply, PROBE)
        elif kind == AGAIN:
            self._members.tell_all_soon()
        elif data:
            raise NotOurs("a message of no known kind")

    def _take_one(self, reply: str, name: bytes, data: bytes, any_member: bool) -> None:
        if self._members.hold(name, partial(self._take_one, reply, name, data, any_member)):
            return
        latest = self._members.latest(name)
        if latest == self._host.id or (latest and any_member):
            self._mail.answer(reply, TOOK)
            self._host.hear(data)
        else:
            self._mail.answer(reply, encode(latest) if latest else LEFT)

    def _hear_by_name(self, name: bytes, reply: str, data: bytes) -> None:
        kind = data[:1]
        if kind == JOINS:
            self._members.other_joins(name, reply, data[1:])
        elif kind == LEAVES:
            self._members.other_leaves(name, data[1:])
        elif kind != DATA and data != WHO:
            raise NotOurs("a message of no known kind")
        elif not self._members.hold(name, partial(self._hear_by_name, name, reply, data)):
            self._hear_publisher(name, reply, data)

    def _hear_publisher(self, name: bytes, reply: str, data: bytes) -> None:
        """Somebody sends to all hosts that have this name, or asks which these are."""
        if not self._members.latest(name):
            self._mail.answer(reply, NONE_HERE)
            return
        roster = self._members.rosters[name]
        if data == WHO or self._host.id in roster.by_age()[-ACKNOWLEDGERS:]:
            self._mail.answer(reply, encode(roster.listing()))
        if data.startswith(DATA):
            self._host.hear(data[1:])
