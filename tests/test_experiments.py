"""The classic experiments of docs/experiments.md, each made by a program: the same steps, and the same observation."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from launch import halt
from pronghorn.errors import PronghornError
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what these experiments look at is Linux's /proc")

PAGE = Path(__file__).parent.parent / "docs" / "experiments.md"
FD_SETSIZE = 1024
CANNOT_BIND = 5
# include/net/tcp_states.h
NAMES = "ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT1 FIN_WAIT2 TIME_WAIT CLOSE CLOSE_WAIT LAST_ACK LISTEN CLOSING"
STATES = dict(enumerate(NAMES.split(), start=1))
NOBODY = ("0.0.0.0", 0)
Address = tuple[str, int]


class Row:
    """One line of /proc/net/tcp: a state, and the bytes that wait to be read (in LISTEN: the clients in the queue)."""

    def __init__(self, state: str, waiting: int) -> None:
        self.state = state
        self.waiting = waiting


def tcp(local: Address, remote: Address = NOBODY) -> Row:
    """What the kernel knows of the socket with these two ends; its state is "" when there is none (proc(5))."""
    ends = [written(local), written(remote)]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1:3] == ends:
            return Row(STATES[int(fields[3], 16)], int(fields[4].partition(":")[2], 16))
    return Row("", 0)


def written(address: Address) -> str:
    """An address as /proc/net/tcp has it: the number in the machine's own byte order."""
    number = int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)
    return f"{number:08X}:{address[1]:04X}"


def address(server: Served) -> Address:
    assert isinstance(server.address, tuple)
    return server.address


def hello(sock: socket.socket, patience: float = 10.0) -> bytes:
    return exchange(sock, b"hello\n", expect=6, patience=patience)


def children(pid: int) -> dict[int, str]:
    """The children of a process, and the letter of their state; Z is a zombie (proc(5), /proc/PID/stat)."""
    found = {}
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = each.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid:
            found[int(each.parent.name)] = state
    return found


def need(descriptors: int, limit: int) -> None:
    if limit < descriptors:
        pytest.skip(f"this system gives a process {limit} descriptors at most, and this takes {descriptors}")


# A second client.


@pytest.mark.parametrize(
    ("model", "places", "settings"),
    [("iterative", 1, {}), ("prefork", 2, {"workers": 2}), ("pool", 2, {"pool_size": 2})],
)
def test_when_every_place_is_taken_the_next_client_waits(model: str, places: int, settings: dict[str, int]) -> None:
    with serving("upper", model=model, **settings) as server, ExitStack() as stack:
        seated = [stack.enter_context(server.connect()) for _ in range(places)]
        for client in seated:
            assert hello(client) == b"HELLO\n"
        late = stack.enter_context(server.connect())
        with pytest.raises(TimeoutError):
            hello(late, patience=0.3)
        ours = tcp(address(server), late.getsockname())
        assert (ours.state, ours.waiting) == ("ESTABLISHED", 6), "the kernel shook hands, and took the bytes"
        assert tcp(address(server)).waiting == 1, "one client waits in the queue of the listener"
        seated[0].close()
        assert exchange(late, expect=6) == b"HELLO\n"
        assert tcp(address(server)).waiting == 0


@pytest.mark.parametrize("model", ["fork", "thread", "pool", "select", "poll", "epoll", "asyncio"])
def test_a_second_client_is_served_beside_an_idle_one(model: str) -> None:
    with serving("upper", model=model) as server, server.connect() as first, server.connect() as second:
        assert hello(first) == b"HELLO\n"
        assert hello(second) == b"HELLO\n"
        assert hello(first) == b"HELLO\n"


# Children.


def test_fork_leaves_no_zombie_after_a_thousand_clients() -> None:
    with serving("upper", model="fork") as server:
        (worker,) = server.worker_pids()
        for _ in range(50):
            with ExitStack() as stack:
                clients = [stack.enter_context(server.connect()) for _ in range(20)]
                assert [hello(client) for client in clients] == [b"HELLO\n"] * 20
                assert len(children(worker)) >= 20, "a child for every client"
        until(lambda: not children(worker), "the worker has no child any more, dead or alive")
        assert server.worker_pids() == [worker], "and it is the same worker"


def test_twenty_deaths_can_be_one_signal_and_all_are_reaped() -> None:
    with serving("upper", model="fork") as server:
        (worker,) = server.worker_pids()
        with ExitStack() as stack:
            clients = [stack.enter_context(server.connect()) for _ in range(20)]
            assert [hello(client) for client in clients] == [b"HELLO\n"] * 20
            halt(worker)  # before any death
        try:
            until(lambda: list(children(worker).values()) == ["Z"] * 20, "twenty zombies of a parent that cannot look")
            assert pending(worker) == {signal.SIGCHLD}
        finally:
            os.kill(worker, signal.SIGCONT)
        until(lambda: not children(worker), "all of them reaped, after that one signal")


