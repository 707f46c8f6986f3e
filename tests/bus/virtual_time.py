"""A loop whose clock passes only while there is nothing to do: a machine that is busy makes no timeout come earlier."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from pronghorn.bus import far


class Idle(selectors.DefaultSelector):
    """Where the loop would wait for its next timer, that one is due at once."""

    passed = 1000.0  # seconds

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        found = super().select(0)
        self.passed += 0.0 if found else timeout
        return found


class Loop(asyncio.SelectorEventLoop):
    """For what happens on one loop alone: no other thread or process is waited for."""

    def __init__(self) -> None:
        self._idle = Idle()
        super().__init__(self._idle)

    def time(self) -> float:
        return self._idle.passed


def run(main: Coroutine[Any, Any, None]) -> None:
    """As asyncio.run does, with such a clock, which messages between hosts go by too."""
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=Loop) as runner:
        patch.setattr(far, "time", SimpleNamespace(monotonic=runner.get_loop().time))
        runner.run(main)
