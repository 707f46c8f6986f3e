"""Listeners over real sockets: what is bound, what is refused and why, what accept gives, what is left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from brokers import free_port
from launch import wait_for
from listeners import Open, accepted, readable
from pronghorn.errors import AddressInUse, CannotBind
from pronghorn.events import Event, ListenerOpened, ListenerSkipped
from pronghorn.listening import addresses, bind_errors, binding
from pronghorn.listening.addresses import spoken
from pronghorn.listening.binding import effective_backlog
from pronghorn.listening.listener import Listener
from pronghorn.settings import Settings

ABSENT = "2001:db8::1"  # RFC 3849: documentation only


def lacks_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return False
    return True


needs_ipv6 = pytest.mark.skipif(lacks_ipv6(), reason="this host has no IPv6")


def port_of(each: Listener) -> int:
    return int(each.address.rpartition(":")[2])


def option(each: Listener, level: int, name: int) -> int:
    with socket.socket(fileno=os.dup(each.fileno())) as copy:
        return copy.getsockopt(level, name)


def resolves_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    def getaddrinfo(host: str, port: int, **rest: Any) -> list[Any]:
        four = [(socket.AF_INET, 1, 6, "", (each, port)) for each in hosts if ":" not in each]
        return four + [(socket.AF_INET6, 1, 6, "", (each, port, 0, 0)) for each in hosts if ":" in each]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


# What is opened


def test_listens_and_tells_its_address(opened: Open, events: list[Event]) -> None:
    (one,) = opened("127.0.0.1:0")
    assert one.address == f"127.0.0.1:{port_of(one)}"
    assert one.family == socket.AF_INET
    assert events == [ListenerOpened(one.address)]
    with socket.create_connection(("127.0.0.1", port_of(one))) as client, accepted(one) as (connection, peer):
        assert peer == client.getsockname()
        assert not connection.get_inheritable()
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_descriptor_neither_blocks_nor_crosses_exec(opened: Open) -> None:
    (one,) = opened("127.0.0.1:0")
    assert not os.get_inheritable(one.fileno())
    assert not os.get_blocking(one.fileno())
    assert one.accept() is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the length of the queue")
def test_the_queue_tells_its_length_and_its_bound(opened: Open) -> None:
    (here,) = opened("127.0.0.1:0", backlog=17)
    host, _, port = here.address.rpartition(":")
    assert here.queued() == 0
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection((host, int(port))))
        wait_for(lambda: here.queued() == 3, "all in the queue")
        assert (here.queued(), here.queue()) == (3, (3, 17))
        os.close(here.accept()[0])  # type: ignore[index]
        assert here.queued() == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the length of the queue")
def test_the_queue_of_a_unix_socket_tells_its_length_too(opened: Open, tmp_path: Path) -> None:
    (here,) = opened(f"unix:{tmp_path}/s", backlog=17)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/s")
        assert here.queue() == (1, 17)


def test_addresses_are_shared_by_choice_only(opened: Open) -> None:
    (usual,) = opened("127.0.0.1:0")
    assert option(usual, socket.SOL_SOCKET, socket.SO_REUSEADDR)
    assert not option(usual, socket.SOL_SOCKET, socket.SO_REUSEPORT)
    (other,) = opened("127.0.0.1:0", reuse_address=False, reuse_port=True)
    assert not option(other, socket.SOL_SOCKET, socket.SO_REUSEADDR)
    (twin,) = opened(other.address, reuse_address=False, reuse_port=True)
    assert twin.address == other.address


@needs_ipv6
def test_every_interface_is_both_families_on_one_port(opened: Open, events: list[Event]) -> None:
    four, six = opened(":0")
    assert (four.address, six.address) == (f"0.0.0.0:{port_of(four)}", f"[::]:{port_of(four)}")
    assert option(six, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    assert events == [ListenerOpened(four.address), ListenerOpened(six.address)]
    for host, each in (("127.0.0.1", four), ("::1", six)):
        with socket.create_connection((host, port_of(four))) as client, accepted(each) as (_, peer):
            assert peer == client.getsockname()[:2]


@needs_ipv6
def test_the_second_family_takes_another_port_when_the_first_choice_is_taken(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        taken: list[int] = []

        def bind_after_another(place: addresses.Place, settings: Settings) -> Listener:
            if place[0] == socket.AF_INET6 and len(taken) < 3:
                rival = stack.enter_context(socket.socket(socket.AF_INET6))
                rival.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                rival.bind(place[1])
                rival.listen()
                taken.append(place[1][1])
            return open_tcp(place, settings)

        open_tcp = binding._open_tcp
        monkeypatch.setattr(binding, "_open_tcp", bind_after_another)
        four, six = opened(":0")
        assert port_of(four) == port_of(six)
        assert len({port_of(four), *taken}) == 4


def test_a_family_without_any_common_port_fails_in_the_end(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []

    def never(place: addresses.Place, settings: Settings) -> Listener:
        tried.append(place)
        if place[0] == socket.AF_INET6:
            raise OSError(errno.EADDRINUSE, "in use")
        return open_tcp(place, settings)

    open_tcp = binding._open_tcp
    monkeypatch.setattr(binding, "_open_tcp", never)
    with pytest.raises(AddressInUse):
        opened(":0")
    assert len(tried) == 2 * binding.TRIES_FOR_ONE_PORT


def test_a_name_binds_all_its_addresses(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    resolves_to(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.1")
    one, two = opened("name:0")
    assert [one.address, two.address] == [f"127.0.0.1:{port_of(one)}", f"127.0.0.2:{port_of(one)}"]


def test_a_name_binds_all_or_none(opened: Open, events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.2", port)):
        resolves_to(monkeypatch, "127.0.0.1", "127.0.0.2")
        with pytest.raises(AddressInUse) as caught:
            opened(f"name:{port}")
        assert caught.value.address == f"127.0.0.2:{port}"
        assert events == []
        with socket.create_server(("127.0.0.1", port)):
            pass  # the one that was bound first is free again


def test_binds_all_or_none_of_several(opened: Open, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as rival:
        with pytest.raises(AddressInUse):
            opened(f"unix:{tmp_path / 's'}", "127.0.0.1:0", spoken((socket.AF_INET, rival.getsockname())))
        assert list(tmp_path.iterdir()) == []


@needs_ipv6
@pytest.mark.parametrize("port", ["0", "free"])
def test_an_absent_ipv6_address_of_a_name_is_skipped(
    opened: Open, events: list[Event], monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    if port == "free":
        port = str(free_port())
    resolves_to(monkeypatch, "127.0.0.1", ABSENT)
    (one,) = opened(f"name:{port}")
    skipped = ListenerSkipped(f"[{ABSENT}]:{port_of(one)}", "This host has no such address.")
    assert events == [skipped, ListenerOpened(one.address)]


def test_a_host_without_ipv6_still_has_every_interface(
    opened: Open, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_ipv6(place: addresses.Place, settings: Settings) -> Listener:
        if place[0] == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "not supported")
        return open_tcp(place, settings)

    open_tcp = binding._open_tcp
    monkeypatch.setattr(binding, "_open_tcp", no_ipv6)
    (one,) = opened(":0")
    assert events[0] == ListenerSkipped(f"[::]:{port_of(one)}", "This host has no IPv6.")
    with pytest.raises(CannotBind) as caught:
        opened("[::1]:0")
    assert caught.value.why == "This host has no IPv6."


@needs_ipv6
def test_an_absent_address_alone_is_an_error(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    for bind in (f"[{ABSENT}]:0", "192.0.2.123:0"):
        with pytest.raises(CannotBind) as caught:
            opened(bind)
        assert caught.value.what == f"Cannot listen on {bind}."
        assert "no such address" in caught.value.why
    resolves_to(monkeypatch, "127.0.0.1", "192.0.2.123")
    with pytest.raises(CannotBind):  # IPv4 is never skipped
        opened("name:0")


@pytest.mark.parametrize("asked", [0, 7, 10**12])
def test_the_backlog_is_what_was_asked_within_the_systems_maximum(opened: Open, asked: int) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells the backlog in TCP_INFO")
    (one,) = opened("127.0.0.1:0", backlog=asked)
    with socket.socket(fileno=os.dup(one.fileno())) as copy:
        info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    limit = struct.unpack_from("I", info, 28)[0]  # tcpi_sacked: sk_max_ack_backlog of a listener
    assert limit == effective_backlog(asked) == (7 if asked == 7 else effective_backlog(0))


# What is refused


def test_port_0_may_be_asked_for_twice(opened: Open) -> None:
    one, two = opened("127.0.0.1:0", "127.0.0.1:0")
    assert port_of(one) != port_of(two)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "without SO_REUSEADDR, are still in FIN_WAIT2 or TIME_WAIT"),
        ({"reuse_address": False}, "Leave out --no-reuse-address"),
        ({"reuse_port": True}, "listens there without SO_REUSEPORT"),
    ],
)
def test_a_busy_port(opened: Open, settings: dict[str, bool], said: str) -> None:
    (one,) = opened("127.0.0.1:0")
    with pytest.raises(AddressInUse) as caught:
        opened(one.address, **settings)
    assert caught.value.what == f"Cannot listen on {one.address}."
    assert said in str(caught.value)
    assert "port 0 takes a free one" in caught.value.hint
    assert caught.value.address == one.address
    assert caught.value.exit_code == 5


def test_a_port_that_only_listen_finds_busy(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[socket.socket] = []

    def listening(mine: socket.socket, settings: Settings) -> socket.socket:
        rival = socket.socket()
        bound.append(rival)
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rival.bind(mine.getsockname())  # both are bound: neither listens yet
        rival.listen()
        return listen(mine, settings)

    listen = binding._listening
    monkeypatch.setattr(binding, "_listening", listening)
    with pytest.raises(AddressInUse):
        opened("127.0.0.1:0")
    bound[0].close()


@pytest.mark.parametrize(
    ("port", "said"), [(80, "A port below 1024 takes a privilege"), (8000, "The system forbids it.")]
)
def test_a_forbidden_port(monkeypatch: pytest.MonkeyPatch, port: int, said: str) -> None:
    monkeypatch.setattr(bind_errors, "kernel_number", lambda name, default: default)
    error = bind_errors.bind_error(
        OSError(errno.EACCES, "Permission denied"), (socket.AF_INET, ("127.0.0.1", port)), Settings()
    )
    assert said in error.why
    assert ("CAP_NET_BIND_SERVICE" in error.hint) == (port < 1024)


def test_other_errors_keep_the_systems_words(monkeypatch: pytest.MonkeyPatch) -> None:
    place = (socket.AF_INET6, ("fe80::1", 8000, 0, 0))
    assert "[fe80::1%eth0]" in bind_errors.bind_error(OSError(errno.EINVAL, "x"), place, Settings()).hint
    assert bind_errors.bind_error(OSError(errno.EIO, "disk on fire"), place, Settings()).why == "disk on fire."
    assert bind_errors.kernel_number("no/such/thing", 42) == 42


def test_a_listener_is_never_shut_down(opened: Open) -> None:
    (one,) = opened("127.0.0.1:0")
    with socket.socket(fileno=os.dup(one.fileno())) as copy:
        address = one.address
        one.close()
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))):
            assert readable(copy)
            copy.accept()[0].close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")
def test_who_is_turned_away_never_gets_into_the_queue_that_others_hold(opened: Open) -> None:
    (one,) = opened("127.0.0.1:0")
    with socket.create_connection(one.place[1]) as before, socket.socket() as after:
        one.turn_away()
        after.setblocking(False)
        after.connect_ex(one.place[1])
        assert readable(one)
        accepted = one.accept()
        assert accepted is not None
        before.sendall(b"x")
        with socket.socket(fileno=accepted[0]) as conn:
            assert conn.recv(10) == b"x", "who is connected is served as before"
        assert one.accept() is None
        one.close()
        assert select.select([], [after], [], 10)[1] == [after]
        assert after.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")
def test_a_socket_of_somebody_else_goes_on_taking_clients(opened: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        (one,) = opened(f"fd://{os.dup(theirs.fileno())}")
        one.turn_away()
        one.close()
        with socket.create_connection(theirs.getsockname(), timeout=10):
            pass
