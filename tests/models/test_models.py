"""What each model does with its own means: processes, descriptors, bounds, and what the system refuses it."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from launch import halt
from pronghorn.errors import PronghornError, WorkerFailedToStart
from pronghorn.models import registry
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, until

HANDLERS = "handlers_under_test"
FLOWS = ("iterative", "fork", "prefork", "thread", "pool", "gevent")
QUIET = 0.15  # seconds in which a client that has to wait must hear nothing

linux = pytest.mark.skipif(sys.platform != "linux", reason="this test reads /proc")


def needs(model: str) -> None:
    missing = registry.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")


def ask(client: socket.socket, line: bytes = b"hello") -> bytes:
    """Send a line and read one."""
    client.sendall(line + b"\n")
    got = b""
    while not got.endswith(b"\n"):
        data = client.recv(65536)
        assert data, f"the server ended after {got!r}"
        got += data
    return got[:-1]


def is_silent(client: socket.socket) -> bool:
    poller = select.poll()
    poller.register(client, select.POLLIN)
    return not poller.poll(QUIET * 1000)


def table(told: bytes) -> dict[int, str]:
    return {int(number): what for number, _, what in (each.partition("=") for each in told.decode().split(";"))}


@contextmanager
def clients(server: Served, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(server.connect(index % len(server.addresses))) for index in range(count)]


# fork: what a child holds, and what is left of it.


@linux
@pytest.mark.parametrize("handler", ["descriptors", "DescriptorsProtocol", "descriptors_blocking"])
def test_a_forked_child_holds_its_connection_and_its_records_alone(handler: str) -> None:
    bind = ["127.0.0.1:0", "127.0.0.2:0"]
    with (
        serving(f"{HANDLERS}:{handler}", model="fork", bind=bind, workers=2, bus="off") as server,  # nor the bus's door
        clients(server, 4) as others,
    ):
        for client in others:  # the descriptors of earlier clients are not handed down either
            held = table(ask(client))
            assert list(held)[:3] == [0, 1, 2]
            records = (held[2], "/memfd:")  # a copy of the log, and where stacks are written
            theirs = [what for number, what in held.items() if number > 2 and not what.startswith(records)]
            assert [what.partition(":")[0] for what in theirs] == ["socket"], held


@contextmanager
def waiting_together(server: Served, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """Clients that the worker finds in its queue all at once."""
    (worker,) = server.worker_pids()
    halt(worker)
    with ExitStack() as stack:
        batch = stack.enter_context(clients(server, count))
        for client in batch:
            client.sendall(sent)
        os.kill(worker, signal.SIGCONT)
        yield batch


@linux
def test_children_that_are_forked_in_a_row_hold_none_of_the_others_connections() -> None:
    with serving(f"{HANDLERS}:descriptors", model="fork", bus="off") as server, waiting_together(server, 12) as batch:
        for client in batch:
            held = table(ask(client))
            assert [what.partition(":")[0] for what in held.values()].count("socket") == 1, held


def test_a_fork_that_fails_in_a_row_of_forks_costs_one_client_only() -> None:
    with serving(f"{HANDLERS}:fork_fails_once", model="fork", factory=True) as server:
        with waiting_together(server, 6, b"hello") as batch:
            assert sorted(exchange(client, expect=5) for client in batch) == [b"", *[b"HELLO"] * 5]
        assert "Traceback" not in server.log()


@linux
@pytest.mark.parametrize("model", FLOWS)
def test_a_program_holds_its_connection_and_nothing_else(model: str) -> None:
    needs(model)
    command = ("sh", "-c", 'exec ls -l "/proc/$$/fd"')
    with serving(command, model=model, workers=2) as server:
        for _ in range(3):
            with server.connect() as idle, server.connect() as client:
                told = exchange(idle, end=True) + exchange(client, end=True)
        links = [line.partition(" -> ") for line in told.decode().splitlines() if " -> " in line]
        ours = [(int(left.split()[-1]), what) for left, _, what in links if not what.startswith("/proc/")]
        assert [number for number, _ in ours] == [0, 1, 2] * 2, ours
        assert all(what.startswith("socket:") for number, what in ours if number < 2), ours


def zombies(server: Served) -> list[psutil.Process]:
    found = []
    for process in server.processes():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.slow
def test_no_zombie_after_a_thousand_forks() -> None:
    with serving("upper", model="fork") as server:
        (worker,) = server.worker_pids()
        for _ in range(20):
            with clients(server, 50) as batch:
                for client in batch:
                    client.sendall(b"hello")
                for client in batch:
                    assert exchange(client, expect=5) == b"HELLO"
            # All fifty end at once: that is fewer signals than deaths.
            until(lambda: not psutil.Process(worker).children(), "the worker has reaped its children")
            assert not zombies(server)
        assert server.worker_pids() == [worker]


@pytest.mark.parametrize("model", ["thread", "fork"])
def test_programs_leave_no_zombie(model: str) -> None:
    with serving(("tr", "a-z", "A-Z"), model=model) as server:
        with clients(server, 60) as batch:
            for client in batch:
                client.sendall(b"hello")
                client.shutdown(socket.SHUT_WR)
            assert [exchange(client) for client in batch] == [b"HELLO"] * 60
        until(lambda: len(server.processes()) == 2, "supervisor and worker are alone again")


@pytest.mark.parametrize(
    ("model", "factory", "why"),
    [("fork", "fork_fails_once", "fork:"), ("thread", "thread_fails_once", "can't start new thread")],
)
def test_a_flow_of_control_that_cannot_be_had_costs_one_client_only(model: str, factory: str, why: str) -> None:
    with serving(f"{HANDLERS}:{factory}", model=model, factory=True) as server:
        with server.connect() as unlucky:
            assert exchange(unlucky) == b"", "refused in order: an end, and no reset"
        for _ in range(3):
            with server.connect() as client:
                assert exchange(client, b"hello", expect=5) == b"HELLO"
        until(lambda: why in server.log() and "Refused" in server.log(), "the log says why")
        assert server.log().count("Refused") == 1
        assert "Traceback" not in server.log()


# Bounds: who does not fit waits in the kernel's queue.


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        ("iterative", {"workers": 2}),
        ("fork", {"max_children": 2}),
        ("prefork", {"workers": 2}),
        ("thread", {"max_threads": 2}),
        ("pool", {"pool_size": 2}),
    ],
)
def test_beyond_the_bound_clients_wait_in_the_queue(model: str, setting: dict[str, int]) -> None:
    with serving("upper", model=model, **setting) as server, clients(server, 5) as all_of_them:
        first, second, *waiting = all_of_them
        for client in all_of_them:
            client.sendall(b"hello")
        for client in (first, second):
            until(lambda client=client: not is_silent(client), "an answer")  # type: ignore[misc]
        assert all(is_silent(client) for client in waiting)
        for client in all_of_them:  # each that leaves makes room for the next
            assert exchange(client, expect=5) == b"HELLO"
            client.close()


@pytest.mark.slow
@pytest.mark.parametrize("handler", ["upper", "pronghorn.testing.reference_asyncio:upper_streams"])
def test_select_refuses_politely_what_does_not_fit_its_sets(handler: str, many_descriptors: int) -> None:
    count = 1100
    if many_descriptors < count + 100:
        pytest.skip(f"only {many_descriptors} descriptors may be open here (ulimit -Hn)")
    with serving(handler, model="select") as server:
        with clients(server, count) as crowd:
            for client in crowd:
                client.sendall(b"hello")
            answers = [client.recv(100) for client in crowd]
            served = answers.count(b"HELLO")
            assert served + answers.count(b"") == count
            assert 900 <= served < 1024
            assert set(answers[:served]) == {b"HELLO"}, "the ones beyond the set are refused, not others"
            for client in crowd[:served]:
                client.sendall(b"again")
            assert {client.recv(100) for client in crowd[:served]} == {b"AGAIN"}

        def one_more() -> bool:
            with server.connect() as client:
                return exchange(client, b"hello", end=True, reset_ends=True) == b"HELLO"

        until(one_more, "there is room again")
        assert "Traceback" not in server.log()
        assert "Refused" in server.log()


# Ready.

EVERY = (*FLOWS, "select", "poll", "epoll", "kqueue", "asyncio", "uvloop")


@pytest.mark.parametrize("model", EVERY)
def test_ready_is_a_worker_that_has_entered_its_loop(model: str) -> None:
    needs(model)
    with serving("upper", model=model, workers=2) as server:
        until(lambda: server.log().count("is ready") == 2, "each worker is ready, once")
    with (
        pytest.raises(PronghornError, match="nothing to wait with") as caught,
        serving(f"{HANDLERS}:no_loop", model=model, factory=True),
    ):
        pass
    assert caught.value.exit_code == WorkerFailedToStart.exit_code


# What a worker carries.

HEAVY = {
    "click",
    "rich",
    "rich_click",
    "textual",
    "prompt_toolkit",
    "matplotlib",
    "psutil",
    "dataclasses",
    "hypothesis",
}


@pytest.mark.parametrize("model", EVERY)
def test_a_worker_imports_only_what_serving_needs(model: str) -> None:
    needs(model)
    with serving(f"{HANDLERS}:modules", model=model) as server, server.connect() as client:
        names = set(ask(client).decode().split())
    files = {each: f"pronghorn.models.{registry.NAMED_OTHERWISE.get(each, (each,))[0]}" for each in registry.MODELS}
    assert files[model] in names
    heavy = HEAVY - {"dataclasses"} if model in ("gevent", "asyncio", "uvloop") else HEAVY | {"asyncio"}
    assert not heavy & {name.partition(".")[0] for name in names}
    assert not [name for name in names if f"{name}.".startswith("pronghorn.cli.")]
    allowed = {
        "pronghorn.models.iterative",
        "pronghorn.models.epoll",
        "pronghorn.models.thread",
    }  # pages that others quote
    carried = names.intersection(files.values())
    assert len(carried - allowed) <= 1, carried
