"""What may block is done by a helper: the supervisor serves on, obeys and answers, whatever does not answer it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from launch import Launched, launched, wait_for
from pronghorn.errors import BadSetting, WorkerFailedToStart
from pronghorn.system.helper import Answer, Helper, Reaper
from tls_under_test import Authority

PATIENCE = 10.0


def over(helper: Helper) -> Helper:
    """The helper, once it is over."""
    helper.wait()
    return helper


def buried(reaper: Reaper) -> bool:
    reaper.turn(time.monotonic())
    return not reaper


def descriptors() -> Answer:
    pairs = [socket.socketpair() for _ in range(150)]
    return b"x" * 3_000_000, [end.detach() for pair in pairs for end in pair]


def test_bytes_and_descriptors_come_back() -> None:
    reaper = Reaper()
    answer = over(Helper(descriptors, PATIENCE, reaper)).answer()
    assert answer is not None
    said, fds = answer
    assert said == b"x" * 3_000_000 and len(set(fds)) == 300
    assert not any(map(os.get_inheritable, fds))
    os.write(fds[0], b"y")
    assert os.read(fds[1], 10) == b"y"
    for fd in fds:
        os.close(fd)
    wait_for(lambda: buried(reaper), "no child")


def refuse() -> Answer:
    raise BadSetting("what", "why", "hint")


def test_an_error_comes_back_as_what_it_is() -> None:
    with pytest.raises(BadSetting) as caught:
        over(Helper(refuse, PATIENCE, Reaper())).answer()
    assert (caught.value.what, caught.value.why, caught.value.hint) == ("what", "why", "hint")


def test_one_that_is_late_is_killed_and_that_is_an_error() -> None:
    reaper = Reaper()
    helper = Helper(lambda: (b"", list[int]()) if time.sleep(60) else (b"", []), 0.1, reaper)
    with pytest.raises(WorkerFailedToStart, match=r"not done after 0\.1 s"):
        over(helper).answer()
    wait_for(lambda: buried(reaper), "no child")


def test_one_that_ends_without_a_word_says_how() -> None:
    def die() -> Answer:
        os.kill(os.getpid(), signal.SIGKILL)
        return b"", []

    helper = over(Helper(die, PATIENCE, Reaper()))
    assert helper.answer() is None
    assert helper.status == -signal.SIGKILL


# A server


def obeys(server: Launched, folder: Path) -> None:
    """A dead worker is replaced, `pronghorn ctl` is answered, and TERM ends it in order, all within seconds."""
    before = ready(server)
    os.kill(before[-1], signal.SIGKILL)
    wait_for(lambda: (now := ready(server)) != before and len(now) == len(before), "a new worker")
    control = folder / "control"
    command = [sys.executable, "-m", "pronghorn", "ctl", "status", "--socket", str(control)]
    status = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert status.returncode == 0, status.stderr
    assert server.ask(b"hello\n") == b"HELLO\n"
    assert server.stop() == 0


def ready(server: Launched) -> list[int]:
    """The workers that live: by their names, for helpers are children as well."""
    found = []
    for pid in server.workers():
        with suppress(psutil.NoSuchProcess):
            if "worker" in " ".join(psutil.Process(pid).cmdline()):
                found.append(pid)
    return found


def fifo(path: Path) -> Path:
    with suppress(FileNotFoundError):
        path.unlink()
    os.mkfifo(path)
    return path


@pytest.mark.slow
def test_a_settings_file_that_is_a_fifo(tmp_path: Path) -> None:
    file = tmp_path / "pronghorn.toml"
    file.write_text('bind = ["127.0.0.1:0"]\n')
    control = str(tmp_path / "control")
    with launched(tmp_path, bind=None, config=str(file), control_socket=control) as server:
        server.ready()
        fifo(file)
        server.send(signal.SIGHUP)
        wait_for(lambda: "no regular file" in server.log, "the refusal")
        obeys(server, tmp_path)


@pytest.mark.slow
def test_certificates_that_become_fifos(tmp_path: Path) -> None:
    certificate, key = map(Path, Authority(tmp_path).sign("fifo"))
    settings = {"tls_cert": str(certificate), "tls_key": str(key), "tls_watch": True}
    with launched(tmp_path, control_socket=str(tmp_path / "control"), **settings) as server:
        server.ready()
        fifo(certificate)
        wait_for(lambda: "holds no certificate" in server.log, "the watch's refusal")
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reload failed" in server.log, "the refusal")
        certificate.unlink()
        server.ask = lambda question: question.upper()  # type: ignore[method-assign]  # no client of TLS here
        obeys(server, tmp_path)


SLOW_NAMES = """
import socket, sys, time
if "pronghorn.server" in sys.orig_argv:
    real = socket.getaddrinfo
    def slow(host, *more, **others):
        while host == "slow.test":
            open("asked", "w").close()
            time.sleep(0.1)
        return real(host, *more, **others)
    socket.getaddrinfo = slow
"""


@pytest.mark.slow
def test_a_name_server_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SLOW_NAMES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    file = tmp_path / "pronghorn.toml"
    file.write_text('bind = ["127.0.0.1:0"]\n')
    control = str(tmp_path / "control")
    with launched(tmp_path, bind=None, config=str(file), control_socket=control) as server:
        server.ready()
        file.write_text('bind = ["127.0.0.1:0", "slow.test:0"]\n')
        server.send(signal.SIGHUP)
        wait_for(lambda: (tmp_path / "asked").exists(), "the question")
        obeys(server, tmp_path)
    assert "Reload failed" not in server.log, "to stop is more important to tell"


UPPER = """
import pronghorn
@pronghorn.message(pronghorn.lines)
def reply(line):
    return line.upper()
"""


def failed_at(control: Path) -> float:
    """When the last reload failed, as the control socket says."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(control))
        sock.sendall(b'{"command": "status"}\n')
        reply = json.loads(b"".join(iter(lambda: sock.recv(65536), b"")))
    return float((reply["result"]["last_reload"] or {"ended_at": 0})["ended_at"])


@pytest.mark.slow
def test_standard_error_that_nobody_reads(tmp_path: Path) -> None:
    """Handlers that print much and fail: a few of them fill a pipe."""
    (tmp_path / "mine.py").write_text(UPPER)
    path, control = tmp_path / "log", tmp_path / "control"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with launched(tmp_path, "mine:reply", control_socket=str(control), log_file=str(path)) as server:
        (tmp_path / "mine.py").write_text("import sys\nprint('x' * 30000, file=sys.stderr)\nraise ValueError\n")
        for _ in range(6):
            before = failed_at(control)
            server.send(signal.SIGHUP)
            wait_for(lambda before=before: failed_at(control) > before, "the failure")  # type: ignore[misc]
        (tmp_path / "mine.py").write_text(UPPER)
        assert len(os.read(reader, 1 << 20)) > 32768, "it was full"
        obeys(server, tmp_path)
    os.close(reader)
