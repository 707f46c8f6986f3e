"""Results of `pronghorn bench`: what one round measured, and a cell of the table, which is the median of its rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import msgspec

from pronghorn.bench.latencies import Latencies

PERCENTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))
LOAD, SERVER, BOTH = "load", "server", "both"
ENDED = "server ended"


class Round(msgspec.Struct):
    """One contender, measured once. Times in seconds, memory in bytes, `throughput` in messages a second (connections
    a second where each message has one); None: not measured, or not to be known.

    `limit` is who had no time left: the `load` processes, the `server`, `both`; empty: neither.
    """

    throughput: float
    messages: int
    latencies: Latencies
    cpu: float | None = None
    """Of the server, per message."""
    memory: float | None = None
    """Of the server, per connection."""
    errors: dict[str, tuple[int, str]] = {}
    unserved: int = 0
    unanswered: int = 0
    behind: float = 0.0
    late: float = 0.0
    """Within which the load processes sent 99 % of the messages that were due and that nothing else held up."""
    limit: str = ""
    loads: int = 1
    load_cpu: float = 0.0
    """Of the load processes, per message."""


class Cell(msgspec.Struct):
    """A contender with so many clients: all rounds of it."""

    name: str
    clients: int
    rounds: list[Round] = []

    def median(self, value: Callable[[Round], float | None]) -> float | None:
        found = [each for each in map(value, self.rounds) if each is not None and not math.isnan(each)]
        return statistics.median(found) if found else None

    @property
    def throughput(self) -> float:
        return self.median(lambda each: each.throughput) or 0.0

    @property
    def cpu(self) -> float | None:
        return self.median(lambda each: each.cpu)

    @property
    def memory(self) -> float | None:
        return self.median(lambda each: each.memory)

    def quantile(self, part: float) -> float | None:
        """The median of the rounds' quantiles."""
        return self.median(lambda each: each.latencies.quantile(part))

    @property
    def latencies(self) -> Latencies:
        """Those of all rounds, added up."""
        found = Latencies()
        for each in self.rounds:
            found.add(each.latencies)
        return found

    @property
    def errors(self) -> dict[str, tuple[int, str]]:
        """Of all rounds: counts with an example, by kind."""
        found: dict[str, tuple[int, str]] = {}
        for each in self.rounds:
            for kind, (count, example) in each.errors.items():
                before, first = found.get(kind, (0, example))
                found[kind] = (before + count, first)
        return found

    @property
    def error_count(self) -> int:
        return sum(count for count, _ in self.errors.values())

    @property
    def unserved(self) -> int:
        """Clients that no reply ever came to, in the worst round."""
        return max((each.unserved for each in self.rounds), default=0)

    @property
    def behind(self) -> float:
        return self.median(lambda each: each.behind) or 0.0

    @property
    def late(self) -> float:
        return self.median(lambda each: each.late) or 0.0

    @property
    def unanswered(self) -> int:
        return max((each.unanswered for each in self.rounds), default=0)

    @property
    def limit(self) -> str:
        """Who was the limit in most rounds."""
        return statistics.mode(each.limit for each in self.rounds) if self.rounds else ""

    def plain(self) -> dict[str, Any]:
        """For JSON: the medians, and each round."""
        return {
            "name": self.name,
            "clients": self.clients,
            "throughput": self.throughput,
            "latency": {name: self.quantile(part) for name, part in PERCENTILES},
            "cpu": self.cpu,
            "memory": self.memory,
            "errors": {kind: {"count": count, "example": example} for kind, (count, example) in self.errors.items()},
            "unserved": self.unserved,
            "unanswered": self.unanswered,
            "behind": self.behind,
            "limit": self.limit,
            "rounds": [self._plain(each) for each in self.rounds],
        }

    def _plain(self, each: Round) -> dict[str, Any]:
        latencies = each.latencies
        told: dict[str, Any] = msgspec.structs.asdict(each)
        del told["latencies"]
        told["latency"] = {name: latencies.quantile(part) if latencies.counts else None for name, part in PERCENTILES}
        told["errors"] = {kind: count for kind, (count, _) in each.errors.items()}
        return told
