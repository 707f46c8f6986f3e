"""`pronghorn ctl stats`: the server's counters, asked twice, and the rates between the two."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pronghorn.cli.ctl import request

SECONDS = 1.0
COUNTERS = ("accepted", "refused", "messages", "bytes_in", "bytes_out", "handler_errors")


def taken(values: dict[str, Any], find: Callable[[], str], timeout: str | None) -> dict[str, Any]:
    """The server's own result, with `rates` a second beside: of the whole, and in each listener and worker. Raises
    NoServer, BadSetting."""
    interval = values.pop("interval")
    seconds = SECONDS if interval is None else request.duration(interval, "--interval")
    ask = {"command": "stats"}
    before, began = request.answer(ask, find, timeout), time.monotonic()
    time.sleep(seconds)
    after = request.answer(ask, find, timeout)
    return with_rates(before, after, time.monotonic() - began)


def with_rates(before: dict[str, Any], after: dict[str, Any], seconds: float) -> dict[str, Any]:
    """`after`, and how fast its counters have grown. What was not there before has no rates yet."""
    result = {**after, "seconds": round(seconds, 3)}
    result["rates"] = _rates(before["totals"], after["totals"], seconds)
    result["rates"]["closed"] = {
        reason: round(max(0, count - before["totals"]["closed"].get(reason, 0)) / seconds, 3)
        for reason, count in after["totals"]["closed"].items()
    }
    for kind, key in (("listeners", "name"), ("workers", "pid")):
        earlier = {each[key]: each for each in before[kind]}
        result[kind] = [
            {**each, "rates": _rates(earlier[each[key]], each, seconds) if each[key] in earlier else None}
            for each in after[kind]
        ]
    return result


def _rates(before: dict[str, Any], after: dict[str, Any], seconds: float) -> dict[str, Any]:
    names = [
        name for name in (*COUNTERS, "cpu_seconds") if after.get(name) is not None and before.get(name) is not None
    ]
    return {name: round(max(0, after[name] - before[name]) / seconds, 3) for name in names}
