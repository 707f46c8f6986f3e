"""The status page's feed: it asks only for those who watch, once for all of them, and waits for nobody who hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from pronghorn.admin import feed as feeds
from pronghorn.admin.feed import Feed
from pronghorn.errors import PronghornError

STATUS = {
    "state": "SERVING",
    "name": "mine",
    "pid": 1,
    "version": "1",
    "uptime": 1.0,
    "generation": 1,
    "handler": "h",
    "style": "message",
    "model": "epoll",
    "workers": {"wanted": 1, "ready": 1},
    "open": 3,
}


class Server:
    """What a feed asks and reads."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hangs = self.gone = False

    def sample(self, now: float) -> dict[str, float | None]:
        return {"open": 3.0}

    def rates(self) -> dict[str, dict[str, float]]:
        return {}

    def records(self) -> list[Any]:
        return []

    async def ask(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(command)
        if self.gone:
            raise PronghornError("The supervisor does not answer.")
        if command == "connections" and self.hangs:
            await asyncio.Event().wait()
        return {"status": STATUS, "workers": {"workers": []}, "connections": {"connections": []}}[command]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(feeds, "PERIOD", 0.02)
    return Server()


def run(server: Server, test: Callable[[Feed], Awaitable[None]]) -> None:
    """Runs a test in a loop with a feed that has begun."""

    async def whole() -> None:
        feed, faults = Feed(server, server.ask), list[BaseException]()
        feed.begin(lambda what, error: faults.append(error))
        try:
            async with asyncio.timeout(15):
                await test(feed)
        finally:
            feed.close()
        assert not faults

    asyncio.run(whole())


async def views(stream: AsyncIterator[bytes], count: int) -> list[bytes]:
    found = list[bytes]()
    async for each in stream:
        found += [each] if each.startswith(b"event: view\n") else []
        if len(found) >= count:
            break
    return found


def test_nobody_is_asked_while_nobody_watches_and_the_history_goes_on(server: Server) -> None:
    async def test(feed: Feed) -> None:
        while feed.history.length < 5:
            await asyncio.sleep(0.01)
        assert server.asked == []
        await feed.page()
        assert server.asked[:2] == ["status", "workers"]

    run(server, test)


def test_a_worker_that_hangs_holds_up_no_view(server: Server) -> None:
    async def test(feed: Feed) -> None:
        server.hangs = True
        assert (await feed.page()).verdict.startswith("All is well")
        assert len(await views(feed.stream(), 5)) == 5
        assert server.asked.count("connections") == 3, "it is asked no second time before it has answered"

    run(server, test)


def test_an_only_listener_has_the_rates_of_the_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = {"name": "127.0.0.1:1", "listening": ["127.0.0.1:1"], "handler": "h", "tls": "off"}
    monkeypatch.setitem(STATUS, "listeners", [listener])
    monkeypatch.setitem(STATUS, "accepted", 9)
    monkeypatch.setitem(STATUS, "refused", 0)
    monkeypatch.setattr(server, "rates", lambda: {"server": {"accepted": 4.0, "messages": 56.0}})

    async def test(feed: Feed) -> None:
        await views(feed.stream(), 3)
        page = await feed.page()
        assert [str(cell) for cell in page.tables["listeners"][0].cells[2:4]] == ["4.0", "56"]

    run(server, test)


def test_a_view_is_made_once_for_all(server: Server) -> None:
    async def test(feed: Feed) -> None:
        streams = [feed.stream() for _ in range(10)]
        firsts = await asyncio.gather(*(views(each, 3) for each in streams))
        assert len({each[-1] for each in firsts}) <= 2
        assert server.asked.count("status") < 10

    run(server, test)


def test_a_supervisor_that_is_gone_is_told(server: Server) -> None:
    async def test(feed: Feed) -> None:
        server.gone = True
        assert (await feed.page()).level == "bad"
        (view,) = await views(feed.stream(), 1)
        assert b"does not answer" in view

    run(server, test)


def test_the_end_of_the_feed_ends_its_streams(server: Server) -> None:
    async def test(feed: Feed) -> None:
        stream = feed.stream()
        await views(stream, 1)
        feed.close()
        assert len([each async for each in stream]) <= 1
        assert not feed.full

    run(server, test)
