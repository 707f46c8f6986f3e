"""What handlers do with logging, and what Python tells of errors that nobody caught: the server's log bears it."""

from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path

import psutil
import pytest

from launch import launched, lives, text_of, wait_for
from pronghorn.cli.check import examined
from pronghorn.errors import BadSetting, PronghornError
from pronghorn.settings.layers import Layers
from pronghorn.system import log_config
from pronghorn.testing.served import serving
from pronghorn.testing.talk import exchange, until

RECORD = re.compile(r"\[[-0-9]+ [:0-9]+ [+0-9]+\] \[\d+\] \[[A-Z]+\] ")
HERE = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["asyncio", "thread"])
def test_what_python_tells_of_errors_that_nobody_caught_is_no_flood_and_forges_nothing(model: str) -> None:
    with serving("loggers_under_test:floods", model=model, workers=1) as server:
        with server.connect() as client:
            assert exchange(client, end=True) == b"done\n"
        told = server.log()
    records = told.splitlines()
    assert all(RECORD.match(line) or line.startswith("  ") for line in records), told
    assert not {"\x1b", "\r"} & set(told)
    assert len(records) < 100
    for word in ("Exception in callback", "Thread Thread-", "Exception ignored in", "UserWarning"):
        assert sum(word in line for line in records if RECORD.match(line)) == 1, word


def test_what_a_handler_logs_is_shown_in_the_servers_form_from_the_servers_level_on() -> None:
    with serving("loggers_under_test:logs", model="epoll") as server:
        with server.connect() as client:
            assert exchange(client, b"1\n", expect=2) == b"1\n"
        until(lambda: "does not fit" in server.log())
        told = server.log()
    assert re.search(RECORD.pattern + r"app: at info b'1' a\\r$", told, re.MULTILINE), told
    assert "\n  [2026-01-01] [1] [INFO] forged\\x1b[2J\n" in told
    assert "[WARNING] of root\n" in told and "at debug" not in told
    assert all(RECORD.match(line) or line.startswith("  ") for line in told.splitlines()), told


def test_the_servers_own_records_go_on_whatever_a_handler_does_with_logging() -> None:
    with serving("loggers_under_test:hostile", model="thread", factory=True) as server:
        with server.connect() as client:
            exchange(client, b"0\n", end=True)
        until(lambda: "Handler failed on connection " in server.log())
        assert server.stop() == 0
        assert "ZeroDivisionError" in server.log() and "Stopped" in server.log() and "at info" not in server.log()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["epoll", "thread"])
def test_a_handler_that_closes_standard_error_has_the_log_written_to_no_client(model: str) -> None:
    with serving("loggers_under_test:closes_standard", model=model, workers=1) as server:
        with server.connect() as client:
            assert exchange(client, b"close\n", expect=7) == b"closed\n"
        clients = [server.connect() for _ in range(4)]
        try:
            for client in clients:
                assert exchange(client, b"1\n", expect=2) == b"1\n"
            with server.connect() as bad:
                assert exchange(bad, b"0\n", end=True) == b""
            until(lambda: "ZeroDivisionError" in server.log())
            for client in clients:
                client.shutdown(socket.SHUT_WR)
                assert exchange(client, end=True) == b""
        finally:
            for client in clients:
                client.close()


CONFIG = {
    "version": 1,
    "formatters": {"own": {"format": "OWN %(levelname)s %(name)s %(message)s"}},
    "handlers": {"own": {"class": "logging.StreamHandler", "formatter": "own"}},
    "root": {"level": "INFO", "handlers": ["own"]},
}
TOML = """
version = 1
formatters.own.format = "OWN %(levelname)s %(name)s %(message)s"
handlers.own = { class = "logging.StreamHandler", formatter = "own" }
root = { level = "INFO", handlers = ["own"] }
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["log.toml", "log.json"])
def test_people_may_have_their_own_log(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(CONFIG) if name.endswith("json") else TOML)
    with serving("loggers_under_test:logs", model="epoll", log_config=str(path)) as server:
        with server.connect() as client:
            exchange(client, b"0\n", end=True)
        until(lambda: "ZeroDivisionError" in server.log())
        assert server.stop() == 0
        told = server.log()
    assert "OWN INFO pronghorn.error Serving loggers_under_test:logs" in told
    assert "OWN INFO app at info b'0'" in told and "OWN ERROR pronghorn.error Handler failed on" in told
    assert "OWN INFO pronghorn.error Stopped" in told and not RECORD.search(told)


def test_a_handler_that_sets_up_logging_anew_does_not_end_a_log_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text(json.dumps(CONFIG))
    config = str(tmp_path / "log.json")
    with serving("loggers_under_test:hostile", model="epoll", factory=True, log_config=config) as server:
        with server.connect() as client:
            exchange(client, b"0\n", end=True)
        until(lambda: "OWN ERROR pronghorn.error Handler failed on" in server.log())


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "is missing|required|version"), ("version = ", "cannot be read"), ("version = 1\nroot.level = 'X'", "root")],
)
def test_a_log_config_that_is_none_is_refused_with_the_reason(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "log.toml"
    path.write_text(text)
    with pytest.raises(PronghornError, match=why), serving("upper", log_config=str(path)):
        pass
    with pytest.raises(BadSetting, match="No such file"):
        log_config.read(str(tmp_path / "none"))
    with pytest.raises(BadSetting, match=why if "read" in why else "."):
        examined(Layers({"log_config": str(tmp_path / ("none" if "read" not in why else "log.toml"))}, {}).settle())


SLOW = """
import logging, os, time
class Slow(logging.Handler):
    def emit(self, record):
        with open("told", "a") as file:
            file.write(f"{os.getpid()} {record.process} {record.getMessage()}\\n")
        if "Reloading" in record.getMessage() or "Resizing" in record.getMessage():
            time.sleep(1000)
"""
HUNG = {"version": 1, "handlers": {"slow": {"class": "slow.Slow"}}, "root": {"level": "INFO", "handlers": ["slow"]}}


@pytest.mark.slow
def test_a_log_of_ones_own_that_hangs_holds_up_no_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "log.json").write_text(json.dumps(HUNG))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def told(text: str) -> list[list[str]]:
        return [line.split(" ", 2) for line in text_of(tmp_path / "told").splitlines() if text in line]

    with launched(tmp_path, "upper", model="thread", log_config="log.json") as server:
        (ready,) = wait_for(lambda: told("is ready"))
        assert int(ready[1]) == server.pid, "whose record it is"
        assert int(ready[0]) != server.pid, "who has told of it"
        server.send(signal.SIGTTIN)
        (resizing,) = wait_for(lambda: told("Resizing"))
        wait_for(lambda: server.ask(b"x\n") == b"X\n" and len(server.workers()) == 3)
        log = psutil.Process(int(resizing[0]))
        log.kill()
        wait_for(lambda: not lives(log), "its end")
        server.send(signal.SIGTTOU)
        wait_for(lambda: len(told("Resizing")) == 2)
        assert server.stop() == 0
