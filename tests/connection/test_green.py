"""GreenConnection: it means what gevent's own socket means, and asks the kernel for less."""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

gevent = pytest.importorskip("gevent.socket") and pytest.importorskip("gevent")

from pronghorn.connection.green import GreenConnection  # noqa: E402
from pronghorn.system.wait_channel import WaitsFor  # noqa: E402

HUGE = b"x" * (16 << 20)


class Counting(GreenConnection):
    """Counts how often the kernel is asked."""

    class _gevent_sock_class(GreenConnection._gevent_sock_class):  # type: ignore[misc,name-defined]
        asked: list[str]

        def recv(self, *args: Any) -> bytes:
            self.asked.append("recv")
            return super().recv(*args)  # type: ignore[no-any-return]

        def recv_into(self, *args: Any) -> int:
            self.asked.append("recv_into")
            return super().recv_into(*args)  # type: ignore[no-any-return]

        def getsockopt(self, *args: Any) -> Any:
            self.asked.append("getsockopt")
            return super().getsockopt(*args)


@contextmanager
def pair() -> Iterator[tuple[Counting, Any]]:
    """A connection of ours, and its client."""
    here, there = socket.socketpair()
    conn = Counting(socket.AF_UNIX, socket.SOCK_STREAM, 0, here.detach())
    conn._sock.asked = []
    conn.greenlet, conn.program = None, 0
    client = gevent.socket.socket(fileno=there.detach())
    try:
        yield conn, client
    finally:
        conn._sock.close()
        client.close()


def on_a_hub_of_its_own(test: Callable[[], None]) -> Callable[[], None]:
    """Run a test on a thread, whose hub ends with it: the loop of the main thread is for the tests of processes."""

    @functools.wraps(test)
    def run() -> None:
        raised: list[BaseException] = []

        def body() -> None:
            try:
                with gevent.Timeout(20):
                    test()
            except BaseException as error:
                raised.append(error)
            finally:
                gevent.get_hub().destroy()

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        for each in raised:
            raise each

    return run


def answering(conn: Counting, read: Callable[[Counting], bytes]) -> None:
    while data := read(conn):
        conn.sendall(data.upper())


@pytest.mark.parametrize("name", ["recv", "recv_into"])
def test_a_message_is_one_read_and_one_write(name: str) -> None:
    def read_into(conn: Counting) -> bytes:
        room = bytearray(100)
        return bytes(room[: conn.recv_into(room)])

    @on_a_hub_of_its_own
    def check() -> None:
        with pair() as (conn, client):
            served = gevent.spawn(answering, conn, read_into if name == "recv_into" else lambda each: each.recv(100))
            for _ in range(10):
                client.sendall(b"hello")
                assert client.recv(100) == b"HELLO"
            client.shutdown(socket.SHUT_WR)
            served.get()
            assert conn._sock.asked == [name] * len(conn._sock.asked)  # not how large the buffers are
            assert len(conn._sock.asked) <= 10 + 2  # the end is one, and one found nothing at the begin

    check()


@on_a_hub_of_its_own
def test_what_is_left_is_read_without_a_wait() -> None:
    with pair() as (conn, client):
        client.sendall(b"abcdef")
        assert [conn.recv(4), conn.recv(4)] == [b"abcd", b"ef"]
        client.sendall(b"gh")
        assert conn.recv(4, socket.MSG_PEEK) == b"gh"
        assert conn.recv(4) == b"gh"


@on_a_hub_of_its_own
def test_timeouts_and_sockets_that_never_wait() -> None:
    with pair() as (conn, client):
        client.sendall(b"a")
        assert conn.recv(4) == b"a"
        conn.settimeout(0.01)
        with pytest.raises(TimeoutError):
            conn.recv(4)
        with pytest.raises(TimeoutError):
            conn.sendall(HUGE)
        conn.setblocking(False)
        for call in (lambda: conn.recv(4), lambda: conn.recv_into(bytearray(4)), lambda: conn.sendall(HUGE)):
            with pytest.raises(BlockingIOError):
                call()


@on_a_hub_of_its_own
def test_a_copy_of_the_socket_is_one() -> None:
    with pair() as (conn, client):
        copy = conn.dup()
        copy._sock.asked = []
        client.sendall(b"a")
        assert copy.recv(4) == b"a"
        copy._sock.close()


@on_a_hub_of_its_own
def test_a_large_reply_arrives_whole() -> None:
    with pair() as (conn, client):
        for data in (HUGE, memoryview(HUGE), bytearray(HUGE)):
            sending, came = gevent.spawn(conn.sendall, data), 0
            while came < len(HUGE):
                came += len(client.recv(1 << 20))
            sending.get()


@on_a_hub_of_its_own
def test_it_tells_whether_its_greenlet_waits_for_its_client() -> None:
    with pair() as (conn, client):
        conn.greenlet = gevent.spawn(lambda: (gevent.sleep(0.01), conn.recv(4)))
        gevent.sleep(0)
        assert conn.waits_for() is WaitsFor.ELSEWHERE
        while conn.waits_for() is not WaitsFor.CLIENT:
            gevent.sleep(0.01)
        client.sendall(b"a")
        conn.greenlet.join()
        assert conn.waits_for() is WaitsFor.ELSEWHERE
        other = gevent.spawn(conn.recv, 4)
        gevent.sleep(0)
        assert conn.waits_for() is WaitsFor.ELSEWHERE  # it is another greenlet of the handler's that reads
        client.sendall(b"a")
        other.join()
