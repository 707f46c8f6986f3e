"""The reader of lines: pieces, the longest line, the end, and a reset."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pronghorn.system.lines import BUFFER, LineReader

Pair = tuple[LineReader, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield LineReader(ours, 10), theirs


def test_lines_come_in_pieces(pair: Pair) -> None:
    reader, theirs = pair
    assert reader.take() == []
    found = []
    for piece in (b"on", b"e\n\ntw", b"o\nthr"):
        theirs.sendall(piece)
        found.append(reader.take())
    assert found == [[], [b"one", b""], [b"two"]]
    theirs.close()
    assert reader.take() == [] and reader.ended and reader.rest == b"thr"


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_may_be_as_long_as_that_and_no_longer(pair: Pair, end: bytes) -> None:
    reader, theirs = pair
    theirs.sendall(b"x" * 10 + b"\n" + b"y" * 11 + end + b"\nnever\n" * len(end))
    assert reader.take() == [b"x" * 10]
    assert reader.too_long and reader.ended and not reader.rest and reader.take() == []


def test_one_read_is_one_buffer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = LineReader(ours, BUFFER)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * BUFFER)
        theirs.sendall(b"\n" * (BUFFER + 5))
        assert [len(reader.take()), len(reader.take())] == [BUFFER, 5]


def test_a_reset_leaves_nothing_to_act_on() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        reader = LineReader(ours, 10)
        ours.send(b"unread")
        theirs.sendall(b"stop")
        assert reader.take() == [] and reader.rest == b"stop"
        theirs.close()  # with something unread, which is a reset (unix(7))
        assert reader.take() == [] and reader.ended and not reader.rest
