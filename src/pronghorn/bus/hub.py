"""The hub of the local bus: which process has joined what, and who is sent what is published.

Law: one thread and no wait. The hub holds no message: what a link does not read is bounded, and what goes beyond that
is not sent, and counts as not reached. A publisher learns how many connections were reached when every link that was
sent the message has said so, has ended, or is PATIENCE seconds late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from pronghorn.bus import figures
from pronghorn.bus.directory import Directory, Member
from pronghorn.bus.figures import Broker, Counts, Told
from pronghorn.bus.wire import (
    ANSWER,
    ASK,
    CANCEL,
    DELIVER,
    EVICT,
    GRANTED,
    GROUPS,
    HELLO,
    JOIN,
    LATE,
    LEAVE,
    LISTING,
    LOST,
    MEMBERS,
    MOST_REACHED,
    NOBODY,
    OUTCOMES,
    PUBLISH,
    QUESTION,
    REACHED,
    REFUSE,
    REFUSED,
    REPLY,
    RESULT,
    TAKEN,
    TOO_LONG,
    UNSURE,
    BadFrame,
    Reader,
    frame,
    within,
)

PATIENCE = 2.0  # seconds that a link has to say how many connections it reached
MOST_UNDER_WAY = 10_000  # requests of one link that have no result yet
MOST_HELD = 100_000  # requests of all links that wait until all links are back
MOST_UNSENT = 8 * 1024 * 1024  # bytes that wait for a link which does not read
MOST_GROUPS = 1000  # in one listing
SETTLING = 0.25  # seconds after the start, in which links come back and join again


class Publication:
    """A message that is on its way: whose it is, and which links have not said yet whom they reached."""

    __slots__ = ("count", "due", "link", "members", "name", "payload", "request", "unsure", "waits")

    def __init__(self, link: Link | Errand, request: int, due: float) -> None:
        self.link, self.request, self.due = link, request, due
        self.count = 0
        self.waits: set[int] = set()
        self.unsure = False  # the only addressee may have it
        self.members: list[Member] = []  # with one addressee: those that are left to be tried, the latest last
        self.name = self.payload = b""


class Question:
    """A question that is on its way: whose it is, and which link has it."""

    __slots__ = ("due", "link", "request", "target")

    def __init__(self, link: Link | Errand, request: int, target: Member, due: float) -> None:
        self.link, self.request, self.target, self.due = link, request, target, due


class Errand:
    """A request whose result goes to a function, and not to a link."""

    __slots__ = ("_done", "_hub", "number", "under_way")

    def __init__(self, hub: Hub, done: Callable[..., None]) -> None:
        self._hub, self._done = hub, done
        self.number, self.under_way = hub.number(), 0
        hub.links[self.number] = self

    def send(self, kind: int, request: int, *result: Any) -> None:
        del self._hub.links[self.number]
        self._done(*result)


class Others(Protocol):
    """Other hosts, as the hub sees them (others.py)."""

    def join(self, link: Link, request: int, number: int, name: bytes, mode: int, since: float) -> None: ...
    def leave(self, name: bytes) -> None: ...
    def publish(self, link: Link, request: int, name: bytes, payload: bytes, to_one: bool) -> None: ...
    def ask(self, link: Link, request: int, name: bytes, payload: bytes, seconds: float) -> None: ...
    def lose(self, link: int) -> None: ...


class Hub:
    """The links, what they have joined, and what is on its way. `say` tells the server's log."""

    def __init__(self, longest: int, clock: Callable[[], float], say: Callable[[str], None]) -> None:
        self.longest = longest
        self.directory = Directory()
        self.links: dict[int, Any] = {}  # and errands, whose results go nowhere else
        self.others: Others | None = None
        """Other hosts, where a carrier is set."""
        self.counts = Counts()
        self.outcomes = [0] * len(OUTCOMES)
        """Questions of links, by what became of them."""
        self.broker: Broker | None = None
        """How it stands with the broker, where there is one."""
        self.unsent: Callable[[], int] = int
        """How many messages the carrier has not sent, since too much waited."""
        self.held: list[tuple[Link, Callable[[], None]]] | None = []
        """What waits until all links are back; None from then on."""
        self._clock, self.say = clock, say
        self._publications: dict[int, Publication] = {}
        self._questions: dict[int, Question] = {}
        self._asked: dict[Member, set[int]] = {}  # questions that each connection has
        self._last = 0
        self._told, self._told_broker, self._told_unsent = -60.0, -60.0, 0

    def settled(self) -> None:
        """All links that there were before this hub have had the time to come back."""
        held, self.held = self.held or [], None
        for link, each in held:
            if link.number in self.links:
                each()

    def number(self) -> int:
        self._last += 1
        return self._last

    # What links say.

    def join(self, link: Link, request: int, number: int, name: bytes, mode: int, since: float) -> None:
        out = self.directory.join((link.number, number), name, mode, since)
        if self.others is not None and out is not None and (link.number, number) not in out:
            self.others.join(link, request, number, name, mode, since)
        elif request:
            link.send(RESULT, request, TAKEN if out is None else GRANTED)
        for other, each in out or ():
            self.links[other].send(EVICT, each, name)
        self.left()

    def left(self) -> None:
        """Other hosts learn of names that have no member here any more."""
        if self.others is not None:
            for name in self.directory.now_empty():
                self.others.leave(name)

    def publish(self, link: Link, request: int, name: bytes, payload: bytes, to_one: bool) -> None:
        if len(payload) > self.longest:
            return link.send(RESULT, request, -1)
        if self.others is not None and not self.directory.alone(name):
            return self.others.publish(link, request, name, payload, to_one)
        self.publish_here(link, request, name, payload, to_one)

    def publish_here(self, link: Link | Errand, request: int, name: bytes, payload: bytes, to_one: bool) -> None:
        """To the connections of this host."""
        publication = Publication(link, request, self._clock() + PATIENCE)
        members = self.directory.members(name)
        if to_one:
            publication.members = list(members)
            publication.name, publication.payload = name, payload
            return self._try_next(publication)
        delivery, raw = self.number(), b""
        for other in dict.fromkeys(each for each, _ in members):
            raw = raw or frame(DELIVER, delivery, name, payload, 0)
            if self._send_on(self.links[other], raw):
                publication.waits.add(other)
        self._go_on(delivery, publication)

    def _try_next(self, publication: Publication) -> None:
        """The latest that has joined; if its connection has just ended, the one before it."""
        delivery = self.number()
        while publication.members and not publication.waits:
            other, number = publication.members.pop()
            raw = frame(DELIVER, delivery, publication.name, publication.payload, number)
            if other in self.links and self._send_on(self.links[other], raw):
                publication.waits.add(other)
        self._go_on(delivery, publication)

    def _go_on(self, delivery: int, publication: Publication) -> None:
        if publication.waits:
            publication.link.under_way += 1
            self._publications[delivery] = publication
        else:
            self._tell(publication)

    def _give_up(self, publication: Publication) -> None:
        """The only addressee may have it: nobody else gets it."""
        publication.members, publication.unsure = [], bool(publication.name)

    def _tell(self, publication: Publication) -> None:
        unsure = publication.unsure and not publication.count and isinstance(publication.link, Errand)
        publication.link.send(RESULT, publication.request, UNSURE if unsure else publication.count)

    def reached(self, link: Link, delivery: int, count: int) -> None:
        publication = self._publications.get(delivery)
        if publication is None or link.number not in publication.waits:
            return
        count = min(max(count, 0), MOST_REACHED)
        publication.count += count
        self.counts.deliveries += count
        publication.waits.remove(link.number)
        if not publication.waits:
            self._done(delivery)

    def _done(self, delivery: int) -> None:
        publication = self._publications.pop(delivery)
        publication.link.under_way -= 1
        if not publication.count and publication.members:
            publication.waits.clear()
            self._try_next(publication)
        else:
            self._tell(publication)

    def ask(self, link: Link, request: int, name: bytes, payload: bytes, seconds: float) -> None:
        if self.others is not None and len(payload) <= self.longest and not self.directory.alone(name):
            return self.others.ask(link, request, name, payload, within(seconds))
        self.ask_here(link, request, name, payload, seconds)

    def ask_here(self, link: Link | Errand, request: int, name: bytes, payload: bytes, seconds: float) -> int:
        """The connections of this host. Gives the number for `withdraw`; 0 if it is answered already."""
        if len(payload) > self.longest:
            link.send(REPLY, request, TOO_LONG, b"")
            return 0
        for other, number in reversed(list(self.directory.members(name))):
            delivery = self.number()
            if self._send_on(self.links[other], frame(QUESTION, delivery, name, payload, number)):
                link.under_way += 1
                self._questions[delivery] = Question(link, request, (other, number), self._clock() + within(seconds))
                self._asked.setdefault((other, number), set()).add(delivery)
                return delivery
        link.send(REPLY, request, NOBODY, b"")
        return 0

    def withdraw(self, delivery: int) -> None:
        """Nobody waits for the answer to this question any more."""
        if delivery in self._questions:
            self._answered(delivery, LOST)

    def answer(self, link: Link, delivery: int, status: int, payload: bytes) -> None:
        if status not in OUTCOMES:
            raise BadFrame(f"an answer of kind {status}")
        question = self._questions.get(delivery)
        if question is not None and question.target[0] == link.number:
            self._answered(delivery, status, payload)

    def _answered(self, delivery: int, status: int, payload: bytes = b"") -> None:
        question = self._questions.pop(delivery)
        asked = self._asked[question.target]
        asked.discard(delivery)
        if not asked:
            del self._asked[question.target]
        if status in (LATE, LOST) and (target := self.links.get(question.target[0])) is not None:
            target.send(CANCEL, delivery)
        if question.link.number not in self.links:
            return
        question.link.under_way -= 1
        question.link.send(REPLY, question.request, status, payload)

    def leave(self, link: Link, number: int, name: bytes) -> None:
        """A connection has left a name; with an empty one it has ended, and answers nothing any more."""
        self.directory.leave((link.number, number), name)
        self.left()
        for delivery in () if name else list(self._asked.get((link.number, number), ())):
            self._answered(delivery, LOST)

    def groups(self, link: Link, request: int, prefix: bytes, most: int) -> None:
        link.send(LISTING, request, self.directory.groups(prefix, max(0, min(most, MOST_GROUPS))))

    def members(self, link: Link, request: int, name: bytes, most: int) -> None:
        now, found = time.monotonic(), self.directory.since(name)[-max(1, min(most, MOST_GROUPS)) :]
        link.send(LISTING, request, [(self.links[other].pid, each, now - when) for (other, each), when in found])

    # What becomes of links, and of time.

    def lose(self, link: Link) -> None:
        """A link has ended: nobody there is reached, or answers any more."""
        del self.links[link.number]
        if self.others is not None:
            self.others.lose(link.number)
        self.directory.lose(link.number)
        self.left()
        for delivery, publication in list(self._publications.items()):
            if publication.link is link:
                del self._publications[delivery]
            elif link.number in publication.waits:
                self._give_up(publication)
                self.reached(link, delivery, 0)
        for delivery, question in list(self._questions.items()):
            if question.link is link or question.target[0] == link.number:
                self._answered(delivery, LOST)

    def tick(self) -> None:
        """Once in a while: what is late is not waited for."""
        now = self._clock()
        if (unsent := self.unsent()) > self._told_unsent and now >= self._told_broker + 60.0:
            more, self._told_unsent, self._told_broker = unsent - self._told_unsent, unsent, now
            words = f"{more:,} message{'s' * (more != 1)} for other hosts {'were' if more != 1 else 'was'} dropped"
            self.say(f"The broker does not take what the bus has for it: {words}.")
        for delivery, publication in list(self._publications.items()):
            if publication.due <= now:
                self._give_up(publication)
                self._done(delivery)
        for delivery, question in list(self._questions.items()):
            if question.due <= now:
                self._answered(delivery, LATE)

    # What the supervisor is told.

    def broker_is(self, up: bool, why: str) -> None:
        """The broker is there, or away, and why."""
        before = self.broker
        lost = before is not None and before.up and not up
        since = time.time() if before is None or before.up != up or not before.since else before.since
        losses = (before.losses if before is not None else 0) + lost
        self.broker = Broker(up=up, why="" if up else why, since=since, losses=losses)

    def told(self) -> Told:
        """What is counted here, now."""
        questions = {word: count for word, count in zip(figures.OUTCOMES, self.outcomes, strict=True) if count}
        counts = msgspec.structs.replace(self.counts, questions=questions, slow_broker=self.unsent())
        links = sum(isinstance(each, Link) for each in self.links.values())
        names, members = len(self.directory), self.directory.joined
        return Told(counts=counts, links=links, names=names, members=members, broker=self.broker)

    def _send_on(self, link: Link, raw: bytes) -> bool:
        if link.has_room:
            link.write(raw)
            return True
        if link.ends:
            return False
        self.counts.slow_worker += 1
        if self._clock() >= self._told + 60.0:
            self._told = self._clock()
            self.say(f"Process {link.pid} does not read what the bus has for it: messages to it are dropped.")
        return False


