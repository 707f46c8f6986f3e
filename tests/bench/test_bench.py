"""`pronghorn bench` as it is called: real servers for some tenths of a second, and what is written of them."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_load import server

from pronghorn.bench import learning, plots
from pronghorn.cli.main import run
from pronghorn.testing import Served, serving

SHORT = ["--duration", "100ms", "--warm-up", "0"]
NEEDS = "--models epoll --clients 2".split()

# A process for each connection, which burns 5 ms and ends; and a server that never answers.
BURNS = """
import os, socket, sys, time
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=100)
while True:
    sock = listener.accept()[0]
    pid = os.fork()
    if not pid:
        data = sock.recv(1000)
        until = time.process_time() + 0.005
        while time.process_time() < until: pass
        sock.sendall(data.upper())
        os._exit(0)
    sock.close()
    os.waitpid(pid, 0)
"""
COUNT = iter(range(1, 10))
WRONG = {
    "--models epol": "'epoll'",
    "--models ,": "names none",
    "--clients 0": "from 1 to",
    "--clients 1,x": "from 1 to",
    "--clients 999999": "descriptors",
    "--duration 0": "50 ms",
    "--duration soon": "--duration",
    "--rate 1e9": "such as 200 or 5k",
    "--rate fast": "10,000,000",
    "--size 1": "from 2 bytes",
    "--depth 0": "1 at least",
    "--connect --depth 2": "exclude",
    "--rate 0": "from 0.1 to",
    "--message ''": "a byte at least",
    "--message x --size 9": "exclude",
    "unix:/nowhere/at.all": "No such file",
    "--loads many": "auto",
    "--script nothing.py": "no script",
    "--fail-if p99>20": "unit",
    "--fail-if thrd:p99>1ms": "not measured",
    "--against ''": "no program",
    "--json /nowhere/at/all.json": "/nowhere/at",
    "--html .": "folder",
    "--idle-timeout 5s": "after --",
    "-- --model epoll": "--models",
    "-- --bind :1": "free port",
    "-- --idle-timeout soon": "idle-timeout",
    "--models epoll -- --exec cat": "flow of control",
    "127.0.0.1:1": "Nobody listens",
    ":99999": "For example: 127.0.0.1:8000",
    "127.0.0.1:1 -- --idle-timeout 5s": "runs already",
    "127.0.0.1:1 --models epoll": "runs already",
    "127.0.0.1:1 --workers 2": "runs already",
}


@pytest.fixture(scope="module")
def upper() -> Iterator[Served]:
    with serving("upper", model="epoll") as served:
        yield served


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Servers of these tests answer at once, or never."""
    never = "no first reply" in request.node.name or "No reply came" in request.node.name
    for name, seconds in {"FIRST": 1.0 if never else 15.0, "QUIET": 0.05, "GREETING": 0.01}.items():
        monkeypatch.setattr(learning, name, seconds)


def long_enough(
    capsys: pytest.CaptureFixture[str], enough: Callable[[int, str], object], *arguments: str
) -> tuple[int, str, str]:
    """The exit status and both outputs of a bench; where the machine was too busy for a short one, of a longer one."""
    for seconds in (0.1, 0.5, 2.5):
        status = run(["bench", *arguments, f"--duration={seconds}", "--warm-up=0"])
        out, err = capsys.readouterr()
        if enough(status, out):
            break
    return status, out, err


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, action in before.items():
        signal.signal(number, action)


def place(served: Served) -> str:
    host, port = served.address
    return f"{host}:{port}"


