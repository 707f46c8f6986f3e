"""What the kernel knows: who holds an address, and the limits of this process."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pronghorn.listening import binding, owners, sock_diag
from pronghorn.system import descriptors

Address = namedtuple("Address", "ip port")
Row = namedtuple("Row", "family laddr status pid")


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def spoken(server: socket.socket) -> str:
    host, port = server.getsockname()[:2]
    return f"{host}:{port}"


def unasked(port: int, states: int) -> Any:
    raise OSError(errno.EPROTONOSUPPORT, "there is no netlink")


@pytest.fixture(params=["netlink", "psutil"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to ask."""
    if request.param == "psutil":
        monkeypatch.setattr(sock_diag, "at_port", unasked)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """The connections that psutil says there are, where the kernel cannot be asked."""
    rows: list[Row] = []
    monkeypatch.setattr(sock_diag, "at_port", unasked)
    monkeypatch.setattr(psutil, "net_connections", lambda kind: rows)
    return rows


def row(status: str, pid: int | None = None, host: str = "127.0.0.1", port: int = 8000) -> Row:
    return Row(socket.AF_INET6 if ":" in host else socket.AF_INET, Address(host, port), status, pid)


@pytest.mark.usefixtures("way")
def test_names_the_process_that_listens(listening: socket.socket) -> None:
    said = owners.explain(spoken(listening))
    assert said.startswith(f"held by process {os.getpid()} (")
    assert "pytest" in said or "python" in said


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("host", ["", "localhost", "0.0.0.0"])
def test_sees_through_names_and_wildcards(listening: socket.socket, host: str) -> None:
    assert f"process {os.getpid()} " in owners.explain(f"{host}:{listening.getsockname()[1]}")


def test_names_who_listens_on_a_unix_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "here"))
        server.listen()
        for path in (tmp_path / "here", "here"):
            assert owners.explain(f"unix:{path}").startswith(f"held by process {os.getpid()} ")
    assert owners.explain(f"unix:{tmp_path / 'here'}") == ""


@pytest.mark.usefixtures("way")
def test_a_real_connection_left_behind_is_named_by_its_state() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = spoken(server)
        with socket.create_connection(server.getsockname()) as client:
            server.accept()[0].close()
            server.close()
            assert said_within(address, "1 connection of an earlier server is in FIN_WAIT2")
            client.close()
            assert said_within(address, "1 connection of an earlier server is in TIME_WAIT")


def said_within(address: str, expected: str, seconds: float = 5.0) -> bool:
    """Whether that is said before the deadline; the kernel changes states in its own time."""
    deadline = time.monotonic() + seconds
    while (said := owners.explain(address)) != f"no process holds it: {expected}":
        assert time.monotonic() < deadline, said
    return True


def test_counts_each_state(table: list[Row]) -> None:
    table += [row("TIME_WAIT")] * 3 + [row("FIN_WAIT2")] + [row("ESTABLISHED", port=8001)]
    said = "no process holds it: 1 connection of an earlier server is in FIN_WAIT2, 3 in TIME_WAIT"
    assert owners.explain("127.0.0.1:8000") == said


def test_connections_of_a_living_process_are_its_own(table: list[Row]) -> None:
    table += [row("ESTABLISHED", os.getpid())] * 2
    said = owners.explain("127.0.0.1:8000")
    assert said.startswith(f"held by process {os.getpid()} (")
    assert said.endswith("): 2 connections are in ESTABLISHED")


def test_another_users_process_is_unseen(table: list[Row]) -> None:
    table += [row("LISTEN")]
    assert owners.explain(":8000") == "held by a process that this user may not see"


def test_a_dual_stack_listener_is_in_the_way_of_ipv4(table: list[Row]) -> None:
    table += [row("LISTEN", host="::")]
    assert owners.explain("127.0.0.1:8000").startswith("held by")
    assert owners.explain("[::1]:8000").startswith("held by")
    assert owners.explain("[::1]:8001") == ""


