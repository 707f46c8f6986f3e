"""The kernel's answers over netlink: accept queues, and what has overflowed."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from launch import wait_for
from pronghorn.listening import sock_diag

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="netlink is Linux's")


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_accept_queue_of_a_listener_and_its_overflows(family: int, host: str) -> None:
    with socket.create_server((host, 0), family=family, backlog=2) as server:
        port = server.getsockname()[1]
        before = sock_diag.overflows()
        clients = [socket.socket(family) for _ in range(6)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex((host, port))

        def queue() -> sock_diag.AcceptQueue:
            (found,) = sock_diag.accept_queues({port, 1})
            return found

        wait_for(lambda: queue().waiting == 3, "a full queue")
        assert queue() == (family, host, port, 3, 2)
        assert sock_diag.accept_queues({port}) == [queue()]
        wait_for(lambda: sock_diag.overflows().overflowed > before.overflowed, "the count of overflows")
        wait_for(lambda: sock_diag.overflows().dropped > before.dropped, "the count of those that were dropped")
        for client in clients:
            client.close()
    assert sock_diag.accept_queues({port}) == []


def test_the_accept_queue_of_a_unix_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen(3)
        client.connect(str(tmp_path / "s"))
        assert sock_diag.unix_socket(os.fstat(server.fileno()).st_ino) == (os.geteuid(), 1, 3)
        inode = os.fstat(server.fileno()).st_ino
    with pytest.raises(OSError):
        sock_diag.unix_socket(inode)


def test_listeners_of_one_address_have_a_queue_each() -> None:
    with (
        socket.create_server(("127.0.0.1", 0), reuse_port=True, backlog=5) as first,
        socket.create_server(first.getsockname(), reuse_port=True, backlog=7),
    ):
        found = sock_diag.accept_queues([first.getsockname()[1]])
        assert sorted((each.waiting, each.backlog) for each in found) == [(0, 5), (0, 7)]
