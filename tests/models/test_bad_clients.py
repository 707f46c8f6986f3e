"""Peers that misbehave, against every model: each harms itself, and neither others, nor memory, nor the log."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from boards import board_of
from pronghorn.errors import TlsFailed
from pronghorn.models import registry
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, until
from pronghorn.testing.tls import over_tls
from pronghorn.tls.records import Records
from tls_under_test import Authority

MODELS = [each for each in registry.MODELS if each not in ("kqueue", "prefork")]
LONGEST = 64 * 1024
LINE = b"hello\n"


def _hello() -> bytes:
    records = Records(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "localhost", client=True)
    records.shake()
    return records.unsent()


HELLO = _hello()  # a client's first word in a handshake


def used(process: psutil.Process) -> float:
    """Seconds of processor time; none of a process of an earlier connection that has ended meanwhile."""
    try:
        return sum(process.cpu_times()[:2])
    except psutil.NoSuchProcess:
        return 0.0


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
        before, begun = {each: used(each) for each in processes}, time.monotonic()
        until(lambda: time.monotonic() > begun + 0.5)
        assert sum(used(each) - before[each] for each in processes) < 0.2, "the server spins"


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
    missing = registry.page(model).missing()
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
            until(lambda: sum(row.open for row in board.rows()) == 0, f"no connection open: {misbehaves.__name__}")
        assert "Traceback" not in server.log()
        assert server.worker_pids()[0] == worker.pid
        assert worker.memory_info().rss - before < 16 * 1024 * 1024
        assert server.stop() == 0


# The same, and what only TLS knows.


def resets_in_mid_handshake(server: Served) -> None:
    for size in (1, 5, len(HELLO) // 2, len(HELLO)):
        client = server.connect()
        client.sendall(HELLO[:size])
        if size == len(HELLO):
            assert client.recv(10)
        reset(client)


def ends_in_mid_handshake(server: Served) -> None:
    for size in (0, 5, len(HELLO) // 2, len(HELLO)):
        with server.connect() as client:
            exchange(client, HELLO[:size], end=True, reset_ends=True)


def says_something_else(server: Served) -> None:
    no_name = HELLO.replace(b"localhost", b"\xff\x1b[2J\n\xfe..")  # ssl would have a traceback of it
    for said in (
        no_name,
        b"GET / HTTP/1.0\r\n\r\n",
        b"SSH-2.0-x\r\n",
        bytes(100),
        b"\x16\x03\x01\xff\xff" + b"A" * 500,
    ):
        with server.connect() as client:
            exchange(client, said, end=True, reset_ends=True)


def ends_in_mid_record(server: Served) -> None:
    for leaves in (close_below, reset):
        client = over_tls(server.connect())
        assert client.records is not None
        socket.socket.send(client, client.records.seal(LINE * 100)[:-7])
        leaves(client)


def spoils_a_record(server: Served) -> None:
    with over_tls(server.connect()) as client:
        assert client.records is not None
        sealed = bytearray(client.records.seal(LINE))
        sealed[10] ^= 1
        socket.socket.send(client, sealed)
        with pytest.raises((TlsFailed, ConnectionResetError)):  # an alert, unless our unread input comes first
            exchange(client)


def says_no_last_word(server: Served) -> None:
    client = over_tls(server.connect())
    assert exchange(client, LINE, expect=len(LINE)) == LINE.upper()
    close_below(client)


def close_below(client: socket.socket) -> None:
    """End the connection without a close_notify."""
    os.close(client.detach())


EVIL_WITH_TLS = [
    resets_before_it_is_accepted,
    resets_in_mid_handshake,
    ends_in_mid_handshake,
    says_something_else,
    ends_in_mid_record,
    spoils_a_record,
    says_no_last_word,
    leaves_at_once,
]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_misbehaving_peers_with_tls_harm_themselves_only(model: str, tmp_path: Path) -> None:
    missing = registry.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")
    certificate, key = Authority(tmp_path).sign("server")
    with serving("upper", model=model, framing="lines", tls_cert=certificate, tls_key=key) as server:
        worker, board = psutil.Process(server.worker_pids()[0]), board_of(server)
        with over_tls(server.connect()) as client:
            assert exchange(client, LINE, end=True) == LINE.upper()
        until(lambda: sum(row.open for row in board.rows()) == 0)
        before = worker.num_fds()
        for misbehaves in EVIL_WITH_TLS:
            misbehaves(server)
            with over_tls(server.connect()) as client:
                assert exchange(client, LINE, end=True) == LINE.upper(), misbehaves.__name__
            until(lambda: sum(row.open for row in board.rows()) == 0, f"no connection open: {misbehaves.__name__}")
        until(lambda: worker.num_fds() <= before + 1, "no descriptor was left open")
        assert "Traceback" not in server.log()
        assert server.worker_pids()[0] == worker.pid
        assert server.stop() == 0


@pytest.mark.slow
def test_who_takes_endless_lines_is_found_out() -> None:
    with (
        serving("discard", max_message_size="1GiB") as server,
        pytest.raises(AssertionError, match="of one line"),
    ):
        sends_a_line_without_an_end(server)