def found(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(path.read_text())
    return told


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_word_is_an_error_before_anything_starts(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [each.strip("'") for each in words.split()]
    status = run(["bench", *arguments])
    told = capsys.readouterr()
    assert status in (1, 2) and told.err.startswith("Error: ") and WRONG[words] in told.err
    assert told.out == ""


def test_a_handler_that_cannot_be_imported_is_exit_status_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text("import nothing_of_this_name")
    assert run(["bench", f"{tmp_path}/mine.py:handler"]) == 4
    assert "nothing_of_this_name" in capsys.readouterr().err


@pytest.mark.slow
def test_models_beside_each_other_and_all_that_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    drawn: list[plots.Plot] = []
    draw = plots.draw
    monkeypatch.setattr(plots, "draw", lambda findings: drawn.__setitem__(slice(None), draw(findings)) or drawn)
    where = [f"--json={tmp_path}/a.json", f"--html={tmp_path}/a.html", "--fail-if=p99>1ns"]

    def enough(status: int, out: str) -> bool:
        measured = all(each["throughput"] and each["cpu"] for each in found(tmp_path / "a.json")["cells"])
        return measured and "Recommended: epoll" in out

    status, out, err = long_enough(capsys, enough, *where, "--models=epoll,kqueue,iterative", "--clients=1,3")
    assert status == 1 and "Failed: p99>1ns: epoll with 1 client has p99" in err
    assert "Recommended: epoll" in out and "2 never got a reply" in out
    assert "Not measured: kqueue" in out
    findings = found(tmp_path / "a.json")
    cells = {(each["name"], each["clients"]): each for each in findings["cells"]}
    assert set(cells) == {(name, clients) for name in ("epoll", "iterative") for clients in (1, 3)}
    for cell in cells.values():
        assert cell["throughput"] > 0 and 0 < cell["latency"]["p50"] <= cell["latency"]["p99"] and cell["cpu"] > 0
    assert cells["iterative", 3]["unserved"] == 2 and findings["recommended"]["model"] == "epoll"
    assert findings["recommended"]["ruled_out"].keys() == {"iterative"} and findings["skipped"].keys() == {"kqueue"}
    look_at_report((tmp_path / "a.html").read_text())
    assert [each.name for each in drawn] == ["throughput", "latency", "cpu", "percentiles"]
    written = [Path(each) for each in plots.save(drawn[:1], f"{tmp_path}/plots")]
    assert [each.name for each in written] == ["throughput.svg", "throughput.png"]
    assert all(each.stat().st_size > 1000 for each in written)


def look_at_report(page: str) -> None:
    assert not re.search(r"<(script|link|iframe)|url\(|(src|href)=\"(?!data:)", page)
    images = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)">', page)
    assert len(images) == 4 and all(base64.b64decode(data).startswith(b"<?xml") for data, _ in images)
    assert all("epoll" in alt for _, alt in images) and "Kernel" in page and "pronghorn bench" not in page[:20]


@pytest.mark.slow
def test_cpu_counts_children_that_have_ended(tmp_path: Path, upper: Served) -> None:
    """Each connection's process burns 5 ms and is gone when the server's time is read."""
    (tmp_path / "burns.py").write_text(BURNS)
    other = f"burns={sys.executable} {tmp_path}/burns.py"
    arguments = ["--connect", "--clients=2", "--warm-up=0", "--duration=0.3", f"--json={tmp_path}/a.json"]
    assert run(["bench", place(upper), "--against", other, *arguments]) == 0
    cells = {each["name"]: each for each in found(tmp_path / "a.json")["cells"]}
    assert 0.0025 <= cells["burns"]["cpu"] < 0.05  # the last one may not be gone yet
    assert 0 < cells[place(upper)]["cpu"] < 0.005


@pytest.mark.slow
def test_a_server_that_runs_and_json_on_standard_output(upper: Served, capsys: pytest.CaptureFixture[str]) -> None:
    words = [place(upper), "--clients=2", "--json=-", "--fail-if=errors>0", "--depth=4"]
    status, out, err = long_enough(capsys, lambda status, out: json.loads(out)["cells"][0]["cpu"], *words)
    findings = json.loads(out)
    assert status == 0 and findings["cells"][0]["cpu"] > 0 and "p99.9" in err
    assert findings["recommended"]["model"] is None and findings["cpu_unknown"] == {}


@pytest.mark.slow
def test_a_wrong_reply_is_counted_and_fails(upper: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "def request(n): return b'%d x' % n\n"
        "def reply(n, received): return n != 3 and (len(received) if received.endswith(b'X') else None)\n"
    )
    arguments = [place(upper), "--clients=2", f"--script={script}", "--fail-if=errors>0"]
    status, out, err = long_enough(capsys, lambda status, out: status == 1, *arguments)
    assert status == 1 and "wrong reply, first: reply(3, ...) returned False: b'3 X' came" in out
    assert "errors>0" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, why",
    [
        ("def request(n): return 1 / (3 - n) and b'x'\ndef reply(n, received): return True", "zero (mine.py, line 1)"),
        ("def request(n): return b'x'\ndef reply(n, received): assert n", "AssertionError (mine.py, line 2); b'X'"),
        ("def request(n): return b'x'\ndef reply(n, received): return False", "first reply is no good"),
        (
            "def request(n): return b'x'\ndef reply(n, received): return None",
            "no first reply.\nno reply within 0.3 s; b'X' came, which is not whole",
        ),
        (
            "def greeting(received): return None\ndef request(n): return b'x'\ndef reply(n, received): return 1",
            "the server does not begin, as greeting() expects.\nno greeting within 0.3 s",
        ),
        ("def request(n): return b'x", "SyntaxError"),
    ],
)
def test_a_script_that_raises_is_one_clear_error(
    upper: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, why: str
) -> None:
    (tmp_path / "mine.py").write_text(text)
    timeout = "300ms" if "within 0.3 s" in why else "10s"
    words = [place(upper), "--clients=1", f"--timeout={timeout}", f"--script={tmp_path}/mine.py"]
    status, _, told = long_enough(capsys, lambda status, out: status == 2, *words)
    assert status == 2
    assert told.startswith(f"Error: --script {tmp_path}/mine.py") and why in told and "Traceback" not in told


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--connect", "--rate=100"])
def test_a_script_with_a_greeting_in_any_load(tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    (tmp_path / "mine.py").write_text(
        "def ask(conn):\n    conn.sendall(b'hello')\n    while data := conn.recv(9): conn.sendall(data)\n"
    )
    (tmp_path / "load.py").write_text(
        "def greeting(received): return received == b'hello' or None\n"
        "def request(n): return b'x'\n"
        "def reply(n, received): return received == b'x'\n"
    )
    arguments = ["--models=thread", "--clients=1", *SHORT, f"--script={tmp_path}/load.py", "--fail-if=errors>0", how]
    assert run(["bench", f"{tmp_path}/mine.py:ask", *arguments]) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_a_first_reply_may_take_its_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server may have something to begin with its first client, such as a connection of its own."""
    (tmp_path / "load.py").write_text("def request(n): return b'x'\ndef reply(n, received): return received == b'x'\n")

    pauses = [0.6]

    def late(sock: socket.socket) -> None:
        while data := sock.recv(99):
            time.sleep(pauses.pop() if pauses else 0)
            sock.sendall(data)

    with server(late) as (host, port):
        arguments = ["--clients=1", *SHORT, f"--script={tmp_path}/load.py", "--fail-if=errors>0"]
        assert run(["bench", f"{host}:{port}", *arguments]) == 0, capsys.readouterr().err


def test_a_server_that_closes_without_a_reply_is_told_as_that() -> None:
    for connect in (False, True):
        with server(lambda sock: sock.recv(1)) as address, pytest.raises(learning.NothingLearnt) as caught:
            learning.learn(address, 40, connect=connect)
        assert str(caught.value).startswith("The server closes the connection without a reply.\nIt was sent b'1 the")


@pytest.mark.slow
def test_names_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(
        "import pronghorn\n@pronghorn.message(pronghorn.lines)\ndef bell(line): return line.upper()\n"
    )
    assert run(["bench", f"{tmp_path}/mine.py:bell", *NEEDS, *SHORT]) == 0
    assert "mine.py:bell: 1 measurement" in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer, kind",
    [
        (lambda data: data.upper(), "upper"),
        (lambda data: data, "echo"),
        (lambda data: b"ok", "same"),
        (lambda data, count=COUNT: b"%d" % next(count), "length"),
        (lambda data, count=COUNT: b"x" * next(count) + b".", "whole and right"),
        pytest.param(lambda data: b"", "No reply came", marks=pytest.mark.slow),
    ],
)
def test_what_is_learnt_of_a_server(answer: Callable[[bytes], bytes], kind: str) -> None:
    with server(lambda sock: [sock.sendall(answer(data)) for data in iter(lambda: sock.recv(65536), b"")]) as address:
        try:
            assert learning.learn(address, 40).spec["kind"] == kind
        except learning.NothingLearnt as error:
            assert kind in str(error) and "--script" in error.hint


@pytest.mark.slow
def test_ctrl_c_ends_all_and_reports_what_was_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pronghorn", "bench", *NEEDS, "--rounds=99", f"--json={tmp_path}/a.json"]
    command += ["--duration=300ms", "--warm-up=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0) as bench:
        assert bench.stdout is not None
        while not (line := bench.stdout.readline()).startswith("epoll "):
            assert line
        others = psutil.Process(bench.pid).children(recursive=True)
        assert others
        bench.send_signal(signal.SIGINT)
        out, err = bench.communicate(timeout=30)
    assert bench.returncode == 130 and "Traceback" not in err
    assert "Interrupted: " in out and "Recommended: epoll" in out and found(tmp_path / "a.json")["interrupted"]
    assert not psutil.wait_procs(others, timeout=15)[1]
