"""A reload that says "Reloaded" has applied every setting, or named it in `later`; and it serves the new release."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

import pronghorn
from launch import Launched, launched, wait_for
from pronghorn.errors import AddressInUse
from pronghorn.events import Event
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.settings import Settings, fields
from pronghorn.settings.fields import NOW, RESTART, WORKERS, Field
from pronghorn.settings.layers import Layers
from pronghorn.supervisor.planning import Planner, Read

OTHERS = {"time": 7.5, "size": 8192, "mode": "700", "network": "10.0.0.0/8", "network or unix": "10.0.0.0/8"}


def other(field: Field) -> Any:
    """Another value than the default, as a settings file has it."""
    if field.choices:
        return next(each for each in field.choices if each != field.default)
    if field.type is bool:
        return not field.default
    if field.name == "access_log_format":
        return "json"
    if field.name == "bus":
        return "off"
    if field.name == "env_file":  # it is read
        return [str(Path(pronghorn.__file__).with_name("py.typed"))]
    if field.type == tuple[str, ...]:
        return [OTHERS.get(field.unit, "127.0.0.1:1")]
    if field.unit in OTHERS:
        return OTHERS[field.unit]
    return "else" if field.type is str else (field.default or 0) + 3


def explain(error: AddressInUse) -> AddressInUse:
    return error


@pytest.mark.parametrize("field", fields(), ids=lambda field: field.name)
def test_every_setting_is_taken_or_named(field: Field, tmp_path: Path) -> None:
    assert field.at in (NOW, WORKERS, RESTART)
    file = tmp_path / "pronghorn.toml"
    file.write_text("")
    layers = Layers(file=str(file))
    before = layers.settle()
    told: list[Event] = []
    board = Scoreboard.create()
    try:
        planner = Planner(layers, before.source, before.settings, board, told.append, explain)
        assert Read.of(planner.settle().answer()).later == ()
        file.write_text(f"{field.name} = {json.dumps(other(field))}\n")
        read = Read.of(planner.settle().answer())
    finally:
        board.close()
    after = getattr(read.settings, field.name)
    assert after != getattr(Settings(), field.name)
    assert after == getattr(layers.settle().settings, field.name), "it comes through whole"
    assert read.later == ((field.name,) if field.at == RESTART else ())


TELLS = """
import logging, os, pronghorn
def life():
    if os.path.exists("broken"):
        raise ValueError("it fails late")
    yield
@pronghorn.lifespan(life)
@pronghorn.message(pronghorn.lines)
def reply(line):
    return b"%d" % logging.getLogger("pronghorn.error").level
"""


def reloaded(server: Launched, times: int) -> None:
    server.send(signal.SIGHUP)
    wait_for(lambda: server.log.count("Reloaded in") == times, "the reload")


def test_the_level_of_the_log_is_applied_and_a_reload_that_fails_late_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TELLS)
    file = tmp_path / "pronghorn.toml"

    def settings(level: str, mode: str = "660") -> None:
        file.write_text(f'bind = ["127.0.0.1:0"]\nlog_level = "{level}"\nunix_mode = "{mode}"\n')

    settings("warning")
    with launched(tmp_path, "mine:reply", bind=None, config=str(file)) as server:
        assert server.ask(b"x\n") == b"30\n"
        settings("info")
        (tmp_path / "broken").touch()
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reload failed" in server.log, "the failure")
        assert "it fails late" in server.log
        (tmp_path / "broken").unlink()
        settings("info", "600")
        reloaded(server, 1)
        assert server.ask(b"x\n") == b"20\n"
        assert "--unix-mode" in server.log and "Reloading" not in server.log
        settings("info", "660")
        reloaded(server, 2)
        assert server.log.count("--unix-mode") == 1


# Releases: `current` is a symbolic link.

RELEASE = """
import pronghorn, inner
@pronghorn.message(pronghorn.lines)
def reply(line):
    return inner.WORD + b"%d" % __import__("os").getppid()
"""


def released(folder: Path, number: int) -> None:
    release = folder / "releases" / str(number)
    release.mkdir(parents=True)
    (release / "mine.py").write_text(RELEASE)
    (release / "inner.py").write_text(f"WORD = b'r{number} '\n")
    (release / "pronghorn.toml").write_text(f'bind = ["127.0.0.1:0"]\nmax_connections = {10 + number}\n')
    (folder / "next").symlink_to(release)
    (folder / "next").rename(folder / "current")


@pytest.mark.parametrize("how", ["cd", "chdir"])
def test_reload_and_upgrade_serve_the_new_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    released(tmp_path, 1)
    current = tmp_path / "current"
    if how == "cd":
        monkeypatch.setenv("PWD", str(current))
    else:
        monkeypatch.setenv("PWD", str(tmp_path))
    folder = current if how == "cd" else tmp_path
    settings: dict[str, Any] = {"chdir": None if how == "cd" else "current", "bind": None}
    with launched(folder, "mine:reply", config=str(current / "pronghorn.toml"), **settings) as server:
        server.errors = server.errors.resolve()
        assert server.ask(b"x\n") == b"r1 %d\n" % server.pid
        released(tmp_path, 2)
        server.send(signal.SIGHUP)
        wait_for(lambda: server.log.count("Reloaded in") == 1, "the reload")
        assert server.ask(b"x\n") == b"r2 %d\n" % server.pid
        (worker,) = wait_for(lambda: len(now := server.workers()) == 1 and now, "the old worker's end")
        assert os.readlink(f"/proc/{worker}/cwd") == str(tmp_path / "releases" / "2")
        released(tmp_path, 3)
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: server.log.count("is ready") == 3, "its successor")
        assert server.ask(b"x\n") == b"r2 %d\n" % server.pid, "a generation is of one release"
        server.send(signal.SIGUSR2)
        wait_for(lambda: "Upgraded: process" in server.log, "the upgrade")
        new = int(re.findall(r"Upgraded: process (\d+)", server.log)[0])
        wait_for(lambda: server.ask(b"x\n") == b"r3 %d\n" % new, "the new program's answer")
        os.kill(new, signal.SIGTERM)


def test_a_release_that_is_gone_fails_the_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released(tmp_path, 1)
    monkeypatch.setenv("PWD", str(tmp_path))
    with launched(tmp_path, "mine:reply", chdir="current") as server:
        (tmp_path / "current").unlink()
        server.send(signal.SIGHUP)
        wait_for(lambda: "cannot be entered" in server.log, "the refusal")
        assert server.ask(b"x\n").startswith(b"r1 ")


def test_a_program_that_a_reload_brings_gets_the_limit_of_descriptors_that_the_server_was_started_with(
    tmp_path: Path,
) -> None:
    file = tmp_path / "pronghorn.toml"
    file.write_text('handler = "upper"\n')
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    asked = min(each for each in (soft, hard, 10_000) if each != resource.RLIM_INFINITY) - 7  # the server raises it
    resource.setrlimit(resource.RLIMIT_NOFILE, (asked, hard))
    try:
        with launched(tmp_path, None, config=str(file), model="thread") as server:
            assert server.ask(b"x") == b"X"
            file.write_text('exec = ["sh", "-c", "ulimit -S -n"]\n')
            reloaded(server, 1)
            assert server.ask(b"") == b"%d\n" % asked
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
