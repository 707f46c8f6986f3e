"""Old workers: after a reload, an upgrade or a replacement they go on with the connections that they have; always over
real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from launch import Launched, gone, launched, wait_for
from pronghorn.control import client
from pronghorn.errors import MissingExtra
from pronghorn.models.registry import load
from pronghorn.scoreboard.row import LEAVING, SERVING
from pronghorn.serving.channels import Loops
from pronghorn.settings import settle
from pronghorn.settings.model import MODELS
from pronghorn.supervisor.old_workers import OldWorker, Predecessors, too_many
from pronghorn.system.processes import start_of
from pronghorn.testing.tls import over_tls, throw_away_pair

MESSAGE = """
import os, pronghorn
@pronghorn.message(pronghorn.lines)
def reply(line):
    return b"%(word)s %%d" %% os.getpid()
"""
BLOCKING = """
import os
def reply(conn):
    for line in conn.makefile("rb"):
        conn.sendall(b"%(word)s %%d\\n" %% os.getpid())
"""
COROUTINE = """
import os
async def reply(reader, writer):
    while await reader.readline():
        writer.write(b"%(word)s %%d\\n" %% os.getpid())
        await writer.drain()
    writer.close()
"""


def put(folder: Path, word: str, text: str = MESSAGE) -> None:
    (folder / "new").write_text(text % {"word": word})
    (folder / "new").rename(folder / "mine.py")


def said(sock: socket.socket) -> tuple[str, int]:
    """One question: the word of the code that answers, and its worker's parent, or under fork its child's number."""
    sock.sendall(b"x\n")
    word, pid = sock.recv(100).split()
    return word.decode(), int(pid)


def reloaded(server: Launched, turn: int = 1) -> None:
    server.send(signal.SIGHUP)
    wait_for(lambda: server.log.count("Reloaded in ") == turn, "the reload")
    assert "may still accept" not in server.log


def is_over(sock: socket.socket) -> bool:
    sock.settimeout(15)
    try:
        return sock.recv(100) == b""
    except OSError:
        return True


@contextlib.contextmanager
def served(folder: Path, text: str = MESSAGE, **settings: Any) -> Iterator[Launched]:
    put(folder, "old", text)
    settings = {"drain_quiet": 0.1, "control_socket": str(folder / "ctl"), **settings}
    with launched(folder, "mine:reply", **settings) as server:
        yield server


def asked(folder: Path, command: str, **more: Any) -> Any:
    return client.ask(str(folder / "ctl"), {"command": command, **more}, 15, lambda: None)


def old_in(status: dict[str, Any]) -> tuple[int, int, int]:
    """How many old workers, connections of theirs, and programs before this one a status tells of."""
    return tuple(status["old"][name] for name in ("workers", "connections", "programs"))  # type: ignore[return-value]


def states(folder: Path) -> list[tuple[int, str]]:
    return sorted((row["generation"], row["state"]) for row in asked(folder, "workers")["workers"])


PAIRS = [(name, MESSAGE, False) for name in MODELS if name != "auto"]
PAIRS += [("thread", BLOCKING, False), ("fork", BLOCKING, False), ("asyncio", COROUTINE, False)]
PAIRS += [("epoll", MESSAGE, True), ("pool", MESSAGE, True), ("uvloop", COROUTINE, True), ("epoll", COROUTINE, False)]
QUICK = [("epoll", MESSAGE, False), ("thread", BLOCKING, False), ("asyncio", COROUTINE, False)]


def cases() -> list[Any]:
    return [pytest.param(*each, marks=[] if each in QUICK else [pytest.mark.slow]) for each in PAIRS]


@pytest.mark.parametrize(("model", "text", "tls"), cases())
def test_a_reload_leaves_connections_alone_and_a_stop_ends_them(
    tmp_path: Path, model: str, text: str, tls: bool
) -> None:
    try:
        load(model)
    except MissingExtra as error:
        pytest.skip(str(error))
    settings = throw_away_pair(str(tmp_path)) if tls else {}
    workers = 3 if model in ("iterative", "prefork") else 1
    with contextlib.ExitStack() as stack, served(tmp_path, text, model=model, workers=workers, **settings) as server:

        def connected() -> Any:
            sock = stack.enter_context(server.connect())
            return stack.enter_context(over_tls(sock, name="localhost")) if tls else sock

        server.ready(workers)
        chatting, idle = connected(), connected()
        before = said(chatting)
        said(idle)
        put(tmp_path, "young", text)
        reloaded(server)
        late = connected()
        assert said(late)[0] == "young"
        late.close()
        assert (1, "LEAVING") in states(tmp_path)
        assert said(chatting) == before
        status = asked(tmp_path, "status")
        assert status["old"]["connections"] == 2
        chatting.close()
        assert said(idle)[0] == "old", "the end of one is none of the other"
        wait_for(lambda: asked(tmp_path, "status")["old"]["connections"] == 1, "one connection less")
        assert server.stop() == 0
        assert is_over(idle)


def test_an_old_worker_ends_with_its_last_connection(tmp_path: Path) -> None:
    with served(tmp_path, model="thread") as server:
        with server.connect() as sock:
            _, old = said(sock)
            reloaded(server)
            assert old in server.workers()
        wait_for(lambda: old not in server.workers(), "its end")
        wait_for(lambda: old_in(asked(tmp_path, "status")) == (0, 0, 0), "the server to know of it")
        assert server.stop() == 0


@pytest.mark.parametrize("model", ["epoll", "thread", "prefork"])
def test_when_its_time_is_over_it_drains(tmp_path: Path, model: str) -> None:
    with served(tmp_path, model=model, reload_drain_timeout="0.3s") as server, server.connect() as sock:
        said(sock)
        reloaded(server)
        assert is_over(sock)
        assert "drains now: its time is over (--reload-drain-timeout)" in server.log
        assert server.stop() == 0


def test_a_reload_for_every_change_of_a_file_waits_two_seconds() -> None:
    assert settle({"reload": True}).old_workers_timeout == 2.0
    assert settle({"reload": True, "reload_drain_timeout": "5m"}).old_workers_timeout == 300.0
    assert settle({}).old_workers_timeout == 3600.0
    assert settle({"reload_drain_timeout": 0}).old_workers_timeout == float("inf")


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ({}, 0.0),
        ({"drain_spread": 20}, 0.0),
        ({"on_reload": "spread"}, 60.0),
        ({"on_reload": "spread", "drain_spread": "20s"}, 20.0),
    ],
)
def test_old_workers_spread_goodbyes_where_that_is_asked_for(values: dict[str, Any], seconds: float) -> None:
    assert settle(values).old_workers_spread == seconds


def test_of_too_many_generations_the_oldest_drains(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack, served(tmp_path, model="epoll", max_generations=2) as server:
        held = []
        for turn in range(1, 4):
            held.append(stack.enter_context(server.connect()))
            said(held[-1])
            reloaded(server, turn)
            if turn > 1:
                assert is_over(held[turn - 2])
                assert f"(generation {turn - 1}, process id" in server.log
        assert said(held[-1])[0] == "old"
        assert server.stop() == 0


def test_a_stop_cuts_old_workers_at_the_drain_deadline(tmp_path: Path) -> None:
    text = "import time\ndef reply(conn):\n    conn.sendall(b'%(word)s')\n    time.sleep(60)\n"
    with served(tmp_path, text, model="thread", drain_timeout="0.1s") as server, server.connect() as sock:
        assert sock.recv(3) == b"old"
        reloaded(server)
        assert server.stop() == 6
        assert is_over(sock)
        assert "Stopped; connections: 1 cut by the drain deadline" in server.log


def test_a_worker_that_is_one_too_many_goes_on(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack, served(tmp_path, model="epoll", workers=2) as server:
        server.ready(2)
        held: dict[int, socket.socket] = {}
        while len(held) < 2:
            sock = stack.enter_context(server.connect())
            held[said(sock)[1]] = sock
        server.send(signal.SIGTTOU)
        wait_for(lambda: (1, "LEAVING") in states(tmp_path), "one that has let go")
        assert {said(sock)[1] for sock in held.values()} == set(held)
        assert asked(tmp_path, "drain") == {}
        assert all(is_over(sock) for sock in held.values())
        assert server.workers() == []


def test_a_worn_out_worker_goes_on(tmp_path: Path) -> None:
    with served(tmp_path, model="epoll", max_connections_per_worker=2) as server, server.connect() as sock:
        _, old = said(sock)
        for _ in range(3):
            server.ask(b"x\n")
        wait_for(lambda: (1, "LEAVING") in states(tmp_path), "one that has let go")
        assert said(sock) == ("old", old)
        assert server.ask(b"x\n").split()[1] != str(old).encode()
        assert server.stop() == 0


def test_limits_of_the_server_count_old_connections(tmp_path: Path) -> None:
    with (
        served(tmp_path, model="epoll", max_connections_per_source=2) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        said(one), said(two)
        reloaded(server)
        with server.connect() as third:
            assert is_over(third)
        two.close()
        wait_for(lambda: asked(tmp_path, "status")["open"] == 1, "the end of one")
        with server.connect() as third:
            assert said(third)[0] == "old"
            said(one)


def test_at_an_address_that_goes_connections_stay(tmp_path: Path) -> None:
    config = tmp_path / "pronghorn.toml"
    config.write_text('bind = ["127.0.0.1:0", "127.0.0.2:0"]\n')
    with served(tmp_path, model="thread", bind=None, config=str(config)) as server, server.connect() as sock:
        said(sock)
        config.write_text('bind = ["127.0.0.2:0"]\n')
        reloaded(server)
        assert said(sock)[0] == "old"
        with pytest.raises(OSError):
            socket.create_connection(server.address, timeout=15)
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("model", "room"),
    [("fork", {"max_children": 1}), ("thread", {"max_threads": 1}), ("epoll", {"max_connections": 1})],
)
def test_who_waits_at_an_address_that_goes_is_served_when_there_is_room(
    tmp_path: Path, model: str, room: dict[str, int]
) -> None:
    config = tmp_path / "pronghorn.toml"
    config.write_text('bind = ["127.0.0.2:0", "127.0.0.1:0"]\n')
    with served(tmp_path, model=model, bind=None, config=str(config), **room) as server:
        port = int(server.report["listening"][1].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 15) as one:
            said(one)
            with socket.create_connection(("127.0.0.1", port), 15) as two:
                two.sendall(b"x\n")
                config.write_text('bind = ["127.0.0.2:0"]\n')
                server.send(signal.SIGHUP)
                wait_for(lambda: "Reloaded in " in server.log, "the reload")
                assert said(one)[0] == "old"
                one.close()
                assert two.recv(100).startswith(b"old"), "who was in the queue had connected"


# Upgrades.


def upgraded(server: Launched, pid: int, times: int = 1) -> int:
    """The process id of the program that serves now."""
    os.kill(pid, signal.SIGUSR2)
    wait_for(lambda: server.log.count("Upgraded: process") == times, "the upgrade")
    return int(server.log.rpartition("Upgraded: process ")[2].split()[0])


def connection_of(server: Launched, program: int) -> socket.socket | None:
    """An open connection, if a worker of this program has taken it: the old one accepts for a moment still."""
    sock = server.connect()
    if psutil.Process(said(sock)[1]).ppid() == program:
        return sock
    sock.close()
    return None


def test_the_program_before_an_upgrade_stays_as_long_as_its_connections_do(tmp_path: Path) -> None:
    with served(tmp_path, model="epoll") as server:
        with server.connect() as sock:
            before = said(sock)
            new = upgraded(server, server.pid)
            assert said(sock) == before
            status = asked(tmp_path, "status")
            assert status["pid"] == new
            assert old_in(status) == (1, 1, 1)
            wait_for(lambda: states(tmp_path) == [(1, "LEAVING"), (2, "SERVING")], "the old worker to let go")
        assert server.exit() == 0
        wait_for(lambda: asked(tmp_path, "status")["old"]["programs"] == 0, "the end of the first program")
        os.kill(new, signal.SIGTERM)
        wait_for(lambda: gone(new), "the end of the second")


@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stop_ends_the_programs_before_it_too(tmp_path: Path, ends: signal.Signals) -> None:
    with contextlib.ExitStack() as stack, served(tmp_path, model="thread") as server:
        pid, pids, held = server.pid, [server.pid], []
        for times in range(1, 3):
            sock = wait_for(lambda pid=pid: connection_of(server, pid), "a connection of this program")  # type: ignore[misc]
            held.append(stack.enter_context(sock))
            pid = upgraded(server, pid, times)
            pids.append(pid)
        assert [said(sock)[0] for sock in held] == ["old", "old"]
        wait_for(lambda: old_in(asked(tmp_path, "status")) == (2, 2, 2), "the end of what others took")
        os.kill(pid, ends)
        wait_for(lambda: all(gone(each) for each in pids), "the end of all")
        assert all(is_over(sock) for sock in held)
        server.exit()


def test_too_many_generations_are_too_many_over_upgrades_too(tmp_path: Path) -> None:
    with served(tmp_path, model="epoll", max_generations=1) as server, server.connect() as sock:
        said(sock)
        new = upgraded(server, server.pid)
        assert is_over(sock)
        assert server.exit() == 0
        os.kill(new, signal.SIGTERM)
        wait_for(lambda: gone(new), "the end of the second")


def test_an_upgrade_while_a_program_before_it_still_lives_does_not_make_it_an_orphan(tmp_path: Path) -> None:
    """The second program ends between the first, whose child it is, and the third, whose parent it is."""
    with served(tmp_path, model="epoll") as server, server.connect() as sock:
        said(sock)
        second = upgraded(server, server.pid)
        third = upgraded(server, second, 2)
        wait_for(lambda: gone(second), "the end of the second")
        sock.close()
        server.exit()
        time.sleep(0.2)
        assert not gone(third)
        assert server.ask(b"x\n").startswith(b"old")
        os.kill(third, signal.SIGTERM)
        wait_for(lambda: gone(third), "the end of the third")


# The book-keeping.


def old(generation: int, slot: int, since: float) -> OldWorker:
    return OldWorker(generation, slot, since)


def test_who_has_to_drain() -> None:
    one, two, three = old(1, 1, 1.0), old(2, 1, 2.0), old(3, 1, 3.0)
    names: Callable[..., set[OldWorker]] = lambda *given: set(too_many(*given))  # noqa: E731
    assert names([one, two], 3, 3, 100) == set()
    assert names([one, two, three], 4, 3, 100) == {one}
    assert names([one, two], 3, 1, 100) == {one, two}
    elsewhere = old(1, 7, 1.5)  # of a slot that there is no more
    assert names([elsewhere, two, three], 4, 3, 100) == {elsewhere}
    worn = [old(1, 1, 1.0 + number / 10) for number in range(5)]
    assert names(worn, 1, 3, 100) == set(worn[:3])
    ten = [old(1, slot, 1.0 + slot / 100) for slot in range(1, 11)]
    assert names(ten, 2, 3, 8) == set(ten[:2])


def test_a_worker_is_shown_as_leaving_when_it_accepts_no_more() -> None:
    row, seen = SimpleNamespace(state=SERVING), []
    loops: Any = SimpleNamespace(context=SimpleNamespace(row=row), _taking_over=None)
    loops.acceptors = [SimpleNamespace(let_go=lambda: seen.append(row.state))]
    loops._goodbyes = SimpleNamespace(begin=lambda: None)
    Loops.let_go(loops)
    assert (seen, row.state) == ([SERVING], LEAVING)


def test_a_number_that_has_become_anothers_is_let_alone() -> None:
    me = os.getpid()
    assert Predecessors([(me, start_of(me))]).living() == [me]
    assert Predecessors([(me, "1")]).living() == []
    assert Predecessors().records(me) == [(me, start_of(me))]
