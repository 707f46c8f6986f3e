"""The targets: which ratios the house has promised itself, and whether a run has kept them.

Law: data, and one calculation; a target that falls short says why, as far as it is known, and the report prints that
sentence only then.
"""

from __future__ import annotations

from dataclasses import dataclass

from measuring import Results
from tables import Table, figure, median, ratio

PURE, FAST = "pronghorn", "compiled"


@dataclass(frozen=True)
class Target:
    """`name`'s cost in a scenario, beside that of `base` (alone without one): at most `bound`, or at least."""

    words: str
    scenario: str
    name: str
    base: str
    bound: float | None  # None: no target, for comparison only
    least: bool = False  # how many times cheaper than `base`, at least
    reason: str = ""

    def measured(self, runs: dict[str, Results]) -> float | None:
        results = runs.get(self.scenario, {})
        if not self.base:
            return median(results, self.name)
        return ratio(results, self.base, self.name) if self.least else ratio(results, self.name, self.base)

    def line(self, runs: dict[str, Results]) -> list[str]:
        value = self.measured(runs)
        sign, unit = (">=", "x") if self.least else ("<=", "x" if self.base else "")
        if self.bound is None:
            target, kept = "(for comparison)", ""
        else:
            target, kept = f"{sign} {self.bound:g}{unit}", "not measured"
            if value is not None:
                kept = "yes" if (value >= self.bound if self.least else value <= self.bound) else "**no**"
        results = runs.get(self.scenario, {})
        parts = [median(results, each) for each in (self.name, self.base) if each]
        beside = " : ".join(figure(part) for part in parts if part is not None)
        shown = "" if value is None else f"{value:.2f}{unit}" if self.base else figure(value)
        return [self.words, target, shown, kept, beside]


KERNEL = (
    "The cost of C's loop beside is what the kernel asks, and the least there is. A server that is busy all the time "
    "is hardly ever put to sleep, so the kernel's part shrinks to a receive and a send; the interpreter's part, some "
    "calls of Python for each message, stays."
)
SLOW = "With a client slower than the servers most of a message is the kernel's: to be put to sleep, and to be woken."
CONNECTION = (
    "The least is C's cost; above it are the interpreter's calls, for each of accept, admission, counts and close."
)
SHARES = "A worker that gets no processor while a crowd comes leaves it to the other: give it a quiet machine."
MEMORY = (
    "What is kept for a connection are Python objects: a socket, a channel, a protocol, and an entry in a dictionary."
)
TWO = (
    "With two processors the load client and two workers share them: a worker finds fewer messages at each turn and is "
    "woken more often. C's two processes beside show how much of that is the kernel's."
)
FORK = "Most of it is fork(2) itself: bare-fork, which does nothing else, is the least that Python can do."
TLS_THREAD = "Each message wakes a thread, which asyncio's loop does not pay; OpenSSL's part is the same for both."


