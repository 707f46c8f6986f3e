"""The benchmarks' own instruments: the load client against the bare competitors, and one short comparison."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tls_under_test import Authority

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks need epoll and /proc")


@contextmanager
def baseline(*words: str) -> Iterator[str]:
    """The address of a competitor that runs."""
    command = [sys.executable, str(BENCHMARKS / "baselines.py"), *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            match = re.search(r"127\.0\.0\.1:\d+", server.stderr.readline())
            assert match
            yield match[0]
        finally:
            server.kill()


def load(address: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "load.py"), address, *map(str, options)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)


def result(address: str, *options: object) -> dict[str, Any]:
    done = load(address, *options)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("name", ["bare-epoll", "asyncio-protocol", "threading-server", "forking-server"])
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


def test_a_wrong_reply_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def lie() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(connection.recv(1024).lower())

        liar = threading.Thread(target=lie)
        liar.start()
        done = load(f"127.0.0.1:{listener.getsockname()[1]}", "--connections", 1, "--messages", 1)
        liar.join(10)
    assert done.returncode == 1
    assert "wrong reply" in done.stderr


def test_a_comparison_gives_costs_and_ratios(tmp_path: Path) -> None:
    numbers, table = tmp_path / "numbers.json", tmp_path / "table.md"
    command = [sys.executable, str(BENCHMARKS / "compare.py"), "--models", "", "--rounds", "1", "--seconds", "0.1"]
    command += ["--baselines", "asyncio-protocol,bare-epoll", "--json", str(numbers), "--markdown", str(table)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    rows = json.loads(numbers.read_text())["results"]
    assert rows.keys() == {"asyncio-protocol", "bare-epoll"}
    assert all(row["cost"] > 0 for each in rows.values() for row in each)
    assert "| 1.00 asyncio-protocol |" in table.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "line"),
    [("guards", "epoll guarded .* epoll unguarded"), ("observers", "epoll both .* epoll unobserved")],
)
def test_settings_are_set_beside_none_of_them(mode: str, line: str, tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    command = [sys.executable, str(BENCHMARKS / "compare.py"), mode, "--models", "epoll", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--seconds", "0.1", "--markdown", str(table)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    beside, _, other = line.partition(" .* ")
    assert re.search(rf"\| {beside} .* \d\.\d\d {other} \|", table.read_text())
