"""The log in a file: everything that goes to standard error, opened anew on USR1, and no line lost or broken."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from launch import Launched, launched, wait_for
from pronghorn.errors import BadSetting
from pronghorn.events import Event, LogNotReopened
from pronghorn.system import privileges, stdio
from pronghorn.system.log_file import LogFile, Reopener
from pronghorn.system.privileges import Person

HANDLER = """
import pronghorn, sys
@pronghorn.message(pronghorn.lines)
def reply(line):
    print("heard", line.decode(), file=sys.stderr, flush=True)
    if line == b"fail":
        raise ValueError("on purpose")
    return line.upper()
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may write to; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def test_standard_error_leads_there_and_back(tmp_path: Path, standard_error: None) -> None:
    path, before = tmp_path / "log", os.fstat(2).st_ino
    path.write_text("older\n")
    file = LogFile(str(path))
    os.write(2, b"one\n")
    subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('two\\n')"], check=True)
    path.rename(tmp_path / "log.1")
    os.write(2, b"three\n")
    file.reopen(lambda event: None)
    os.write(2, b"four\n")
    file.close()
    assert os.fstat(2).st_ino == before
    assert (tmp_path / "log.1").read_text() == "older\none\ntwo\nthree\n"
    assert path.read_text() == "four\n"
    assert file.descriptors() == []


@pytest.mark.parametrize("path", ["nowhere/log", "."])
def test_a_file_that_cannot_be_opened(tmp_path: Path, path: str) -> None:
    before = os.fstat(2).st_ino
    with pytest.raises(BadSetting, match="--log-file is"):
        LogFile(str(tmp_path / path))
    assert os.fstat(2).st_ino == before


def test_a_pipe_that_nobody_reads_is_no_reason_to_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(BadSetting, match="No such device"):
        LogFile(str(tmp_path / "log"))


def test_the_old_file_stays_when_no_new_one_can_be_opened(tmp_path: Path, standard_error: None) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    file = LogFile(str(folder / "log"))
    folder.rename(tmp_path / "moved")
    events: list[Event] = []
    file.reopen(events.append)
    os.write(2, b"still here\n")
    file.close()
    assert events == [LogNotReopened(str(folder / "log"), "No such file or directory")]
    assert (tmp_path / "moved" / "log").read_text() == "still here\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_it_belongs_to_whom_workers_become(
    tmp_path: Path, standard_error: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privileges, "person", Person(54321, 54322, (54322,), "", "/"))
    LogFile(str(tmp_path / "log")).close()
    status = (tmp_path / "log").stat()
    assert (status.st_uid, status.st_gid) == (54321, 54322)
    owner = os.stat("/dev/null").st_uid
    LogFile("/dev/null").close()
    assert os.stat("/dev/null").st_uid == owner


# Whole servers


def log_of(folder: Path) -> str:
    return "".join(each.read_text() for each in sorted(folder.glob("log*")))


def test_records_prints_and_tracebacks_are_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HANDLER)
    with launched(tmp_path, "mine:reply", log_file="log") as server:
        assert server.ask(b"x\n") == b"X\n"
        server.ask(b"fail\n")
        assert server.stop() == 0
        log = (tmp_path / "log").read_text()
        assert "] [INFO] Serving mine:reply" in log
        assert "heard x\n" in log
        assert "ValueError: on purpose" in log
        assert "] [INFO] Stopped" in log
        assert server.log == ""


def test_a_dash_is_standard_error(tmp_path: Path) -> None:
    with launched(tmp_path, log_file="-") as server:
        assert server.stop() == 0
        assert "] [INFO] Stopped" in server.log
    assert not (tmp_path / "-").exists()


def test_what_keeps_a_server_from_starting_is_told_where_it_was_started(tmp_path: Path) -> None:
    with launched(tmp_path, "nothing_of_that_name:reply", log_file="log") as server:
        assert server.exit() == 4
        assert "nothing_of_that_name" in server.log


