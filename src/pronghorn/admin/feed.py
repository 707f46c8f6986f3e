"""The status page's feed: one sampler for all who watch, and the streams (server-sent events) that carry its views.

Law: the history goes on whether anybody watches or not, from what costs the supervisor nothing; the supervisor is asked
only while somebody does, once a second, however many. A view is made and encoded once for all. A stream whose reader is
slow misses views, and one that takes nothing is cut (http.py); there are at most so many.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec

from pronghorn.admin.page import build
from pronghorn.admin.page.history import History, Rates, Sample
from pronghorn.admin.page.view import Facts, Record, View, view
from pronghorn.errors import PronghornError

PERIOD = 1.0  # seconds
REST = 10.0  # seconds after a fault of ours
MOST_STREAMS = 32
WATCHED = 15.0  # seconds for which somebody who has loaded the page is believed to look at it
MOMENT = 0.2  # seconds
ROWS = 10  # of each list of connections
LISTS: dict[str, dict[str, Any]] = {
    "longest": {"sort": "age"},
    "slowest": {"sort": "send_queue"},
    "busiest": {"sort": "rate"},
}
OPEN_PER_SECOND = 1000  # with more connections the lists are made less often: so many are looked through a second
Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Asks the supervisor: a command that only looks, and its arguments. Raises PronghornError."""


class Source(Protocol):
    """What the sampler reads by itself, without asking the supervisor."""

    def sample(self, now: float) -> Sample:
        """The values of this second; `now` is monotonic."""

    def rates(self) -> Mapping[str, Mapping[str, float]]:
        """By owner (`server`, `worker PID`) and counter, a second."""

    def records(self) -> Iterable[Record]:
        """The last records of the log, the oldest first."""


class Feed:
    """Samples from `begin` on; `page` and `stream` give what there is."""

    def __init__(self, source: Source, ask: Ask) -> None:
        self.history = History()
        self._source, self._ask = source, ask
        self._streams = 0
        self._news = asyncio.Event()  # set, and replaced, with each view
        self._over = False
        self._task: asyncio.Task[None] | None = None
        self._listeners = Rates()
        self._sample: Sample = {}
        self._view: View | None = None
        self._encoded = b""
        self._looked_at = self._watched_until = self._listed_at = 0.0
        self._status: dict[str, Any] = {}
        self._workers: list[dict[str, Any]] = []
        self._lists: dict[str, list[dict[str, Any]]] = {which: [] for which in LISTS}
        self._why = ""
        self._looking = asyncio.Lock()
        self._listing: asyncio.Future[None] | None = None

    def begin(self, failed: Callable[[str, BaseException], None]) -> None:
        """Samples from now on, until `close`; a fault is told to `failed`, and does not end it."""
        self._task = asyncio.get_running_loop().create_task(self._run(failed))

    async def _run(self, failed: Callable[[str, BaseException], None]) -> None:
        """A sample a second, and a view for those who watch."""
        due = time.monotonic()
        while not self._over:
            try:
                await self._turn()
            except Exception as error:
                failed("make a view of the status page", error)
                due += REST
            due = max(due + PERIOD, time.monotonic() + PERIOD / 2)
            await asyncio.sleep(due - time.monotonic())

    async def _turn(self) -> None:
        now = time.monotonic()
        self._sample = self._source.sample(now)
        self.history.add(self._sample)
        if self._streams or now < self._watched_until:
            await self._look()
            self._news.set()
            self._news = asyncio.Event()

    async def page(self) -> View:
        """The view of now, for somebody who loads the page."""
        self._watched_until = time.monotonic() + WATCHED
        if self._view is None or time.monotonic() > self._looked_at + 2 * PERIOD:
            await self._look()
        assert self._view is not None
        return self._view

    @property
    def full(self) -> bool:
        """Whether there are as many streams as there may be."""
        return self._streams >= MOST_STREAMS

    async def stream(self) -> AsyncIterator[bytes]:
        """Server-sent events for one who watches: the history, then each view; one who is slow misses some."""
        self._streams += 1
        try:
            yield b"retry: 1000\n\n" + event("history", self.history.columns())
            await self.page()
            yield self._encoded
            while not self._over:
                await self._news.wait()
                yield self._encoded
        finally:
            self._streams -= 1

    def close(self) -> None:
        """Ends all streams."""
        self._over = True
        self._news.set()
        for each in (self._task, self._listing):
            if each is not None:
                each.cancel()

    async def _look(self) -> None:
        """Asks the supervisor, and makes a view of what it says."""
        async with self._looking:
            now = time.monotonic()
            if self._view is not None and now < self._looked_at + PERIOD / 4:
                return
            try:
                self._status = await self._ask("status", {})
                self._workers = (await self._ask("workers", {}))["workers"]
                self._why = ""
                await self._list(now)
            except PronghornError as error:
                self._status, self._why = {}, error.what
            listeners = self._status.get("listeners", ())  # of an only one the server's own counts are the listener's
            self._listeners.see(
                now, ((f"listener {each['name']}", counts) for each in listeners if (counts := _counts(each)))
            )
            self._view = view(
                Facts(
                    self._status,
                    self._workers,
                    self._lists,
                    [*self._source.records()],
                    self.history,
                    self._sample,
                    {**self._source.rates(), **self._listeners.rates},
                    self._why,
                ),
                build(),
            )
            self._encoded, self._looked_at = event("view", self._view), now

    async def _list(self, now: float) -> None:
        """Has the lists of connections made, which takes a while where a worker hangs: nobody waits for more than a
        moment. Looking through many is work for those who serve them, so it is done less often."""
        due = self._listed_at + max(PERIOD / 2, self._status.get("open", 0) / OPEN_PER_SECOND)
        if now >= due and (self._listing is None or self._listing.done()):
            self._listed_at = now
            self._listing = asyncio.ensure_future(self._lists_made())
            await asyncio.wait([self._listing], timeout=MOMENT)

    async def _lists_made(self) -> None:
        asked = [self._ask("connections", {"limit": ROWS, **query}) for query in LISTS.values()]
        for which, result in zip(LISTS, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if not isinstance(result, BaseException):  # else the last list stays
                self._lists[which] = result["connections"]


def event(name: str, value: object) -> bytes:
    """A server-sent event; JSON has no line ends."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(value))


def _counts(listener: Mapping[str, Any]) -> dict[str, float]:
    return {name: listener[name] for name in ("accepted", "messages") if name in listener}
