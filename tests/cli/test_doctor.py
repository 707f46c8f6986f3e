"""`pronghorn doctor`: what is judged of facts that are made up, and one look at this machine."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from pronghorn.cli import doctor, main
from pronghorn.cli.doctor.advice import advice
from pronghorn.cli.doctor.facts import UNLIMITED, Facts, gathered
from pronghorn.testing.served import serving

GOOD = Facts(
    system="linux",
    soft_descriptors=1024,
    hard_descriptors=524_288,
    somaxconn=4096,
    syn_backlog=512,
    syncookies=1,
    port_range=(32768, 60999),
    migrate_req=0,
    abort_on_overflow=0,
    fin_timeout=60,
    memory_limit=2**30,
    memory_used=2**28,
    pids_limit=UNLIMITED,
    cpu_quota=2.0,
    processors=8,
    python="3.13.1",
    extras={"fast": True, "gevent": False},
    clock_synchronised=True,
)


def test_nothing_to_mend() -> None:
    assert {line.name: line.state for line in advice(GOOD) if line.state != "ok"} == {}
    assert advice(Facts(python="3.11.7"))[0].name == "Python"  # where nothing else can be known


@pytest.mark.parametrize(
    ("name", "facts", "mend"),
    [
        ("descriptors", {"hard_descriptors": 1024}, "ulimit -Hn 65536"),
        ("server's descriptors", {"server_soft": 1024, "server_pid": 7}, "prlimit --pid 7 --nofile=65536"),
        ("server's descriptors", {"server_soft": 1024, "server_under_systemd": True}, "LimitNOFILE=65536"),
        ("accept queue", {"somaxconn": 128}, "sysctl -w net.core.somaxconn=1024"),
        ("accept queue", {"backlog": 8192}, "sysctl -w net.core.somaxconn=8192"),
        ("handshakes", {"syncookies": 0}, "tcp_syncookies=1"),
        ("overflow", {"abort_on_overflow": 1}, "tcp_abort_on_overflow=0"),
        ("ports", {"port_range": (60000, 60999)}, "ip_local_port_range"),
        ("half-closed", {"fin_timeout": 600}, "tcp_fin_timeout=60"),
        ("memory", {"memory_used": 2**30 - 1}, "--max-worker-memory"),
        ("processes", {"pids_limit": 100, "pids_used": 10}, "--pids-limit"),
        ("processors", {"cpu_quota": 0.5}, "one whole processor"),
        ("Python", {"python_debug": True}, "--with-pydebug"),
        ("clock", {"clock_synchronised": False}, "timedatectl"),
        ("clock", {"clock_plausible": False}, "timedatectl"),
    ],
)
def test_what_is_to_mend(name: str, facts: dict[str, object], mend: str) -> None:
    (line,) = [each for each in advice(msgspec.structs.replace(GOOD, **facts)) if each.state == "warn"]
    assert line.name == name and mend in line.mend


@pytest.mark.parametrize("somaxconn", [4096, 16])
def test_it_ends_with_what_it_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, somaxconn: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "gathered", lambda *_: msgspec.structs.replace(GOOD, somaxconn=somaxconn))
    status = int(somaxconn == 16)
    assert main.run(["doctor", "--name", "none"]) == status
    output = capsys.readouterr().out
    assert output.splitlines()[-1] == ("1 thing to mend." if status else "Nothing is to be mended.")
    assert main.run(["doctor", "--name", "none", "--json"]) == status
    assert {each["state"] for each in json.loads(capsys.readouterr().out)} == ({"ok", "warn"} if status else {"ok"})


def test_this_machine_and_a_server(tmp_path: Path) -> None:
    path = str(tmp_path / "control")
    with serving(model="epoll", workers=1, control_socket=path, name="shop") as server:
        facts = gathered(0, path)
        assert (facts.server, facts.server_pid) == ("shop", server.pid)
    assert facts.hard_descriptors and facts.python and facts.extras["gevent"] in (True, False)
    assert len(advice(facts)) >= 3
    assert gathered(0, path).server_pid is None
