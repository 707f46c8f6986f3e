"""Where settings come from: line, environment, file, default; and the commands that show it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch import Launched, launched, logged, script, wait_for
from pronghorn.errors import BadSetting
from pronghorn.settings import fields
from pronghorn.settings.layers import DEFAULT, Layers, find, read
from pronghorn.settings.source import Source


def pronghorn(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pronghorn", *arguments]
    environment = {**os.environ, "COLUMNS": "100", **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=30)


def write(folder: Path, text: str, name: str = "pronghorn.toml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_the_order_is_line_environment_file_default(tmp_path: Path) -> None:
    write(tmp_path, 'handler = "echo"\nworkers = 2\nmax-threads = 7\ndrain_timeout = "1m"\nbind = ["a:1", "b:2"]\n')
    done = pronghorn(tmp_path, "config", "--json", "--workers", "5", PRONGHORN_WORKERS="4", PRONGHORN_MAX_THREADS="6")
    said = json.loads(done.stdout)
    assert said["handler"] == {"value": "echo", "origin": "pronghorn.toml"}
    assert said["workers"] == {"value": 5, "origin": "--workers"}
    assert said["max_threads"] == {"value": 6, "origin": "PRONGHORN_MAX_THREADS"}
    assert said["drain_timeout"] == {"value": 60.0, "origin": "drain_timeout in pronghorn.toml"}
    assert said["bind"]["value"] == ["a:1", "b:2"]
    assert said["model"] == {"value": "auto", "origin": DEFAULT}


def test_the_table_names_value_origin_and_file(tmp_path: Path) -> None:
    write(tmp_path, "[tool.pronghorn]\nworkers = 3\n[tool.other]\nx = 1\n", "pyproject.toml")
    done = pronghorn(tmp_path, "config")
    assert done.returncode == 0
    (line,) = [each for each in done.stdout.splitlines() if each.startswith("workers")]
    assert line.split() == ["workers", "3", "workers", "in", "pyproject.toml"]
    assert str(tmp_path / "pyproject.toml") in done.stdout


@pytest.mark.slow
def test_what_is_set_can_be_kept_as_a_settings_file(tmp_path: Path) -> None:
    line = ["--bind", ":80,unix:/a b", "--drain-timeout", "1500ms", "--max-write-buffer", "3MiB", "--no-reuse-address"]
    line += [
        "--workers",
        "5",
        "--name",
        'a "quoted" \\ \u00fc\x7f',
        "--max-connections",
        "7",
        "--exec",
        "tr",
        "a b",
        "",
    ]
    done = pronghorn(tmp_path, "config", "--toml", *line, PRONGHORN_LOG_LEVEL="debug")
    path = write(tmp_path, done.stdout, "kept.toml")
    before = json.loads(pronghorn(tmp_path, "config", "--json", *line, PRONGHORN_LOG_LEVEL="debug").stdout)
    after = json.loads(pronghorn(tmp_path, "config", "--json", "--config", path).stdout)
    assert {name: each["value"] for name, each in after.items()} == {name: e["value"] for name, e in before.items()}
    assert len(done.stdout.splitlines()) == len([each for each in before.values() if each["origin"] != DEFAULT]) == 9
    assert pronghorn(tmp_path, "config", "--toml").stdout == ""


def test_a_pyproject_without_our_table_is_none_of_ours(tmp_path: Path) -> None:
    write(tmp_path, "[project]\nname = 'x'\n", "pyproject.toml")
    assert find(str(tmp_path)) == ""
    with pytest.raises(BadSetting, match=r"no table \[tool.pronghorn\]"):
        read(str(tmp_path / "pyproject.toml"))
    own = write(tmp_path, "")
    assert find(str(tmp_path)) == own


WRONG = {
    "wrokers = 2": ("no setting 'wrokers'", "Did you mean 'workers'?"),
    "workers = 0": ("workers in pronghorn.toml cannot be 0", "at least 1"),
    'model = "epol"': ("model in pronghorn.toml cannot be 'epol'", "Did you mean 'epoll'?"),
    "workers = = 2": ("is not TOML", "line 1"),
    "workers = true": ("workers in pronghorn.toml cannot be True", "whole number"),
    'handler = "echo"\nexec = "cat"': ("both handler and exec", "Leave one"),
    "handler = 3": ("handler in", "cannot be 3"),
    "exec = []": ("exec in", "It takes a command"),
    'exec = ""': ("exec in", "It takes a command"),
    'exec = "echo \'"': ("exec in", "It takes a command"),
    'exec = [""]': ("exec in", "It takes a command"),
    "max-threads = 0": ("max-threads in pronghorn.toml cannot be 0", "at least 1"),
    "max-threads = 1\nmax_threads = 2": ("has max_threads twice", "Leave one"),
    "max-treads = 1": ("no setting 'max-treads'", "Did you mean 'max_threads'?"),
    "zzzzzzzz = 1": ("no setting 'zzzzzzzz'", "serve --help"),
    "[tool.pronghorn]\nworkers = 1": ("no setting 'tool'", "stand at the top"),
    "[server]\nworkers = 1": ("no setting 'server'", "stand at the top"),
    "workers = 1979-05-27": ("workers in pronghorn.toml cannot be", "whole number"),
    "workers = {a = 1}": ("workers in pronghorn.toml cannot be {'a': 1}", "whole number"),
    'bind = [["a:1"]]': ("bind in pronghorn.toml cannot be", "ADDRESS"),
    "workers = " + "9" * 5000: ("is not TOML", "digits"),
    "workers = " + "[" * 5000: ("is not TOML", "recursion"),
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:30])
def test_what_is_wrong_in_the_file_is_told_with_its_place(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(BadSetting) as caught:
        Layers(file=path).settle()
    for part in ("pronghorn.toml", *WRONG[text]):
        assert part in str(caught.value)


@pytest.mark.slow
def test_a_wrong_file_is_a_wrong_setting_for_every_command(tmp_path: Path) -> None:
    path = write(tmp_path, "\nworkers = = 2\n")
    for command in ("serve", "check", "config"):
        done = pronghorn(tmp_path, command)
        assert (done.returncode, done.stdout) == (2, ""), command
        assert done.stderr.splitlines()[0] == f"Error: {path} is not TOML."
        assert "at line 2, column 11" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["check", "config"])
def test_an_error_is_json_too(tmp_path: Path, command: str) -> None:
    write(tmp_path, "wrokers = 2\n")
    done = pronghorn(tmp_path, command, "--json")
    assert (done.returncode, done.stderr) == (2, "")
    error = json.loads(done.stdout)["error"]
    assert error["exit_code"] == 2 and "wrokers" in error["what"] and "workers" in error["hint"]


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "pronghorn.toml").write_bytes(b'handler = "\xff"\n')
    with pytest.raises(BadSetting, match="is not TOML"):
        Layers(file=find(str(tmp_path))).settle()


TOML = st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=5), st.just(["a", 1]), st.just({"a": 1}))
KEYS = st.sampled_from(["handler", "exec", *(field.name for field in fields()), "", "tool", "nothing-like-it"])


@settings(suppress_health_check=[*HealthCheck], deadline=None)
@given(st.dictionaries(KEYS, TOML, max_size=3))
def test_whatever_a_file_says_is_taken_or_refused(tmp_path: Path, table: dict[str, Any]) -> None:
    lines = "".join(f"{json.dumps(key)} = {as_toml(value)}\n" for key, value in table.items())
    try:
        settled = Layers(file=write(tmp_path, lines)).settle()
    except BadSetting as error:
        assert error.what and error.hint
    else:
        assert all(settled.origins[key] != DEFAULT for key in table if key != "exec")


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {as_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=True).replace("\\ud", "\\ue")  # TOML knows no halves of a pair


@given(st.binary(max_size=60))
@settings(suppress_health_check=[*HealthCheck], deadline=None)
def test_whatever_bytes_a_file_holds_are_taken_or_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pronghorn.toml").write_bytes(content)
    try:
        Layers(file=find(str(tmp_path))).settle()
    except BadSetting as error:
        assert error.what and error.hint


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = pronghorn(tmp_path, "check", "--config", "gone.toml")
    assert done.returncode == 2 and "gone.toml" in done.stderr


def test_the_handler_of_the_line_wins_over_that_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'exec = "tr a-z A-Z"\n')
    assert Layers(file=path).settle().source == Source(command=("tr", "a-z", "A-Z"))
    assert Layers(source=Source(name="echo"), file=path).settle().source == Source(name="echo")


@pytest.mark.slow
def test_check_binds_nothing_and_says_what_would_be_served(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('IMPORTED')\ndef handle(conn):\n    pass\n")
    with launched(tmp_path) as server:
        server.ready()
        taken = f"127.0.0.1:{server.address[1]}"
        done = pronghorn(tmp_path, "check", "mine:handle", "--bind", taken, "--bind", f"unix:{tmp_path}/sock")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (
            "Would serve mine:handle (blocking style) under thread (a blocking handler needs a flow of control of its "
            f"own): 1 worker, at {taken}, unix:{tmp_path}/sock\n"
            f"At this moment {taken} is taken. Process {server.pid} (pronghorn: supervisor {taken}) and 1 process that "
            f"it started listen at {taken}.\n"
        )
        assert not (tmp_path / "sock").exists()
        assert server.ask(b"x") == b"X"


@pytest.mark.slow
def test_check_as_json(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import pronghorn\nasync def life():\n    open('entered', 'w')\n    yield\n"
        "@pronghorn.lifespan(life)\nasync def handle(reader, writer):\n    pass\n"
    )
    done = pronghorn(tmp_path, "check", "mine:handle", "--model", "asyncio", "-w", "3", "--json")
    found = json.loads(done.stdout)
    assert {each["bind"] for each in found.pop("taken")} <= {"127.0.0.1:8000"}, "whatever else runs on this machine"
    assert found == {
        "handler": "mine:handle",
        "style": "asyncio",
        "lifespan": "async",
        "model": "asyncio",
        "why": "as asked",
        "workers": 3,
        "bind": ["127.0.0.1:8000"],
        "certificates": [],
        "listeners": [
            {
                "name": "",
                "bind": ["127.0.0.1:8000"],
                "handler": "mine:handle",
                "style": "asyncio",
                "lifespan": "async",
                "tls": "off",
                "certificates": [],
            }
        ],
    }
    assert "with an async lifespan" in pronghorn(tmp_path, "check", "mine:handle").stdout
    assert not (tmp_path / "entered").exists()


@pytest.mark.slow
def test_check_looks_at_certificates(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    for name in ("one", "other"):
        issued = authority.issue_cert(f"{name}.example")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    done = pronghorn(tmp_path, "check", "echo", "--tls-cert", "one.pem", "--tls-key", "one.key")
    assert (done.returncode, done.stderr) == (0, "")
    assert "with TLS for one.example" in done.stdout
    done = pronghorn(tmp_path, "check", "echo", "--tls-cert", "one.pem", "--tls-key", "one.key", "--json")
    assert json.loads(done.stdout)["certificates"][0]["names"] == ["one.example"]
    for arguments, words in (
        (["echo", "--tls-cert", "one.pem", "--tls-key", "other.key"], "The key is not the one of this certificate"),
        (["echo", "--tls-cert", "gone.pem"], "gone.pem"),
        (["--tls-cert", "one.pem", "--tls-key", "one.key", "--exec", "cat"], "which TLS cannot reach"),
    ):
        done = pronghorn(tmp_path, "check", *arguments)
        assert (done.returncode, done.stdout) == (2, "") and words in done.stderr


REFUSED = {
    "--model epoll mine:handle": (2, "Choose another --model"),
    "mine:gone": (4, "has no 'gone'"),
    "broken:handle": (4, "ZeroDivisionError"),
    "slow:handle --start-timeout 300ms": (3, "the import still runs"),
    "uper": (4, "Did you mean 'upper'?"),
    "--bind 127.0.0.1:port": (2, "'port' is no port"),
    "--bind :8000 --bind 127.0.0.1:8000": (2, "covers"),
    "--bind a..b:1": (5, "does not resolve"),
    "--framing line": (2, "lines"),
    "--framing lines --exec cat": (2, "'cat' is a program"),
    "--exec no-such-program": (4, "cannot be run"),
    "--chdir nowhere": (2, "No such file"),
    "--user nobody-of-this-name": (2, "no such user"),
    "--control-group nobody-of-this-name": (2, "no such group"),
    "--bind unix:sock --unix-owner nobody-of-this-name": (2, "no such user"),
    "--bind unix:nowhere/sock": (5, "No such file or directory"),
    "--bind fd://9": (5, "Descriptor 9 is not open"),
    "--bind tls://127.0.0.1:8000": (2, "no certificate"),
    "--log-file nowhere/log": (2, "There is no folder"),
    "--pid-file nowhere/pid": (2, "There is no folder"),
    "--access-log nowhere/log": (2, "There is no folder"),
    "--access-log .": (2, "That is a folder"),
    "--control-socket nowhere/sock": (2, "There is no folder"),
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", REFUSED)
def test_what_check_refuses(tmp_path: Path, arguments: str) -> None:
    (tmp_path / "mine.py").write_text("def handle(conn):\n    pass\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\n")
    status, words = REFUSED[arguments]
    done = pronghorn(tmp_path, "check", *arguments.split())
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr and "pronghorn/cli" not in done.stderr


def test_check_touches_nothing_of_a_running_server(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.py").write_text("def handle(conn):\n    pass\n")
    (tmp_path / "pid").write_text(f"{os.getpid()}\n")
    done = pronghorn(
        tmp_path, "check", "mine:handle", "--chdir", "there", "--log-file", "log", "--pid-file", str(tmp_path / "pid")
    )
    assert done.returncode == 0, done.stderr
    there = {each.name for each in tmp_path.rglob("*") if "__pycache__" not in each.parts}
    assert there == {"there", "mine.py", "pid"}


def test_a_reload_reads_the_file_anew(tmp_path: Path) -> None:
    path = write(tmp_path, 'handler = "echo"\n')
    with launched(tmp_path, None, config=path) as server:
        assert server.ask(b"hello") == b"hello"
        write(tmp_path, 'handler = "upper"\nworkers = 2\n')
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reloaded in" in server.log, "the reload")
        wait_for(lambda: len(server.workers()) == 2, "two workers")
        assert server.ask(b"hello") == b"HELLO"
        write(tmp_path, "wrokers = 1\n")
        server.send(signal.SIGHUP)
        wait_for(lambda: "Did you mean 'workers'?" in server.log, "the failure")
        assert server.ask(b"hello") == b"HELLO"
        assert len(server.workers()) == 2
        assert server.stop() == 0


def bound(server: Launched) -> list[str]:
    return [f"{each.laddr.ip}:{each.laddr.port}" for each in psutil.Process(server.pid).net_connections("tcp")]


@pytest.mark.slow
def test_a_reload_adds_and_removes_addresses(tmp_path: Path) -> None:
    path = write(tmp_path, 'bind = ["127.0.0.1:0"]\n')
    with launched(tmp_path, "echo", config=path, bind=None) as server:
        first = "{}:{}".format(*server.address)
        other = tmp_path / "other"
        write(tmp_path, f'bind = ["127.0.0.1:0", "unix:{other}"]\n')
        server.send(signal.SIGHUP)
        wait_for(lambda: server.log.count("Reloaded in") == 1, "the reload")
        wait_for(lambda: bound(server) == [first], "the addresses")  # one that stays is the same socket
        with socket.socket(socket.AF_UNIX) as sock, server.connect() as kept:
            sock.connect(str(other))
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"
            kept.sendall(b"kept")
            assert kept.recv(100) == b"kept"
            write(tmp_path, f'bind = "unix:{other}"\n')
            server.send(signal.SIGHUP)
            wait_for(lambda: server.log.count("Reloaded in") == 2, "the second reload")
        wait_for(lambda: bound(server) == [], "no address")
        wait_for(lambda: len(server.workers()) == 1, "the end of the old worker")
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        assert server.stop() == 0
        assert not other.exists()


def test_an_address_that_cannot_be_bound_fails_the_reload(tmp_path: Path) -> None:
    path = write(tmp_path, 'bind = ["127.0.0.1:0"]\n')
    with launched(tmp_path, "echo", config=path, bind=None) as server, socket.create_server(("127.0.0.1", 0)) as holder:
        before = server.workers()
        taken = holder.getsockname()[1]
        write(tmp_path, f'bind = ["127.0.0.1:0", "unix:{tmp_path}/new", "127.0.0.1:{taken}"]\n')
        descriptors = []  # counted after a first failure: what the start needed is closed by then
        for times in (1, 2):
            server.send(signal.SIGHUP)
            wait_for(lambda times=times: server.log.count("nothing has changed") == times, "the failure")
            descriptors.append(len(os.listdir(f"/proc/{server.pid}/fd")))
        # The helper that has looked may have one for a moment longer.
        wait_for(lambda: len(os.listdir(f"/proc/{server.pid}/fd")) <= descriptors[0], "as few descriptors as before")
        assert f"Process {os.getpid()}" in server.log, "it says who holds the address"
        wait_for(lambda: server.workers() == before, "nobody but the old workers")
        assert not (tmp_path / "new").exists()
        assert server.ask(b"hello") == b"hello"


def test_a_file_that_has_gone_fails_the_reload_and_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, 'handler = "echo"\n')
    with launched(tmp_path, None, config=path) as server:
        os.unlink(path)
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reload failed" in server.log, "the failure")
        assert "pronghorn.toml cannot be read" in server.log and "No such file" in server.log
        assert server.ask(b"hello") == b"hello"
        write(tmp_path, 'handler = "upper"\n')
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reloaded in" in server.log, "the reload")
        assert server.ask(b"hello") == b"HELLO"
        assert server.stop() == 0


@pytest.mark.slow
def test_the_command_serves_what_the_file_says_and_reads_it_again_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "pronghorn.toml").write_text('bind = "127.0.0.1:0"\nhandler = "nothing:here"\n')
    write(tmp_path, 'bind = "127.0.0.1:0"\nexec = "tr a-z A-Z"\nchdir = "there"\n', "mine.toml")
    with logged(tmp_path, "-m", "pronghorn", "serve", "--config", "mine.toml") as server:
        assert server.ask(b"hello") == b"HELLO"
        write(tmp_path, 'bind = "127.0.0.1:0"\nexec = ["tr", "l", "L"]\nchdir = "there"\n', "mine.toml")
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reloaded in" in server.log, "the reload")
        assert server.ask(b"hello") == b"heLLo"
        assert server.stop() == 0


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    write(tmp_path, "workers = 2\n")
    write(tmp_path, "workers = 3\n", "other.toml")
    said = json.loads(pronghorn(tmp_path, "config", "--json", PRONGHORN_CONFIG="other.toml").stdout)
    assert said["workers"] == {"value": 3, "origin": "workers in other.toml"}


def test_a_script_may_name_a_file(tmp_path: Path) -> None:
    write(tmp_path, 'handler = "echo"\nbind = "127.0.0.1:0"\n')
    with script(tmp_path, "import pronghorn\npronghorn.serve(config='pronghorn.toml')\n") as server:
        assert server.ask(b"hello") == b"hello"
        write(tmp_path, 'bind = "127.0.0.1:0"\n')
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reloaded in" in server.log, "the reload")
        assert server.ask(b"hello") == b"HELLO"
        assert server.stop() == 0
