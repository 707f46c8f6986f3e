"""`pronghorn why`: its exit status, JSON, --watch, and what a failed start says by the same words."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from brokers import free_port
from launch import launched, wait_for
from pronghorn.cli import main
from pronghorn.listening import bind_trial, why
from pronghorn.listening.why import Finding, Verdict

PRONGHORN = [sys.executable, "-m", "pronghorn"]


def status_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main.run(["why", *arguments])
    return status, *capsys.readouterr()


def test_free_and_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        status, output, errors = status_of(capsys, address)
        assert (status, errors) == (1, "")
        lines = output.splitlines()
        assert lines[0] == f"{address} is taken." and lines[1].startswith(f"Process {os.getpid()} (")
        done = subprocess.run([*PRONGHORN, "why", address], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.splitlines()[-2:] == ["Stop it, or choose another port:", f"    kill {os.getpid()}"]
    assert status_of(capsys, address) == (0, f"{address} is free.\n", "")


@pytest.mark.parametrize(
    "address",
    "x 70000 127.0.0.1:99999 :-1 127.0.0.1: [::1:8000 ::1:8000 [zz]:1 a b,c:1 unix: fd://3 no-such-host.invalid:80 "
    "a..b:1 \x1b[2J:1 \u0661:\u0661 127.0.0.1:8000/x".split(" "),
)
def test_what_is_no_address(capsys: pytest.CaptureFixture[str], address: str) -> None:
    status, output, errors = status_of(capsys, address)
    assert (status, output) == (2, "")
    assert errors.startswith("Error: ") and len(errors.splitlines()) <= 3 and errors.replace("\n", "").isprintable()
    assert "Traceback" not in errors and "fd://" not in errors.splitlines()[-1]
    status, output, _ = status_of(capsys, address, "--json")
    assert status == 2 and json.loads(output)["error"]["exit_code"] == 2


def test_what_cannot_be_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind_trial, "bind_errno", lambda *place, **options: 105)
    status, output, _ = status_of(capsys, "127.0.0.1:8000")
    assert status == 2
    assert output.startswith("Whether 127.0.0.1:8000 is free cannot be told.\nNo buffer space available.")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", free_port()), backlog=7) as server:
        port = server.getsockname()[1]
        status, output, _ = status_of(capsys, str(port), "--json")
        found = json.loads(output)
        assert (status, found["verdict"], found["cause"]) == (1, "taken", "listener")
        by_address: dict[str, Any] = {each["address"]: each for each in found["addresses"]}
        assert by_address[f"[::]:{port}"]["verdict"] == "free"
        taken = by_address[f"0.0.0.0:{port}"]
        assert (taken["verdict"], taken["error"]) == ("taken", "Address already in use")
        (owner,) = taken["owners"]
        assert (owner["pid"], owner["uid"]) == (os.getpid(), os.geteuid())  # another test may have named this process
        (row,) = taken["sockets"]
        assert (row["address"], row["state"], row["count"]) == (f"127.0.0.1:{port}", "LISTEN", 1)
        if sys.platform == "linux":
            assert (row["waiting"], row["backlog"]) == (0, 7)


@pytest.mark.slow
def test_a_pronghorn_server_is_named_with_the_command_that_stops_it(tmp_path: Path) -> None:
    pytest.importorskip("setproctitle")
    control = tmp_path / "control.sock"
    with launched(tmp_path, workers=2, control_socket=str(control)) as server:
        server.ready(2)
        address = server.report["listening"][0]
        with launched(tmp_path, bind=address, control_socket="off") as second:
            assert second.exit() == 5
            error = second.report["error"]
        assert error["what"] == f"Cannot listen on {address}."
        began = f"Process {server.pid} (pronghorn: supervisor {address}) and 2 processes that it started listen at "
        assert error["why"].startswith(f"{began}{address}.")
        assert f"pronghorn ctl reload --socket {control}" in error["why"]
        stop = f"pronghorn ctl stop --socket {control}"
        assert error["hint"] == f"Stop that server, or choose another port:\n    {stop}"
        done = subprocess.run([*PRONGHORN, *stop.split()[1:]], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        assert server.exit() == 0


def test_the_address_of_metrics_that_is_taken(tmp_path: Path) -> None:
    pytest.importorskip("h11")
    pytest.importorskip("prometheus_client")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with launched(tmp_path, admin=[address]) as server:
            assert server.exit() == 5
            error = server.report["error"]
        assert error["what"] == f"Cannot listen on {address}."
        assert error["why"].startswith(f"Process {os.getpid()} (")


def test_check_reads_the_address_of_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("h11")
    pytest.importorskip("prometheus_client")
    for wrong, said in (
        (["--admin", "foo"], "--admin is 'foo'."),
        (["--agent-check", "127.0.0.1:99999"], "--agent-check is '127.0.0.1:99999'."),
    ):
        assert main.run(["check", *wrong]) == 2
        assert capsys.readouterr().err.startswith(f"Error: {said}\n")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        assert main.run(["check", "--admin", address, "--json"]) == 0
        assert address in [each["bind"] for each in json.loads(capsys.readouterr().out)["taken"]]


@pytest.mark.slow
def test_a_second_server_that_shares_a_port_which_the_first_does_not_share(tmp_path: Path) -> None:
    for first, second, said in (
        (False, True, "The listener is without SO_REUSEPORT, and both need it"),
        (True, False, "a server of the same user that sets it as well can share the address"),
    ):
        with (
            launched(tmp_path, reuse_port=first) as server,
            launched(tmp_path, bind=server.report["listening"][0], reuse_port=second) as other,
        ):
            assert other.exit() == 5
            assert said in other.report["error"]["why"]


class Watching:
    """A `pronghorn why --watch`, and what it has printed."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.output = folder / "output"
        with open(self.output, "wb") as output:
            command = [*PRONGHORN, "why", *arguments, "--watch"]
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    def lines(self, count: int) -> list[str]:
        """What it has printed, once these are so many lines."""
        wait_for(lambda: self.output.read_text().count("\n") >= count, f"{count} lines")
        return self.output.read_text().splitlines()

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.mark.slow
def test_watch_prints_changes_and_ends_by_the_last_state(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        text, as_json = Watching(tmp_path, address), Watching(tmp_path.parent, address, "--json")
        try:
            assert f"{address} is taken. Process {os.getpid()} (" in text.lines(1)[0]
            assert json.loads(as_json.lines(1)[0])["verdict"] == "taken"
            assert as_json.end(signal.SIGTERM) == 1
            server.close()
            assert text.lines(2)[1].endswith(f" {address} is free.")
            assert text.end(signal.SIGINT) == 0
            assert len(text.lines(2)) == 2, "nothing else has changed"
        finally:
            for each in (text, as_json):
                each.process.kill()
                each.process.wait()


@pytest.mark.slow
def test_watch_ends_when_nobody_reads_any_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [*PRONGHORN, "why", f"127.0.0.1:{server.getsockname()[1]}", "--watch"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and b" is taken." in process.stdout.readline()
            process.stdout.close()
            assert process.wait(20) == 1


def test_a_change_is_no_matter_of_seconds() -> None:
    from pronghorn.cli.why import marks

    place = (socket.AF_INET, ("127.0.0.1", 1))
    finding = Finding(place, Verdict.TAKEN, why.Cause.LISTENER)
    assert marks([finding]) == marks([finding._replace(number=5)])
    assert marks([finding]) != marks([finding._replace(verdict=Verdict.FREE)])


def test_it_imports_little() -> None:
    code = "import sys; from pronghorn.cli import main; main.run(['why', '127.0.0.1:0']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"pronghorn.server", "pronghorn.supervisor", "asyncio", "ssl", "psutil", "textual"}
