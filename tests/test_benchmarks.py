"""The benchmarks' own instruments: the load client against the bare competitors, and one short comparison."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tls_under_test import Authority

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks need epoll and /proc")


def baseline(*words: str) -> AbstractContextManager[str]:
    """The address of a competitor that runs."""
    return served([sys.executable, str(BENCHMARKS / "baselines.py"), *words])


@contextmanager
def served(command: list[str]) -> Iterator[str]:
    """The address of a server that runs, and says so on standard error."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0) as server:
        try:
            assert server.stderr is not None
            match = re.search(r"127\.0\.0\.1:\d+", server.stderr.readline())
            assert match
            yield match[0]
        finally:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def c_programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import compiling
    finally:
        sys.path.remove(str(BENCHMARKS))
    return compiling.compile_all(tmp_path_factory.mktemp("c")) or pytest.skip("there is no C compiler")


def c_load(programs: dict[str, str], address: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [programs["load"], address.rpartition(":")[2], *map(str, options)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def c_result(programs: dict[str, str], address: str, *options: object) -> dict[str, Any]:
    done = c_load(programs, address, *options)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def load(address: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "load.py"), address, *map(str, options)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def result(address: str, *options: object) -> dict[str, Any]:
    done = load(address, *options)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("name", ["bare-prefork", "bare-pool", "bare-fork", "asyncio-lines", "gevent-server"])
def test_every_message_is_answered_and_counted(name: str) -> None:
    with baseline(name) as address:
        assert result(address, "--connections", 4, "--messages", 100)["messages"] == 100
        assert result(address, "--connections", 4, "--messages", 20, "--per-connection")["messages"] == 20


@pytest.mark.parametrize("size", [64, 16384, 100_000])
def test_messages_over_tls(size: int, tmp_path: Path) -> None:
    pair = Authority(tmp_path).sign("server")
    with baseline("asyncio-protocol", *pair) as address:
        assert result(address, "--connections", 2, "--messages", 50, "--size", size, "--tls")["messages"] == 50


def test_large_messages_and_idle_connections() -> None:
    with baseline("bare-epoll") as address:
        large = result(address, "--connections", 2, "--messages", 10, "--size", 100_000)
        assert large["messages"] == 10
        assert 0 < large["p50"] <= large["p99"] <= large["seconds"] * 1e6
        assert result(address, "--idle", 50)["messages"] == 50


@contextmanager
def lying() -> Iterator[str]:
    """The address of a server whose only reply is wrong."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def lie() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(connection.recv(1024).lower())

        liar = threading.Thread(target=lie)
        liar.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        liar.join(10)


def test_a_wrong_reply_fails() -> None:
    with lying() as address:
        done = load(address, "--connections", 1, "--messages", 1)
    assert done.returncode == 1
    assert "wrong reply" in done.stderr


@pytest.mark.slow
def test_c_programs_compile_and_serve(c_programs: dict[str, str]) -> None:
    """With -Wall -Wextra -Werror; the load client and both servers agree with the ones in Python."""
    for command in ([c_programs["epoll_server"], "2"], [c_programs["select_server"]]):
        with served(command) as address:
            assert c_result(c_programs, address, "--connections", 8, "--messages", 800, "--depth", 4)["messages"] == 800
            assert (
                c_result(c_programs, address, "--connections", 4, "--messages", 40, "--per-connection")["messages"]
                == 40
            )
            assert (
                c_result(c_programs, address, "--connections", 2, "--messages", 8, "--size", 1 << 20)["messages"] == 8
            )
            assert c_result(c_programs, address, "--idle", 50)["messages"] == 50
            assert result(address, "--connections", 8, "--messages", 800, "--depth", 4)["messages"] == 800


def test_the_load_client_in_c_finds_a_wrong_reply(c_programs: dict[str, str]) -> None:
    with lying() as address:
        done = c_load(c_programs, address, "--connections", 1, "--messages", 1)
    assert done.returncode == 1
    assert "wrong reply" in done.stderr


@pytest.mark.slow
def test_a_comparison_gives_costs_and_ratios(tmp_path: Path) -> None:
    """Three scenarios in one run: with competitors, with settings beside none of them, and with idle connections."""
    words = ["messages", "guards", "memory", "--models", "epoll", "--baselines", "asyncio-protocol,bare-epoll"]
    words += ["--rounds", "1", "--seconds", "0.05", "--idle", "50", "--output", str(tmp_path)]
    command = [sys.executable, str(BENCHMARKS / "compare.py"), *words, "--markdown", str(tmp_path / "table.md")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=140)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert results["messages"].keys() - {"compiled epoll"} == {"pronghorn epoll", "asyncio-protocol", "bare-epoll"}
    assert all(row["cost"] > 0 for rows in results["messages"].values() for row in rows)
    assert results["memory"]["pronghorn epoll"][0]["idle"] == 50
    assert re.search(r"\| pronghorn epoll guarded \| .* pronghorn epoll unguarded", (tmp_path / "table.md").read_text())
    assert "| bare-epoll | a bare loop in Python |" in (tmp_path / "RESULTS.md").read_text()


def test_targets_and_reasons_of_a_run() -> None:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import targets
    finally:
        sys.path.remove(str(BENCHMARKS))
    costs = {"pronghorn epoll": 7.3, "uvloop-protocol": 7.0, "c-epoll": 7.0}
    runs = {"messages": {name: [{"cost": cost}] for name, cost in costs.items()}}
    lines = {line[0]: line for line in targets.table(runs)}
    assert lines["epoll, a message"][1:] == ["<= 1x", "1.04x", "**no**", "7.30 : 7.00"]
    assert lines["epoll, a message, beside C"][1:] == ["<= 1.12x", "1.04x", "yes", "7.30 : 7.00"]
    assert lines["fork, a connection"][2:4] == ["", "not measured"]
    assert [each.partition(":")[0] for each in targets.reasons(runs)] == ["epoll, a message"]
