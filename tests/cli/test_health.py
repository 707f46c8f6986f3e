"""`pronghorn health`: exit statuses that containers understand, and one line, whatever is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from brokers import free_port
from pronghorn.cli import main
from pronghorn.control import client, paths
from pronghorn.testing.served import serving


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit status and the only line of `pronghorn health`."""
    status = main.run(["health", *arguments])
    output, errors = capsys.readouterr()
    assert not errors and output.count("\n") == 1
    return status, output.rstrip("\n")


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that there is for control sockets."""
    folder = tmp_path / "pronghorn"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(paths, "folders", lambda: [str(folder)])
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.slow
def test_a_server_is_healthy_until_it_has_no_worker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "control")
    with serving(model="epoll", workers=1, control_socket=path):
        assert ran(capsys, "--socket", path) == (0, "healthy: SERVING, 1 of 1 workers ready")
        command = [sys.executable, "-m", "pronghorn", "health", "--live"]
        environment = {**os.environ, "PRONGHORN_CONTROL_SOCKET": path}
        done = subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, timeout=30, check=False
        )
        assert (done.returncode, done.stdout) == (0, "healthy: SERVING, 1 of 1 workers ready\n")
        client.ask(path, {"command": "drain"}, 20.0)
        assert ran(capsys, "--socket", path) == (1, "unhealthy: DRAINED, 0 of 0 workers ready")
        assert ran(capsys, "--socket", path, "--live")[0] == 0
    status, line = ran(capsys, "--socket", path, "--json")
    assert status == 1 and json.loads(line)["healthy"] is False


def test_no_server_and_a_stale_socket(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, line = ran(capsys)
    assert status == 1 and line.startswith("unhealthy: No server is running that this user can control.")
    assert ran(capsys, "--name", "other")[0] == 1
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(nowhere / "dead.sock"))
    status, line = ran(capsys, "--socket", str(nowhere / "dead.sock"))
    assert status == 1 and "the server that made it has died" in line


@contextmanager
def answering(reply: bytes, where: str) -> Iterator[str]:
    """A listener that says this to everybody who has asked; it yields its address."""
    unix = where == "unix"
    listener = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    listener.bind(f"{os.getcwd()}/admin" if unix else ("127.0.0.1", 0))
    listener.listen()

    def answer() -> None:
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            with conn, contextlib.suppress(ConnectionError):  # who asks has heard enough
                conn.recv(1000)
                conn.sendall(reply)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    name = listener.getsockname()
    try:
        yield f"unix:{name}" if unix else f"127.0.0.1:{name[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


@pytest.mark.parametrize("where", ["unix", "tcp"])
@pytest.mark.parametrize(
    ("reply", "status", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nok", 0, "answers 200 OK"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 1, "answers 503 Service Unavailable"),
        (b"\x1b[31m garbage\r\n", 1, "does not answer as an admin address"),
        (b"x" * 100_000, 1, "does not answer as an admin address"),
        (b"", 1, "does not answer as an admin address"),
    ],
)
def test_the_admin_address(
    capsys: pytest.CaptureFixture[str], where: str, reply: bytes, status: int, said: str
) -> None:
    with answering(reply, where) as address:
        got, line = ran(capsys, "--admin", address)
    assert got == status and said in line and "\x1b" not in line


def test_the_admin_address_as_the_log_writes_it(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\nok", "tcp") as address:
        assert ran(capsys, "--admin", f"http://{address}/")[0] == 0


def test_an_admin_address_that_is_silent_or_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        address = "127.0.0.1:%d" % silent.getsockname()[1]  # noqa: UP031
        assert ran(capsys, "--admin", address, "--timeout", "50ms") == (1, "unhealthy: timed out.")
    assert ran(capsys, "--admin", address) == (1, "unhealthy: Connection refused.")
    assert ran(capsys, "--admin", "somewhere")[1].startswith("unhealthy: --admin cannot be 'somewhere'.")
