"""A broker that goes and comes back, as people, probes and Prometheus see it; and its password, which nobody sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from test_figures import get, values

import brokers
from launch import Launched, logged, wait_for
from pronghorn import bus
from pronghorn.cli.check import command as check
from pronghorn.cli.config import command as config
from pronghorn.cli.serve import command as serve
from pronghorn.control.client import ask as ask

SECRET = "Xyzzy-4711"
CODE = """
import os, pronghorn

@pronghorn.message(pronghorn.lines)
def handler(line, conn):
    conn.join(line)
    return repr(dict(os.environ)).encode()
"""
CONFIG = """
control-socket = "{0}/c.sock"
admin = ["unix:{0}/admin"]
workers = 1
log-level = "debug"
bind = "127.0.0.1:0"
"""
FORMS = [("ctl", "status"), ("health",)]
PAGES = ("/", "/status.json", "/metrics", "/readyz", "/readyz?verbose")


def said(server: Launched) -> dict[str, str]:
    """Everything that the server, its processes and the command line say about it."""
    own, socket = [sys.executable, "-m", "pronghorn"], ["--socket", f"{server.folder}/c.sock"]
    pipes: dict[str, Any] = {"cwd": server.folder, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    asked = {" ".join(each): subprocess.Popen([*own, *each, *socket], **pipes) for each in FORMS}
    found = {each: get(server, each) for each in PAGES}
    with server.connect() as sock:
        sock.sendall(b"device\n")
        found["a handler's environment"] = sock.makefile().readline()
    pid = ask(f"{server.folder}/c.sock", {"command": "status"}, 10)["pid"]  # after an upgrade it is another one
    for each in [supervisor := psutil.Process(pid), *supervisor.children(recursive=True)]:
        for name in ("cmdline", "environ"):
            found[f"{name} of {each.name()} {each.pid}"] = Path(f"/proc/{each.pid}/{name}").read_text()
    return found | {name: process.communicate(timeout=60)[0] for name, process in asked.items()}


def told_nowhere(server: Launched) -> dict[str, str]:
    found = said(server) | {"the log": server.log}
    assert not [name for name, text in found.items() if SECRET in text]
    return found


def test_settings_are_shown_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRONGHORN_BUS", f"redis://gateway:{SECRET}@h?prefix=seen")
    for form in ([], ["--json"], ["--toml"]):
        shown = CliRunner().invoke(config, form).output
        assert "redis://gateway:" in shown and SECRET not in shown
    assert tomllib.loads(shown)["bus"] == "redis://gateway:@h?prefix=seen", "which is a settings file"
    monkeypatch.delenv("PRONGHORN_BUS")
    refused = CliRunner().invoke(config, ["--bus", f"redis://:{SECRET}@h"]).exception
    assert "--bus has a password in it" in str(refused) and SECRET not in str(refused)


def broker_away(server: Launched, before: int) -> bool:
    """Whether another hub than that one has found the broker away."""
    status = ask(f"{server.folder}/c.sock", {"command": "status"}, 10)
    hubs = [each["pid"] for each in status["side_processes"] if each["name"] == "bus"]
    return hubs not in ([before], [0], [None], []) and (status["bus"].get("broker") or {}).get("up") is False


@pytest.mark.parametrize(
    ("url", "package", "words"),
    [
        ("redis://h?socket_timout=5", "redis", "It has a wrong parameter: socket_timout"),
        ("redis://h,g", "redis", "It names several hosts, which with ?cluster=1 are nodes of a cluster"),
        ("nats://h?kreds=x", "nats", "It sets 'kreds'; what can be set for NATS is prefix, creds"),
    ],
)
def test_a_wrong_option_is_told_before_the_start_in_the_same_words(url: str, package: str, words: str) -> None:
    pytest.importorskip(package)
    told = [CliRunner().invoke(command, ["--bus", url]).exception for command in (config, check, serve)]
    assert words in str(told[0]) and str(told[0]).startswith(f"--bus cannot be '{url}'.")
    assert str(told[0]) == str(told[1]) == str(told[2])


def test_settings_are_shown_where_the_brokers_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pronghorn.cli.config.find_spec", lambda name: None)
    assert "redis://h?colour=1" in CliRunner().invoke(config, ["--bus", "redis://h?colour=1"]).output


@pytest.mark.slow
def test_a_redis_comes_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redis", reason="redis-py is not installed")
    broker = brokers.redis(tmp_path, "--requirepass", "another")
    (tmp_path / "mine.py").write_text(CODE)
    settings = CONFIG.format(tmp_path) + 'shared-limits = "bus"\nmax-connections-per-source = 100\n'
    (tmp_path / "pronghorn.toml").write_text(settings)
    monkeypatch.setenv("PRONGHORN_BUS", f"redis://:{SECRET}@127.0.0.1:{broker.port}?prefix=seen")
    with brokers.running(broker), logged(tmp_path, "-m", "pronghorn", "serve", "mine:handler") as server:
        lost = "The bus does not reach other hosts, serving goes on: Redis at"
        wait_for(lambda: lost in server.log and "refuses the user or the password" in server.log, "the refusal")
        page = get(server, "/readyz")
        assert page.startswith("HTTP/1.1 200") and "bus: the broker is away, " in page
        (tmp_path / "pronghorn.toml").write_text(settings + "bus-required = true\n")
        server.send(signal.SIGHUP)
        wait_for(lambda: "not ready: the broker is away" in get(server, "/readyz"), "what the new setting says")

        broker.kill()
        broker.command[broker.command.index("another")] = SECRET
        broker.start()
        wait_for(lambda: get(server, "/readyz").startswith("HTTP/1.1 200"), "the broker")
        wait_for(lambda: "The bus reaches other hosts again, after" in server.log, "a word in the log")
        wait_for(lambda: values(server).get("broker_up") == 1, "the figures")
        found = told_nowhere(server)
        assert "there for" in found["ctl status"] and "redis://:***@127.0.0.1" in found["ctl status"]
        assert "[+]bus ok" in found["/readyz?verbose"] and found["health"].startswith("healthy")
        with bus.connect(f"unix:{tmp_path}/c.bus") as client:
            assert client.publish("nobody", b"x") == 0

        broker.kill()
        wait_for(lambda: server.log.count(lost) == 2, "its loss")
        wait_for(lambda: "The broker of the bus is away" in get(server, "/"), "the status page")
        lost_once = {"broker_up": 0, "broker_losses_total": 1}
        wait_for(lambda: lost_once.items() <= values(server).items(), "the figures")
        sides = ask(str(tmp_path / "c.sock"), {"command": "status"}, 10)["side_processes"]
        [hub] = [each["pid"] for each in sides if each["name"] == "bus"]
        os.kill(hub, signal.SIGABRT)  # with its stack in the log
        wait_for(lambda: "Aborted" in server.log, "the end of the hub")
        wait_for(lambda: broker_away(server, hub), "what the next hub says")
        found = told_nowhere(server)
        assert "away" in found["ctl status"] and found["health"].startswith("unhealthy")
        assert "Traceback" not in server.log


@pytest.mark.slow
def test_the_password_of_a_nats_stands_in_a_file(tmp_path: Path) -> None:
    pytest.importorskip("nats", reason="nats-py is not installed")
    broker = brokers.nats("--auth", SECRET)
    (tmp_path / "mine.py").write_text(CODE)
    settings = f'bus-password-file = "{tmp_path}/password"\nshared-limits = "bus"\nmax-connections-per-source = 100\n'
    (tmp_path / "pronghorn.toml").write_text(CONFIG.format(tmp_path) + settings)
    (tmp_path / "password").write_text(SECRET + "\n")
    url = f"nats://127.0.0.1:{broker.port}"
    with brokers.running(broker), logged(tmp_path, "-m", "pronghorn", "serve", "mine:handler", "--bus", url) as server:
        wait_for(lambda: f"The bus reaches other hosts: nats://***@127.0.0.1:{broker.port}" in server.log, "the broker")
        wait_for(lambda: server.log.count("limits are shared with the servers") == 1, "the other process")
        for text, told in (
            ("two\nlines\n", "The password of the broker remains what it was: --bus-password-file is"),
            (f"{SECRET}-2", f"Another password of the broker is in {tmp_path}/password: the next connection"),
        ):
            (tmp_path / "password").write_text(text)
            server.send(signal.SIGHUP)
            wait_for(lambda told=told: told in server.log, told)  # type: ignore[misc]
        assert "does not reach" not in server.log, "what is connected stays so"
        broker.kill()
        wait_for(lambda: "Limits are shared with no other host" in server.log, "its loss")
        broker.command[-1] = f"{SECRET}-2"
        broker.start()
        wait_for(lambda: server.log.count("The bus reaches other hosts") == 2, "its return")
        wait_for(lambda: server.log.count("limits are shared with the servers") == 2, "the other process")
        server.send(signal.SIGUSR2)
        wait_for(lambda: server.log.count("The bus reaches other hosts") == 3, "the hub of the new program", 60)
        told_nowhere(server)
