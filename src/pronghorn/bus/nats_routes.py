"""Routes: to which host a message for one member goes, in the order in which its publisher sent it.

Law: a message is sent to one host at a time, and sent again only after that host has said that it has not taken it, or
the server, that the host is gone. A route changes its host only when nothing is under way: so one message never
overtakes another.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Callable
from functools import partial
from typing import Protocol

from pronghorn.bus.carrier import Away

MOST_ROUTES = 20_000
"""Names whose host is remembered."""
MOST_WAITING = 10_000
"""Messages to one name that wait for those before."""
TRIES = 4
"""Hosts that are asked before one that has a member takes it, be it the latest or not."""

TAKEN, ELSEWHERE, UNKNOWN, UNSENT, CUT_OFF = range(5)
"""What becomes of a message to one host: it has taken it; it has not, or is gone; it does not answer; nothing was sent;
the broker went away meanwhile."""

Done = Callable[[int], None]


class Office(Protocol):
    """What a route needs of its carrier."""

    def latest(self, name: bytes) -> str:
        """The host whose member is the latest, if this host knows that by itself."""

    async def find(self, name: bytes) -> str:
        """Ask which host that is; an empty text if none has a member. Raises Away."""

    def bring(self, host: str, name: bytes, data: bytes, any_member: bool, done: Done) -> None:
        """Send to that host, which takes it if its member is the latest, or if it has any at all."""


class Post:
    """A message that is to reach one host."""

    __slots__ = ("data", "future", "number", "tries")

    def __init__(self, number: int, data: bytes, future: asyncio.Future[str]) -> None:
        self.number, self.data, self.future = number, data, future
        self.tries = 0

    def __lt__(self, other: Post) -> bool:
        return self.number < other.number

    def end(self, host: str) -> None:
        if not self.future.done():
            self.future.set_result(host)

    def fail(self, away: Away) -> None:
        if not self.future.done():
            self.future.set_exception(away)


class Route:
    """The way of all messages of this host to one member of a name."""

    __slots__ = ("_finding", "_last", "_name", "_office", "_waiting", "target", "under_way")

    def __init__(self, office: Office, name: bytes) -> None:
        self._office, self._name = office, name
        self._waiting: list[Post] = []
        self._finding: asyncio.Task[None] | None = None
        self._last = 0
        self.target = ""
        self.under_way = 0

    @property
    def idle(self) -> bool:
        return not (self._waiting or self.under_way or self._finding)

    def put(self, data: bytes) -> asyncio.Future[str]:
        """Which host has taken it, when that is known. Raises Away if too much waits."""
        if len(self._waiting) >= MOST_WAITING:
            raise Away(f"{MOST_WAITING:,} messages wait for the host of this name.")
        self._last += 1
        post = Post(self._last, data, asyncio.get_running_loop().create_future())
        self._waiting.append(post)
        self._go_on()
        return post.future

    def _go_on(self) -> None:
        while self._waiting and self._finding is None:
            target = self._office.latest(self._name) or self.target
            if self.under_way and target != self.target:
                return
            if not target:
                self._finding = asyncio.create_task(self._find())
                return
            self.target = target
            post = self._waiting.pop(0)
            if post.future.cancelled():  # nobody wants that any more
                continue
            self.under_way += 1
            done = partial(self._answered, post, target)
            self._office.bring(target, self._name, post.data, post.tries >= TRIES, done)

    def _answered(self, post: Post, target: str, outcome: int) -> None:
        self.under_way -= 1
        if outcome in (TAKEN, UNKNOWN):
            post.end(target)
        elif outcome == CUT_OFF:
            post.fail(Away("The NATS server went away before the message was acknowledged.", perhaps=True))
        elif outcome == UNSENT or post.tries > 2 * TRIES:
            post.fail(Away("Too much waits for the NATS server, or its hosts do not agree who has this name."))
        else:
            post.tries += 1
            insort(self._waiting, post)
        if outcome != TAKEN and self.target == target:
            self.target = ""
        self._go_on()

    async def _find(self) -> None:
        away: Away | None = Away("It was not found out which host has this name.")  # by a fault of ours
        try:
            self.target = await self._office.find(self._name)
            away = None
        except Away as error:
            away = error
        finally:
            self._finding = None
            if not self.target and not self._office.latest(self._name):
                waiting, self._waiting = self._waiting, []
                for post in waiting:
                    post.end("") if away is None else post.fail(away)
            self._go_on()


class Routes:
    """The routes of one carrier, by name; those that were not used for longest are forgotten."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._routes: dict[bytes, Route] = {}

    def put(self, name: bytes, data: bytes) -> asyncio.Future[str]:
        route = self._routes.pop(name, None) or Route(self._office, name)
        self._routes[name] = route
        if len(self._routes) > MOST_ROUTES:
            oldest = next(iter(self._routes))
            if self._routes[oldest].idle:
                del self._routes[oldest]
        return route.put(data)

    def forget(self, host: str | None = None) -> None:
        """A host is gone, or all of them are."""
        for route in self._routes.values():
            if host is None or route.target == host:
                route.target = ""