def pending(pid: int) -> set[int]:
    """Signals that were sent to a process and not taken yet: a set, with no numbers in it (signal(7))."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [int(mask, 16) for mask in re.findall(r"^(?:SigPnd|ShdPnd):\s*(\w+)$", status, re.MULTILINE)]
    return {number for number in signal.valid_signals() for mask in masks if mask & (1 << (number - 1))}


# The end of a server, and its successor.


def binds(port: int, **settings: Any) -> tuple[int, str]:
    """What a successor on the same port ends with: 0 if it serves, else its exit code; and what it said."""
    try:
        with serving("upper", bind=f"127.0.0.1:{port}", **settings):
            return 0, ""
    except PronghornError as error:
        return error.exit_code, str(error)


@pytest.mark.parametrize("before", [True, False], ids=["after-default", "after-no-reuse-address"])
def test_whom_the_connections_of_a_stopped_server_block(before: bool) -> None:
    """All four pairs of a server and its successor, in both states that the first one leaves behind."""
    with serving("upper", reuse_address=before) as server, server.connect() as client:
        ours, theirs = address(server), client.getsockname()
        assert hello(client) == b"HELLO\n"
        assert (tcp(ours, theirs).state, tcp(theirs, ours).state) == ("ESTABLISHED", "ESTABLISHED")
        assert server.stop() == 0
        until(lambda: tcp(ours, theirs).state == "FIN_WAIT2", "the server's end is in FIN_WAIT2")
        assert tcp(theirs, ours).state == "CLOSE_WAIT"
        assert tcp(ours).state == "", "nobody listens any more"
        check_successors(before, ours, theirs, "FIN_WAIT2")
        assert client.recv(1) == b"", "the server has said its last word"
        client.close()
        until(lambda: tcp(ours, theirs).state == "TIME_WAIT", "the server's end is in TIME_WAIT")
        assert tcp(theirs, ours).state == "", "nothing is left of the client's end"
        check_successors(before, ours, theirs, "TIME_WAIT")


def check_successors(before: bool, ours: Address, theirs: Address, state: str) -> None:
    for after in (True, False):
        code, said = binds(ours[1], reuse_address=after)
        assert tcp(ours, theirs).state == state, "the experiment took too long, or the successor disturbed it"
        if before and after:
            assert code == 0
        else:
            assert code == CANNOT_BIND
            assert f"127.0.0.1:{ours[1]}" in said and state in said


# Crowds.


def test_select_refuses_who_does_not_fit_and_keeps_serving_the_others(many_descriptors: int) -> None:
    need(FD_SETSIZE + 200, many_descriptors)
    with serving("upper", model="select") as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(FD_SETSIZE + 76)]
        assert clients[-1].recv(1) == b"", "the last one is refused: all were looked at, one after the other"
        served = [client for client in clients if not has_ended(client)]
        assert clients[: len(served)] == served, "the first ones are served, those beyond are not"
        assert FD_SETSIZE - 24 <= len(served) < FD_SETSIZE
        assert {client.recv(1) for client in clients[len(served) :]} == {b""}, "an end, and no reset"
        for _ in range(2):
            assert {hello(client) for client in served} == {b"HELLO\n"}
        assert "beyond what select can watch" in server.log()
        served[0].close()
        until(lambda: has_place(server), "the place of one who left is another's")


def has_ended(client: socket.socket) -> bool:
    """Whether the other side's end is there already."""
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    finally:
        client.settimeout(10)


def has_place(server: Served) -> bool:
    with server.connect() as client:
        return hello(client) == b"HELLO\n"


def test_epoll_serves_five_thousand(many_descriptors: int) -> None:
    need(5100, many_descriptors)
    with serving("upper", model="epoll") as server, ExitStack() as stack:
        clients: list[socket.socket] = []
        for _ in range(50):
            clients += [stack.enter_context(server.connect()) for _ in range(100)]
            assert hello(clients[-1]) == b"HELLO\n"  # so that the queue is empty before the next hundred
        for word in (b"hello\n", b"again\n"):
            for client in clients:
                client.sendall(word)
            assert {exchange(client, expect=6) for client in clients} == {word.upper()}


@pytest.mark.parametrize(
    ("model", "count", "least", "most"), [("select", 1100, 1000, 1023), ("epoll", 5000, 5000, 5000)]
)
def test_the_crowd_of_the_page(
    tmp_path: Path, many_descriptors: int, model: str, count: int, least: int, most: int
) -> None:
    need(count + 100, many_descriptors)
    (program,) = re.findall(r"```python\n(# crowd\.py\n.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "crowd.py").write_text(program)
    with serving("upper", model=model) as server:
        port = str(address(server)[1])
        done = subprocess.run(
            [sys.executable, "crowd.py", port, str(count)], cwd=tmp_path, capture_output=True, text=True, timeout=100
        )
        assert done.stderr == ""
        served, away = map(int, re.fullmatch(r"(\d+) served, (\d+) turned away\n", done.stdout).groups())  # type: ignore
        assert served + away == count
        assert least <= served <= most
