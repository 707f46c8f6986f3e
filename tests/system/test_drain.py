"""Who is called when a worker lets go and when it drains; the rest of a Drain is tried where it is used."""

from __future__ import annotations

import asyncio
import contextlib

from pronghorn.system.drain import Drain


def test_what_waits_for_the_drain_is_called_once_and_at_once_if_it_has_begun() -> None:
    with contextlib.closing(Drain(1.0)) as drain:
        called: list[str] = []
        drain.when_begun(lambda: called.append("first"))
        drain.when_let_go(lambda: called.append("let go"))
        drain.let_go()
        drain.let_go()
        assert called == ["let go"]
        drain.when_let_go(lambda: called.append("let go already"))
        drain.begin()
        drain.begin()
        drain.when_begun(lambda: called.append("second"))
        assert called == ["let go", "let go already", "first", "second"]


def test_a_drain_that_begins_at_once_is_no_letting_go() -> None:
    with contextlib.closing(Drain(1.0)) as drain:
        called: list[str] = []
        drain.when_let_go(lambda: called.append("let go"))
        drain.begin()
        drain.let_go()
        assert called == [] and drain.lets_go


def test_coroutines_wait_for_it_on_any_loop() -> None:
    async def waits(drain: Drain) -> None:
        waiting = asyncio.create_task(drain.begins())
        given_up = asyncio.create_task(drain.begins())
        await asyncio.sleep(0)
        given_up.cancel()
        drain.begin()
        await waiting
        await drain.begins()

    with contextlib.closing(Drain(1.0)) as drain:
        asyncio.run(asyncio.wait_for(waits(drain), 10))
