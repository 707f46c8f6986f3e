"""The bytes of a blocking handler, which the kernel counts: meanwhile, at the end, and where it closes by itself."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from launch import ctl, launched_code, pairs, wait_for
from pronghorn.connection.blocking import Connection

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Only Linux counts the bytes of a connection.")


def test_what_is_on_its_way_counts_as_sent_and_a_handler_that_closes_keeps_the_count() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        sock, peer = listener.accept()
        conn = Connection(fileno=sock.detach())
        conn.begin(1, peer, None)
        client.sendall(b"hello")
        assert conn.recv(10) == b"hello"
        conn.sendall(bytes(100_000))
        for half_closed in (False, True):
            if half_closed:
                conn.shutdown(socket.SHUT_WR)
            conn.measure()
            assert (conn.measured, conn.bytes_in, conn.bytes_out) == (True, 5, 100_000)

        def take() -> None:
            wait_for(lambda: conn.counted)  # once both sides have ended, the kernel counts the ends as bytes
            client.makefile("rb").read()
            client.shutdown(socket.SHUT_WR)

        taking = threading.Thread(target=take)
        taking.start()
        conn.close()
        taking.join()
        conn.measure()
        assert (conn.measured, conn.bytes_in, conn.bytes_out) == (True, 5, 100_000)


STAYS = """
def handler(conn):
    for line in conn.makefile("rb"):
        conn.sendall(line + line)

async def streams(reader, writer):
    async for line in reader:
        writer.write(line + line)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), pairs("handler/thread streams/thread"))
def test_what_an_open_connection_does_is_in_the_sums(tmp_path: Path, name: str, model: str) -> None:
    """A conversation may last for days: its bytes are not counted at its end alone, nor lost with a killed worker."""
    settings = {"model": model, "workers": 1, "control_socket": str(tmp_path / "control")}
    with launched_code(tmp_path, STAYS, name, **settings) as server, server.connect() as client:
        client.sendall(b"hello\n")
        assert client.makefile("rb").readline() == b"hello\n"

        def counted() -> tuple[int, int, int]:
            told = ctl(tmp_path, "status")
            return told["open"], told["bytes_in"], told["bytes_out"]

        wait_for(lambda: counted() == (1, 6, 12), "the bytes of an open connection")
        os.kill(server.workers()[0], signal.SIGKILL)
        wait_for(lambda: counted() == (0, 6, 12), "the same after the worker's death")
        assert server.ask(b"more\n") == b"more\nmore\n"
        wait_for(lambda: counted() == (0, 11, 22), "both connections, each counted once")
