"""What the kernel knows: who holds an address, and the limits of this process."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from brokers import free_port
from launch import wait_for
from pronghorn.listening import binding, owners, sock_diag
from pronghorn.system import descriptors

Address = namedtuple("Address", "ip port")
Row = namedtuple("Row", "family laddr raddr status pid")


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def unasked(port: int, states: int) -> Any:
    raise OSError(errno.EPROTONOSUPPORT, "there is no netlink")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """The connections that psutil says there are, where the kernel cannot be asked."""
    rows: list[Row] = []
    monkeypatch.setattr(sock_diag, "at_port", unasked)
    monkeypatch.setattr(psutil, "net_connections", lambda kind: rows)
    return rows


def row(status: str, pid: int | None = None, host: str = "127.0.0.1", port: int = 8000) -> Row:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return Row(family, Address(host, port), Address("192.0.2.1", 80), status, pid)


def near(host: str, port: int = 8000) -> list[tuple[str, str, int]]:
    """What is in the way of that address."""
    place = (socket.AF_INET6, (host, port, 0, 0)) if ":" in host else (socket.AF_INET, (host, port))
    return sorted((each.host, each.state, each.number) for each in owners.in_the_way(place))


def test_each_state_is_counted(table: list[Row]) -> None:
    table += [row("TIME_WAIT")] * 3 + [row("FIN_WAIT2")] + [row("ESTABLISHED", port=8001)]
    assert near("127.0.0.1") == [("127.0.0.1", "FIN_WAIT2", 1), ("127.0.0.1", "TIME_WAIT", 3)]


def test_what_is_in_the_way_of_what(table: list[Row]) -> None:
    table += [row("LISTEN", 1, host) for host in ("::", "::1", "127.0.0.2", "::ffff:127.0.0.3")]
    assert [host for host, *_ in near("127.0.0.1")] == ["::"]
    assert [host for host, *_ in near("127.0.0.2")] == ["127.0.0.2", "::"]
    assert [host for host, *_ in near("127.0.0.3")] == ["::", "::ffff:127.0.0.3"]
    assert [host for host, *_ in near("0.0.0.0")] == ["127.0.0.2", "::", "::ffff:127.0.0.3"]
    assert [host for host, *_ in near("::1")] == ["::", "::1"]
    assert [host for host, *_ in near("0:0:0:0:0:0:0:1")] == ["::", "::1"]
    assert near("127.0.0.1", 8001) == []


def test_a_link_local_address_is_one_of_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [sock_diag.Sockets(socket.AF_INET6, "fe80::1", "LISTEN", True, device=2)]
    monkeypatch.setattr(sock_diag, "at_port", lambda port, states: there)
    assert owners.in_the_way((socket.AF_INET6, ("fe80::1%eth0", 8000, 0, 2))) == there
    assert owners.in_the_way((socket.AF_INET6, ("fe80::1%eth1", 8000, 0, 3))) == []


def test_the_processes_of_sockets_and_those_that_are_unseen(table: list[Row]) -> None:
    table += [row("LISTEN", 5), row("LISTEN", 3), row("LISTEN", host="::1")]
    found = owners.holders(owners.in_the_way((socket.AF_INET, ("127.0.0.1", 8000))))
    assert found == ([3, 5], [])
    pids, unseen = owners.holders(owners.in_the_way((socket.AF_INET6, ("::1", 8000, 0, 0))))
    assert pids == [] and [each.host for each in unseen] == ["::1"]


def denied(kind: str) -> Any:
    raise psutil.AccessDenied()


def test_a_system_that_tells_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sock_diag, "at_port", unasked)
    with monkeypatch.context() as patched:
        patched.setattr(psutil, "net_connections", denied)
        with pytest.raises(OSError):
            near("127.0.0.1")
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(OSError):
        near("127.0.0.1")


@pytest.mark.skipif(sys.platform != "linux", reason="netlink is Linux's")
def test_only_the_port_in_question_is_asked_for(listening: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "net_connections", denied)
    port = listening.getsockname()[1]
    clients = [socket.create_connection(listening.getsockname()) for _ in range(100)]
    try:

        def here() -> dict[str, tuple[bool, int]]:
            return {each.state: (each.owned, each.number) for each in found() if each.host == "127.0.0.1"}

        def found() -> list[sock_diag.Sockets]:
            return list(sock_diag.at_port(port, owners.EVERY))

        wait_for(lambda: here().get("ESTABLISHED") == (False, 100), "all connections")
        assert here() == {"LISTEN": (True, 1), "ESTABLISHED": (False, 100)}  # nobody has accepted them
        assert owners.holders(each for each in found() if each.state == "LISTEN").pids == [os.getpid()]
    finally:
        for client in clients:
            client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="netlink is Linux's")
def test_a_refusal_of_the_kernel_is_an_error() -> None:
    with pytest.raises(OSError) as raised:
        list(sock_diag._dump(255, 8000, sock_diag.LISTENING))
    assert raised.value.errno in (errno.EINVAL, errno.ENOENT)


def test_psutil_is_imported_only_where_it_is_needed() -> None:
    code = "import sys, pronghorn.listening.owners, pronghorn.system.descriptors; sys.exit('psutil' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=20).returncode == 0


def test_the_descriptor_limit_is_raised_to_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        assert descriptors.raise_descriptor_limit() == (200, hard)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert descriptors.raise_descriptor_limit() == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("refusal", [ValueError, OSError])
def test_a_hard_limit_that_is_a_word_only(monkeypatch: pytest.MonkeyPatch, refusal: type[Exception]) -> None:
    seen: list[tuple[int, int]] = []

    def setrlimit(which: int, pair: tuple[int, int]) -> None:
        if pair[0] == resource.RLIM_INFINITY:
            raise refusal
        seen.append(pair)

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert descriptors.raise_descriptor_limit() == (256, resource.RLIM_INFINITY)
    assert seen == [(10240, resource.RLIM_INFINITY)]


def test_free_descriptors_count_what_is_open() -> None:
    before = descriptors.free_descriptors()
    with open(os.devnull):
        assert descriptors.free_descriptors() == before - 1
    assert descriptors.free_descriptors() == before


def test_the_backlog_is_cut_at_the_systems_maximum() -> None:
    most = binding.effective_backlog(0)
    assert most >= 128
    assert binding.effective_backlog(5) == 5
    assert binding.effective_backlog(10**12) == most


# Orphans


def titled(title: str, address: tuple[str, int]) -> subprocess.Popen[bytes]:
    """A process of that title that listens."""
    code = (
        "import socket, sys, setproctitle\n"
        "setproctitle.setproctitle(sys.argv[1])\n"
        "server = socket.create_server((sys.argv[2], int(sys.argv[3])))\n"
        "print('ready', flush=True)\n"
        "input()\n"
    )
    command = [sys.executable, "-c", code, title, address[0], str(address[1])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize(
    ("title", "orphan"),
    [
        ("pronghorn: worker 1 epoll of 999999", True),
        ("pronghorn: worker 12 thread of {parent}", False),
        ("pronghorn: worker 1 epoll", False),
        ("pronghorn: supervisor 127.0.0.1:8000", False),
        ("python -m http.server", False),
    ],
)
def test_orphans_are_workers_whose_supervisor_is_gone(title: str, orphan: bool) -> None:
    pytest.importorskip("setproctitle")
    address = ("127.0.0.1", free_port())
    with titled(title.format(parent=os.getpid()), address) as process:
        assert owners.held_by_orphans(f"127.0.0.1:{address[1]}") is orphan
        process.kill()


def test_nobody_is_no_orphan(table: list[Row]) -> None:
    assert not owners.held_by_orphans("127.0.0.1:8000")
    table += [row("TIME_WAIT"), row("LISTEN")]
    assert not owners.held_by_orphans("127.0.0.1:8000")
    assert not owners.held_by_orphans("nonsense")
