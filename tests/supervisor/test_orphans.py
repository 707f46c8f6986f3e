"""What a killed worker leaves behind: children of the fork model and programs stay counted, bounded, and drain."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from boards import ask, board_of, reach
from launch import Launched, launched, lives, wait_for
from pronghorn.scoreboard.counts import ENTRY_WORDS, PID, PROGRAM, ChildCounts, Counts
from pronghorn.scoreboard.row import ORPHANED
from pronghorn.settings.source import Source
from pronghorn.supervisor.orphans import found

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphans come to the supervisor under Linux alone")

PROGRAM_OF = Source(command=("/bin/cat",))
KINDS = [("fork", "upper"), ("thread", PROGRAM_OF), ("fork", PROGRAM_OF)]


@contextmanager
def orphaned(folder: Path, model: str, handler: Any, **settings: Any) -> Iterator[tuple[Launched, socket.socket]]:
    """A server, and a client whose worker has been killed, while what serves the client lives."""
    with launched(folder, handler, model=model, workers=1, **settings) as server, server.connect() as client:
        ask(client, b"HI\n")
        (worker,) = server.ready(1)
        (child,) = wait_for(lambda: psutil.Process(worker).children(), "a child")
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: child.pid in server.workers(), "the adoption")  # first: its deadlines go on
        wait_for(lambda: server.log.count("is ready, process id") >= 2, "another worker")
        yield server, client


@pytest.mark.parametrize(("model", "handler"), KINDS)
def test_they_are_counted_and_limited_until_they_end(model: str, handler: Any, tmp_path: Path) -> None:
    with orphaned(tmp_path, model, handler, max_connections_per_source=1) as (server, client):
        assert "; 1 connection lives on without it" in server.log
        reach(server, open=1, accepted=1, closed={})
        (row,) = [each for each in board_of(server).rows() if each.state == ORPHANED]
        assert row.open == 1
        assert ask(client, b"STILL\n") == b"STILL\n"
        assert server.refuses(), "the source has as many as it may"
        client.close()
        reach(server, open=0, refused=1, closed={"done": 1})
        assert server.ask(b"X\n") == b"X\n"
        wait_for(lambda: not [each for each in board_of(server).rows() if each.state == ORPHANED], "the end of its row")


@pytest.mark.parametrize(("model", "handler"), KINDS)
def test_they_keep_their_deadlines(model: str, handler: Any, tmp_path: Path) -> None:
    with orphaned(tmp_path, model, handler, idle_timeout="1s") as (server, client):
        client.settimeout(20)
        assert client.recv(100) == b""
        reach(server, open=0, accepted=1)


@pytest.mark.parametrize(("model", "handler"), KINDS)
def test_they_drain_at_a_reload_as_their_worker_would_have(model: str, handler: Any, tmp_path: Path) -> None:
    with orphaned(tmp_path, model, handler, reload_drain_timeout="1s", drain_timeout="15s") as (server, client):
        server.send(signal.SIGHUP)
        client.settimeout(20)
        assert client.recv(100) == b""
        reach(server, open=0, accepted=1)


@pytest.mark.parametrize(("model", "handler"), KINDS)
def test_they_drain_when_the_server_stops(model: str, handler: Any, tmp_path: Path) -> None:
    with orphaned(tmp_path, model, handler, drain_timeout="15s") as (server, _):
        assert server.stop() == 0


def test_one_that_does_not_drain_is_killed_at_the_deadline(tmp_path: Path) -> None:
    (tmp_path / "stays.sh").write_text("#!/bin/sh\nread line; echo $line; trap '' TERM; exec sleep 1000\n")
    (tmp_path / "stays.sh").chmod(0o755)
    source = Source(command=(str(tmp_path / "stays.sh"),))
    with orphaned(tmp_path, "thread", source, drain_timeout="200ms") as (server, _):

        def sleeping() -> list[psutil.Process]:
            return [each for each in psutil.Process(server.pid).children() if each.name() == "sleep"]

        (program,) = wait_for(sleeping, "the program that lets no signal end it")
        assert server.stop() == 6
        assert not lives(program)


def test_rows_are_believed_only_where_the_kernel_says_the_same() -> None:
    children = ChildCounts(4)
    mine, lie = children.lend(("192.0.2.1", 5), time.monotonic()), children.lend(("2001:db8::1", 5), 0.0)
    mine.words[PID], mine.words[PROGRAM] = 100, 101
    lie.words[PID], lie.words[PROGRAM] = 1, -(2**63)
    assert found(children, [100, 101, 102]) == {100: 0, 101: 0}
    assert (children.host(0), children.host(1)) == ("192.0.2.1", "2001:db8::1")
    row = Counts()
    assert children.settle(mine, row)
    assert children.used() == [1] and not any(children.block(0).words[:ENTRY_WORDS])
    children.back(lie)
    assert found(children, [100, 101, 1]) == {}
    assert children.host(3) == "" and children.born(3) == 0.0
    with pytest.raises(MemoryError):
        for _ in range(5):
            children.lend()
