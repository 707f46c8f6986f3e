"""What is measured: the scenarios, who takes part in each, and who is compared with whom.

Law: data and names only; measuring.py measures. The base of a ratio is the server that people would use in our place,
or the bare form of the same design.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import libraries
from servers import MODELS, PEERS, Contender, has_compiled, missing, peer, pronghorn

LINES = ("asyncio-lines", "uvloop-lines", "aiofastnet-lines", "twisted-lines", "threading-lines")
ALL_PEERS = tuple(name for name in PEERS if name not in LINES)
BLOCKING_PEERS = ("bare-prefork", "bare-pool", "bare-fork", "threading-server", "forking-server")
LOOP_PEERS = tuple(name for name in ALL_PEERS if name not in BLOCKING_PEERS)
LOOPS = ("select", "poll", "epoll", "asyncio", "uvloop", "gevent")
FEW_AT_A_TIME = ("iterative", "prefork", "pool", "bare-prefork", "bare-pool")  # idle connections wait in the kernel
BASES = {"fork": "forking-server", "thread": "threading-server", "gevent": "gevent-server"}
BASES |= {"asyncio": "asyncio-protocol", "pool": "bare-pool", "prefork": "bare-prefork"}
READLINE = {"thread": "threading-lines", "uvloop": "uvloop-lines"}
MUCH = str(10**6)
GUARDS = {  # none at all, or each of them, without a bound that the load would reach
    "unguarded": "--idle-timeout 0 --message-timeout 0 --write-timeout 0 --max-connection-age 0 --keepalive 0 "
    "--user-timeout 0",
    "guarded": "--idle-timeout 300s --message-timeout 30s --write-timeout 30s --max-connection-age 1h --keepalive 60s "
    f"--user-timeout 60s --allow 127.0.0.0/8 --deny 127.9.9.0/24 --max-connections {MUCH} "
    f"--max-connections-per-source {MUCH} --accept-rate {MUCH}",
}
OBSERVERS = {
    "unobserved": "",
    "access-log": "--access-log /dev/null",
    "metrics": "--statsd 127.0.0.1:9",
    "both": "--access-log /dev/null --statsd 127.0.0.1:9",
}


@dataclass(frozen=True)
class Scenario:
    """One table: its title, what is measured, under which load, who takes part, and who is the base of the ratios."""

    title: str
    measure: str = "messages"  # a key of measuring.MEASURES
    models: tuple[str, ...] = MODELS
    peers: tuple[str, ...] = ALL_PEERS
    connections: int = 64
    size: int = 64
    depth: int = 1
    tls: bool = False
    slow_client: bool = False  # load.py, which is slower than most servers: they wait for messages
    handler: str = "upper"
    base: str = "uvloop-protocol"
    bases: dict[str, str] = field(default_factory=lambda: BASES)  # those of models that have others
    variants: dict[str, str] = field(default_factory=dict)  # each model under these settings, the first the base
    worker_only: bool = False  # the CPU of the worker, and not of what is set beside it
    rounds: int = 3

    def base_of(self, name: str) -> str:
        """With which server `name` is compared."""
        build, _, model = name.partition(" ")
        if self.variants:
            return f"{build} {model.split()[0]} {next(iter(self.variants))}"
        return self.bases.get(model, self.base)


TLS_MODELS = ("epoll", "thread", "asyncio", "uvloop", "gevent")
SCENARIOS = {
    "messages": Scenario("64 clients, 64 B a message", rounds=5),
    "slow-client": Scenario(
        "64 clients, 64 B a message, a client that is slower than the servers",
        models=("epoll", "thread", "asyncio", "uvloop", "gevent"),
        slow_client=True,
        peers=tuple(name for name in ALL_PEERS if name not in ("bare-prefork", "bare-pool", "bare-fork")),
    ),
    "clients-500": Scenario("500 clients, 64 B a message", models=LOOPS, peers=LOOP_PEERS, connections=500),
    "depth-16": Scenario("64 clients, 64 B a message, 16 in flight", models=LOOPS, peers=LOOP_PEERS, depth=16),
    "lines": Scenario(
        "lines of 64 B, 64 clients, 16 in flight",
        models=("epoll", "thread", "asyncio", "uvloop", "gevent"),
        peers=LINES,
        depth=16,
        handler="handlers:upper_lines",
        base="asyncio-lines",
        bases=READLINE,
        rounds=5,
    ),
    "size-16k": Scenario("64 clients, 16 KiB a message", models=LOOPS, peers=LOOP_PEERS, size=16384),
    "connections": Scenario("a connection for each message, 16 at once", "connections", connections=16, rounds=5),
    "memory": Scenario("idle connections", "memory", rounds=1),
    "tls": Scenario(
        "TLS, 64 clients, 64 B a message",
        models=TLS_MODELS,
        peers=libraries.SPEAK_TLS,
        tls=True,
        base="asyncio-protocol",
        bases={"uvloop": "uvloop-protocol"},
    ),
    "tls-16k": Scenario(
        "TLS, 64 clients, 16 KiB a message",
        models=TLS_MODELS,
        peers=libraries.SPEAK_TLS,
        tls=True,
        size=16384,
        base="asyncio-protocol",
        bases={"uvloop": "uvloop-protocol"},
    ),
    "start": Scenario("until `pronghorn serve` answers", "start", peers=(), base="pronghorn epoll", bases={}, rounds=5),
    "guards": Scenario("every deadline and limit, and none", peers=(), variants=GUARDS, rounds=5),
    "observers": Scenario(
        "access log and metrics, connections",
        "connections",
        peers=(),
        connections=16,
        variants=OBSERVERS,
        worker_only=True,
        rounds=5,
    ),
    "observers-messages": Scenario("access log and metrics", peers=(), variants=OBSERVERS, worker_only=True, rounds=5),
}
IN_RESULTS = "messages slow-client clients-500 depth-16 lines size-16k connections memory tls tls-16k".split()


def contenders(scenario: Scenario, models: list[str], peers: list[str], pair: list[str]) -> list[Contender]:
    """Who takes part: of the scenario's those that were asked for, and can run here; `pair` is for TLS."""
    left_out = FEW_AT_A_TIME if scenario.measure == "memory" else ()
    found = [
        peer(name, *pair) for name in scenario.peers if name in peers and name not in left_out and not missing(name)
    ]
    settings = ["--tls-cert", pair[0], "--tls-key", pair[1]] if pair else []
    for build in ["pronghorn", *(["compiled"] if has_compiled() else [])]:
        for model in scenario.models:
            if model not in models or model in left_out or missing(model):
                continue
            alike = [*settings, "--workers", "16"] if model == "prefork" else settings  # as bare-prefork
            if scenario.variants:
                found += [
                    pronghorn(model, *words.split(), build=build, name=f"{build} {model} {name}")
                    for name, words in scenario.variants.items()
                ]
            else:
                found.append(pronghorn(model, *alike, handler=scenario.handler, build=build))
    return found


def absent(models: list[str], peers: list[str]) -> dict[str, str]:
    """Which of the models and competitors cannot run here, and why."""
    return {name: reason for name in [*peers, *models] if (reason := missing(name))}
