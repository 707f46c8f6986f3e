"""The gate before accept(2), alone: the clock is an argument."""

from __future__ import annotations

import math

from pronghorn.serving.gate import ALONE_PAUSE, EXHAUSTED_PAUSE, Gate


def test_a_new_gate_is_open() -> None:
    gate = Gate()
    assert gate.is_open(0.0) and gate.wait(0.0) == 0.0


def test_a_rest_ends_by_itself_and_not_because_a_connection_ends() -> None:
    gate = Gate()
    gate.rest(2.0, now=10.0)
    assert not gate.is_open(11.9) and gate.wait(11.5) == 0.5
    assert not gate.relieve() and not gate.is_open(11.9)
    assert gate.is_open(12.0) and gate.wait(13.0) == 0.0
    gate.rest(math.inf, now=13.0)
    assert not gate.is_open(1e9) and gate.wait(1e9) == math.inf


def test_a_shortage_ends_when_a_connection_ends_or_by_itself() -> None:
    gate = Gate()
    gate.run_short(now=10.0)
    assert not gate.is_open(10.0) and abs(gate.wait(10.0) - EXHAUSTED_PAUSE) < 1e-9
    assert gate.relieve() and gate.is_open(10.0)
    assert not gate.relieve(), "a shortage is relieved once"
    gate.run_short(now=20.0)
    assert gate.is_open(20.0 + EXHAUSTED_PAUSE)


def test_the_first_connections_come_one_by_one() -> None:
    gate, now, pauses = Gate(alone=3), 10.0, 0
    while gate.alone:
        gate.took_one(now)
        assert not gate.is_open(now)
        now += gate.wait(now)
        pauses += 1
        assert gate.is_open(now)
    assert pauses == 3 and abs(now - 10.0 - 3 * ALONE_PAUSE) < 1e-9
