"""The trial of idle connections with small numbers, and its detectors, each shown to fail once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import idle_trials
from ledger_trials import tried
from pronghorn.models import registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("many_descriptors"),
    pytest.mark.skipif(sys.platform != "linux", reason="the trial finds a server's scoreboard in /proc"),
]
HANDLERS = Path(__file__).parent / "timeouts_under_test.py"


@pytest.mark.parametrize("model", ["epoll", "uvloop", "gevent", "thread"])
def test_silent_connections_cost_next_to_nothing(tmp_path: Path, model: str) -> None:
    if missing := registry.page(model).missing():
        pytest.skip(f"{model}: {missing}")
    result = tried(idle_trials.idle, tmp_path, 500, model, seconds=3.0)
    assert not result.faults, str(result)


def test_one_that_finds_no_rest_is_seen(tmp_path: Path) -> None:
    result = idle_trials.idle(tmp_path, 10, "asyncio", 0.5, handler=f"{HANDLERS}:restless")
    assert "of a processor" in str(result.faults), str(result)


def test_lost_connections_are_seen(tmp_path: Path) -> None:
    result = idle_trials.idle(tmp_path, 10, "epoll", 1.5, idle_timeout=0.8)
    assert "0 of 10 connections are left" in str(result.faults), str(result)


def test_more_than_there_are_descriptors_for_is_no_trial(tmp_path: Path, many_descriptors: int) -> None:
    result = idle_trials.idle(tmp_path, many_descriptors, "epoll")
    assert "descriptors" in result.skipped
