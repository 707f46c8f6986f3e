"""Tracebacks of the user's code, as the log has them."""

from __future__ import annotations

import asyncio

from pronghorn.tracebacks import of_users


async def fails() -> None:
    asyncio.get_running_loop().call_later("soon", print)  # type: ignore[arg-type]


def test_frames_of_asyncio_that_led_to_the_users_code_are_left_out() -> None:
    """Under thread, fork and their like a coroutine runs on a loop of its connection's own."""
    try:
        asyncio.run(fails())
    except TypeError as error:
        own, below = (
            of_users(error),
            of_users(error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)),
        )
    assert "in run_until_complete" in own, "this test has called asyncio itself"
    assert "in run_until_complete" not in below
    assert below.splitlines()[1].endswith("in fails") and "in call_later" in below
