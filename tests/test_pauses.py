"""A trial is made anew where the machine was busy, and nowhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

import pauses
from pauses import undisturbed


def test_a_trial_is_made_anew_only_where_the_machine_was_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def trial() -> int:
        made.append(0)
        time.sleep(0.03)  # some beats
        assert len(made) > 3
        return len(made)

    monkeypatch.setattr(pauses, "QUIET", float("inf"))
    with pytest.raises(AssertionError):
        undisturbed(trial)
    assert len(made) == 1
    monkeypatch.setattr(pauses, "QUIET", -1.0)
    assert undisturbed(trial) == 4


@pytest.mark.parametrize(("fault", "times"), [(ConnectionResetError, pauses.TIMES), (ValueError, 1)])
def test_what_fails_each_time_fails(fault: type[Exception], times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def trial() -> None:
        made.append(0)
        raise fault

    monkeypatch.setattr(pauses, "QUIET", -1.0)
    with pytest.raises(fault):
        undisturbed(trial)
    assert len(made) == times


PAUSED = """
import sys, time
from pauses import Heartbeat
with Heartbeat() as heartbeat:
    print("beats", flush=True)
    sys.stdin.readline()
print(heartbeat.latest)
"""


def test_a_heartbeat_finds_a_pause() -> None:
    command = [sys.executable, "-c", PAUSED]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as child:
        assert child.stdout is not None and child.stdout.readline() == "beats\n"
        time.sleep(0.05)
        child.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        child.send_signal(signal.SIGCONT)
        assert float(child.communicate("\n")[0]) > 0.2
