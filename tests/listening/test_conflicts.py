"""A server that is started again: after a kill, beside one that lives, and as the first process of a container."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from brokers import free_port
from launch import Launched, halt, launched, wait_for
from pronghorn.errors import AddressInUse
from pronghorn.listening import conflicts


def asleep(server: Launched) -> list[int]:
    """The workers of a killed supervisor that have had no time to notice."""
    workers = server.ready()
    for each in workers:
        halt(each)
    server.send(signal.SIGKILL)
    server.exit()
    return workers


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_it_waits_for_the_workers_of_a_killed_supervisor(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("setproctitle")
    with launched(tmp_path, bind=f"127.0.0.1:{free_port()}" if kind == "tcp" else f"unix:{tmp_path / 's'}") as first:
        workers = asleep(first)

        def wake() -> None:
            for each in workers:
                os.kill(each, signal.SIGCONT)

        alarm = threading.Timer(0.7, wake)
        began = time.monotonic()
        alarm.start()
        with launched(tmp_path, bind=first.report["listening"][0]) as second:
            assert second.report.get("listening") == first.report["listening"], second.report
            assert time.monotonic() - began > 0.5, "the address was not free"
            alarm.join()
            assert second.stop() == 0


@pytest.mark.slow
def test_it_does_not_wait_for_ever(tmp_path: Path) -> None:
    pytest.importorskip("setproctitle")
    with launched(tmp_path) as first:
        workers = asleep(first)
        with launched(tmp_path, bind=first.report["listening"][0]) as second:
            assert second.exit() == 5
            assert f"Process {workers[0]} (pronghorn: worker 1 epoll of {first.pid}" in second.report["error"]["why"]


@pytest.mark.parametrize(("orphans", "tries"), [([False] * 9, 2), ([True] * 9, 4), ([False, True, False, False], 4)])
def test_an_ordinary_conflict_fails_at_once(orphans: list[bool], tries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    tried: list[float] = []

    def busy() -> None:
        tried.append(clock[0])
        if len(tried) == 4:
            clock[0] = 100.0
        raise AddressInUse("It is busy.", address="127.0.0.1:1")

    monkeypatch.setattr(conflicts.time, "monotonic", lambda: clock[0])
    with pytest.raises(AddressInUse):
        conflicts.once_free(busy, lambda address: orphans.pop(0))
    assert len(tried) == tries


@pytest.mark.slow
def test_a_restart_under_load_binds_each_time(tmp_path: Path) -> None:
    bind = f"127.0.0.1:{free_port()}"
    for _ in range(5):
        with launched(tmp_path, bind=bind) as served:
            assert served.report["listening"] == [bind]
            for _ in range(20):
                assert served.ask(b"x") == b"X"
            served.send(signal.SIGKILL)
            served.exit()


# The first process of a container

INNER = """
import os, signal, subprocess, sys, time
# Process 1 of this namespace is the server; it is started by exec, so that it keeps the number.
os.execv(sys.executable, [sys.executable, "-m", "pronghorn", "serve", "mine:handle", "--bind", "127.0.0.1:0",
                          "--control-socket", "off"])
"""

LEAVES_STRANGERS = """
import subprocess
def handle(conn):
    # A grandchild whose parent ends at once: it comes to process 1.
    subprocess.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 &"])
    conn.sendall(b"done")
"""


def as_process_1(folder: Path, handler: str) -> subprocess.Popen[bytes]:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("only root can make a namespace of processes, with unshare(1)")
    if subprocess.run(["unshare", "-pf", "--mount-proc", "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody make a namespace of processes")
    (folder / "mine.py").write_text(handler)
    (folder / "inner.py").write_text(INNER)
    with open(folder / "stderr", "wb") as errors:
        command = ["unshare", "-pf", "--mount-proc", "--kill-child", sys.executable, "inner.py"]
        return subprocess.Popen(command, cwd=folder, stderr=errors, stdin=subprocess.DEVNULL)


@pytest.mark.slow
def test_as_process_1_it_buries_strangers_and_obeys_term(tmp_path: Path) -> None:
    process = as_process_1(tmp_path, LEAVES_STRANGERS)
    outer = Launched(process, tmp_path)
    try:
        wait_for(lambda: " Serving " in outer.log or process.poll() is not None, "the start")
        outer.report = {"listening": [outer.log.partition("tcp://")[2].split()[0]]}
        (first,) = psutil.Process(process.pid).children()
        for _ in range(5):
            assert outer.ask(b"") == b"done"

        def strangers() -> list[psutil.Process]:  # each is a copy of its shell until it has become sleep(1)
            return [each for each in first.children() if each.name() == "sleep"]

        wait_for(lambda: len(strangers()) == 5, "the strangers: they are its children now")
        for each in strangers():
            each.kill()
        wait_for(lambda: len(first.children()) == 1, "their burial")
        assert [each.status() for each in first.children()] != [psutil.STATUS_ZOMBIE]
        assert "sleep" not in outer.log
        first.send_signal(signal.SIGUSR2)
        wait_for(lambda: "An upgrade is not possible as process 1" in outer.log, "the refusal")
        first.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert outer.log.rstrip().endswith("Stopped")
    finally:
        process.kill()
        process.wait()


def test_as_process_1_it_obeys_term_while_it_starts(tmp_path: Path) -> None:
    process = as_process_1(tmp_path, "import pathlib, time\npathlib.Path('started').touch()\ntime.sleep(60)\n")
    try:
        wait_for(lambda: (tmp_path / "started").exists(), "the import")
        (first,) = psutil.Process(process.pid).children()
        first.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
