"""`--reload`: what changes is noticed once, with watchfiles and without, and never stops the server."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch import launched, wait_for
from pronghorn.watcher import Watcher

HANDLER = """
import pronghorn
@pronghorn.message(pronghorn.lines)
def reply(line):
    return b"%s"
"""


@pytest.fixture(params=["watchfiles", "looking"])
def watcher(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watcher]:
    if request.param == "watchfiles":
        pytest.importorskip("watchfiles")
    else:
        hidden = tmp_path.parent / f"{tmp_path.name}-hides"
        hidden.mkdir()
        (hidden / "watchfiles.py").write_text("raise ImportError\n")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(hidden), *filter(None, sys.path)]))
    (tmp_path / "mine.py").write_text("x = 1\n")
    (tmp_path / "settings.toml").write_text("")
    watcher = Watcher([str(tmp_path), str(tmp_path / "settings.toml")])
    try:
        warm(watcher, tmp_path)
        yield watcher
    finally:
        watcher.close()


def heard(watcher: Watcher, seconds: float) -> list[str]:
    """What the watcher says within this time, at the first time that it says something."""
    ready, _, _ = select.select([watcher], [], [], seconds)
    return watcher.read() if ready else []


def warm(watcher: Watcher, folder: Path) -> None:
    """Until it looks: what is changed before is not noticed."""

    def noticed() -> bool:
        with open(folder / "warm.py", "a") as file:
            file.write("#\n")
        return bool(heard(watcher, 0.2))

    wait_for(noticed, "the watcher's first word")
    wait_for(lambda: not heard(watcher, 1.5), "silence")


def rename_over(folder: Path) -> None:
    (folder / "new").write_text("x = 2\n")
    (folder / "new").rename(folder / "mine.py")


CHANGES = {
    "written": lambda folder: (folder / "mine.py").write_text("x = 22\n"),
    "created": lambda folder: (folder / "other.py").write_text("y = 1\n"),
    "renamed over": rename_over,
    "deleted": lambda folder: (folder / "mine.py").unlink(),
    "the settings file": lambda folder: (folder / "settings.toml").write_text("workers = 2\n"),
}


@pytest.mark.slow
def test_every_kind_of_change_is_noticed_once(watcher: Watcher, tmp_path: Path) -> None:
    for what, change in CHANGES.items():
        change(tmp_path)
        assert len(heard(watcher, 10)) == 1, what
        assert not heard(watcher, 1.2), what
        (tmp_path / "mine.py").write_text("x = 1\n")
        heard(watcher, 2)


@pytest.mark.slow
def test_what_is_none_of_ours_is_left_out(watcher: Watcher, tmp_path: Path) -> None:
    for name in ("__pycache__", ".git", "venv"):
        (tmp_path / name).mkdir()
    (tmp_path / "venv" / "pyvenv.cfg").write_text("")
    for path in ("__pycache__/mine.py", ".git/hook.py", "venv/lib.py", "notes.txt"):
        (tmp_path / path).write_text("x\n")
    assert not heard(watcher, 1.5)


@pytest.mark.slow
def test_a_syntax_error_never_stops_the_server(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HANDLER % "one")
    with launched(tmp_path, "mine:reply", reload=True) as server:
        server.ready()

        def reloaded() -> bool:
            (tmp_path / "mine.py").write_text(HANDLER % "two")
            return server.ask(b"x\n") == b"two\n"

        wait_for(reloaded, "the reload")
        (tmp_path / "mine.py").write_text("def reply(:\n")
        wait_for(lambda: "Reload failed" in server.log, "the failure")
        assert server.ask(b"x\n") == b"two\n"
        (tmp_path / "mine.py").write_text(HANDLER % "three")
        wait_for(lambda: server.ask(b"x\n") == b"three\n", "the mended handler")
        assert server.stop() == 0
