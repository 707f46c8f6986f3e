"""Fixtures of the tests of the scoreboard: a new one, which is closed at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from pronghorn.scoreboard.board import Scoreboard


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    with contextlib.closing(Scoreboard.create()) as one:
        yield one
