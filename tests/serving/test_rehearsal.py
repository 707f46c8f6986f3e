"""The conversations before the first fork: what they must not touch, and what they are for."""

from __future__ import annotations

import dis
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import pronghorn
from pronghorn.builds import PURE, build
from pronghorn.framing import Framing
from pronghorn.handlers.recognise import recognise
from pronghorn.models.child_process import part, part_in_rehearsal
from pronghorn.models.registry import load
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.serving.connection_end import ConnectionEnds
from pronghorn.serving.context import Context
from pronghorn.serving.rehearsal import rehearse
from pronghorn.serving.service import Offer, Service
from pronghorn.settings import Settings
from pronghorn.system.drain import Drain

called: list[str] = []


class Own(Framing[bytes], frozen=True):
    def place(self, data: bytes | bytearray, start: int, searched: int, limit: int) -> tuple[int, int, int]:
        called.append("place")
        return start, len(data), len(data)

    def frame(self, message: bytes) -> bytes:
        called.append("frame")
        return message


@pronghorn.message(pronghorn.lines)
def message(line: bytes) -> bytes:
    called.append("message")
    return line


@pronghorn.message(Own())
class Cut:
    def __init__(self) -> None:
        called.append("object")

    def __call__(self, line: bytes) -> bytes:
        return line


class Callbacks(pronghorn.Protocol):
    def __init__(self) -> None:
        called.append("protocol")


def blocking(conn: Any) -> None:
    called.append("blocking")


async def streams(reader: Any, writer: Any) -> None:
    called.append("streams")


def context_of(handler: Any, **settings: Any) -> tuple[Context, list[Any]]:
    observed: list[Any] = []
    row = Scoreboard.create().take(1, 1)
    made = Settings(**settings)
    model = load("fork")
    listener: Any = type("Nowhere", (), {"sockname": None})()  # nothing is accepted
    return Context(
        offers=[Offer(listener, "", Service(recognise(handler, made), made))],
        settings=made,
        model=model,
        drain=Drain(1.0),
        observe=observed.append,
        row=row,
    ), observed


@pytest.mark.parametrize("handler", [message, Cut, Callbacks, blocking, streams])
@pytest.mark.parametrize("settings", [{}, {"max_message_size": 4}, {"proxy_from": ("127.0.0.1",)}])
def test_no_code_of_the_handler_is_called_and_nothing_is_told(
    handler: Callable[..., Any], settings: dict[str, Any]
) -> None:
    context, observed = context_of(handler, **settings)
    before = set(os.listdir("/dev/fd"))
    rehearse(context, part_in_rehearsal)
    assert set(os.listdir("/dev/fd")) <= before
    assert not called
    assert not observed
    assert not any(context.row.own)
    assert not context.open
    assert context._done == context._written == (0, 0, 0)


@pytest.mark.skipif(build() != PURE, reason="compiled code adapts nothing")
def test_code_that_children_run_is_adapted() -> None:
    """In a process of its own, where nothing else has run it."""
    code = "import test_rehearsal; print(test_rehearsal.adapted())"
    done = subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(__file__), capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def adapted() -> bool:
    """Whether the rehearsal adapts the code of a conversation, and of what a child does before; of some, newer Pythons
    have adapted a little already."""
    from pronghorn.handlers.plain_conversations import PlainConversations

    looked_at = [part, PlainConversations._talk, ConnectionEnds.closed, Drain.close]

    def names() -> list[list[str]]:
        return [[each.opname for each in dis.get_instructions(code, adaptive=True)] for code in looked_at]

    before = names()
    rehearse(context_of(message)[0], part_in_rehearsal)
    return all(now != then for now, then in zip(names(), before, strict=True))