class Link(asyncio.Protocol):
    """The hub's end of one process's connection."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.number = 0
        self.pid = 0
        self.under_way = 0
        """How many of its requests have no result yet."""
        self._reader = Reader()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]
        self._transport.set_write_buffer_limits(MOST_UNSENT)
        self.write = self._transport.write
        self.number = self._hub.number()
        self._hub.links[self.number] = self

    def connection_lost(self, exc: Exception | None) -> None:
        self._hub.lose(self)

    @property
    def ends(self) -> bool:
        return bool(self._transport.is_closing())

    @property
    def has_room(self) -> bool:
        return self._transport.get_write_buffer_size() < MOST_UNSENT and not self._transport.is_closing()

    def send(self, *fields: Any) -> None:
        """What only this link has asked for; one that does not read its own results is ended."""
        if fields[0] == REPLY:
            self._hub.outcomes[fields[2]] += 1
        if self.has_room:
            self.write(frame(*fields))
        else:
            self._transport.abort()

    def refuse(self, why: str) -> None:
        """End the link; its process is told why."""
        self.send(REFUSED, why)
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        try:
            for each in self._reader.feed(data):
                self._hear(each)
        except BadFrame as error:
            self._hub.say(f"Process {self.pid} has sent {error} to the bus: its link is ended.")
            self._transport.abort()

    def _hear(self, fields: Sequence[Any]) -> None:
        kind, *rest = fields
        hub = self._hub
        if kind == REACHED:
            hub.reached(self, *rest)
        elif kind == ANSWER:
            hub.answer(self, *rest)
        elif kind == JOIN:
            request, _, _, mode, _ = rest
            if hub.held is not None and request and mode == REFUSE:  # its holder may not be back yet
                self._hold(hub.held, lambda: hub.join(self, *rest))
            else:
                hub.join(self, *rest)
        elif kind == LEAVE:
            hub.leave(self, *rest)
        elif kind == HELLO:
            self.pid = rest[0]
        elif kind in REQUESTS:
            if kind == PUBLISH:
                hub.counts.publications += 1
            if self.under_way >= MOST_UNDER_WAY:
                raise BadFrame(f"more than {MOST_UNDER_WAY:,} requests at once")
            if hub.held is not None:
                self._hold(hub.held, lambda: REQUESTS[kind](hub, self, *rest))
            else:
                REQUESTS[kind](hub, self, *rest)
        else:
            raise BadFrame("what only the hub says")

    def _hold(self, held: list[tuple[Link, Callable[[], None]]], request: Callable[[], None]) -> None:
        if len(held) >= MOST_HELD:
            raise BadFrame(f"what brings the hub to more than {MOST_HELD:,} requests in its first moment")
        held.append((self, request))


REQUESTS: dict[int, Callable[..., None]] = {
    PUBLISH: Hub.publish,
    ASK: Hub.ask,
    GROUPS: Hub.groups,
    MEMBERS: Hub.members,
}
