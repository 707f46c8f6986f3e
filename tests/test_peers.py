"""Peers that misbehave, against every model: each harms itself, and neither others, nor memory, nor the log."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

import psutil
import pytest

from boards import board_of
from pronghorn import models
from pronghorn.testing import Served, exchange, serving, until

MODELS = [each for each in models.MODELS if each not in ("kqueue", "prefork")]
LONGEST = 64 * 1024
LINE = b"hello\n"


def reset(client: socket.socket) -> None:
    """Close with a reset (SO_LINGER of 0 seconds, tcp(7))."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def resets_before_it_is_accepted(server: Served) -> None:
    clients = [server.connect() for _ in range(50)]
    for client in clients:
        reset(client)


def resets_in_mid_question(server: Served) -> None:
    for _ in range(20):
        client = server.connect()
        client.sendall(LINE[:3])
        reset(client)


def resets_in_mid_reply(server: Served) -> None:
    for _ in range(5):
        client = server.connect(receive_buffer=4096)
        client.setblocking(False)
        try:
            for _ in range(100):
                client.send(LINE * 10_000)
        except BlockingIOError:
            pass
        reset(client)


def sends_a_line_without_an_end(server: Served) -> None:
    """As far as it is let: a gibibyte would take the test too long, and a server that takes 256 MiB takes all."""
    with server.connect() as client:
        sent = 0
        try:
            while sent < 256 * 1024 * 1024:
                sent += client.send(b"x" * LONGEST)
        except OSError:
            pass
        assert sent < 64 * 1024 * 1024, f"the server took {sent} bytes of one line"


def asks_ten_thousand_things_at_once(server: Served) -> None:
    with server.connect() as client:
        question = b"".join(b"question %d\n" % number for number in range(10_000))
        assert exchange(client, question, end=True) == question.upper()


def sends_urgent_data(server: Served) -> None:
    """The urgent byte is no part of the stream (tcp(7)), and must not be waited for for ever."""
    with server.connect() as client:
        for _ in range(10):
            client.send(b"!", socket.MSG_OOB)
            assert exchange(client, LINE, expect=len(LINE)) == LINE.upper()
        client.send(b"!", socket.MSG_OOB)
        processes = server.processes()[1:]
        before, begun = sum(sum(each.cpu_times()[:2]) for each in processes), time.monotonic()
        until(lambda: time.monotonic() > begun + 0.5)
        after = sum(sum(each.cpu_times()[:2]) for each in processes)
        assert after - before < 0.2, "the server spins"


def shuts_both_ways(server: Served) -> None:
    with server.connect() as client:
        client.shutdown(socket.SHUT_RD)
        client.sendall(LINE * 10)
        client.shutdown(socket.SHUT_WR)
    with server.connect() as client:
        assert exchange(client, LINE * 10, end=True) == LINE.upper() * 10


def leaves_at_once(server: Served) -> None:
    for _ in range(50):
        server.connect().close()


def is_answered_and_sends_on(server: Served) -> None:
    """What the server has not read when it closes must not take its answers away."""
    with server.connect() as client:
        got = exchange(client, LINE * 100 + b"x" * (LONGEST * 8))
        assert got == LINE.upper() * 100


EVIL: list[Callable[[Served], None]] = [
    resets_before_it_is_accepted,
    resets_in_mid_question,
    resets_in_mid_reply,
    sends_a_line_without_an_end,
    asks_ten_thousand_things_at_once,
    sends_urgent_data,
    shuts_both_ways,
    leaves_at_once,
    is_answered_and_sends_on,
]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_misbehaving_peers_harm_themselves_only(model: str) -> None:
    missing = models.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")
    with serving("upper", model=model, framing="lines", max_message_size=LONGEST) as server:
        worker = psutil.Process(server.worker_pids()[0])
        with server.connect() as client:
            assert exchange(client, LINE, end=True) == LINE.upper()
        before, board = worker.memory_info().rss, board_of(server)
        for misbehaves in EVIL:
            misbehaves(server)
            with server.connect() as client:
                assert exchange(client, LINE, end=True) == LINE.upper(), misbehaves.__name__
            until(lambda: sum(page.open for page in board.pages()) == 0, f"no connection open: {misbehaves.__name__}")
        assert "Traceback" not in server.log()
        assert server.worker_pids()[0] == worker.pid
        assert worker.memory_info().rss - before < 16 * 1024 * 1024
        assert server.stop() == 0


def test_who_takes_endless_lines_is_found_out() -> None:
    with (
        serving("discard", max_message_size="1GiB") as server,
        pytest.raises(AssertionError, match="of one line"),
    ):
        sends_a_line_without_an_end(server)
