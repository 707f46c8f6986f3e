"""The pairs of docs/moving.md, before and after: each is run as the page says, and both answer alike."""

from __future__ import annotations

import importlib.util
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from brokers import free_port
from launch import wait_for
from pronghorn.testing.served import serving
from pronghorn.testing.talk import exchange

PAGE = (Path(__file__).parent.parent / "docs" / "moving.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# (?:before|after): (\w+)\.py.*?\n(.*?)```", PAGE, re.DOTALL))
NAMES = sorted({name.rpartition("_")[0] for name in BLOCKS})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moving")
    for name, text in BLOCKS.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def before(folder: Path) -> Iterator[dict[str, tuple[int, subprocess.Popen[bytes]]]]:
    """The programs from before, each at a port of its own: all start at once."""
    started: dict[str, tuple[int, subprocess.Popen[bytes]]] = {}
    try:
        for name in NAMES:
            if name == "twisted" and importlib.util.find_spec("twisted") is None:
                continue
            port = free_port()
            path = folder / f"{name}_before.py"
            path.write_text(path.read_text().replace("5000", str(port)))
            started[name] = port, subprocess.Popen([sys.executable, str(path)])
        yield started
    finally:
        for _, process in started.values():
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    try:
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    except ConnectionRefusedError:
        return False
    with sock:
        assert exchange(sock, b"hello\n", expect=6) == b"HELLO\n"
        assert exchange(sock, b"and again\n", end=True) == b"AND AGAIN\n"
    return True


def test_every_case_of_the_table_has_both_programs() -> None:
    assert len(NAMES) == 7
    assert {f"{name}_{when}" for name in NAMES for when in ("before", "after")} == BLOCKS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_before_and_after_answer_alike(
    name: str, folder: Path, before: dict[str, tuple[int, subprocess.Popen[bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = shlex.split(re.search(rf"# (pronghorn serve {name}_after\.py:.*)", PAGE)[1])  # type: ignore[index]
    handler, model = command[2], command[command.index("--model") + 1]
    if model == "gevent" and importlib.util.find_spec("gevent") is None:
        pytest.skip("gevent is not there")
    monkeypatch.chdir(folder)
    with serving(handler, model=model, workers=1) as server:
        assert answers(int(server.address[1]))
        assert server.stop() == 0
        assert "Traceback" not in server.log(), server.log()
    if name in before:
        wait_for(lambda: answers(before[name][0]), "the program from before")