def test_the_other_family_and_other_hosts_are_not_in_the_way(table: list[Row]) -> None:
    table += [row("LISTEN", host="::1"), row("LISTEN", host="127.0.0.2")]
    assert owners.explain("127.0.0.1:8000") == ""


def test_many_processes_are_cut_short_and_a_command_is_made_printable(
    table: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Process:
        def __init__(self, pid: int) -> None:
            if pid == 3:
                raise psutil.NoSuchProcess(pid)
            self.pid = pid

        def cmdline(self) -> list[str]:
            return ["evil\x1b[2J\n"] if self.pid == 1 else ["x" * 200]

    table += [row("LISTEN", pid) for pid in (5, 1, 3, 2, 4)]
    monkeypatch.setattr(psutil, "Process", Process)
    said = owners.explain("127.0.0.1:8000")
    assert said == f"held by process 1 (evil?[2J?), process 2 ({'x' * 80}…), process 3 and 2 more"


def denied(kind: str) -> Any:
    raise psutil.AccessDenied()


def test_what_cannot_be_found_out_is_left_out(listening: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert owners.explain("nonsense") == ""
    assert owners.explain("no-such-host.invalid:8000") == ""
    monkeypatch.setattr(sock_diag, "at_port", unasked)
    with monkeypatch.context() as patched:
        patched.setattr(psutil, "net_connections", denied)
        assert owners.explain(spoken(listening)) == ""
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert owners.explain(spoken(listening)) == ""


def test_a_dual_stack_listener_is_found_by_its_ipv4_address() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"[::1]:{port}"):
            assert owners.explain(address).startswith(f"held by process {os.getpid()} ")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not show it")
def test_a_socket_that_is_bound_and_does_not_listen_is_found() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        if not sock_diag.at_port(bound.getsockname()[1], sock_diag.OTHERS):
            pytest.skip("the kernel shows it since Linux 6.8")
        said = owners.explain(spoken(bound))
        assert said.startswith(f"held by process {os.getpid()} (")
        assert said.endswith(", bound but not listening")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root becomes another user")
def test_of_another_users_process_the_user_is_told(listening: socket.socket) -> None:
    code = (
        "import os, sys\n"
        "from pronghorn.listening import owners\n"
        "owners.explain(sys.argv[1])  # imports what nobody may not be able to read\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(owners.explain(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", code, spoken(listening)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    assert said == "held by a process of user 0, which this user may not see\n"


@pytest.mark.skipif(sys.platform != "linux", reason="netlink is Linux's")
def test_only_the_port_in_question_is_asked_for(listening: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "net_connections", denied)
    port = listening.getsockname()[1]
    clients = [socket.create_connection(listening.getsockname()) for _ in range(100)]
    try:
        found = [*sock_diag.at_port(port, sock_diag.LISTENING), *sock_diag.at_port(port, sock_diag.OTHERS)]
        here = {each.state: (each.owned, each.number) for each in found if each.host == "127.0.0.1"}
        assert here["LISTEN"] == (True, 1)
        assert here["ESTABLISHED"] == (False, 100)  # nobody has accepted them
        assert owners.explain(spoken(listening)).startswith(f"held by process {os.getpid()} ")
    finally:
        for client in clients:
            client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="netlink is Linux's")
def test_a_refusal_of_the_kernel_is_an_error() -> None:
    with pytest.raises(OSError) as raised:
        list(sock_diag._dump(255, 8000, sock_diag.LISTENING))
    assert raised.value.errno in (errno.EINVAL, errno.ENOENT)


def test_psutil_is_imported_only_to_explain() -> None:
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
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    with titled(title.format(parent=os.getpid()), address) as process:
        assert owners.held_by_orphans(f"127.0.0.1:{address[1]}") is orphan
        process.kill()


def test_nobody_is_no_orphan(table: list[Row]) -> None:
    assert not owners.held_by_orphans("127.0.0.1:8000")
    table += [row("TIME_WAIT"), row("LISTEN")]
    assert not owners.held_by_orphans("127.0.0.1:8000")
    assert not owners.held_by_orphans("nonsense")
