"""deploy/logrotate: what Debian's logrotate does with it, to a server under load."""

from __future__ import annotations

import gzip
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit_files import DEPLOY

from launch import Launched, launched, wait_for

LOGROTATE = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = pytest.mark.skipif(not LOGROTATE or os.geteuid() != 0, reason="logrotate is not installed, or no root")
USER = "nobody"
NAMES = ("pronghorn.log", "access.log")


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that the workers' user may enter, with its folder of logs."""
    path = Path(tempfile.mkdtemp(prefix="pronghorn-"))
    path.chmod(0o755)
    (path / "log").mkdir(mode=0o750)
    user = pwd.getpwnam(USER)
    os.chown(path / "log", user.pw_uid, user.pw_gid)
    yield path
    shutil.rmtree(path)


def configured(folder: Path) -> list[str]:
    """The command that rotates at once by the file of deploy/, with the paths of the test."""
    (folder / "pronghorn").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pronghorn "$@"\n')
    (folder / "pronghorn").chmod(0o755)
    text = (DEPLOY / "logrotate" / "pronghorn").read_text()
    for there, here in {
        "/var/log/pronghorn": str(folder / "log"),
        "/run/pronghorn": f"{os.environ['XDG_RUNTIME_DIR']}/pronghorn",
        "/opt/pronghorn/bin": str(folder),
        "su pronghorn pronghorn": f"su {USER} root",
    }.items():
        assert there in text
        text = text.replace(there, here)
    (folder / "logrotate.conf").write_text(text)
    (folder / "logrotate.conf").chmod(0o644)
    return [str(LOGROTATE), "-s", str(folder / "state"), str(folder / "logrotate.conf")]


class Load:
    """Clients, one after the other, until the end of the `with` block; `done` conversations were held."""

    def __init__(self, server: Launched) -> None:
        self.done, self._over, self._server = 0, False, server
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over:
            assert self._server.ask(b"x\n") == b"X\n"
            self.done += 1

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()

    def more(self) -> None:
        before = self.done
        wait_for(lambda: self.done > before + 20 or not self._thread.is_alive(), "more clients")
        assert self._thread.is_alive()


def lines(folder: Path, name: str, mark: str) -> int:
    """How many lines with `mark` there are in a log, and in what has been rotated away."""
    texts = [
        gzip.decompress(each.read_bytes()) if each.suffix == ".gz" else each.read_bytes()
        for each in (folder / "log").glob(f"{name}*")
    ]
    return sum(mark.encode() in line for text in texts for line in text.splitlines())


def written(folder: Path, name: str) -> bool:
    path = folder / "log" / name
    return path.exists() and path.stat().st_size > 0


def test_logrotate_finds_no_fault_in_the_file(folder: Path) -> None:
    ran = subprocess.run([*configured(folder), "--debug"], capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0
    assert "error" not in ran.stderr.replace("errors", "")


@pytest.mark.slow
def test_no_line_is_lost_when_logs_are_rotated_under_load(folder: Path) -> None:
    logs = {"log_file": str(folder / "log" / "pronghorn.log"), "access_log": str(folder / "log" / "access.log")}
    with launched(folder, user=USER, workers=2, log_level="debug", **logs) as server:
        with Load(server) as load:
            for _ in range(2):
                load.more()
                wait_for(lambda: all(written(folder, name) for name in NAMES), "both logs")
                ran = subprocess.run([*configured(folder), "--force"], capture_output=True, text=True, timeout=30)
                assert (ran.returncode, ran.stderr) == (0, "")
            load.more()
            wait_for(lambda: all(written(folder, name) for name in NAMES), "two new logs")
        assert server.stop() == 0
    assert {each.name for each in (folder / "log").iterdir()} == {
        f"{name}{end}" for name in NAMES for end in ("", ".1", ".2.gz")
    }
    assert lines(folder, "access.log", "127.0.0.1") == load.done
    assert lines(folder, "pronghorn.log", "closed connection") == load.done
    assert {(folder / "log" / name).owner() for name in NAMES} == {USER}
