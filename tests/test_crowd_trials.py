"""The trial of a crowd with small numbers, and its detectors, each shown to fail once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import crowd_trials
from ledger_trials import tried
from pauses import undisturbed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("many_descriptors"),
    pytest.mark.skipif(sys.platform != "linux", reason="the trial finds a server's scoreboard in /proc"),
]


def test_all_of_a_crowd_are_answered(tmp_path: Path) -> None:
    result = tried(crowd_trials.at_once, tmp_path, 1000, seconds=0.5)
    assert not result.faults, str(result)
    assert result.figures["connections"] == "1,000"


def test_lost_and_wrongly_answered_ones_are_seen(tmp_path: Path) -> None:
    def trial() -> None:
        result = crowd_trials.at_once(tmp_path, 10, seconds=1.0, handler="echo", idle_timeout=0.4)
        assert "0 of 10 connections were left" in str(result.faults), str(result)
        assert "no right reply at first" in str(result.faults)

    undisturbed(trial)
