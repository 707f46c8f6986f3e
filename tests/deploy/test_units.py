"""The units in deploy/systemd: read by systemd's tools; run by a real systemd, and by systemd-socket-activate."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from caged_systemd import PYTHON, Caged, caged, missing
from unit_files import DEPLOY, UnitFile

from brokers import free_port
from launch import started, wait_for
from pronghorn.settings import Settings
from pronghorn.settings.layers import Layers
from service_manager import Manager

UNITS = DEPLOY / "systemd"
SETTINGS = DEPLOY / "pronghorn.toml"
PLAIN, TEMPLATE = UNITS / "pronghorn.service", UNITS / "pronghorn@.service"
INSTALLED = "/opt/pronghorn/bin/pronghorn"

has_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
has_activate = pytest.mark.skipif(
    not shutil.which("systemd-socket-activate"), reason="systemd-socket-activate is not installed"
)

QUICK = "[Unit]\nStartLimitBurst=1\n[Service]\nRestartSec=100ms\n"
# One that a reload can break, and that says which file it was imported from.
HANDLER = """import os, pathlib, time
import pronghorn
@pronghorn.message(pronghorn.lines)
def reply(line):
    if line == b"slow":
        pathlib.Path(os.environ["STATE_DIRECTORY"], "slow").touch()
        time.sleep(0.5)
    return b"one " + line
"""


@has_analyze
@pytest.mark.parametrize("name", [PLAIN.name, "pronghorn@shop.service", "pronghorn.socket"])
def test_systemd_finds_no_fault_in_a_unit(name: str, tmp_path: Path) -> None:
    for each in UNITS.iterdir():
        text = each.read_text().replace(INSTALLED, sys.executable)  # any program that is there
        (tmp_path / each.name).write_text(text)
    shutil.copy(tmp_path / TEMPLATE.name, tmp_path / "pronghorn@shop.service")
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30)
    mine = [line for line in ran.stderr.splitlines() if "pronghorn" in line]
    assert (ran.returncode, mine) == (0, []), ran.stderr


@has_analyze
@pytest.mark.parametrize("unit", [PLAIN, TEMPLATE], ids=lambda unit: unit.name)
def test_a_service_has_few_rights(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stdout[-300:]  # the exposure is 2.0 of 10 at most


def test_a_template_is_as_strict_as_the_plain_service() -> None:
    """It holds no port: so a wrong setting is nothing to try again, with no client who waits."""
    different = {
        key
        for mine, other in ((UnitFile(PLAIN), UnitFile(TEMPLATE)), (UnitFile(TEMPLATE), UnitFile(PLAIN)))
        for section, key, value in mine.lines
        if section == "Service" and value not in other.all(key)
    }
    named = {"ExecStart", "ExecReload", "ExecStop", "WorkingDirectory", "StateDirectory"}
    assert different == {*named, "RestartPreventExitStatus"}


@pytest.mark.parametrize("unit", [PLAIN, TEMPLATE], ids=lambda unit: unit.name)
def test_no_time_of_a_unit_is_shorter_than_the_servers_own(unit: Path) -> None:
    file, settings = UnitFile(unit), Layers(file=str(SETTINGS)).settle().settings
    stop = max(each.drain_delay + each.drain_timeout for each in (settings, Settings()))
    assert float(file.one("TimeoutStopSec")) >= stop + 10
    assert float(file.one("TimeoutStartSec")) > settings.start_timeout
    assert float(file.one("WatchdogSec")) >= 4
    assert float(file.command("ExecReload")[-1]) < float(file.one("TimeoutStartSec")), (
        "the reason of a failure is told before"
    )


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caged]:
    """A systemd with the units as they are in deploy/, and with a handler in each WorkingDirectory=."""
    if why := missing():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("cage")
    units = Path(shutil.copytree(UNITS, folder / "units"))
    with caged(folder, units) as systemd:
        for name, bind in (("pronghorn", ""), ("shop", 'bind = "127.0.0.1:8100"')):
            text = SETTINGS.read_text().replace('"upper" ', '"mine.py:reply"').replace('"3s" ', '"200ms"')
            text = text if name == "pronghorn" else text.replace("9901", "9902").replace("access.log", "shop.log")
            systemd.write(f"/etc/pronghorn/{name}.toml", f"{bind}\n{text}")
            systemd.write(f"/srv/{name}/mine.py", HANDLER)
        systemd.done("systemctl", "start", "pronghorn.socket")
        yield systemd


ASK = """import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 30) as sock:
    sock.sendall(sys.argv[3].encode()); sock.shutdown(socket.SHUT_WR)
    print(b"".join(iter(lambda: sock.recv(100), b"")).decode().strip())
