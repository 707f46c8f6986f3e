"""Of the messages of all connections one in 64 is timed, however they come, and each is answered."""

from __future__ import annotations

from typing import Any

import pytest

from pronghorn.framing import lines
from pronghorn.handlers.message_protocol import MessageProtocol
from pronghorn.handlers.messages import MessageStyle
from pronghorn.handlers.timed_messages import timed
from pronghorn.scoreboard.details import END, SERVICE, Details
from pronghorn.scoreboard.histograms import BUCKETS
from pronghorn.scoreboard.service_times import EVERY, Sampler


class Sink:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("connections", "reads", "messages"), [(1, 10 * EVERY, 1), (1, EVERY, 10), (10 * EVERY, 1, 1)], ids=str
)
def test_one_in_64(connections: int, reads: int, messages: int) -> None:
    details = Details(memoryview(bytearray(END * 8)).cast("q"))
    kind = timed(MessageProtocol, Sampler(details))
    style: Any = MessageStyle(bytes.upper, lines, 1000, 1000)
    for _ in range(connections):
        protocol, sink = kind(style), Sink()
        protocol.connection_made(sink)
        for _ in range(reads):
            protocol.data_received(b"hello\n" * messages)
        assert protocol.messages == reads * messages
        assert sink.written == b"HELLO\n" * (reads * messages)
    assert abs(sum(details.own[SERVICE : SERVICE + BUCKETS]) - 10) <= 1
