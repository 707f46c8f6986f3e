"""Fixtures of the tests of listeners: listeners that are closed at the end, and the events of their opening."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from listeners import Open
from pronghorn.events import Event
from pronghorn.listening.binding import open_listeners
from pronghorn.listening.listener import Listener
from pronghorn.settings import Settings


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def opened(events: list[Event]) -> Iterator[Open]:
    """Opens listeners, and closes them at the end."""
    with contextlib.ExitStack() as stack:

        def opener(*bind: str, keep: Any = (), inherited: Any = (), **settings: Any) -> list[Listener]:
            listeners = open_listeners(Settings(bind=bind, **settings), events.append, keep=keep, inherited=inherited)
            for each in listeners:
                stack.callback(each.close)
            return listeners

        yield opener
