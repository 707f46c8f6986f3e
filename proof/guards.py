"""The trials of the guards, with large numbers: what proof/run.py makes beside those of reloads and kills.

Law: numbers stand here, and nothing else; what is demanded is in tests/guard_trials.py, tests/line_trials.py,
tests/fault_trials.py, tests/crash_trials.py and tests/hostile_trials.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzz

import crash_trials as crashing
import crowd_trials as crowds
import fault_trials as failing
import guard_trials as guards
import hostile_trials as turning
import idle_trials as idling
import line_trials as line
from ledger_trials import Result

Trial = Callable[[Path], Result]
MODELS = ("epoll", "thread")
IDLE_MODELS = ("epoll", "asyncio", "uvloop", "gevent")
CROWD = 15_000
TLS_MODELS = ("epoll", "thread", "pool", "asyncio", "gevent")


def _with(trial: Callable[..., Result], *arguments: Any) -> Trial:
    return lambda folder: trial(folder, *arguments)


def experiments(scaled: Callable[[int], int], available: list[str]) -> Iterator[tuple[str, str, Trial]]:
    """Each with its number, what is done in words, and how."""
    for model in MODELS:
        count = max(20, scaled(100))  # what serving takes at first is no part of it
        yield "R5", f"{count} peers that never read 64 MiB, {model}", _with(guards.deaf, count, model, 10.0)
        count = scaled(500 if model == "epoll" else 400)  # a thousand threads are the most, and good ones need some
        yield "R6", f"{count} peers with a byte a second, {count} mute, {model}", _with(guards.slow, count, model, 10.0)
        count = scaled(200)
        yield "R6", f"{count} mute TLS clients, {model}", _with(line.mute, count, model, 5.0)
        yield "R8", f"{count} clients without a descriptor, {model}", _with(guards.no_descriptors, count, model)
        yield "R10", f"{count} connections in all, {model}", _with(guards.limit_of_all, count, model)
        yield "R10", f"{scaled(500)} sources, {model}", _with(guards.limit_of_sources, scaled(500), model)
        yield "R10", f"{count} in a second, {model}", _with(guards.limit_of_rate, count, model)
        yield "R10", f"{scaled(50)} behind proxies, {model}", _with(guards.limit_behind_proxies, scaled(50), model)
    for model in IDLE_MODELS:
        if model in available:
            count = scaled(10_000)
            yield "R6", f"{count:,} idle connections, {model}", _with(idling.idle, count, model)
            count = scaled(CROWD)
            yield "R22", f"{count:,} connections at once, {model}", _with(crowds.at_once, count, model)
    yield "R10", f"{scaled(1_000_000):,} false sources", _with(guards.false_sources, scaled(1_000_000))
    for model in available:
        count = sum(failing.fits(each, model) for each in failing.FAULTS)
        words = f"{count} failing system calls, and no descriptor for {scaled(10)} s, {model}"
        yield "R7", words, _with(failing.faults, model, failing.FAULTS, 30, float(scaled(10)))
    yield "R8", "a log on a full disk", _with(guards.full_disk, scaled(20))
    yield "R8", f"{scaled(50)} clients without a process, fork", _with(guards.no_forks, scaled(50))
    for model in TLS_MODELS:
        if model in available:
            count = scaled(100 if model in MODELS else 30)
            yield "R11", f"{count} certificates, one after the other, {model}", _with(line.rotations, count, model)
    for model in MODELS:
        yield "R11", f"versions of TLS, {model}", _with(line.versions, model)
        for permille in (10, 50):
            words = f"{permille / 10:g} % of packets lost for {scaled(60)} s, {model}"
            yield "R12", words, _with(line.loss, scaled(60), permille, model)
    for model in ("epoll", "thread", "prefork", "fork"):
        for proxied in (False, True)[: 1 if model == "fork" else 2]:
            told = "told apart by PROXY headers" if proxied else "of one address"
            words = f"a message that crashes, again and again for {scaled(20)} s, {told}, {model}"
            yield "R15", words, _with(crashing.crashes, float(scaled(20)), model, proxied)
    for model, program in (("fork", False), ("fork", True), ("thread", True)):
        words = f"{scaled(5)} workers killed beside {scaled(20)} {'programs' if program else 'children'} each, {model}"
        yield "R16", words, _with(crashing.left_behind, scaled(5), scaled(20), model, program)
    for model, handler in (
        ("iterative", "sleeps"),
        ("prefork", "computes"),
        ("fork", "computes"),
        ("thread", "sleeps"),
    ):
        words = f"kill -9 of the supervisor while a handler {handler} for ever, {model}"
        yield "R16", words, _with(crashing.hung, model, handler)
    yield "R19", f"workers that turn on their server for {scaled(120)} s", _with(turning.hostile, float(scaled(120)))
    yield "R14", f"a hostile PROXY header for {scaled(600)} s", lambda folder: fuzz.fuzz(scaled(600))
