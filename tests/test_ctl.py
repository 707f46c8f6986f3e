"""`pronghorn ctl`: what it asks, what it prints, and how it ends; first with a server that is made up, then with real
ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pronghorn import meeting
from pronghorn.call import COMMANDS, Done
from pronghorn.cli import _server, _tables, ctl, main
from pronghorn.control import Control
from pronghorn.errors import BadHandler
from pronghorn.watch import Watch

STATUS: dict[str, Any] = {
    "state": "SERVING", "name": "127.0.0.1:8000", "pid": 4711, "version": "1.2.3", "uptime": 7384.2, "generation": 3,
    "handler": "shop.py:reply", "style": "message", "model": "epoll",
    "listening": ["127.0.0.1:8000", "unix:/run/s\x1b"],
    "workers": {"wanted": 4, "ready": 3, "draining": 2}, "open": 1234, "accepted": 9876543, "refused": 12,
    "messages": 123456789, "bytes_in": 2**33 + 5, "bytes_out": 2**31, "handler_errors": 3,
    "closed": {"done": 9870000, "reset": 120, "idle": 0}, "last_reload": None,
}  # fmt: skip
WORKER = {
    "slot": 128, "pid": 4194303, "supervisor": 1, "generation": 300, "state": "STARTING", "age": 8640000.0,
    "open": 100_000, "accepted": 10**12, "messages": 10**15, "bytes_in": 2**60, "bytes_out": 1023, "memory": None,
    "beat_age": 31.0,
}  # fmt: skip


class MadeUp:
    """Commands that answer what the test wants."""

    def __init__(self, path: str) -> None:
        self.control = Control.open("shop", path)
        self.answers: dict[str, Any] = {"status": STATUS, "workers": {"workers": [WORKER] * 3}}
        self.asked: list[Any] = []
        self.over = False

    def __getattr__(self, command: str) -> Any:
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
        watch = Watch()
        self.control.serve(watch, self)
        while not self.over:
            watch.wait(0.01)
        self.control.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that there is for control sockets."""
    folder = tmp_path / "pronghorn"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(meeting, "folders", lambda: [str(folder)])
    for name in ("PRONGHORN_NAME", "PRONGHORN_CONTROL_SOCKET", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
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
        "Server 127.0.0.1:8000 (process 4711, Pronghorn 1.2.3)",
        "State SERVING, up 2 h 3 min",
        "Handler shop.py:reply (message style) under epoll",
        "Listening at 127.0.0.1:8000",
        "unix:/run/s?",
        "Workers 3 of 4 ready, 2 draining, generation 3",
        "Connections 1,234 open, 9,876,543 accepted, 12 refused",
        "closed: 9,870,000 done, 120 reset",
        "Messages 123,456,789",
        "Bytes 8.0 GiB in, 2.0 GiB out",
        "Handler errors 3",
        "Last reload none yet",
    ]


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
        ("stop", {"status": 0, "cut": 0}, "Stopped."),
        ("stop", {"status": 6, "cut": 1}, "Stopped; the drain deadline cut 1 connection."),
        ("stop", {"status": 6, "cut": 3}, "Stopped; the drain deadline cut 3 connections."),
    ],
)
def test_what_was_done_is_told_for_eyes_and_for_programs(
    shop: MadeUp, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: str, result: Any, said: str
) -> None:
    monkeypatch.setattr(_server, "LINGER", 0.0)
    command, *count = what.split()
    shop.answers[command] = result
    assert ran(capsys, *what.split()) == (0, f"{said}\n", "")
    status, output, errors = ran(capsys, *what.split(), "--json")
    assert (status, json.loads(output), errors) == (0, result, "")
    assert shop.asked == [[command, *map(int, count)]] * 2


@pytest.mark.parametrize("what", ["status", "workers"])
def test_tables_as_json(shop: MadeUp, capsys: pytest.CaptureFixture[str], what: str) -> None:
    status, output, _ = ran(capsys, what, "--json")
    assert (status, json.loads(output)) == (0, shop.answers[what])


def test_a_failure_says_why_and_ends_with_its_code(shop: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
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
        ("stats", "There is no command 'stats' for a running server.\nDid you mean 'status'?"),
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
    said = f"Error: No server is running that this user can control.\nLooked into {folder}.\n{_server.START}\n"
    assert ran(capsys, "status") == (1, "", said)
    said = f"Error: No server named shop is running.\nLooked into {folder}.\n{_server.START}\n"
    assert ran(capsys, "status", "--name", "shop") == (1, "", said)
    assert json.loads(ran(capsys, "status", "--json")[1])["error"]["exit_code"] == 1


def test_several_run(shop: MadeUp, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Control.open("other", f"{folder}/other.sock")
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


@pytest.mark.parametrize(("made", "said"), [(False, "no such socket"), (True, "the server that made it has died")])
def test_nobody_at_that_socket(folder: Path, capsys: pytest.CaptureFixture[str], made: bool, said: str) -> None:
    if made:
        import socket

        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(f"{folder}/shop.sock")
    status, _, errors = ran(capsys, "status", "--socket", f"{folder}/shop.sock")
    assert status == 1
    assert said in errors


# Waiting


def test_an_answer_may_take_too_long(shop: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    status, output, errors = ran(capsys, "drain", "--timeout", "50ms")
    assert (status, output) == (1, "")
    assert "has not answered in time" in errors
    assert "It goes on with what it was asked" in errors


def test_every_command_waits_long_enough() -> None:
    assert set(ctl.PATIENCE) == set(COMMANDS)
    assert ctl.duration("99999999h") == ctl.LONGEST


@pytest.mark.parametrize("reply", [b"", b"hello\n", b"[]\n", b'{"ok": false, "error": 7}\n', b'{"ok": true}\n'])
def test_whoever_answers_may_be_anything(folder: Path, capsys: pytest.CaptureFixture[str], reply: bytes) -> None:
    import socket

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
    done = piped(folder, "status", COLUMNS="40")
    assert (done.returncode, done.stderr) == (0, "")
    assert why.strip() in done.stdout
    assert "\x1b" not in done.stdout


def test_no_colour_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(force_terminal=True, width=80, color_system="standard")
    with console.capture() as captured:
        for _, words in _tables.status_rows(STATUS):
            console.print(words)
    assert "\x1b[3" not in captured.get()


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0"), (9999, "9,999"), (10_000, "10.0k"), (999_960, "1.0M"), (10**21, "1000E")]
)
def test_counts_stay_short(value: int, said: str) -> None:
    assert _tables.number(value) == said


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
    assert (_tables.size(value), _tables.size(value, short=True)) == (long, short)


@pytest.mark.parametrize(
    ("value", "long", "short"),
    [(0.04, "0.0 s", "0s"), (9.96, "10 s", "10s"), (59.6, "1 min 0 s", "1m"), (3600, "1 h 0 min", "1h"),
     (200_000, "2 d 7 h", "2d")],
)  # fmt: skip
def test_spans(value: float, long: str, short: str) -> None:
    assert (_tables.span(value), _tables.span(value, short=True)) == (long, short)
