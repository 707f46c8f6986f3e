"""The carrier over NATS, with a real nats-server."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator

import pytest
from carrier_trials import TRIALS, Party, run

import brokers
from brokers import Broker

pytest.importorskip("nats", reason="nats-py is not installed")
prefixes = (f"t{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    broker = brokers.nats()
    with brokers.running(broker):
        yield broker


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.__name__)
def test_what_every_carrier_does(broker: Broker, trial: Callable[[Party], Awaitable[None]]) -> None:
    run(f"nats://127.0.0.1:{broker.port}?prefix={next(prefixes)}", trial)
