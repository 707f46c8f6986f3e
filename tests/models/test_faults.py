"""A worker lives through failing system calls: others are served, nothing spins, the log stays short."""

from __future__ import annotations

from pathlib import Path

import pytest

from fault_trials import FAULTS, FEW, Fault, faults, injected, starved, trial, why_not
from launch import launched, logged
from ledger_trials import Result, tried
from pronghorn.models import registry

MODELS = [each for each in registry.MODELS if each not in ("kqueue", "prefork")]
REASON = why_not()
BAD_SERVERS = Path(__file__).parents[1] / "bad_servers.py"

pytestmark = [pytest.mark.skipif(bool(REASON), reason=REASON or "-"), pytest.mark.slow]


def test_there_are_as_many_faults_as_promised() -> None:
    assert len(FAULTS) >= 30
    assert {each.call for each in FEW} == {"accept4", "recvfrom", "sendto", "clone", "clone3"}


@pytest.mark.parametrize("model", MODELS)
def test_a_worker_lives_through_failing_calls(tmp_path: Path, model: str) -> None:
    missing = registry.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")
    result = tried(faults, tmp_path, model, FEW, least=6, seconds=1.0)  # a fault that never happens proves nothing
    assert not result.faults, str(result)


def test_a_fault_that_cannot_be_lived_through_is_seen(tmp_path: Path) -> None:
    with launched(tmp_path, "upper", model="epoll", workers=1) as server:
        server.ready(1)
        for call, error in (("sendto", "EPIPE"), ("accept4", "ENOMEM")):
            broken, _ = trial(server, "epoll", Fault(call, error, times=100), tmp_path)
            assert "clients were not served" in str(broken)
            assert injected(tmp_path) >= 8


def test_one_that_spins_without_descriptors_is_seen(tmp_path: Path) -> None:
    result = Result("spins")
    with logged(tmp_path, str(BAD_SERVERS), "spins") as server:
        (pid,) = server.ready(1)
        starved(result, server, pid, tmp_path, 1.0)
    told = str(result)
    assert "accept4(2) was tried" in told and "lines in the log" in told and "FAULT" in told, told
