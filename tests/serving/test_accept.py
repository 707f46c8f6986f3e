"""accept(2) and all its errors, and the flags that wake a loop."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from listeners import accepted, readable
from pronghorn.listening import socket_options
from pronghorn.listening.binding import open_listeners
from pronghorn.listening.listener import Exhausted, Listener
from pronghorn.settings import Settings
from pronghorn.system.drain import Drain, Wake


@pytest.fixture
def opened() -> Iterator[Listener]:
    (one,) = open_listeners(Settings(bind=("127.0.0.1:0",)), lambda event: None)
    with contextlib.closing(one):
        yield one


def where(each: Listener) -> tuple[str, int]:
    host, _, port = each.address.rpartition(":")
    return host, int(port)


class Fake(socket.socket):
    """A listening socket whose accept(2) goes as told."""

    outcomes: list[Any]

    def _accept(self) -> Any:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, int):
            raise OSError(outcome, os.strerror(outcome))
        return outcome


@pytest.fixture
def fake() -> Iterator[Callable[..., Listener]]:
    with contextlib.ExitStack() as stack:

        def make(*outcomes: Any, family: int = socket.AF_INET) -> Listener:
            sock = stack.enter_context(Fake(family))
            sock.outcomes = list(outcomes)
            return Listener(sock, "fake:0")

        yield make


PEER = (7, ("192.0.2.1", 1234))


@pytest.mark.parametrize("name", "ECONNABORTED EPROTO EPERM ENETDOWN EHOSTUNREACH EOPNOTSUPP ETIMEDOUT".split())
def test_a_connection_that_is_gone_is_stepped_over(fake: Callable[..., Listener], name: str) -> None:
    assert fake(getattr(errno, name), getattr(errno, name), PEER).accept() == PEER


def test_stepping_over_is_bounded(fake: Callable[..., Listener]) -> None:
    assert fake(*[errno.ECONNABORTED] * 1000).accept() is None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_out_of_descriptors_or_memory_is_exhausted(fake: Callable[..., Listener], number: int) -> None:
    with pytest.raises(Exhausted) as caught:
        fake(number).accept()
    assert caught.value.errno == number


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSOCK])
def test_a_dead_listener_is_no_passing_trouble(fake: Callable[..., Listener], number: int) -> None:
    with pytest.raises(OSError) as caught:
        fake(number).accept()
    assert not isinstance(caught.value, Exhausted)


def test_nothing_to_accept(fake: Callable[..., Listener]) -> None:
    assert fake(errno.EAGAIN).accept() is None


def test_the_peer_is_host_and_port_or_a_path(fake: Callable[..., Listener]) -> None:
    index, name = socket.if_nameindex()[0]
    six = fake((7, ("fe80::2", 99, 0, index)), (7, ("2001:db8::9", 99, 0, 0)), family=socket.AF_INET6)
    assert six.accept() == (7, (f"fe80::2%{name}", 99))
    assert six.accept() == (7, ("2001:db8::9", 99))
    mapped = fake((7, ("::ffff:192.0.2.1", 99, 0, 0)), family=socket.AF_INET6)
    assert mapped.accept() == (7, ("192.0.2.1", 99))
    unix = fake((7, ""), (7, "/run/peer"), (7, b"\0abstract"), family=socket.AF_UNIX)
    assert [unix.accept() for _ in range(3)] == [(7, ""), (7, "/run/peer"), (7, "@abstract")]


def test_options_are_set_where_they_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_options, "ACCEPTED_INHERIT", False)
    with contextlib.closing(open_listeners(Settings(bind=("127.0.0.1:0",)), lambda event: None)[0]) as one:
        with socket.socket(fileno=os.dup(one.fileno())) as copy:
            copy.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
        with socket.create_connection(where(one)), accepted(one) as (connection, _):
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def inherited(settings: Settings) -> list[int]:
    """What a connection has: keepalive on or off, its three figures, the user timeout, and no delay."""
    names = "KEEPIDLE KEEPINTVL KEEPCNT USER_TIMEOUT NODELAY".split()
    with (
        contextlib.closing(open_listeners(settings, lambda event: None)[0]) as one,
        socket.create_connection(where(one)),
        accepted(one) as (connection, _),
    ):
        found = [connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}")) for name in names]
        return [connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), *found]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="TCP_USER_TIMEOUT is an option of Linux")
def test_connections_inherit_how_long_a_silent_peer_is_believed() -> None:
    settings = Settings(bind=("127.0.0.1:0",), keepalive=7.0, user_timeout=1.5)
    assert inherited(settings) == [1, 7, 10, 6, 1500, 1]
    settings = Settings(bind=("127.0.0.1:0",), keepalive=0.0, user_timeout=0.0)
    assert (inherited(settings)[0], inherited(settings)[-2:]) == (0, [0, 1])


def test_a_real_shortage_leaves_the_client_in_the_queue(opened: Listener) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_connection(where(opened)) as client:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
            with contextlib.ExitStack() as stack:
                with contextlib.suppress(OSError):
                    while True:
                        stack.callback(os.close, os.dup(client.fileno()))
                with pytest.raises(Exhausted):
                    opened.accept()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with accepted(opened) as (_, peer):
            assert peer == client.getsockname()


@pytest.fixture(params=["eventfd", "pipe"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "pipe":
        monkeypatch.delattr(os, "eventfd", raising=False)
    elif not hasattr(os, "eventfd"):
        pytest.skip("this system has no eventfd")
    return str(request.param)


def test_a_wake_is_readable_while_set(kind: str) -> None:
    with contextlib.closing(Wake()) as wake:
        assert not readable(wake, 0)
        for _ in range(70_000 if kind == "pipe" else 3):  # more than a pipe holds
            wake.set()
        assert readable(wake, 0)
        wake.clear()
        wake.clear()
        assert not readable(wake, 0)
        thread = threading.Thread(target=wake.set)
        thread.start()
        assert readable(wake)
        thread.join()
        assert not os.get_inheritable(wake.fileno())


def test_a_closed_wake_harms_nobody(kind: str) -> None:
    wake = Wake()
    wake.close()
    wake.close()
    wake.set()
    wake.clear()
    assert wake.fileno() == -1


def test_drain_begins_once_and_stays(kind: str) -> None:
    with contextlib.closing(Drain(30)) as drain:
        assert not drain
        assert (drain.begun, drain.why, drain.deadline) == (False, "", float("inf"))
        assert not readable(drain, 0)
        earliest = time.monotonic() + 30
        drain.begin("TERM")
        assert drain
        assert earliest <= drain.deadline <= time.monotonic() + 30
        deadline = drain.deadline
        drain.begin("INT")
        assert (drain.why, drain.deadline) == ("TERM", deadline)
        assert readable(drain, 0)
        assert readable(drain, 0)
