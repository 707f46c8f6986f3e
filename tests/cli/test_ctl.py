"""`pronghorn ctl`: what it asks, what it prints, and how it ends; first with a server that is made up, then with real
ones."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from launch import PATIENCE, Launched, gone, held_by, launched, wait_for
from pronghorn.cli import main
from pronghorn.cli.ctl import connection_table, request, stats, tables
from pronghorn.control import client, paths
from pronghorn.control.protocol import COMMANDS
from pronghorn.control.server import ControlServer
from pronghorn.errors import BadHandler
from pronghorn.serving.connection_inquiry import Query
from pronghorn.supervisor.poller import Done, Poller

STATUS: dict[str, Any] = {
    "state": "SERVING",
    "name": "127.0.0.1:8000",
    "pid": 4711,
    "version": "1.2.3",
    "build": "pure Python",
    "uptime": 7384.2,
    "generation": 3,
    "handler": "shop.py:reply",
    "style": "message",
    "model": "epoll",
    "listening": ["127.0.0.1:8000", "unix:/run/s\x1b"],
    "workers": {"wanted": 4, "ready": 3, "draining": 2},
    "open": 1234,
    "accepted": 9876543,
    "refused": 12,
    "messages": 123456789,
    "bytes_in": 2**33 + 5,
    "bytes_out": 2**31,
    "handler_errors": 3,
    "closed": {"done": 9870000, "reset": 120, "idle": 0},
    "last_reload": None,
}
WORKER = {
    "slot": 128,
    "pid": 4194303,
    "supervisor": 1,
    "generation": 300,
    "state": "STARTING",
    "age": 8640000.0,
    "open": 100_000,
    "accepted": 10**12,
    "messages": 10**15,
    "bytes_in": 2**60,
    "bytes_out": 1023,
    "memory": None,
    "beat_age": 31.0,
}


class MadeUp:
    """Commands that answer what the test wants."""

    def __init__(self, path: str) -> None:
        self.control = ControlServer.open("shop", path)
        self.answers: dict[str, Any] = {"status": STATUS, "workers": {"workers": [WORKER] * 3}}
        self.asked: list[Any] = []
        self.over = False

    def __getattr__(self, command: str) -> Any:
        command = command.replace("_", "-")
        if command not in COMMANDS:
            raise AttributeError(command)

        def answer(*arguments: Any) -> None:
            *rest, done = arguments
            self.asked.append([command, *rest])
            self.done: Done = done
            if command in self.answers:
                done(self.answers[command])

        return answer

    def run(self) -> None:
        poller = Poller()
        self.control.serve(poller, self)
        while not self.over:
            poller.wait(0.01)
        self.control.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that there is for control sockets."""
    folder = tmp_path / "pronghorn"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(paths, "folders", lambda: [str(folder)])
    for name in ("PRONGHORN_NAME", "PRONGHORN_CONTROL_SOCKET", "PRONGHORN_CONFIG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def shop(folder: Path) -> Iterator[MadeUp]:
    """A made-up server named shop, that runs."""
    made = MadeUp(f"{folder}/shop.sock")
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.over = True
    thread.join()


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit status and both outputs of `pronghorn ctl`."""
    status = main.run(["ctl", *arguments])
    output, errors = capsys.readouterr()
    return status, output, errors


def test_status_is_told(shop: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    status, output, errors = ran(capsys, "status")
    assert (status, errors) == (0, "")
    assert [" ".join(line.split()) for line in output.splitlines()] == [
        "Server 127.0.0.1:8000 (process 4711, Pronghorn 1.2.3, pure Python)",
        "State SERVING, up 2 h 3 min",
        "Handler shop.py:reply (message style) under epoll",
        "Listening at 127.0.0.1:8000",
        "unix:/run/s\\x1b",
        "Workers 3 of 4 ready, 2 on their way out, generation 3",
        "Connections 1,234 open, 9,876,543 accepted, 12 refused",
        "closed: 9,870,000 done, 120 reset",
        "Messages 123,456,789",
        "Bytes 8.0 GiB in, 2.0 GiB out",
        "Handler errors 3",
        "Last reload none yet",
    ]


@pytest.mark.parametrize(("change", "said"), [("reload", "a reload"), ("upgrade", "an upgrade")])
def test_what_is_under_way_is_told(shop: MadeUp, capsys: pytest.CaptureFixture[str], change: str, said: str) -> None:
    shop.answers["status"] = {**STATUS, "under_way": change}
    assert f"SERVING, up 2 h 3 min; {said} is under way" in ran(capsys, "status")[1]


@pytest.mark.parametrize(("state", "ready", "code"), [("SERVING", 1, 0), ("SERVING", 0, 1), ("DRAINING", 2, 1)])
def test_readiness_is_an_exit_status(
    shop: MadeUp, capsys: pytest.CaptureFixture[str], state: str, ready: int, code: int
) -> None:
    shop.answers["status"] = STATUS | {"state": state, "workers": STATUS["workers"] | {"ready": ready}}
    assert ran(capsys, "status", "--ready")[0] == code
    assert ran(capsys, "status", "--ready", "--json")[0] == code
    assert ran(capsys, "status")[0] == 0


def test_status_says_which_addresses_speak_tls(shop: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    shop.answers["status"] = {**STATUS, "tls": True}
    lines = [" ".join(line.split()) for line in ran(capsys, "status")[1].splitlines()]
    assert {"Listening at tls://127.0.0.1:8000", "unix:/run/s\\x1b (TLS)"} <= set(lines)


def test_a_reload_that_failed_is_told(shop: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    failed = {"ok": False, "seconds": 0.4, "ended_at": time.time() - 192, "why": "No.\nSyntaxError"}
    shop.answers["status"] = {**STATUS, "last_reload": failed}
    assert "failed 3 min 12 s ago: No. SyntaxError" in ran(capsys, "status")[1]
    shop.answers["status"] = {**STATUS, "last_reload": {"ok": True, "seconds": 0.44, "ended_at": time.time() + 9}}
    assert "0.0 s ago, took 0.4 s" in ran(capsys, "status")[1]


def test_workers_fit_the_terminal_at_their_worst(
    shop: MadeUp, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, output, _ = ran(capsys, "workers")
    head, rule, *rows = output.splitlines()
    assert status == 0
    assert head.split() == "Slot State Process Gen Age Open Accepted Messages In Out Memory Silent".split()
    assert rows[0].split() == "128 STARTING 4194303 300 100d 100k 1.0T 1.0P 1.0E 1023 ? 31s".split()
    assert len(rows) == 3
    assert max(map(len, [head, rule.rstrip(), *rows])) <= 80


def test_without_workers_there_is_no_table(shop: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    shop.answers["workers"] = {"workers": []}
    assert ran(capsys, "workers")[1] == "There is no worker. To have some: pronghorn ctl resize N\n"


@pytest.mark.parametrize(
    ("what", "result", "said"),
    [
        ("reload", {"generation": 4, "seconds": 0.44, "later": []}, "Reloaded in 0.4 s: generation 4 serves."),
        (
            "reload",
            {"generation": 4, "seconds": 0.44, "later": ["name", "user"]},
            "Reloaded in 0.4 s: generation 4 serves. Only the next start takes these settings: name, user.",
        ),
        ("upgrade", {"pid": 9}, "Upgraded: process 9 serves."),
        ("resize 1", {"workers": 1}, "Resized: 1 worker."),
        ("resize 3", {"workers": 3}, "Resized: 3 workers."),
        ("drain", {}, "Drained: no worker is left, and new clients wait. To go on: pronghorn ctl resize N"),
        (
            "log-level debug",
            {"level": "debug", "before": "info"},
            "The log begins at debug (before: info), until a reload says otherwise.",
        ),
        ("reopen", {"files": ["/var/log/a", "b"]}, "Opened anew: /var/log/a and b"),
        ("reopen", {"files": []}, "There is no file to open anew: no --log-file and no --access-log."),
        ("stop", {"status": 0, "cut": 0}, "Stopped."),
        ("stop", {"status": 6, "cut": 1}, "Stopped; the drain deadline cut 1 connection."),
        ("stop", {"status": 6, "cut": 3}, "Stopped; the drain deadline cut 3 connections."),
    ],
)
def test_what_was_done_is_told_for_eyes_and_for_programs(
    shop: MadeUp, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: str, result: Any, said: str
) -> None:
    monkeypatch.setattr(client, "LINGER", 0.0)
    command, *arguments = what.split()
    shop.answers[command] = result
    assert ran(capsys, *what.split()) == (0, f"{said}\n", "")
    status, output, errors = ran(capsys, *what.split(), "--json")
    assert (status, json.loads(output), errors) == (0, result, "")
    assert shop.asked == [[command, *(int(each) if each.isdigit() else each for each in arguments)]] * 2


CONNECTION: dict[str, Any] = {
    "id": "4194303-123456",
    "worker": 128,
    "pid": 4194303,
    "generation": 300,
    "peer": "255.255.255.255:65535",
    "proxy": None,
    "listener": "127.0.0.1:8000",
    "age": 8640000.0,
    "idle": 86400.0,
    "bytes_in": 2**60,
    "bytes_out": 1023,
    "messages": 10**15,
    "state": "CLOSING",
    "tls": {"version": "TLSv1.3", "sni": "a\x1b.example"},
    "draining": False,
    "staying": False,
    "program": None,
    "fields": {},
    "tcp_state": "ESTABLISHED",
    "rtt_us": 123456,
    "retransmits": 7,
    "send_queue": 0,
    "receive_queue": 2**20,
}
LISTED: dict[str, Any] = {
    "connections": [CONNECTION, {**CONNECTION, "fields": {"device": "4711\x1b[31m"}, "idle": None, "rtt_us": None}],
    "matched": 1000,
    "silent": [{"worker": 2, "pid": 4711, "generation": 1, "open": 3}],
    "elsewhere": {"programs": 1, "open": 5},
}


def test_connections_are_told_with_what_is_missing(shop: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    shop.answers["connections"] = LISTED
    status, output, _ = ran(capsys, "connections")
    head, _, first, second, *remarks = output.splitlines()
    assert status == 0 and "\x1b" not in output
    assert head.split()[:8] == "Id Peer State Age Idle In Out Msgs".split() and head.endswith("Fields")
    assert first.split()[:8] == "4194303-123456 255.255.255.255:65535 CLOSE 100d 1d 1.0E 1023 1.0P".split()
    assert "TLSv1.3 a\\x1b.example" in first and second.endswith("device=4711\\x1b[31m")
    assert remarks == [
        "2 of 1,000 that fit are shown. For more: --limit N",
        "Worker 2 (process 4711) has not answered in time; it has 3 connections. A handler may hold it up: "
        "pronghorn ctl workers",
        "5 more are with the program before an upgrade, which is not asked.",
    ]
    assert json.loads(ran(capsys, "connections", "--json")[1]) == LISTED


def test_connections_fit_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    connection_table.show_connections({**LISTED, "connections": [CONNECTION], "silent": []})
    head, *_ = lines = capsys.readouterr().out.splitlines()
    assert "Msgs" in head and "RTT" not in head
    assert max(map(len, (re.sub("\x1b[^m]*m", "", line) for line in lines))) <= 80


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        ("--peer 192.0.2.0/24 --peer unix", {"peer": ["192.0.2.0/24", "unix"]}),
        ("--older 1h --idle 5m --state half-closed", {"older": 3600.0, "idle": 300.0, "state": "HALF_CLOSED"}),
        ("--field a=b=c --field d=", {"fields": {"a": "b=c", "d": ""}}),
        ("--sort rtt-us --reverse --limit 7", {"sort": "rtt_us", "reverse": True, "limit": 7}),
        ("--listener web --worker 2", {"listener": "web", "worker": 2}),
    ],
)
def test_filters_become_a_query(
    shop: MadeUp, capsys: pytest.CaptureFixture[str], arguments: str, request_: dict[str, Any]
) -> None:
    shop.answers["connections"] = {**LISTED, "connections": [], "matched": 0}
    assert ran(capsys, "connections", *arguments.split())[0] == 0
    ((command, query),) = shop.asked
    assert command == "connections" and query == msgspec.convert(request_, Query)


KILLED = {"ended": ["1-2"], "gone": [], "late": [], "silent": []}


def test_connections_are_killed_by_ids_and_by_filters(shop: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    shop.answers.update({"kill-connection": KILLED, "connections": {**LISTED, "silent": []}})
    assert ran(capsys, "kill-connection", "1-2") == (0, "Ended 1 connection.\n", "")
    assert ran(capsys, "kill-connection", "--idle", "1h", "--yes") == (0, "Ended 1 connection.\n", "")
    assert shop.asked[-1] == ["kill-connection", [CONNECTION["id"]] * 2]
    status, _, errors = ran(capsys, "kill-connection", "--idle", "1h")
    assert status == 2 and "2 connections would end." in errors and "--yes" in errors
    shop.answers["kill-connection"] = {**KILLED, "ended": [], "gone": ["1-2"], "late": ["3-4"]}
    status, output, _ = ran(capsys, "kill-connection", "1-2", "3-4")
    assert (status, output.split(". ")[0]) == (1, "No connection was ended")
    assert "Not open: 1-2" in output and "not answered in time: 3-4" in output


@pytest.mark.parametrize(("typed", "ended"), [("y", True), ("n", False), ("", False)])
def test_a_person_is_asked_before_many_end(
    shop: MadeUp, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, typed: str, ended: bool
) -> None:
    rows = [{**CONNECTION, "id": f"1-{number}", "peer": "\x1b[31m"} for number in range(12)]
    shop.answers.update({"kill-connection": KILLED, "connections": {**LISTED, "connections": rows, "matched": 12}})
    terminal = io.StringIO(typed + "\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    status, _, errors = ran(capsys, "kill-connection", "--idle", "1h")
    assert (status == 0) is ended is (shop.asked[-1][0] == "kill-connection")
    assert errors.startswith("  1-0 from \\x1b[31m\n  1-1 ") and "  and 2 more\nEnd 12 connections? [y/N]: " in errors


def test_rates_are_those_between_two_looks() -> None:
    before = {
        "totals": {"accepted": 10, "closed": {"done": 3}},
        "listeners": [],
        "workers": [{"pid": 1, "messages": 5}],
    }
    after = {"totals": {"accepted": 30, "closed": {"done": 7}}, "listeners": [], "workers": [{"pid": 1, "messages": 6}]}
    after["workers"] = [{"pid": 1, "messages": 6}, {"pid": 2, "messages": 100}]
    found = stats.with_rates(before, after, 2.0)
    assert found["rates"] == {"accepted": 10.0, "closed": {"done": 2.0}}
    assert [each["rates"] for each in found["workers"]] == [{"messages": 0.5}, None]


@pytest.mark.parametrize("what", ["status", "workers"])
def test_tables_as_json(shop: MadeUp, capsys: pytest.CaptureFixture[str], what: str) -> None:
    status, output, _ = ran(capsys, what, "--json")
    assert (status, json.loads(output)) == (0, shop.answers[what])


def test_a_failure_says_why_and_ends_with_its_code(shop: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    shop.answers["reload"] = BadHandler("shop.py cannot be imported.", "\x1b]0;pwned\x07\n^", "Mend it.")
    assert ran(capsys, "reload")[2] == "Error: shop.py cannot be imported.\n\\x1b]0;pwned\\x07\n^\nMend it.\n"
    shop.answers["reload"] = BadHandler("shop.py cannot be imported.", "SyntaxError", "Mend it.")
    assert ran(capsys, "reload") == (4, "", "Error: shop.py cannot be imported.\nSyntaxError\nMend it.\n")
    status, output, errors = ran(capsys, "reload", "--json")
    assert (status, errors) == (4, "")
    assert json.loads(output) == {
        "error": {"what": "shop.py cannot be imported.", "why": "SyntaxError", "hint": "Mend it.", "exit_code": 4}
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("statuts", "There is no command 'statuts' for a running server.\nDid you mean 'status'?"),
        ("connections --state ajar", "--state cannot be 'AJAR'."),
        ("connections --sort colour", "--sort cannot be 'colour'."),
        ("connections --peer nobody", "--peer cannot be 'nobody'."),
        ("connections --field device", "--field cannot be 'device'."),
        ("connections --limit 0", "--limit cannot be 0."),
        ("connections --older soon", "--older cannot be 'soon'."),
        ("kill-connection", "Which connections shall end?"),
        ("kill-connection 1-2 --idle 1h", "Ids and filters do not go together."),
        ("log-level loud", "The log has no level 'loud'."),
        ("stats --interval 0", "--interval cannot be '0'."),
        ("--name shop status", "--name stands behind the command.\nFor example: pronghorn ctl status --name NAME"),
        ("--json status", "--json stands behind the command.\nFor example: pronghorn ctl status --json"),
        ("--jason status", "No such option '--jason'."),
        ("resize", "Missing argument 'N'."),
        ("resize 0", "There cannot be '0' workers."),
        ("resize x", "There cannot be 'x' workers."),
        ("status --timeout 0", "--timeout cannot be '0'."),
        ("status --timeout soon", "--timeout cannot be 'soon'."),
    ],
)
def test_a_wrong_line_asks_nobody(shop: MadeUp, capsys: pytest.CaptureFixture[str], arguments: str, said: str) -> None:
    status, output, errors = ran(capsys, *arguments.split())
    assert (status, output) == (2, "")
    assert errors.startswith(f"Error: {said}")
    assert shop.asked == []


# Which server


def test_nobody_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "dead.sock").touch()
    said = f"Error: No server is running that this user can control.\nLooked into {folder}.\n{client.START}\n"
    assert ran(capsys, "status") == (1, "", said)
    said = f"Error: No server named shop is running.\nLooked into {folder}.\n{client.START}\n"
    assert ran(capsys, "status", "--name", "shop") == (1, "", said)
    assert json.loads(ran(capsys, "status", "--json")[1])["error"]["exit_code"] == 1


def test_several_run(shop: MadeUp, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = ControlServer.open("other", f"{folder}/other.sock")
    try:
        status, _, errors = ran(capsys, "status")
        assert status == 1
        assert errors.splitlines()[:2] == ["Error: 2 servers are running.", "Running: other, shop."]
        assert "pronghorn ctl status --name other" in errors
        assert ran(capsys, "status", "--name", "shop")[0] == 0
        assert ran(capsys, "status", "--socket", f"{folder}/shop.sock")[0] == 0
        assert "Running: other, shop." in ran(capsys, "status", "-n", "shoppe")[2]
    finally:
        other.close()


def test_the_servers_own_variables_choose_it(
    shop: MadeUp, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRONGHORN_NAME", "none")
    assert "named none" in ran(capsys, "status")[2]
    monkeypatch.setenv("PRONGHORN_CONTROL_SOCKET", f"{folder}/shop.sock")
    assert ran(capsys, "status")[0] == 0
    monkeypatch.setenv("PRONGHORN_CONTROL_SOCKET", "auto")
    assert "named none" in ran(capsys, "status")[2]


@pytest.fixture
def other(folder: Path) -> Iterator[MadeUp]:
    """Another one beside it."""
    made = MadeUp(f"{folder}/other.sock")
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.over = True
    thread.join()


@pytest.mark.parametrize(
    ("file", "arguments", "variables"),
    [
        ('name = "shop"', "", {}),
        ('name = "shop"\nwrokers = "no matter"', "", {}),
        ('control-socket = "pronghorn/shop.sock"', "", {}),
        ('control_socket = "shop.sock"\nchdir = "pronghorn"\nname = "whatever"', "", {}),
        ('name = "other"', "", {"PRONGHORN_NAME": "shop"}),
        ('name = "other"', "--name shop", {}),
        (
            'control_socket = "pronghorn/other.sock"',
            "--name shop",
            {"PRONGHORN_CONTROL_SOCKET": "pronghorn/other.sock"},
        ),
        ('control_socket = "pronghorn/shop.sock"\nname = "mine"', "--name mine", {"PRONGHORN_NAME": "none"}),
        ('control_socket = "pronghorn/other.sock"', "", {"PRONGHORN_CONTROL_SOCKET": "pronghorn/shop.sock"}),
        ('control_socket = "pronghorn/other.sock"\nname = "other"', "--socket pronghorn/shop.sock --name other", {}),
        ("name = 'unfinished", "--name shop", {}),
        ("name = 3", "", {"PRONGHORN_NAME": "shop"}),
        ('control_socket = "off"\nname = "shop"', "", {"PRONGHORN_CONTROL_SOCKET": "auto"}),
    ],
)
def test_of_several_servers_the_one_is_asked_that_is_meant(
    shop: MadeUp,
    other: MadeUp,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    arguments: str,
    variables: dict[str, str],
) -> None:
    (tmp_path / "pronghorn.toml").write_text(file)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    status, _, errors = ran(capsys, "status", *arguments.split())
    assert (status, errors) == (0, "")
    assert (len(shop.asked), len(other.asked)) == (1, 0)


@pytest.mark.parametrize(
    ("bind", "name"),
    [
        ('[":18200", "unix:b"]', "0.0.0.0:18200"),
        ('"127.0.0.1:18200,:1"', "127.0.0.1:18200"),
        ('"unix:/run/b"', "unix:/run/b"),
    ],
)
def test_of_several_servers_the_files_address_tells(
    shop: MadeUp, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bind: str, name: str
) -> None:
    (tmp_path / "pronghorn.toml").write_text(f"bind = {bind}\n")
    assert ran(capsys, "status")[0] == 0  # there is but one
    second = ControlServer.open(name, f"{folder}/{paths.file_name(name)}.sock")
    try:
        assert f"{paths.file_name(name)}.sock has not answered" in ran(capsys, "status", "--timeout", "50ms")[2]
        (tmp_path / "pronghorn.toml").write_text('bind = "127.0.0.1:0"')
        assert "2 servers are running" in ran(capsys, "status")[2]
    finally:
        second.close()


def test_a_settings_file_that_is_named_tells_the_server(
    shop: MadeUp, other: MadeUp, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pronghorn.toml").write_text('name = "other"')
    (tmp_path / "pyproject.toml").write_text('[tool.pronghorn]\nname = "shop"')
    for arguments in (["status", "--config", "pyproject.toml"], ["status", "-c", "pyproject.toml"]):
        assert ran(capsys, *arguments)[0] == 0
    monkeypatch.setenv("PRONGHORN_CONFIG", "pyproject.toml")
    assert ran(capsys, "status")[0] == 0
    assert (len(shop.asked), len(other.asked)) == (3, 0)
    assert ran(capsys, "status", "-c", "pronghorn.toml")[0] == 0
    assert len(other.asked) == 1
    status, _, errors = ran(capsys, "status", "-c", "none.toml")
    assert status == 2
    assert "none.toml cannot be read" in errors


def test_a_settings_file_of_no_use(
    shop: MadeUp, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (tmp_path / "pronghorn.toml").write_text("name = 'unfinished")
    assert ran(capsys, "status")[0] == 0  # there is but one
    second = ControlServer.open("other", f"{folder}/other.sock")
    try:
        status, _, errors = ran(capsys, "status")
    finally:
        second.close()
    assert status == 1
    assert "pronghorn.toml is not TOML. Expected" in errors
    assert "Running: other, shop." in errors
    (tmp_path / "pronghorn.toml").write_text("name = 'shoe'")
    status, _, errors = ran(capsys, "status")
    assert status == 1
    assert "Error: No server named shoe is running." in errors
    assert f"That is its name in {tmp_path}/pronghorn.toml. Running: shop." in errors


@pytest.mark.parametrize(("made", "said"), [(False, "no such socket"), (True, "the server that made it has died")])
def test_nobody_at_that_socket(folder: Path, capsys: pytest.CaptureFixture[str], made: bool, said: str) -> None:
    if made:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(f"{folder}/shop.sock")
    status, _, errors = ran(capsys, "status", "--socket", f"{folder}/shop.sock")
    assert status == 1
    assert said in errors


def test_what_is_no_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop.toml").touch()
    status, _, errors = ran(capsys, "status", "--socket", f"{tmp_path}/shop.toml")
    assert (status, "That is no socket." in errors) == (1, True), errors


def test_a_server_that_may_not_be_asked_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = ControlServer.open("shop", f"{folder}/shop.sock")
    monkeypatch.setattr(client, "_listens", lambda _: None)
    assert client.find("shop") == client.find("") == f"{folder}/shop.sock"
    with pytest.raises(client.NoServer, match="No server named ship is running"):
        client.find("ship")
    shop.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_whoever_may_not_ask_is_told_who_may(folder: Path) -> None:
    closed = ControlServer.open("shop", f"{folder}/shop.sock")
    for up in (folder, *folder.parents[:3]):
        up.chmod(0o755)
    code = (
        "import os, sys; from pronghorn.control import client; from pronghorn.errors import PronghornError\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "assert client._listens(sys.argv[1]) is None\n"
        "try: client.ask(sys.argv[1], {'command': 'status'}, 5)\n"
        "except PronghornError as error: print(error.why, error.hint)\n"
    )
    command = [sys.executable, "-c", code, f"{folder}/shop.sock"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    finally:
        closed.close()
    who = "Ask as the server's user, as root, or as a member of its --control-group."
    assert said == f"The permissions of that path do not let you in. {who}\n"


# Waiting


def test_an_answer_may_take_too_long(shop: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    status, output, errors = ran(capsys, "drain", "--timeout", "50ms")
    assert (status, output) == (1, "")
    assert "has not answered in time" in errors
    assert "It goes on with what it was asked.\nSee how it is with: pronghorn ctl status" in errors
    del shop.answers["status"]
    errors = ran(capsys, "status", "--timeout", "50ms")[2]
    assert "its supervisor is stopped, or the machine is very busy" in errors
    assert "ctl status" not in errors


def test_every_command_waits_long_enough() -> None:
    assert list(request.REQUESTS) == list(COMMANDS)
    assert request.duration("99999999h") == request.LONGEST


@pytest.mark.parametrize("reply", [b"", b"hello\n", b"[]\n", b'{"ok": false, "error": 7}\n', b'{"ok": true}\n'])
def test_whoever_answers_may_be_anything(folder: Path, capsys: pytest.CaptureFixture[str], reply: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/odd.sock")
        listener.listen()

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        status, _, errors = ran(capsys, "status", "--socket", f"{folder}/odd.sock")
        thread.join()
    assert status == 1
    assert ("ended before it answered" if not reply else "no Pronghorn server") in errors


def test_a_server_that_dies_meanwhile(shop: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    def die() -> None:
        while not shop.asked:
            time.sleep(0.005)
        shop.over = True

    thread = threading.Thread(target=die)
    thread.start()
    status, _, errors = ran(capsys, "drain")
    thread.join()
    assert (status, errors) == (1, "Error: The server has ended before it could answer.\n")


# As it is printed


def piped(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables, "XDG_RUNTIME_DIR": str(folder.parent)}
    line = [sys.executable, "-m", "pronghorn", "ctl", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=30, env=environment)


def test_a_pipe_gets_whole_lines_and_no_colours(shop: MadeUp, folder: Path) -> None:
    why = "the reason " * 30
    shop.answers["status"] = {**STATUS, "last_reload": {"ok": False, "seconds": 1, "ended_at": 0, "why": why}}
    done = piped(folder, "status", "--name", "shop", COLUMNS="40")
    assert (done.returncode, done.stderr) == (0, "")
    assert why.strip() in done.stdout
    assert "\x1b" not in done.stdout
    assert all(line == line.rstrip() for line in done.stdout.splitlines())


def test_no_colour_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(force_terminal=True, width=80, color_system="standard")
    with console.capture() as captured:
        for _, words in tables.status_rows(STATUS):
            console.print(words)
    assert "\x1b[3" not in captured.get()


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0"), (9999, "9,999"), (10_000, "10.0k"), (999_960, "1.0M"), (10**21, "1000E")]
)
def test_counts_stay_short(value: int, said: str) -> None:
    assert tables.number(value) == said


@pytest.mark.parametrize(
    ("value", "long", "short"),
    [
        (0, "0 B", "0"),
        (1023, "1023 B", "1023"),
        (1536, "1.5 KiB", "1.5K"),
        (2**40, "1.0 TiB", "1.0T"),
        (None, "?", "?"),
    ],
)
def test_sizes(value: int | None, long: str, short: str) -> None:
    assert (tables.size(value), tables.size(value, short=True)) == (long, short)


@pytest.mark.parametrize(
    ("value", "long", "short"),
    [
        (0.04, "0.0 s", "0s"),
        (9.96, "10 s", "10s"),
        (59.6, "1 min 0 s", "1m"),
        (3600, "1 h 0 min", "1h"),
        (200_000, "2 d 7 h", "2d"),
    ],
)
def test_spans(value: float, long: str, short: str) -> None:
    assert (tables.span(value), tables.span(value, short=True)) == (long, short)


# With a real server

HANDLER = """
import os, pronghorn
@pronghorn.message(pronghorn.lines)
def reply(line):
    return line.upper()
"""


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Launched]:
    """A server named shop, of a handler that can be changed; its connections have half a minute to finish, or as many
    seconds as the test says."""
    monkeypatch.delenv("PRONGHORN_NAME", raising=False)
    monkeypatch.delenv("PRONGHORN_CONTROL_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(paths, "RUN", f"{tmp_path}/run")  # where other servers of this machine may be
    (tmp_path / "mine.py").write_text(HANDLER)
    with launched(tmp_path, "mine:reply", name="shop", drain_timeout=getattr(request, "param", 30)) as server:
        assert "listening" in server.report, server.log
        server.ready()
        yield server


def result(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What a command that is done tells a program."""
    status, output, errors = ran(capsys, *arguments, "--json")
    assert (status, errors) == (0, ""), output
    found: dict[str, Any] = json.loads(output)
    return found


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that is done tells a person."""
    status, output, errors = ran(capsys, *arguments)
    assert (status, errors) == (0, ""), output
    return output


@pytest.mark.slow
def test_a_servers_whole_life_by_ctl(real: Launched, capsys: pytest.CaptureFixture[str]) -> None:
    assert real.ask(b"hello\n") == b"HELLO\n"
    status = wait_for(lambda: (now := result(capsys, "status"))["workers"]["ready"] == 1 and now, "a worker")
    assert (status["state"], status["pid"], status["name"]) == ("SERVING", real.pid, "shop")
    assert (status["accepted"], status["generation"], status["workers"]["ready"]) == (1, 1, 1)
    assert "SERVING" in said(capsys, "status")
    (worker,) = result(capsys, "workers")["workers"]
    assert worker["pid"] in real.workers()
    assert str(worker["pid"]) in said(capsys, "workers")

    assert said(capsys, "resize", "2") == "Resized: 2 workers.\n"
    wait_for(lambda: result(capsys, "status")["workers"]["ready"] == 2, "two workers")
    assert result(capsys, "resize", "1") == {"workers": 1}
    wait_for(lambda: len(result(capsys, "workers")["workers"]) == 1, "one worker")

    assert result(capsys, "reload")["generation"] == 2
    assert said(capsys, "reload").endswith("generation 3 serves.\n")
    assert "took" in said(capsys, "status")

    assert result(capsys, "drain") == {}
    assert result(capsys, "status")["state"] == "DRAINED"
    assert said(capsys, "workers") == "There is no worker. To have some: pronghorn ctl resize N\n"
    with real.connect() as waits:
        waits.sendall(b"patience\n")
        assert said(capsys, "resize", "1") == "Resized: 1 worker.\n"
        assert waits.recv(100) == b"PATIENCE\n"
    assert said(capsys, "drain").startswith("Drained: ")

    assert said(capsys, "stop") == "Stopped.\n"
    assert real.exit() == 0


def test_an_upgrade_by_ctl(real: Launched, capsys: pytest.CaptureFixture[str]) -> None:
    """The old program answers, and from then on the new one does; the socket is never away."""
    new = result(capsys, "upgrade")["pid"]
    assert new != real.pid
    wait_for(lambda: result(capsys, "status")["pid"] == new, "the new program")
    assert real.exit() == 0
    assert result(capsys, "status")["pid"] == new
    again = said(capsys, "upgrade")
    assert again.startswith("Upgraded: process ")
    newest = int(again.split()[2])
    wait_for(lambda: gone(new), "the end of the second")
    assert result(capsys, "status")["pid"] == newest
    assert result(capsys, "stop") == {"status": 0, "cut": 0}
    assert list((real.errors.parent / "pronghorn").iterdir()) == []


@pytest.mark.slow
def test_an_upgrade_that_fails_changes_nothing(real: Launched, capsys: pytest.CaptureFixture[str]) -> None:
    (real.errors.parent / "mine.py").write_text("def reply(:\n")
    status, output, errors = ran(capsys, "upgrade")
    assert (status, output) == (4, "")
    assert "mine" in errors
    assert result(capsys, "status")["pid"] == real.pid
    assert real.ask(b"still here\n") == b"STILL HERE\n"
    assert said(capsys, "stop") == "Stopped.\n"
    assert list((real.errors.parent / "pronghorn").iterdir()) == []


def test_a_reload_that_fails_says_why(real: Launched, capsys: pytest.CaptureFixture[str]) -> None:
    (real.errors.parent / "mine.py").write_text("def reply(:\n")
    status, output, errors = ran(capsys, "reload")
    assert (status, output) == (4, "")
    assert "mine" in errors and "SyntaxError" in errors
    status, output, errors = ran(capsys, "reload", "--json")
    assert (status, errors) == (4, "")
    assert json.loads(output)["error"]["exit_code"] == 4
    assert result(capsys, "status")["last_reload"]["ok"] is False
    assert "failed" in said(capsys, "status")
    assert real.ask(b"still here\n") == b"STILL HERE\n"


@pytest.mark.parametrize(
    ("real", "finish"), [(30, True), pytest.param(5, False, marks=pytest.mark.slow)], indirect=["real"]
)
def test_stop_while_clients_talk(real: Launched, capsys: pytest.CaptureFixture[str], finish: bool) -> None:
    """A conversation that comes to its end is not cut; one that does not is, and both are told of."""
    with real.connect() as client:
        client.sendall(b"half a li")
        wait_for(lambda: result(capsys, "status")["bytes_in"] == len(b"half a li"), "the conversation")
        stopping = subprocess.Popen(
            [sys.executable, "-m", "pronghorn", "ctl", "stop", "-n", "shop"], stdout=subprocess.PIPE
        )
        wait_for(lambda: result(capsys, "status")["state"] == "DRAINING", "the drain")
        assert ran(capsys, "reload")[0] != 0, "it is too late for that"
        if finish:
            client.sendall(b"ne\n")
            assert client.recv(100) == b"HALF A LINE\n"
            assert client.recv(100) == b""
        output, _ = stopping.communicate(timeout=PATIENCE)
    assert stopping.returncode == 0
    assert real.exit() == (0 if finish else 6)
    assert output == (b"Stopped.\n" if finish else b"Stopped; the drain deadline cut 1 connection.\n")


@pytest.mark.slow
def test_two_who_stop_at_once_both_hear_of_the_end(
    real: Launched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [sys.executable, "-m", "pronghorn", "ctl", "stop", "--json", "--socket", f"{tmp_path}/pronghorn/shop.sock"]
    with real.connect() as client:
        client.sendall(b"half a li")
        wait_for(lambda: result(capsys, "status")["bytes_in"] == len(b"half a li"), "the conversation")
        before = held_by(real.pid, "socket:")
        both = [subprocess.Popen(line, stdout=subprocess.PIPE) for _ in range(2)]
        wait_for(lambda: len(held_by(real.pid, "socket:") - before) == 2, "both requests")
        client.sendall(b"ne\n")
        outputs = [each.communicate(timeout=PATIENCE)[0] for each in both]
    assert [json.loads(output) for output in outputs] == [{"status": 0, "cut": 0}] * 2


def test_the_next_one_can_start_when_stop_has_ended(
    real: Launched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "next").mkdir()
    assert said(capsys, "stop") == "Stopped.\n"
    with launched(tmp_path / "next", name="shop", bind=f"127.0.0.1:{real.address[1]}") as server:
        assert server.report["listening"] == real.report["listening"]


@pytest.mark.slow
def test_a_second_copy_is_noticed(real: Launched, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "next").mkdir()
    with launched(tmp_path / "next", name="shop") as second:
        assert second.exit() == 5
        error = second.report["error"]
        assert error["what"] == "A server named shop is running already."
        assert f"It is process {real.pid}," in error["why"]
        assert "pronghorn ctl status --name shop" in error["hint"]
        assert error["why"] in second.log
    assert result(capsys, "status")["pid"] == real.pid
    with launched(tmp_path / "next", name="other") as other:
        assert ran(capsys, "status")[0] == 1, "there are two"
        assert result(capsys, "status", "--name", "other")["pid"] == other.pid
    assert result(capsys, "status")["pid"] == real.pid, "the other one is dead, and does not count"


def test_what_was_killed_has_no_successor_but_the_next_start(
    real: Launched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real.send(signal.SIGKILL)
    real.exit()
    status, _, errors = ran(capsys, "status")
    assert status == 1 and "No server is running" in errors
    (tmp_path / "next").mkdir()
    with launched(tmp_path / "next", name="shop") as server:
        assert result(capsys, "status")["pid"] == server.pid


@pytest.mark.slow
def test_the_socket_where_it_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.sock"
    with launched(tmp_path, control_socket=str(path)) as server:
        assert result(capsys, "status", "--socket", str(path))["pid"] == server.pid
        assert server.stop() == 0
    assert not path.exists()
    with launched(tmp_path, control_socket=f"{tmp_path}/no/mine.sock") as server:
        assert server.exit() == 5
        assert "control socket" in server.report["error"]["what"]
    with launched(tmp_path, control_socket="off") as server:
        assert "listening" in server.report


def test_no_worker_keeps_the_socket_and_no_thread_serves_it(real: Launched, tmp_path: Path) -> None:
    path = tmp_path / "pronghorn" / "shop.sock"
    assert psutil.Process(real.pid).num_threads() == 1
    lock = f"{path}.lock"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        held = {each.pid: held_by(each.pid) for each in psutil.Process(real.pid).children()}
    assert held
    assert lock in held_by(real.pid)
    for names in held.values():
        assert lock not in names
    assert held_by(real.pid, "socket:") - set.union(*held.values()), "the supervisor has sockets that no worker has"


def test_a_crowd_at_the_control_socket_hurts_nobody(
    real: Launched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fifty that say nothing, garbage, and a mebibyte: clients are served, workers replaced, and ctl is heard again."""
    path = str(tmp_path / "pronghorn" / "shop.sock")
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(50)]
        for number, each in enumerate(crowd):
            each.setblocking(False)
            each.connect(path)
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                each.send(b"" if number % 3 == 0 else b"\xff" * 100 + b"\n" if number % 3 == 1 else b"x" * 2**20)
        assert real.ask(b"hello\n") == b"HELLO\n"
        (victim,) = real.workers()
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: victim not in real.workers() and len(real.workers()) == 1, "the next worker")
        assert real.ask(b"hello\n") == b"HELLO\n"
    wait_for(lambda: ran(capsys, "status")[0] == 0, "the end of the crowd")
    assert real.stop() == 0


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({}, ""),
        ({"left": 1}, " 1 connection is kept by old workers."),
        ({"stayed": 3, "left": 2, "spread": 5.0}, " 2 connections are told goodbye over 5 s."),
        ({"moved": 1, "longest_pause": 0.002}, " 1 connection moved, held up for 2.0 ms at most."),
        (
            {"moved": 2, "longest_pause": 0.002, "stayed": 1, "left": 1},
            " 2 connections moved, held up for 2.0 ms at most; 1 stayed.",
        ),
    ],
)
def test_what_a_reload_does_to_connections_is_told(result: dict[str, float], said: str) -> None:
    assert tables._moves(result) == said


def test_one_worker_goes_its_way() -> None:
    rows = dict(tables.status_rows({**STATUS, "workers": {**STATUS["workers"], "draining": 1}}))
    assert rows["Workers"].plain == "3 of 4 ready, 1 on its way out, generation 3"
