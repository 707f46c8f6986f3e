"""How cost grows: with workers, with idle neighbours, with connections, and with the time that a handler takes.

Law: as in measuring.py. An experiment gives rows by name, as a scenario does; a sweep gives curves by name: pairs of
x and y, each y the median of its rounds. Where a process may not have so many descriptors, there are fewer connections.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace

from loading import Row, crowd, load, result
from measuring import MOST_IDLE, Results, attempt, messages, warm
from processes import sockets_of
from scenarios import SCENARIOS
from servers import PATIENCE, Contender, Field, NotServing, Server, has_compiled, missing, peer, pronghorn, serving

from pronghorn.bench.tree import held, settled

CLIENTS = 64
LONG_LIVED = 1000
SPARE = 200  # descriptors that are no connections
HANDLER_MS = (0.0, 1.0, 5.0, 20.0)
Curves = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Extent:
    """How much of everything: of a whole run, or of a short one."""

    rounds: int
    seconds: float
    crowd: int
    connections: tuple[int, ...]
    idle: tuple[int, ...]
    handler_ms: tuple[float, ...] = HANDLER_MS


WHOLE = Extent(5, 0.3, 15_000, (1, 16, 64, 256, 900, 4000, 15_000), (100, 900, 5000, 15_000))
QUICK = Extent(1, 0.1, 1000, (16, 256), (100, 500), (0.0, 1.0))


def possible(count: int) -> int:
    """So many connections, or as many as a process may have descriptors."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return count if most == resource.RLIM_INFINITY else min(count, most - SPARE)


def known(*names: str) -> Iterator[Contender]:
    """Models and competitors by name, those that can run here."""
    for name in names:
        build, _, model = name.partition(" ")
        if missing(model or name) or (build == "compiled" and not has_compiled()):
            continue
        yield pronghorn(model, build=build) if model else peer(name)


# Experiments: rows by name


def two_workers(field: Field, extent: Extent) -> Results:
    """One worker and two, with 64 clients in all, and with 64 for each worker; C beside, as the kernel's own share."""
    chosen = [(f"{each}, {count}", each, count) for each in ("pronghorn epoll", "compiled epoll") for count in (1, 2)]
    pairs = [
        (name, pronghorn("epoll", "--workers", str(count), build=each.partition(" ")[0]))
        for name, each, count in chosen
        if not each.startswith("compiled") or has_compiled()
    ]
    if not missing("c-epoll"):
        pairs += [(f"c-epoll, {count}", peer("c-epoll", str(count))) for count in (1, 2)]
    results: Results = {}
    for _ in range(extent.rounds):
        for name, contender in pairs:
            for server in field.start([contender]):
                for clients in (CLIENTS, 2 * CLIENTS):
                    scenario = replace(SCENARIOS["messages"], connections=clients)
                    row = attempt(messages, server, scenario, extent.seconds)
                    results.setdefault(f"{name} x {clients}", []).append(row)
    return results


def shares(field: Field, extent: Extent) -> Results:
    """How two workers share a thousand connections that come at once and stay: the larger share by the smaller."""
    results: Results = {}
    names = [name for name in ("epoll", "poll", "select", "asyncio", "uvloop", "gevent", "thread") if not missing(name)]
    for server in field.start(pronghorn(name, "--workers", "2") for name in names):
        workers = [server.worker(number) for number in (1, 2)]
        settled(server.pid)
        empty = [sockets_of(pid) for pid in workers]
        for _ in range(extent.rounds):
            results.setdefault(server.name, []).append(attempt(share, server, workers, empty))
    return results


def share(server: Server, workers: list[int], empty: list[int]) -> Row:
    until = time.monotonic() + PATIENCE
    while [sockets_of(pid) for pid in workers] != empty:  # the connections of the round before
        if time.monotonic() > until:
            raise NotServing(f"{server.name} holds connections of clients that have left")
        time.sleep(0.05)
    with crowd(server, LONG_LIVED):
        fewest, most = sorted(sockets_of(pid) - count for pid, count in zip(workers, empty, strict=True))
    return {"cost": most / max(fewest, 1), "most": most, "fewest": fewest}


def among_idle(field: Field, extent: Extent) -> Results:
    """CPU for each message of 64 clients: alone, and beside thousands of connections that say nothing."""
    results: Results = {}
    names = ("pronghorn epoll", "compiled epoll", "pronghorn uvloop", "c-epoll")
    count, scenario = possible(extent.crowd), SCENARIOS["messages"]
    for server in field.start(known(*names)):
        for _ in range(extent.rounds):
            alone = attempt(messages, server, scenario, extent.seconds)
            with crowd(server, count):
                beside = attempt(messages, server, scenario, extent.seconds)
                again = attempt(messages, server, scenario, extent.seconds)
            after = attempt(messages, server, scenario, extent.seconds)
            results.setdefault(f"{server.name}, 0", []).extend([alone, after])
            results.setdefault(f"{server.name}, {count}", []).extend([beside, again])
    return results


