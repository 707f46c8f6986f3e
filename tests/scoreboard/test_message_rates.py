"""Messages of one source at a rate: they wait, none is lost or reordered, and other sources do not wait for them."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest

from launch import PATIENCE, launched
from pronghorn.scoreboard import message_rates
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.scoreboard.connection_limits import SECOND
from pronghorn.scoreboard.message_rates import MessageRate

ASYNC = """
import pronghorn
@pronghorn.message(pronghorn.lines)
async def handler(line):
    return line.upper()
"""


def test_a_source_has_a_second_s_worth_and_then_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000 * SECOND
    fast, other = ("192.0.2.1", 1), ("192.0.2.2", 1)
    monkeypatch.setattr(message_rates, "_map", None)  # whatever has served in this process before
    with contextlib.closing(Scoreboard.create()) as board:
        assert MessageRate(5, lambda: now).take(fast, 9) == (9, 0.0), "without a server nothing waits"
        monkeypatch.setattr(message_rates, "_map", board)
        one, two = MessageRate(5, lambda: now), MessageRate(5, lambda: now)
        assert one.take(fast, 4) == (4, 0.0)
        assert two.take(fast, 4) == (1, 0.2), "over all workers"
        assert one.take(fast, 1) == (0, 0.2)
        assert one.take(other, 1) == (1, 0.0)
        assert one.take("unix:/x", 99) == (99, 0.0)
        now += SECOND // 2
        assert one.take(fast, 9) == (2, pytest.approx(0.1))


def answers(sock: socket.socket, count: int) -> list[bytes]:
    with sock.makefile("rb") as file:
        return [file.readline() for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "model"), [("sync", "epoll"), ("sync", "thread"), ("async", "asyncio")])
def test_messages_wait_and_none_is_lost(tmp_path: Path, kind: str, model: str) -> None:
    (tmp_path / "mine.py").write_text(ASYNC)
    source = "upper" if kind == "sync" else "mine:handler"
    with launched(tmp_path, source, model=model, message_rate_per_source=20, framing="lines") as server:
        began = time.monotonic()
        with server.connect() as sock:
            sock.sendall(b"".join(b"a%d\n" % number for number in range(28)))
            sock.shutdown(socket.SHUT_WR)
            assert answers(sock, 28) == [b"A%d\n" % number for number in range(28)]
            assert time.monotonic() - began >= 0.3, "eight of them waited, a twentieth of a second each"
            sock.settimeout(PATIENCE)
            assert sock.recv(10) == b"", "and then the connection ends"
