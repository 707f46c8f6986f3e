"""The trials of several hosts, with large numbers: what proof/run.py makes with network namespaces and HAProxy.

Law: numbers stand here, and nothing else; what is demanded is in tests/host_trials.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import host_trials as trials
from ledger_trials import Result

Trial = Callable[[Path], Result]


def experiments(scaled: Callable[[int], int]) -> Iterator[tuple[str, str, Trial]]:
    """Each with its number, what is done in words, and how. HAProxy has the times of deploy/haproxy/haproxy.cfg."""
    for how in ("stop", "drain"):
        count, rounds = scaled(1000), max(1, scaled(6) // 2)
        trial = partial(trials.rolling, rounds=rounds, rate=100, devices=count, how=how, drain_delay=5.0, quick=False)
        words = f"3 hosts restarted {rounds} times by {how} behind HAProxy, 100 connections a second, {count:,} devices"
        yield "R23", words, trial
    few = scaled(1000)
    settings = {"rate": 100, "devices": few, "quick": False, "changes": trials.GONE_IS_CUT}
    trial = partial(trials.rolling, rounds=1, how="stop", drain_delay=5.0, **settings)
    yield "R23", f"3 hosts restarted, where HAProxy ends the sessions of a host that is gone, {few:,} devices", trial
    trial = partial(trials.cut_off, seconds=20.0, **settings)
    yield "R24", f"one host of 3 cut off for 20 s, where HAProxy ends its sessions, {few:,} devices", trial
    for broker in ("redis", "nats"):
        many = scaled(10_000)
        asks = partial(trials.commands, broker=broker, devices=many, rate=1000, seconds=20.0, balancers=2, quick=False)
        yield "R25", f"{many:,} devices on 3 hosts, 1,000 questions a second to random ones over {broker}", asks
        for seconds in (5.0, 30.0):
            cut = partial(trials.cut_from_broker, broker=broker, seconds=seconds, devices=few, quick=False)
            yield "R24", f"one host of 3 cut off from {broker} alone for {seconds:g} s, {few:,} devices", cut
        cut = partial(trials.cut_off, seconds=20.0, rate=100, devices=few, broker=broker, quick=False)
        yield "R24", f"one host of 3 cut off for 20 s, bus over {broker}, {few:,} devices", cut
    trial = partial(trials.cut_off, seconds=20.0, rate=100, devices=scaled(1000), quick=False)
    yield "R24", f"one host of 3 cut off for 20 s behind HAProxy, {scaled(1000):,} devices", trial