def test_a_full_disk_stops_nobody(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full is Linux's")
    with launched(tmp_path, log_file="/dev/full", log_level="debug") as server:
        for _ in range(20):
            assert server.ask(b"x") == b"X"
        assert server.stop() == 0


def test_no_thread_loses_a_line_while_the_log_moves(tmp_path: Path, standard_error: None) -> None:
    def moved(number: int) -> None:
        fd = os.open(tmp_path / f"log.{number % 7}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(fd, 2)
        os.close(fd)

    moved(0)
    outlet, over, told, lost = stdio.Outlet(), threading.Event(), [0] * 4, [0] * 4
    outlet.keep()

    def write(place: int) -> None:
        while not over.is_set():
            try:
                outlet.write(b"x\n")
                told[place] += 1
            except OSError:
                lost[place] += 1

    writers = [threading.Thread(target=write, args=(place,)) for place in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for each in writers:
            each.start()
        for number in range(500):
            moved(number)
            outlet.follow()
    finally:
        sys.setswitchinterval(before)
        over.set()
        for each in writers:
            each.join(30)
        outlet.release()
    assert lost == [0] * 4
    assert sum(each.read_bytes().count(b"x\n") for each in tmp_path.glob("log.*")) == sum(told)


def filled(append: int) -> None:
    """Writes records of 100 bytes where 250 have room, then where there is room again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    fd = os.open("log", os.O_WRONLY | os.O_CREAT | append)
    os.dup2(fd, 2)
    outlet = stdio.Outlet()
    resource.setrlimit(resource.RLIMIT_FSIZE, (250, hard))
    for number in range(5):
        with contextlib.suppress(OSError):
            outlet.write(b"%d" % number * 99 + b"\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    outlet.write(b"more\n")


@pytest.mark.parametrize("append", [os.O_APPEND, 0])
def test_a_full_disk_leaves_whole_lines(tmp_path: Path, append: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            filled(append)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "log").read_bytes() == b"0" * 99 + b"\n" + b"1" * 99 + b"\nmore\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_server_whose_disk_is_full_leaves_whole_lines(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "none", str(small)], check=False).returncode:
        pytest.skip("this root may not mount a file system")
    try:
        (small / "fill").write_bytes(bytes(12 * 1024))
        with launched(tmp_path, workers=2, log_file="small/log", log_level="debug") as server:
            wait_for(lambda: server.ask(b"x") and (small / "log").stat().st_size > 12 * 1024 - 200, "a full disk")
            for _ in range(20):
                assert server.ask(b"x") == b"X"
            (small / "fill").unlink()
            for _ in range(20):
                server.ask(b"x")
            wait_for(lambda: server.ask(b"x") and "records were dropped" in (small / "log").read_text(), "the count")
            assert server.stop() == 0
            lines = (small / "log").read_text().splitlines()
        record = r"\[[-0-9]+ [:0-9]+ [+0-9]+\] \[\d+\] \[[A-Z]+\] .*|\([0-9,]+ records were dropped: .*\)"
        assert [line for line in lines if not re.fullmatch(record, line)] == []
        kinds = (
            r"closed connection .* bytes out|received from .* PORT \d+|Stopped.*|Serving.*|Worker.*|Listening.*|Drain.*"
        )
        told = [line.partition("[DEBUG] ")[2] for line in lines if "[DEBUG] " in line]
        assert [line for line in told if not re.fullmatch(kinds, line)] == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def rotated(folder: Path, server: Launched, number: int, workers: int) -> None:
    """Rename the file, have it opened anew, and wait until everybody has."""
    pids: list[int] = []

    def alone() -> bool:  # no helper process is there
        pids[:] = [server.pid, *server.workers()]
        return len(pids) == workers + 1

    wait_for(alone, "the workers")
    (folder / "log").rename(folder / f"log.{number:02}")
    server.send(signal.SIGUSR1)

    def moved() -> bool:
        return (folder / "log").exists() and all(os.path.samefile(f"/proc/{pid}/fd/2", folder / "log") for pid in pids)

    wait_for(moved, "the new file in every process")


@pytest.mark.parametrize("model", ["epoll", "thread", "iterative", "asyncio"])
def test_no_line_is_lost_or_broken_by_twenty_rotations(tmp_path: Path, model: str) -> None:
    if not os.path.exists("/proc/self/fd/2"):
        pytest.skip("there is no /proc to see the descriptors of processes")
    with launched(tmp_path, model=model, workers=2, log_file="log", log_level="debug") as server:
        wait_for(lambda: log_of(tmp_path).count("is ready, process id") >= 2, "both workers")
        over, conversations = threading.Event(), [0, 0, 0, 0]

        def talk(place: int) -> None:
            while not over.is_set():
                assert server.ask(b"x") == b"X"
                conversations[place] += 1

        talkers = [threading.Thread(target=talk, args=(place,)) for place in range(len(conversations))]
        for each in talkers:
            each.start()
        try:
            for number in range(20):
                before = sum(conversations)
                rotated(tmp_path, server, number, 2)
                wait_for(lambda before=before: sum(conversations) >= before + 20, "conversations")  # type: ignore[misc]
        finally:
            over.set()
            for each in talkers:
                each.join(30)
        assert server.stop() == 0
    lines = log_of(tmp_path).splitlines()
    assert sum("received from" in line for line in lines) == sum(conversations) >= 400
    assert sum("closed connection" in line for line in lines) == sum(conversations)
    assert all(re.match(r"\[[-0-9]+ [:0-9]+ [+0-9]+\] \[\d+\] \[[A-Z]+\] ", line) for line in lines)
    assert len(list(tmp_path.glob("log.*"))) == 20


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_workers_that_dropped_privileges_open_it_anew(public: Path) -> None:
    with launched(public, user="nobody", log_file="log") as server:
        wait_for(lambda: "is ready, process id" in log_of(public), "the worker")
        rotated(public, server, 1, 1)
        assert (public / "log").stat().st_uid == 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_workers_that_may_not_open_it_say_so(public: Path) -> None:
    (public / "logs").mkdir(0o700)
    with launched(public, user="nobody", log_file="logs/log") as server:
        wait_for(lambda: "is ready, process id" in log_of(public / "logs"), "the worker")
        (public / "logs" / "log").rename(public / "logs" / "log.1")
        server.send(signal.SIGUSR1)
        wait_for(lambda: "cannot be opened anew: Permission denied" in log_of(public / "logs"), "the complaint")
        assert server.stop() == 0


def test_a_forked_child_writes_to_no_descriptor_of_another(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    ear = Reopener(lambda event: None)
    try:
        child = os.fork()
        if not child:
            try:
                os.close(ear.fileno())  # as the fork model does
                os.dup2(os.open(tmp_path / "precious", os.O_WRONLY | os.O_CREAT), ear.fileno())
                os.kill(os.getpid(), signal.SIGUSR1)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert (tmp_path / "precious").read_bytes() == b""
        os.kill(os.getpid(), signal.SIGUSR1)
        assert select.select([ear], [], [], 5)[0]
        ear.on_readable()
        assert not select.select([ear], [], [], 0)[0]
    finally:
        ear.close()
        signal.signal(signal.SIGUSR1, before)


def test_without_a_file_the_signal_harms_nobody(tmp_path: Path) -> None:
    with launched(tmp_path) as server:
        (worker,) = server.ready()
        server.send(signal.SIGUSR1)
        os.kill(worker, signal.SIGUSR1)
        assert server.ask(b"x") == b"X"
        assert server.workers() == [worker]


def test_as_json_each_record_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HANDLER)
    with launched(tmp_path, "mine:reply", log_file="log", log_format="json") as server:
        server.ask(b"fail\n")
        assert server.stop() == 0
    lines = (tmp_path / "log").read_text().splitlines()
    records = [json.loads(line) for line in lines if line != "heard fail"]
    assert all(list(each)[:4] == ["time", "level", "process", "message"] for each in records)
    assert all(datetime.fromisoformat(each["time"]).tzinfo for each in records)
    (failure,) = [each for each in records if each["level"] == "ERROR"]
    assert "ValueError: on purpose\n  Traceback" in failure["message"]
    assert failure["process"] != server.pid
