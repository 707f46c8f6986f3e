"""A running server's scoreboard, read from beside, and clients that stay."""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from launch import Launched, wait_for
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.scoreboard.details import Counted, total
from pronghorn.scoreboard.row import SERVING, Row
from pronghorn.testing.served import Served

BOARDS = weakref.WeakKeyDictionary[Any, Scoreboard]()


def board_of(server: Launched | Served) -> Scoreboard:
    """The scoreboard of a server, by the descriptor that its supervisor has; closed with the last mention of it."""
    if server not in BOARDS:
        board = BOARDS[server] = opened(server)
        weakref.finalize(server, board.close)
    return BOARDS[server]


def opened(server: Launched | Served) -> Scoreboard:
    folder = f"/proc/{server.pid}/fd"
    for name in os.listdir(folder):
        if "pronghorn-scoreboard" in os.readlink(f"{folder}/{name}"):
            return Scoreboard.adopt(os.open(f"{folder}/{name}", os.O_RDWR))
    raise AssertionError("the supervisor has no scoreboard")


def details_of(server: Launched) -> Counted:
    """What all workers of a server, living and dead, have counted for metrics."""
    board = board_of(server)
    return total(board.fileno(), (0, *board.taken())) or Counted()


def serving_rows(board: Scoreboard, count: int = 1) -> list[Row]:
    """The rows of the workers, once so many serve."""

    def serving() -> list[Row] | bool:
        rows = [row for row in board.rows() if row.state == SERVING]
        return len(rows) == count and rows

    rows = wait_for(serving, f"{count} serving workers")
    assert not isinstance(rows, bool)
    return rows


def reach(server: Launched, **expected: Any) -> dict[str, Any]:
    """The totals, once they say what is expected; closed counts what is not 0."""
    board = board_of(server)

    def told() -> dict[str, Any]:
        totals = board.totals()
        totals["closed"] = {reason: count for reason, count in totals["closed"].items() if count}
        return totals

    try:
        wait_for(lambda: expected.items() <= told().items())
    except AssertionError:
        assert {name: told()[name] for name in expected} == expected, server.log
    return told()


def ask(client: socket.socket, question: bytes = b"hello\n") -> bytes:
    """Send a line, and read as much."""
    client.sendall(question)
    got = b""
    while len(got) < len(question):
        data = client.recv(len(question) - len(got))
        assert data, f"the server ended after {got!r}"
        got += data
    return got


@contextmanager
def staying(server: Launched, count: int) -> Iterator[list[socket.socket]]:
    """Clients that are connected, all at once, and have said nothing."""
    with ExitStack() as stack:
        yield [stack.enter_context(server.connect()) for _ in range(count)]
