"""What every carrier does, over each broker: Redis, and NATS as one server and as a cluster."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from carrier_trials import TRIALS, Double, Party, run

import brokers

PREFIXES = (f"t{number}" for number in itertools.count())


class Spread(Party):
    """Hosts that take the servers of a cluster in turn."""

    settling = 0.2

    def stranger(self, url: str = "") -> Double:
        hosts, _, options = self.url.removeprefix("nats://").partition("?")
        servers = hosts.split(",")
        return super().stranger(url or f"nats://{servers[len(self.hosts) % len(servers)]}?{options}")


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    pytest.importorskip("redis", reason="redis-py is not installed")
    server = brokers.redis(folder)
    with brokers.running(server):
        yield f"redis://127.0.0.1:{server.port}"


@contextmanager
def nats(folder: Path) -> Iterator[str]:
    pytest.importorskip("nats", reason="nats-py is not installed")
    server = brokers.nats()
    with brokers.running(server):
        yield f"nats://127.0.0.1:{server.port}"


@contextmanager
def nats_cluster(folder: Path) -> Iterator[str]:
    pytest.importorskip("nats", reason="nats-py is not installed")
    servers = brokers.nats_cluster()
    with brokers.running(*servers):
        yield "nats://" + ",".join(f"127.0.0.1:{each.port}" for each in servers)


@pytest.fixture(
    scope="module",
    params=[redis, nats, pytest.param(nats_cluster, marks=pytest.mark.slow)],
    ids=lambda param: param.__name__,
)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with request.param(tmp_path_factory.mktemp("broker")) as url:
        yield url


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.__name__)
def test_what_every_carrier_does(url: str, trial: Callable[[Party], Awaitable[None]]) -> None:
    run(f"{url}?prefix={next(PREFIXES)}", trial, Spread if "," in url else Party)
