"""The example of devices and a web application that sends them commands, as a whole; and ctl beside it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from launch import Launched, launched_code
from pronghorn.bus import aconnect

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "commands"


@contextmanager
def device(server: Launched, name: bytes) -> Iterator[None]:
    """A device in a thread, which answers whatever it is asked."""
    with server.connect() as sock, sock.makefile("rb") as lines:
        sock.sendall(b"I am " + name + b"\n")
        assert lines.readline() == b"welcome\n"

        def answer() -> None:
            for line in lines:
                sock.sendall(name + b" is fine: " + line)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            sock.shutdown(2)
            thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Launched, Path]]:
    folder = tmp_path_factory.mktemp("c")
    code = (EXAMPLE / "devices.py").read_text()
    with launched_code(folder, code, "Device", model="epoll", workers=2, control_socket=str(folder / "c.sock")) as one:
        one.ready(2)
        yield one, folder


@pytest.mark.slow
def test_a_web_application_asks_a_device(server: tuple[Launched, Path]) -> None:
    fastapi = pytest.importorskip("fastapi.testclient", reason="fastapi is not installed")
    devices, folder = server
    spec = importlib.util.spec_from_file_location("web", EXAMPLE / "web.py")
    assert spec is not None and spec.loader is not None
    web: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(web)
    web.devices = aconnect(f"unix:{folder}/c.bus")
    with device(devices, b"4711"), device(devices, b"4712"), fastapi.TestClient(web.app) as client:
        for name in ("4711", "4712"):
            response = client.post(f"/devices/{name}", content=b"status?\n".strip())
            assert (response.status_code, response.text) == (200, f"{name} is fine: status?")
        assert client.post("/devices/1", content=b"x").status_code == 404


def ctl(folder: Path, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pronghorn", "ctl", *arguments, "--socket", str(folder / "c.sock")]
    return subprocess.run(command, input=given, capture_output=True, timeout=30)


@pytest.mark.slow
def test_the_command_line_publishes_and_asks(server: tuple[Launched, Path]) -> None:
    devices, folder = server
    with device(devices, b"9"):
        assert ctl(folder, "publish", "device:9", "hello").stdout == b"Reached 1 connection.\n"
        asked = ctl(folder, "ask", "device:9", "-", given=b"state")
        assert (asked.returncode, asked.stdout) == (0, b"9 is fine: state")
        (folder / "words").write_bytes(b"from a file")
        assert json.loads(ctl(folder, "ask", "device:9", f"@{folder}/words", "--json").stdout) == {
            "answer": "9 is fine: from a file"
        }
        groups = json.loads(ctl(folder, "groups", "device:9", "--json").stdout)
        assert groups == [{"name": "device:9", "connections": 1}]
        [member] = json.loads(ctl(folder, "groups", "device:9", "--connections", "--json").stdout)
        assert member["id"].startswith(f"{member['pid']}-")
        assert member["worker"] in (1, 2) and member["peer"].startswith("127.0.0.1") and 0 <= member["joined"] < 60
        assert b", joined " in ctl(folder, "groups", "device:9", "--connections").stdout
    nobody = ctl(folder, "publish", "device:10", "x")
    assert (nobody.returncode, nobody.stdout) == (1, b"Reached 0 connections.\n")
    nobody = ctl(folder, "ask", "device:10", "x")
    assert (nobody.returncode, nobody.stderr) == (
        1,
        b"Error: Nobody has joined 'device:10'.\nA handler's connections join by conn.join(name).\n",
    )
    assert f", at unix:{folder}/c.bus".encode() in ctl(folder, "status").stdout.replace(b"\n", b"")
    late = ctl(folder, "ask", "device:9", "x", "--timeout", "2h")
    assert (late.returncode, late.stderr) == (
        2,
        b"Error: --timeout cannot be '2h'.\nAn answer may take an hour at most.\n",
    )
    missing = ctl(folder, "publish", "device:9", f"@{folder}/nothing")
    assert missing.returncode == 2 and b"cannot be read" in missing.stderr
