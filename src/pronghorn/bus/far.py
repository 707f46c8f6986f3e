"""Messages, counts, questions and answers between the hosts of a carrier, for a server's hub and for outside clients.

Law: what is sent to another host is acknowledged by it, or counts as not reached. Nothing is sent twice, unless the
host that had it first says that it gave it to nobody. Nobody who asks is told that nobody is there while the broker is
away. Another host is believed nothing: what it sends is checked, and what is done for it is bounded.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Protocol

from pronghorn.bus.carrier import HOST_ID, MAY_BE_BACK, Away, Carrier, told_of
from pronghorn.bus.ways import PAUSE, Ways
from pronghorn.bus.wire import (
    ANSWERED,
    LATE,
    LONGEST_PAYLOAD,
    LOST,
    MOST_REACHED,
    NOBODY,
    OUTCOMES,
    PARTED,
    BadFrame,
    checked,
    packed,
)

PATIENCE = 2.5
"""Seconds that another host has to say how many it reached: a little more than its hub gives its workers."""
GRACE = 0.1
"""Seconds after the time of a question in which the host that was asked says that it is over."""
MOST_UNDER_WAY = 50_000
"""Messages and questions of other hosts that are not answered yet."""
COMING_BACK = MAY_BE_BACK + 0.5
"""Seconds that a message waits for a host which is not there at the moment."""
REJOINING = 2.0
"""Seconds after the broker is back in which a name that nobody has may be one that its host has yet to join again."""
TRIES = 3
"""How often the next latest is looked for where the one before has just left."""

# What one host says to another.
PUBLICATION, REACHED, QUESTION, ANSWER, WITHDRAWN = range(32, 37)

FIELDS: dict[int, tuple[type, ...]] = {
    PUBLICATION: (str, int, bytes, bytes, bool),  # host, delivery, name, payload, to one
    REACHED: (str, int, int),  # host, delivery, how many connections, or UNSURE
    QUESTION: (str, int, bytes, bytes, float),  # host, delivery, name, payload, seconds
    ANSWER: (str, int, int, bytes),  # host, delivery, status, payload
    WITHDRAWN: (str, int),  # host, delivery of a question
}


Withdraw = Callable[[], None]


def _nothing() -> None:
    pass


class Members(Protocol):
    """The connections of this host, as other hosts reach them."""

    def deliver(self, name: bytes, payload: bytes, to_one: bool, done: Callable[[int], None]) -> None:
        """Send to the members here; `done` is called with how many have taken it. With one addressee it is UNSURE
        where that may have it: then nobody else gets it."""

    def question(self, name: bytes, payload: bytes, seconds: float, done: Callable[[int, bytes], None]) -> Withdraw:
        """Ask the latest member here; `done` is called with what became of it (see wire.py), and the answer. Gives what
        is called when nobody waits for that any more: then it is called at once."""

    def here(self) -> Iterable[tuple[bytes, float, bool]]: ...
    def evict(self, name: bytes, before: float) -> None: ...
    def told(self, up: bool, why: str) -> None:
        """The broker is there, or away."""

    def warn(self, text: str) -> None:
        """Something that people should know."""


class Nobody:
    """The members of a host that has none: a client."""

    def deliver(self, name: bytes, payload: bytes, to_one: bool, done: Callable[[int], None]) -> None:
        done(0)

    def question(self, name: bytes, payload: bytes, seconds: float, done: Callable[[int, bytes], None]) -> Withdraw:
        done(NOBODY, b"")
        return _nothing

    def here(self) -> Iterable[tuple[bytes, float, bool]]:
        return ()

    def evict(self, name: bytes, before: float) -> None:
        """There is none."""

    def told(self, up: bool, why: str) -> None:
        """Whoever calls finds out."""

    def warn(self, text: str) -> None:
        """A server's log says so."""


class Waiting:
    """A message that other hosts have not all acknowledged yet."""

    __slots__ = ("count", "future", "heard", "hosts", "unsure")

    def __init__(self) -> None:
        self.future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()  # false: the broker went away
        self.count = 0
        self.unsure = False
        """A host does not know how many it reached."""
        self.heard: set[str] = set()
        self.hosts: set[str] | None = None  # who shall answer; None as long as that is not known

    def hear(self, host: str, count: int) -> None:
        if host not in self.heard:
            self.heard.add(host)
            self.count += min(max(count, 0), MOST_REACHED)
            self.unsure |= count < 0
            self.look()

    def look(self) -> None:
        """Whether all have answered. An empty name stands for any host."""
        if self.hosts is not None and (not self.hosts - self.heard or ("" in self.hosts and self.heard)):
            self.end(True)

    def lose(self, host: str) -> None:
        """This host is gone."""
        if self.hosts and host in self.hosts:
            self.hosts.remove(host)
            self.look()

    def end(self, whole: bool) -> None:
        if not self.future.done():
            self.future.set_result(whole)