"""


def ask(systemd: Caged, address: str = "127.0.0.1", port: int = 8000, text: str = "x\n") -> str:
    return systemd.done(PYTHON, "-S", "-c", ASK, address, str(port), text)


@pytest.mark.slow
def test_under_a_real_systemd(systemd: Caged) -> None:
    assert systemd.property("pronghorn.service", "ActiveState") == "inactive"
    assert ask(systemd) == ask(systemd, "::1") == "one x", "the first client has it started"
    status = "Serving mine.py:reply under epoll"
    wait_for(lambda: systemd.property("pronghorn.service", "StatusText") == status, "what systemd is told")
    assert "SERVING" in systemd.done(INSTALLED, "ctl", "status", "--name", "pronghorn"), "root may ask"
    wait_for(lambda: ask(systemd, port=9901, text="GET /readyz HTTP/1.0\r\n\r\n").endswith("ok"), "readiness")
    wait_for(lambda: "127.0.0.1" in systemd.done("cat", "/var/log/pronghorn/access.log"), "the access log")
    first = systemd.property("pronghorn.service", "MainPID")

    systemd.write("/srv/pronghorn/mine.py", HANDLER.replace("one", "two"))
    systemd.done("systemctl", "reload", "pronghorn")
    assert ask(systemd) == "two x"
    systemd.write("/srv/pronghorn/mine.py", "import nothing_that_is_there")
    assert systemd.run("systemctl", "reload", "pronghorn").returncode != 0
    assert systemd.property("pronghorn.service", "ActiveState") == "active"
    assert ask(systemd) == "two x", "nothing has changed"

    systemd.write("/srv/pronghorn/mine.py", HANDLER.replace("one", "three"))
    systemd.done(INSTALLED, "ctl", "upgrade", "--name", "pronghorn")
    wait_for(lambda: systemd.property("pronghorn.service", "MainPID") != first, "the new supervisor")
    assert ask(systemd) == "three x"

    with ThreadPoolExecutor() as clients:
        slow = clients.submit(ask, systemd, text="slow\n")
        wait_for(lambda: not systemd.run("test", "-e", "/var/lib/pronghorn/slow").returncode, "a reply in the making")
        systemd.done("systemctl", "stop", "pronghorn.service")
        assert slow.result() == "three slow"
    assert systemd.property("pronghorn.service", "Result") == "success"
    assert ask(systemd) == "three x", "the socket is still there, and has the service started again"


@pytest.mark.slow
def test_clients_wait_while_a_start_fails_under_a_real_systemd(systemd: Caged) -> None:
    """Also beyond the limit of starts that systemd would have by itself, here the second: until the fault is mended."""
    systemd.write("/run/systemd/system/pronghorn.service.d/burst.conf", QUICK)
    systemd.done("systemctl", "daemon-reload")
    right = systemd.done("cat", "/etc/pronghorn/pronghorn.toml")
    systemd.done("systemctl", "stop", "pronghorn.service")
    systemd.write("/etc/pronghorn/pronghorn.toml", "workers = 0\n")
    for _ in range(2):
        assert systemd.run("systemctl", "start", "pronghorn.service").returncode != 0
    with ThreadPoolExecutor() as clients:
        waits = clients.submit(ask, systemd)
        systemd.write("/etc/pronghorn/pronghorn.toml", right)
        assert waits.result().endswith(" x")
    assert systemd.property("pronghorn.socket", "ActiveState") == "active"


@pytest.mark.slow
def test_a_second_instance_under_a_real_systemd(systemd: Caged) -> None:
    systemd.done("systemctl", "start", "pronghorn@shop")
    assert ask(systemd, port=8100) == "one x"
    systemd.done("systemctl", "stop", "pronghorn@shop")
    assert systemd.property("pronghorn@shop", "Result") == "success"
    assert ask(systemd) in ("one x", "three x")
    systemd.done("test", "-S", "/run/pronghorn/pronghorn.sock")  # the folder of both has not gone with one of them


@pytest.mark.slow
def test_what_a_wrong_setting_does_under_a_real_systemd(systemd: Caged) -> None:
    systemd.write("/etc/pronghorn/wrong.toml", "workers = 0\n")
    systemd.done("mkdir", "-p", "/srv/wrong")
    assert systemd.run("systemctl", "start", "pronghorn@wrong").returncode != 0
    assert systemd.property("pronghorn@wrong", "NRestarts") == "0"
    assert systemd.property("pronghorn@wrong", "ExecMainStatus") == "2"
    assert "cannot be 0" in systemd.output


@has_activate
@pytest.mark.slow
def test_the_line_of_the_unit_under_systemd_socket_activate(tmp_path: Path) -> None:
    """Where no systemd can run: started by the first client, told how it is, reloaded, stopped, started again."""
    if not missing():
        pytest.skip("a real systemd shows the same")
    manager = Manager(str(tmp_path / "notify"))
    settings = SETTINGS.read_text().replace("/var/log/pronghorn", str(tmp_path)).replace('"3s" ', '"200ms"')
    (tmp_path / "pronghorn.toml").write_text(settings.replace("9901", "0"))
    command, reload = UnitFile(PLAIN).command("ExecStart"), UnitFile(PLAIN).command("ExecReload")
    here = {INSTALLED: [sys.executable, "-m", "pronghorn"], "/etc/pronghorn/pronghorn.toml": ["pronghorn.toml"]}
    command, reload = ([word for each in line for word in here.get(each, [each])] for line in (command, reload))
    address = ("127.0.0.1", free_port())
    name = UnitFile(UNITS / "pronghorn.socket").one("FileDescriptorName")
    passed = [f"--setenv={each}" for each in ("PATH", "XDG_RUNTIME_DIR", f"NOTIFY_SOCKET={manager.address}")]
    activate = ["systemd-socket-activate", f"--listen=127.0.0.1:{address[1]}", f"--fdname={name}", *passed, *command]
    for _ in range(2):
        with started(tmp_path, ["-c", f"import os; os.execvp({activate[0]!r}, {activate!r})"], []) as server:
            wait_for(lambda: "Listening on" in server.log, "the activator")
            with socket.create_connection(address, 15) as client:
                client.sendall(b"hello\n")
                assert client.recv(100) == b"HELLO\n"
            assert f"MAINPID={server.pid}" in manager.until("READY=1")
            subprocess.run(reload, check=True, timeout=30, cwd=tmp_path, capture_output=True)
            manager.until("RELOADING=1")
            manager.until("READY=1")
            os.kill(server.pid, signal.SIGTERM)  # KillMode=mixed: to the main process alone
            manager.until("STOPPING=1")
            assert server.exit() == 0
    manager.socket.close()
