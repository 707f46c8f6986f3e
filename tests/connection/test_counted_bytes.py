"""The bytes of a blocking handler, which the kernel counts: at the end, and where the handler closes by itself."""

from __future__ import annotations

import socket
import sys
import threading

import pytest

from launch import wait_for
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
