"""Limits of the processes of fork and prefork: what they stop, what is logged, and that nobody else pays for it."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest

from launch import launched, launched_code, wait_for
from pronghorn.errors import BadSetting, WorkerFailedToStart
from pronghorn.models import registry
from pronghorn.settings import settle

HANDLER = """
import resource
def handler(conn):
    word = conn.recv(100)
    if word == b"compute":
        while True:
            pass
    if word == b"grow":
        return bytes(2**40)
    limits = resource.getrlimit(resource.RLIMIT_CPU)[0], resource.getrlimit(resource.RLIMIT_AS)[0]
    conn.sendall(b"%d %d" % limits)
"""
MEMORY = 2**34


@pytest.mark.slow
def test_a_forked_process_has_them_and_tells_which_it_met(tmp_path: Path) -> None:
    with launched_code(
        tmp_path, HANDLER, model="fork", max_process_cpu="30s", max_process_memory=MEMORY, max_children=3
    ) as server:
        assert server.ask(b"limits") == b"30 %d" % MEMORY
        assert server.ask(b"grow") == b""
        wait_for(lambda: "Its process had no more address space (--max-process-memory)." in server.log, "the reason")
        assert "MemoryError" in server.log
        assert server.ask(b"limits") == b"30 %d" % MEMORY


@pytest.mark.slow
def test_a_preforked_one_dies_of_one_connections_time_and_not_of_their_sum(tmp_path: Path) -> None:
    with launched_code(tmp_path, HANDLER, model="prefork", workers=1, max_process_cpu=1) as server:
        (worker,) = server.workers()
        assert server.ask(b"limits").startswith((b"1 ", b"2 ")), "of all that its process has used"
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        wait_for(lambda: resource.prlimit(worker, resource.RLIMIT_CPU) == unlimited, "no limit between connections")
        assert server.ask(b"compute") == b""
        wait_for(lambda: "was killed by SIGXCPU: it had used all of its CPU time" in server.log, "the reason")
        assert re.search(r'mine.py", line [67] in handler', server.log), "and where it computed"
        assert server.ask(b"limits").endswith(b" -1"), "another has taken its place"


@pytest.mark.slow
def test_a_limit_below_what_a_worker_has_keeps_it_from_starting(tmp_path: Path) -> None:
    with launched(tmp_path, model="fork", max_process_memory="1MiB") as server:
        assert server.exit() == WorkerFailedToStart.exit_code
        assert "already when it begins to serve" in server.report["error"]["why"]


@pytest.mark.parametrize("name", ["max_process_cpu", "max_process_memory"])
@pytest.mark.parametrize("model", ["thread", "epoll", "asyncio"])
def test_where_one_process_serves_many_they_are_refused(name: str, model: str) -> None:
    with pytest.raises(BadSetting, match="Choose another --model: fork, prefork, iterative"):
        registry.check_settings(registry.page(model), settle({name: 5}))
    registry.check_settings(registry.page("fork"), settle({name: 5}))
