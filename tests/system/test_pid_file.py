"""The process id file: there while the server serves, whole, and never another's."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch import launched, wait_for
from pronghorn.errors import BadSetting
from pronghorn.system import pid_file
from pronghorn.system.pid_file import PidFile, holder


@pytest.fixture
def other() -> Iterator[int]:
    """A live process that is not ours to end."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def dead() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_it_is_written_whole_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "p"
    file = PidFile(str(path))
    assert not path.exists()
    file.write()
    assert path.read_text() == f"{os.getpid()}\n"
    assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0
    file.remove()
    assert list(tmp_path.iterdir()) == []
    file.remove()


def test_no_path_is_no_file() -> None:
    file = PidFile("")
    file.write()
    file.remove()


def test_a_live_servers_file_is_not_touched(tmp_path: Path, other: int) -> None:
    path = tmp_path / "p"
    path.write_text(f"{other}\n")
    with pytest.raises(BadSetting, match=f"Process {other} is alive"):
        PidFile(str(path))
    assert path.read_text() == f"{other}\n"
    PidFile(str(path), before=other).write()
    assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("content", ["dead", "", "0", "-1", "many words", "99999999999999999999", "4 2"])
def test_what_no_live_server_left_is_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "p"
    path.write_text(str(dead()) if content == "dead" else content)
    PidFile(str(path)).write()
    assert path.read_text() == f"{os.getpid()}\n"


def test_a_process_that_only_has_the_number_is_no_server(tmp_path: Path, other: int) -> None:
    path = tmp_path / "p"
    path.write_text(str(other))
    assert holder(str(path)) == other
    long_ago = time.time() - 1000
    os.utime(path, (long_ago, long_ago))
    assert holder(str(path)) == 0


def test_a_clock_that_jumps_deceives_nobody(tmp_path: Path) -> None:
    with launched(tmp_path, pid_file="p") as server:
        an_hour_ago = time.time() - 3600  # as the time of writing seems to be, once the clock has been put forward
        os.utime(tmp_path / "p", (an_hour_ago, an_hour_ago))
        with launched(tmp_path, pid_file="p") as second:
            assert second.exit() == 2
            assert f"Process {server.pid} is alive" in second.report["error"]["why"]
        assert (tmp_path / "p").read_text() == f"{server.pid}\n"
        links = [os.readlink(each) for pid in server.workers() for each in Path(f"/proc/{pid}/fd").glob("*")]
        assert str(tmp_path / "p") not in links, "a worker that outlives its server would hold the lock"


def test_the_age_of_a_process_depends_on_no_clock(other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.exists("/proc/self/stat"):
        pytest.skip("there is no /proc to tell when a process started")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86400)
    assert 0 <= pid_file._age(other) < 3600


def test_a_zombie_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "p"
    child = os.fork()
    if not child:
        os._exit(0)
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        path.write_text(f"{child}\n")
        assert holder(str(path)) == 0
    finally:
        os.waitpid(child, 0)


def test_what_a_killed_server_of_this_number_left_beside_it_is_replaced(tmp_path: Path) -> None:
    """In a container a server has the same number at each start."""
    (tmp_path / f"p.{os.getpid()}").write_text("1")
    file = PidFile(str(tmp_path / "p"))
    file.write()
    assert [each.name for each in tmp_path.iterdir()] == ["p"]
    assert (tmp_path / "p").read_text() == f"{os.getpid()}\n"
    file.remove()


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    (tmp_path / "p").symlink_to("precious")
    file = PidFile(str(tmp_path / "p"))
    file.write()
    assert not (tmp_path / "p").is_symlink()
    assert (tmp_path / "precious").read_text() == "data"


def test_only_our_own_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_text("4242\n")
    PidFile("").remove()
    file = PidFile(str(path)) if holder(str(path)) == 0 else PidFile(str(path), before=4242)
    file.remove()
    assert path.exists(), "it has not been written by us"
    file.write()
    path.write_text("4242\n")
    file.remove()
    assert path.exists(), "another has taken it meanwhile"


def test_a_forked_process_removes_nothing(tmp_path: Path) -> None:
    file = PidFile(str(tmp_path / "p"))
    file.write()
    child = os.fork()
    if not child:
        try:
            file.remove()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "p").exists()


@pytest.mark.parametrize("path", ["nowhere/p", "."])
def test_where_no_file_can_be(tmp_path: Path, path: str) -> None:
    with pytest.raises(BadSetting, match="No file can be put there"):
        PidFile(str(tmp_path / path))


def test_a_write_that_fails_leaves_what_there_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p"
    path.write_text("0")
    file = PidFile(str(path))

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(BadSetting, match="No space left"):
        file.write()
    monkeypatch.undo()
    assert [each.name for each in tmp_path.iterdir()] == ["p"]
    assert path.read_text() == "0"


def test_a_server_has_it_while_it_serves(tmp_path: Path) -> None:
    with launched(tmp_path, pid_file="p") as server:
        assert (tmp_path / "p").read_text() == f"{server.pid}\n"
        with launched(tmp_path, pid_file="p") as second:
            assert second.exit() == 2
            assert f"Process {server.pid} is alive" in second.report["error"]["why"]
        assert server.stop() == 0
        assert not (tmp_path / "p").exists()


def test_it_follows_an_upgrade(tmp_path: Path) -> None:
    with launched(tmp_path, pid_file="p") as server:
        server.send(signal.SIGUSR2)
        assert server.exit() == 0
        new = int((tmp_path / "p").read_text())
        assert new != server.pid
        os.kill(new, signal.SIGTERM)
        wait_for(lambda: not (tmp_path / "p").exists(), "the removal")


def test_after_a_kill_the_next_server_replaces_it(tmp_path: Path) -> None:
    with launched(tmp_path, pid_file="p") as server:
        server.send(signal.SIGKILL)
        server.exit()
    assert (tmp_path / "p").exists()
    with launched(tmp_path, pid_file="p") as second:
        assert (tmp_path / "p").read_text() == f"{second.pid}\n"
        assert second.stop() == 0
