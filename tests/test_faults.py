"""A worker lives through failing system calls: others are served, nothing spins, the log stays short."""

from __future__ import annotations

from pathlib import Path

import pytest

from fault_trials import FAULTS, FEW, Fault, fits, injected, trial, why_not
from pronghorn import models
from pronghorn.testing import serving

MODELS = [each for each in models.MODELS if each not in ("kqueue", "prefork")]
REASON = why_not()

pytestmark = [pytest.mark.skipif(bool(REASON), reason=REASON or "-"), pytest.mark.slow]


def test_there_are_as_many_faults_as_promised() -> None:
    assert len(FAULTS) >= 30
    assert {each.call for each in FEW} == {"accept4", "recvfrom", "sendto", "clone", "clone3"}


@pytest.mark.parametrize("model", MODELS)
def test_a_worker_lives_through_failing_calls(tmp_path: Path, model: str) -> None:
    missing = models.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")
    failed = 0
    with serving("upper", model=model) as server:
        for fault in (each for each in FEW if fits(each, model)):
            assert trial(server, fault, tmp_path) == [], fault.name
            failed += injected(tmp_path)
        assert server.stop() == 0
    assert failed >= 10  # a fault that never happens proves nothing


def test_a_fault_that_cannot_be_lived_through_is_seen(tmp_path: Path) -> None:
    with serving("upper", model="epoll") as server:
        assert "clients were not served" in str(trial(server, Fault("sendto", "EPIPE", times=100), tmp_path))
        assert "clients were not served" in str(trial(server, Fault("accept4", "ENOMEM", times=100), tmp_path))