# Sweeps: curves by name


def by_connections(field: Field, extent: Extent) -> Curves:
    """CPU microseconds for each message against connections, all of them active."""
    names = "c-epoll", "uvloop-protocol", "pronghorn epoll", "pronghorn uvloop", "pronghorn gevent"
    few = "pronghorn poll", "pronghorn select", "pronghorn thread"
    curves: Curves = {}
    for server in field.start(known(*names, *few)):
        for count in sorted({possible(each) for each in extent.connections}):
            if count > MOST_IDLE.get(server.name.rpartition(" ")[2], 4000 if server.name in few else count):
                continue
            scenario = replace(SCENARIOS["messages"], connections=count)
            rows = [attempt(messages, server, scenario, extent.seconds) for _ in range(min(extent.rounds, 2))]
            add(curves, server.name, count, [row["cost"] for row in rows if row])
    return curves


def by_idle(field: Field, extent: Extent) -> Curves:
    """CPU microseconds for each message of 64 clients, against idle connections beside them."""
    curves: Curves = {}
    scenario = SCENARIOS["messages"]
    for server in field.start(known("pronghorn select", "pronghorn poll", "pronghorn epoll", "pronghorn uvloop")):
        for count in (0, *sorted({possible(each) for each in extent.idle})):
            if count > MOST_IDLE.get(server.name.rpartition(" ")[2], count):
                continue
            with crowd(server, count) if count else nullcontext():
                rows = [attempt(messages, server, scenario, extent.seconds) for _ in range(min(extent.rounds, 2))]
            add(curves, server.name, count, [row["cost"] for row in rows if row])
    return curves


def memory_by_connections(_: Field, extent: Extent) -> Curves:
    """MiB that the server's processes hold, against idle connections."""
    names = "pronghorn epoll", "pronghorn asyncio", "pronghorn gevent", "pronghorn thread"
    curves: Curves = {}
    for contender in known("uvloop-protocol", "asyncio-streams", *names):
        with serving(contender) as server, ExitStack() as stack:
            warm(server)
            add(curves, contender.name, 0, [held(server.pid) / 2**20])
            total, most = 0, MOST_IDLE.get(contender.name.rpartition(" ")[2], extent.idle[-1])
            for count in [possible(each) for each in extent.idle if each <= most]:
                if count > total:
                    stack.enter_context(crowd(server, count - total))
                    total = count
                    add(curves, contender.name, total, [held(server.pid) / 2**20])
    return curves


def by_workers(_: Field, extent: Extent) -> Curves:
    """Messages a second of 64 clients against workers, by a handler that computes for a millisecond."""
    curves: Curves = {}
    processors = os.cpu_count() or 1
    for count in sorted({1, 2, processors, 2 * processors}):
        for model in ("epoll", "thread", "prefork"):
            settings = ("--workers", str(count))
            environment = [("HANDLER_MS", "1")]
            contender = pronghorn(model, *settings, handler="handlers:computes", environment=environment)
            add(curves, f"pronghorn {model}", count, rates(contender, extent))
    return curves


def by_handler_time(_: Field, extent: Extent) -> Curves:
    """Messages a second of 64 clients, against the milliseconds for which the handler waits (as for a database)."""
    curves: Curves = {}
    for milliseconds in extent.handler_ms:
        for model in ("epoll", "fork", "pool", "thread"):
            environment = [("HANDLER_MS", str(milliseconds))]
            contender = pronghorn(model, handler="handlers:waits", environment=environment)
            add(curves, f"pronghorn {model}", milliseconds, rates(contender, extent))
    return curves


def rates(contender: Contender, extent: Extent) -> list[float]:
    """Messages a second of 64 clients, of a server of its own."""
    with serving(contender) as server:
        row = attempt(timed, server, extent.seconds)
    return [row["rate"]] if row else []


def timed(server: Server, seconds: float) -> Row:
    """A connection for each message, so that a model that serves few at a time serves all of them in turn."""
    with load(server, "--connections", CLIENTS, "--seconds", max(seconds, 0.2), "--per-connection") as following:
        row = result(following())
    return row | {"rate": row["messages"] / row["seconds"]}


def add(curves: Curves, name: str, x: float, values: list[float]) -> None:
    if values:
        curves.setdefault(name, []).append((x, statistics.median(values)))


EXPERIMENTS = {"workers": two_workers, "shares": shares, "crowd": among_idle}
SWEEPS = {
    "by-connections": by_connections,
    "by-idle": by_idle,
    "memory-by-connections": memory_by_connections,
    "by-workers": by_workers,
    "by-handler-time": by_handler_time,
}
