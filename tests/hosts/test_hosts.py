"""Hosts behind HAProxy, for real: restarted under load, one of them cut off, and devices asked from outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import host_servers
from host_trials import Load, commands_of, cut_from_broker_of, cut_off_of, loaded, rolling_of
from ledger_trials import Result, until

pytest.importorskip("h11")
if why := host_servers.why_not():
    pytest.skip(why, allow_module_level=True)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """Servers on two hosts, clients that come all the time, and devices that stay."""
    folder = tmp_path_factory.mktemp("hosts")
    with loaded(folder, 50, 40, names=("one", "two"), drain_delay=0.5, workers=1) as load:
        yield load


@pytest.mark.parametrize("how", ["stop", "drain"])
def test_all_hosts_are_restarted_one_after_the_other_and_nobody_is_refused(load: Load, how: str) -> None:
    result = Result(how)
    rolling_of(result, load, 1, how)
    assert not result.faults, str(result)


def test_a_host_that_was_cut_off_serves_again_by_itself(load: Load) -> None:
    result = Result("cut off")
    cut_off_of(result, load, 1.0)
    assert not result.faults, str(result)


def test_clients_that_nobody_serves_are_seen(load: Load) -> None:
    """The detector: all servers are killed, and come back a moment later."""
    result = Result("killed")
    load.begin()
    for server in load.place.servers.values():
        server.now.end()
    before = load.visits.told()["counts"]
    assert until(lambda: load.visits.told()["counts"] | {"ok": 0} != before | {"ok": 0}, 30)
    for server in load.place.servers.values():
        server.start()
    load.judge(result)
    assert "clients lost" in str(result.faults) and "devices lost" in str(result.faults), str(result)


@pytest.mark.parametrize("broker", ["redis", "nats"])
def test_devices_on_several_hosts_answer_who_asks_from_outside(tmp_path: Path, broker: str) -> None:
    """And the host that has most of them loses the way to Redis for a moment; tests/bus has the same of NATS."""
    result = Result(broker, host_servers.why_not(broker))
    if result.skipped:
        pytest.skip(result.skipped)
    names = ("one", "two", "three") if broker == "redis" else ("one", "two")
    with loaded(tmp_path, 10, 60, broker=broker, names=names, workers=1) as load:
        commands_of(result, load.place, load.stay, 60, 60, 1.0)
        if broker == "redis":
            cut_from_broker_of(result, load, 2.0, most=20.0)
    assert not result.faults, str(result)
