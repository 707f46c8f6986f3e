"""How long a connection that is being closed waits for its peer; the test is the clock."""

from __future__ import annotations

import pytest

from pronghorn.connection.closing import LINGER_LOOK, LINGER_TIMEOUT, PATIENCE_LOST, Lingering

NOW = 1000.0


def looks(lingering: Lingering, *, came: bool, unsent: bool) -> float:
    """Seconds until a peer that always looks the same is not waited for any more."""
    now = NOW
    while not lingering.is_over(now, ended=False, came=came, unsent=unsent):
        now += LINGER_LOOK
    return now - NOW


def test_it_is_over_when_the_peer_has_ended_or_taken_everything() -> None:
    assert Lingering(NOW).is_over(NOW, ended=True, came=True, unsent=True)
    assert Lingering(NOW).is_over(NOW, ended=False, came=False, unsent=False)


def test_a_peer_that_does_not_take_everything_is_waited_for_until_the_timeout_or_a_deadline() -> None:
    for came in (False, True):
        assert looks(Lingering(NOW), came=came, unsent=True) == pytest.approx(LINGER_TIMEOUT, abs=LINGER_LOOK)
    assert looks(Lingering(NOW, NOW + 0.5), came=False, unsent=True) == pytest.approx(0.5, abs=LINGER_LOOK)
    assert Lingering(NOW, NOW - 1).is_over(NOW, ended=False, came=True, unsent=True)


def test_a_peer_that_has_taken_everything_and_speaks_on_and_on_is_not_heard_out() -> None:
    waited = looks(Lingering(NOW), came=True, unsent=False)
    assert LINGER_LOOK < waited < LINGER_TIMEOUT / 2
    assert waited == pytest.approx(LINGER_TIMEOUT / (1 + PATIENCE_LOST / LINGER_LOOK), abs=2 * LINGER_LOOK)


def test_a_peer_whose_last_words_come_late_is_waited_for() -> None:
    lingering = Lingering(NOW)
    for _ in range(3):
        assert not lingering.is_over(NOW, ended=False, came=True, unsent=False)
    assert not lingering.is_over(NOW + LINGER_TIMEOUT / 2, ended=False, came=False, unsent=True)
    assert lingering.is_over(NOW + LINGER_TIMEOUT / 2, ended=False, came=False, unsent=False)
