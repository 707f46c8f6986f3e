"""The chaos proxy: each fault by itself, against a plain server; and what our own server makes of all of them."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pronghorn.testing.chaos import ChaosProxy, Way
from pronghorn.testing.served import serving
from pronghorn.testing.talk import exchange, until

PATIENCE = 10.0
TEXT = bytes(range(256)) * 1024


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """An echo server of a few lines, so that the proxy is tried and not us."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hold(sock: socket.socket) -> None:
            with sock, contextlib.suppress(OSError):
                while data := sock.recv(65536):
                    sock.sendall(data)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=hold, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)


def test_without_faults_everything_passes(echo: tuple[str, int]) -> None:
    with ChaosProxy(echo) as proxy, proxy.connect() as one, proxy.connect() as two:
        assert exchange(one, TEXT, end=True) == TEXT
        assert exchange(two, b"hello", end=True) == b"hello"


def test_latency_and_pieces_keep_order_and_content(echo: tuple[str, int]) -> None:
    def comes_in_pieces() -> bool:
        """On a busy machine all pieces may be there when the first is read."""
        with ChaosProxy(echo, up=Way(latency=0.02, piece=3), down=Way(piece=1)) as proxy, proxy.connect() as client:
            begun = time.monotonic()
            client.sendall(b"0123456789")
            first = client.recv(100)
            assert first and b"0123456789".startswith(first)
            assert exchange(client, b"", end=True) == b"0123456789"[len(first) :]
            assert time.monotonic() - begun >= 4 * 0.02  # four pieces
            return len(first) < 10

    until(comes_in_pieces)


def test_a_reset_after_so_many_bytes(echo: tuple[str, int]) -> None:
    with ChaosProxy(echo, down=Way(reset_after=4)) as proxy, proxy.connect() as client:
        client.sendall(b"0123456789")
        got = b""
        with pytest.raises(ConnectionResetError):
            while True:
                got += client.recv(100)
        assert got in (b"", b"0123")  # a reset takes away what was not read yet


def test_a_half_close_after_so_many_bytes(echo: tuple[str, int]) -> None:
    with ChaosProxy(echo, up=Way(end_after=4)) as proxy, proxy.connect() as client:
        client.sendall(b"0123456789")
        assert exchange(client, b"") == b"0123"
    with ChaosProxy(echo, down=Way(end_after=4)) as proxy, proxy.connect() as client:
        assert exchange(client, b"0123456789") == b"0123"


def test_silence_after_so_many_bytes(echo: tuple[str, int]) -> None:
    with ChaosProxy(echo, up=Way(silence_after=4)) as proxy, proxy.connect() as client:
        assert exchange(client, b"0123456789", expect=4) == b"0123"
        client.shutdown(socket.SHUT_WR)
        assert not select.select([client], [], [], 0.2)[0]


def test_a_target_that_is_not_there_is_a_reset() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = free.getsockname()  # where nobody listens, as long as the socket is there
        with ChaosProxy(target) as proxy, pytest.raises(ConnectionResetError), proxy.connect() as client:
            client.recv(1)  # connect(2) may have told it already


@pytest.mark.parametrize("model", ["epoll", "thread", "asyncio", "fork"])
@pytest.mark.parametrize(
    ("up", "down"),
    [
        (Way(latency=0.001, piece=7), Way(latency=0.001, piece=7)),
        (Way(reset_after=20), Way()),
        (Way(), Way(reset_after=20)),
        (Way(end_after=20), Way()),
        (Way(silence_after=20), Way(silence_after=3)),
    ],
    ids=["slices", "reset up", "reset down", "half-close", "silence"],
)
def test_the_server_lives_through_all_of_it(model: str, up: Way, down: Way) -> None:
    question = b"hello\n" * 20
    with serving("upper", framing="lines", model=model) as server:
        with (
            ChaosProxy(server.address, up=up, down=down) as proxy,
            proxy.connect() as client,
            contextlib.suppress(ConnectionResetError, TimeoutError, BrokenPipeError),
        ):
            got = exchange(client, question, end=True, patience=0.5)
            expected = question if up.end_after > len(question) else question[: int(up.end_after)]
            whole = expected.upper() + (b"\n" if not expected.endswith(b"\n") else b"")
            is_reset = min(up.reset_after, down.reset_after) < len(question)
            assert whole.startswith(got) if is_reset else got == whole
        with server.connect() as client:
            assert exchange(client, b"still there\n", end=True) == b"STILL THERE\n"
        assert server.stop() == 0
        assert "Traceback" not in server.log()