class Far:
    """This host among the others. `open` makes the carrier, which has to be run by whoever makes this; `members` are
    the connections here."""

    def __init__(self, open: Callable[[Far], Carrier], members: Members) -> None:
        self.id = secrets.token_hex(8)
        self.is_up, self.why = False, "There is no connection to the broker yet."
        self.was_up = False
        self._whole = 0.0  # when all hosts are back at the broker (monotonic)
        self.missed = 0
        """Acknowledgements that did not come in time."""
        self._members = members
        self.joins = not isinstance(members, Nobody)
        self._counts: dict[int, Waiting] = {}
        self._answers: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self._last = self._for_others = 0
        self._theirs: dict[tuple[str, int], Withdraw] = {}
        """Questions of other hosts, and of this one, that have come by the carrier and have no answer yet."""
        self._ways = Ways()
        self._telling: set[asyncio.Task[None]] = set()
        self._held: dict[asyncio.Event, None] = {}
        """The turns of those that wait for the broker, in their order."""
        self._not_ours = False  # was said of what came
        self.carrier = open(self)

    # What is sent.

    async def publish(self, name: bytes, payload: bytes, patient: bool = True) -> int:
        """Send to the members on all *other* hosts; how many have taken it. `patient`: wait for a host that may be
        back, if no other has members. Raises Away; ConnectionResetError, if the broker went away meanwhile."""
        delivery = self._number()
        waiting = self._counts[delivery] = Waiting()
        try:
            data = packed(PUBLICATION, self.id, delivery, name, payload, False)
            seconds = COMING_BACK if patient else 0.0
            sent = await self._ways.send(name, seconds, partial(self.carrier.to_all, name, data))
            waiting.hosts = sent - {self.id}
            await self._all_of(waiting)
        except Away as error:
            if patient or not error.soon:
                raise
        finally:
            del self._counts[delivery]
        return waiting.count

    async def publish_to_one(self, name: bytes, payload: bytes) -> int:
        """Send to the member that has joined last, on whichever host: 1, or 0 if there is none. Raises as `publish`."""
        for each in range(TRIES):
            delivery = self._number()
            waiting = self._counts[delivery] = Waiting()
            waiting.hosts = {""}
            try:
                data = packed(PUBLICATION, self.id, delivery, name, payload, True)
                if not await self._ways.send(name, COMING_BACK, partial(self._to_one, name, data)):
                    return 0
                await self._all_of(waiting)
            finally:
                del self._counts[delivery]
            if waiting.count or waiting.unsure or not waiting.heard:
                return waiting.count
            await asyncio.sleep(PAUSE * each)  # it has left just now, and the broker will know
        return 0

    async def _to_one(self, name: bytes, data: bytes) -> str:
        """See carrier.Carrier."""
        found = await self.carrier.to_one(name, data)
        if not found and time.monotonic() < self._whole:
            raise Away("The broker is back, and other hosts may not be, yet.", soon=True)
        return found

    async def _all_of(self, waiting: Waiting) -> None:
        waiting.look()
        try:
            async with asyncio.timeout(PATIENCE):
                whole = await waiting.future
        except TimeoutError:
            self.missed += 1
        else:
            if not whole:
                raise ConnectionResetError(self.why)

    async def ask(self, name: bytes, payload: bytes, seconds: float) -> tuple[int, bytes]:
        """Ask the member that has joined last, on whichever host: what became of it (see wire.py), and the answer.
        Raises Away."""
        try:
            async with asyncio.timeout(seconds + GRACE):
                return await self._asked(name, payload, seconds)
        except TimeoutError:
            return LATE, b""

    async def _asked(self, name: bytes, payload: bytes, seconds: float) -> tuple[int, bytes]:
        for each in range(TRIES):
            delivery = self._number()
            future, host = asyncio.get_running_loop().create_future(), ""
            self._answers[delivery] = future
            try:
                data = packed(QUESTION, self.id, delivery, name, payload, seconds)
                patience = min(COMING_BACK, seconds)
                if not (host := await self._ways.send(name, patience, partial(self._to_one, name, data))):
                    return NOBODY, b""
                status, answer = await future
            except asyncio.CancelledError:
                self._withdraw(host, delivery) if host else self._withdraw_wherever(name, delivery)
                raise
            finally:
                del self._answers[delivery]
            if status != NOBODY:
                return status, answer
            await asyncio.sleep(PAUSE * each)
        return NOBODY, b""

    def _withdraw(self, host: str, delivery: int) -> None:
        """Nobody waits for this answer any more."""
        data = packed(WITHDRAWN, self.id, delivery)
        if (host, delivery) in self._theirs:  # this host has asked itself
            self.hear(data)
        else:
            self.carrier.send(host, data)

    def _withdraw_wherever(self, name: bytes, delivery: int) -> None:
        """The same where it is not known yet which host was sent the question, if one was."""
        loop, data = asyncio.get_running_loop(), packed(WITHDRAWN, self.id, delivery)
        loop.call_soon(self.hear, data)
        self.carrier.send(self.id, data)
        telling = loop.create_task(self._tell_all(name, data))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _tell_all(self, name: bytes, data: bytes) -> None:
        with suppress(Away):
            await self.carrier.to_all(name, data)

    async def until_up(self, seconds: float) -> None:
        """Wait for the broker, behind whoever waits for it already: what was to be sent first goes first. Raises
        Away."""
        if self.is_up and not self._held:
            return
        turn = asyncio.Event()
        self._held[turn] = None
        try:
            async with asyncio.timeout(seconds):
                while not self.is_up or next(iter(self._held)) is not turn:
                    turn.clear()
                    await turn.wait()
        except TimeoutError:
            raise Away(self.why or "Too many wait for the broker.") from None
        finally:
            del self._held[turn]
            self._let_on()

    @property
    def holds(self) -> bool:
        """Whether somebody waits for the broker: whoever does not overtakes them."""
        return bool(self._held)

    def _let_on(self) -> None:
        if self.is_up and self._held:
            next(iter(self._held)).set()

    def _number(self) -> int:
        self._last += 1
        return self._last

    @property
    def asked_from_elsewhere(self) -> bool:
        """Whether questions have come by the carrier that have no answer yet."""
        return bool(self._theirs)

    # What the carrier calls.

    def hear(self, data: bytes) -> None:
        """See carrier.Host. What is no message of ours is passed over: the prefix may be somebody else's, too."""
        try:
            kind, host, delivery, *rest = checked(data, FIELDS)
        except BadFrame as error:
            return self.not_ours(str(error))
        if not HOST_ID.fullmatch(host):
            return self.not_ours("a message of a host whose id is none")
        if kind == REACHED:
            waiting = self._counts.get(delivery)
            if waiting is not None:
                waiting.hear(host, *rest)
        elif kind == ANSWER:
            future = self._answers.get(delivery)
            if future is not None and not future.done():
                true = rest[0] in OUTCOMES and len(rest[1]) <= LONGEST_PAYLOAD
                future.set_result((rest[0], rest[1]) if true else (LOST, b""))
        elif kind == PUBLICATION:
            self._deliver(host, delivery, *rest)
        elif kind == WITHDRAWN:
            self._forget_question((host, delivery))
        else:
            self._question(host, delivery, *rest)

    def here(self) -> Iterable[tuple[bytes, float, bool]]:
        return self._members.here()

    def evict(self, name: bytes, before: float) -> None:
        self._members.evict(name, before)

    def not_ours(self, what: str) -> None:
        if not self._not_ours:
            self._not_ours = True
            self._members.warn(told_of(what))

    def gone(self, host: str) -> None:
        for waiting in self._counts.values():
            waiting.lose(host)
        for question in [each for each in self._theirs if each[0] == host]:
            self._forget_question(question)

    def up(self) -> None:
        if self.was_up:
            self._whole = time.monotonic() + REJOINING
        self.is_up = self.was_up = True
        self.why = ""
        self._let_on()
        self._members.told(True, "")

    def down(self, why: str) -> None:
        self.is_up, self.why = False, why
        self._members.told(False, why)
        for waiting in self._counts.values():
            waiting.end(False)
        for future in self._answers.values():
            if not future.done():
                future.set_result((PARTED, b""))

    def _deliver(self, host: str, delivery: int, name: bytes, payload: bytes, to_one: bool) -> None:
        if self._for_others >= MOST_UNDER_WAY:
            return self._send(host, packed(REACHED, self.id, delivery, 0))
        self._for_others += 1

        def done(count: int) -> None:
            self._for_others -= 1
            self._send(host, packed(REACHED, self.id, delivery, count))

        self._members.deliver(name, payload, to_one, done)

    def _question(self, host: str, delivery: int, name: bytes, payload: bytes, seconds: float) -> None:
        if self._for_others >= MOST_UNDER_WAY:
            return self._send(host, packed(ANSWER, self.id, delivery, LOST, b""))
        self._for_others += 1
        question = host, delivery

        def done(status: int, answer: bytes) -> None:
            self._for_others -= 1
            if self._theirs.pop(question, None) is not None:
                self._send(host, packed(ANSWER, self.id, delivery, status, answer if status == ANSWERED else b""))

        self._theirs[question] = _nothing
        withdraw = self._members.question(name, payload, seconds, done)
        if question in self._theirs:
            self._theirs[question] = withdraw

    async def look_for_askers(self) -> None:
        """Withdraw the questions of hosts that hear no answer. Raises Away."""
        for host in await self.carrier.missing({host for host, _ in self._theirs}):
            self.gone(host)

    def _forget_question(self, question: tuple[str, int]) -> None:
        """Its host does not wait for the answer any more, or is gone."""
        if (withdraw := self._theirs.pop(question, None)) is not None:
            withdraw()

    def _send(self, host: str, data: bytes) -> None:
        if host == self.id:
            self.hear(data)
        else:
            self.carrier.send(host, data)