def targets(workers: str = "x 64", crowd: str = "15000") -> list[Target]:
    """All of them; `workers` and `crowd` say which rows of those experiments are meant."""
    uvloop, asyncio, tls = "uvloop-protocol", "asyncio-protocol", ("tls", "tls-16k")
    epoll, compiled = f"{PURE} epoll", f"{FAST} epoll"
    found = [
        Target("epoll, a message", "messages", epoll, uvloop, 1.0, reason=KERNEL),
        Target("epoll, a message, beside C", "messages", epoll, "c-epoll", 1.12, reason=KERNEL),
        Target("epoll compiled, a message, beside C", "messages", compiled, "c-epoll", 1.05, reason=KERNEL),
        Target("epoll, a message, slow client", "slow-client", epoll, uvloop, 1.0, reason=SLOW),
        Target("epoll, a message, slow client, beside C", "slow-client", epoll, "c-epoll", 1.12, reason=SLOW),
        Target(
            "epoll compiled, a message, slow client, beside C", "slow-client", compiled, "c-epoll", 1.05, reason=SLOW
        ),
        Target("epoll, a message, 500 clients", "clients-500", epoll, uvloop, 1.15, reason=KERNEL),
        Target("`lines`, beside asyncio's readline", "lines", epoll, "asyncio-lines", 3.0, least=True),
        Target("`lines`, beside uvloop's readline", "lines", epoll, "uvloop-lines", 2.0, least=True),
        Target("epoll, a connection", "connections", epoll, uvloop, 1.0, reason=CONNECTION),
        Target("epoll compiled, a connection, beside C", "connections", compiled, "c-epoll", 1.1, reason=CONNECTION),
        Target("pool, a connection, beside the bare pool", "connections", f"{PURE} pool", "bare-pool", 1.5),
        Target("prefork, a connection, beside the bare one", "connections", f"{PURE} prefork", "bare-prefork", 1.5),
        Target("thread, a connection", "connections", f"{PURE} thread", "threading-server", 0.7),
        Target("thread, a message", "messages", f"{PURE} thread", "threading-server", 0.85),
        Target("thread, a message, slow client", "slow-client", f"{PURE} thread", "threading-server", 0.85),
        Target("fork, a connection", "connections", f"{PURE} fork", "forking-server", 0.75, reason=FORK),
        Target("fork, beside the bare one", "connections", f"{PURE} fork", "bare-fork", None),
        Target("gevent, a message", "messages", f"{PURE} gevent", "gevent-server", 1.0),
        Target("gevent, a message, slow client", "slow-client", f"{PURE} gevent", "gevent-server", 1.0),
        Target("gevent, memory of an idle connection", "memory", f"{PURE} gevent", "gevent-server", 1.0),
    ]
    for loop, bare in (("asyncio", asyncio), ("uvloop", uvloop)):
        for scenario, what in (
            ("messages", "a message"),
            ("slow-client", "a message, slow client"),
            ("connections", "a connection"),
        ):
            found.append(Target(f"{loop}, {what}, beside a bare Protocol", scenario, f"{PURE} {loop}", bare, 1.0))
            found.append(
                Target(f"{loop}, {what}, beside aiofastnet", scenario, f"{PURE} {loop}", f"aiofastnet-{loop}", None)
            )
    found += [
        Target("epoll, bytes of an idle connection", "memory", epoll, "", 600, reason=MEMORY),
        Target("epoll, a message, beside idle connections", "crowd", f"{epoll}, {crowd}", f"{epoll}, 0", 1.05),
        Target("C, a message, beside idle connections", "crowd", f"c-epoll, {crowd}", "c-epoll, 0", None),
        Target("two workers, a message", "workers", f"{epoll}, 2 {workers}", f"{epoll}, 1 {workers}", 1.05, reason=TWO),
        Target("two workers, 64 clients for each", "workers", f"{epoll}, 2 x 128", f"{epoll}, 1 x 64", None),
        Target("two processes of C, a message", "workers", f"c-epoll, 2 {workers}", f"c-epoll, 1 {workers}", None),
        Target("two workers, long-lived connections: the larger share", "shares", epoll, "", 1.2, reason=SHARES),
    ]
    for scenario, size in zip(tls, ("64 B", "16 KiB"), strict=True):
        found += [
            Target(f"TLS {size}: epoll beside asyncio", scenario, epoll, asyncio, 0.85),
            Target(f"TLS {size}: epoll beside uvloop", scenario, epoll, uvloop, 0.55),
            Target(f"TLS {size}: epoll beside aiofastnet on asyncio", scenario, epoll, "aiofastnet-asyncio", None),
            Target(f"TLS {size}: thread beside asyncio", scenario, f"{PURE} thread", asyncio, 1.5, reason=TLS_THREAD),
        ]
    return found


def table(runs: dict[str, Results]) -> Table:
    """A line for each target."""
    heading = ["", "target", "measured", "kept", "medians (ours : base)"]
    return [heading, *(each.line(runs) for each in targets(crowd=crowd_of(runs)))]


def reasons(runs: dict[str, Results]) -> list[str]:
    """Why targets fall short that do, as far as it is known: a sentence, and which it is of."""
    short: dict[str, list[str]] = {}
    for each in targets(crowd=crowd_of(runs)):
        if each.reason and each.line(runs)[3] == "**no**":
            short.setdefault(each.reason, []).append(each.words)
    return [f"{'; '.join(words)}: {reason}" for reason, words in short.items()]


def crowd_of(runs: dict[str, Results]) -> str:
    """How many idle connections there were in this run."""
    return max((name.rpartition(", ")[2] for name in runs.get("crowd", {})), key=int, default="15000")
