"""The guards' trials with small numbers, on Pronghorn and on settings and servers that are known to be bad.

`make proof` runs the same trials with large ones. Each detector is shown to fail once.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import guard_trials as guards
import line_trials as line
from launch import logged
from ledger_trials import Result, tried
from pauses import undisturbed
from pronghorn.models import registry
from pronghorn.scoreboard.sources import SourceCounts
from tls_under_test import Authority

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("many_descriptors"),
    pytest.mark.skipif(sys.platform != "linux", reason="the trials read Linux's /proc, and use all of 127/8"),
]
BAD_SERVERS = Path(__file__).parent / "bad_servers.py"
BAD_TLS_SERVER = Path(__file__).parent / "bad_tls_server.py"
MODELS = ["epoll", "thread"]


def good(trial: Callable[..., Result], folder: Path, *arguments: Any, **settings: Any) -> None:
    result = tried(trial, folder, *arguments, **settings)
    if result.skipped:
        pytest.skip(result.skipped)
    print(result)
    assert not result.faults, str(result)


def found(result: Result, *words: str) -> None:
    """The faults are told with these words."""
    told = "\n".join(result.faults)
    assert told and all(each in told for each in words), str(result)


@pytest.mark.parametrize("model", MODELS)
def test_peers_that_do_not_read_take_no_memory_and_are_cut(tmp_path: Path, model: str) -> None:
    good(guards.deaf, tmp_path, 30, model, deadline=1.5)


def test_memory_and_deadlines_of_deaf_peers_are_looked_at(tmp_path: Path) -> None:
    found(guards.deaf(tmp_path, 5, deadline=0.5, handler="Hoards", write_timeout=0), "were not cut", "memory grew")


@pytest.mark.parametrize("model", MODELS)
def test_peers_that_say_too_little_are_cut(tmp_path: Path, model: str) -> None:
    good(guards.slow, tmp_path, 30, model, deadline=2.0)


@pytest.mark.parametrize("model", MODELS)
def test_mute_tls_clients_are_cut(tmp_path: Path, model: str) -> None:
    good(line.mute, tmp_path, 30, model, deadline=1.5)


def test_mute_tls_clients_that_stay_are_seen(tmp_path: Path) -> None:
    found(line.mute(tmp_path, 5, deadline=0.3, handshake_timeout=60), "mute peers were not cut")


@pytest.mark.parametrize(("idle", "told"), [(0.2, "mute peers cut after another time"), (0, "mute peers were not cut")])
def test_cuts_at_another_time_and_none_are_seen(tmp_path: Path, idle: float, told: str) -> None:
    result = guards.slow(tmp_path, 5, deadline=1.0, idle_timeout=idle, message_timeout=0)
    found(result, told, told.replace("mute", "dripping"))


@pytest.mark.parametrize("model", MODELS)
def test_without_descriptors_the_served_are_served_and_others_told(tmp_path: Path, model: str) -> None:
    good(guards.no_descriptors, tmp_path, 50, model)


def test_one_that_spins_without_descriptors_is_seen(tmp_path: Path) -> None:
    with logged(tmp_path, str(BAD_SERVERS), "spins") as server:
        (pid,) = server.ready(1)
        result = guards.without_of(Result("spins"), server, tmp_path, pid, 5)
    found(result, "were left to wait", "of processor time", "lines in the log")


def test_without_processes_clients_are_told(tmp_path: Path) -> None:
    good(guards.no_forks, tmp_path, 20)


def test_a_full_disk_harms_nobody(tmp_path: Path) -> None:
    good(guards.full_disk, tmp_path, 0.5)


LIMITS: list[tuple[Callable[..., Result], int, dict[str, Any], str]] = [
    # a trial, its number, what makes the server bad, and what must be told of it then
    (guards.limit_of_all, 20, {"max_connections": 25}, "are inside instead of 20"),
    (guards.limit_of_sources, 20, {"max_connections_per_source": 4}, "served instead of"),
    (guards.limit_of_rate, 20, {"accept_rate": 40}, "were served in"),
    (guards.limit_behind_proxies, 5, {"proxy_from": "127.0.0.0/8"}, "of a stranger were served"),
]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("trial", "count"), [each[:2] for each in LIMITS])
def test_limits_are_exact(tmp_path: Path, trial: Callable[..., Result], count: int, model: str) -> None:
    good(trial, tmp_path, count, model)


@pytest.mark.parametrize(("trial", "count", "settings", "told"), LIMITS)
def test_other_limits_are_seen(
    tmp_path: Path, trial: Callable[..., Result], count: int, settings: dict[str, Any], told: str
) -> None:
    undisturbed(lambda: found(trial(tmp_path, count, **settings), told))


def test_false_sources_take_no_memory(tmp_path: Path) -> None:
    good(guards.false_sources, tmp_path, 20_000)


def test_a_table_that_grows_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: dict[tuple[str, int] | str, int] = {}

    def add(counts: SourceCounts, peer: tuple[str, int] | str, at: str = "") -> None:
        counted[peer] = counted.get(peer, 0) + 1

    monkeypatch.setattr(SourceCounts, "add", add)
    found(guards.false_sources(tmp_path, 20_000), "memory grew by", "who was at the limit is no more")


@pytest.mark.parametrize(("model", "times"), [("epoll", 3), ("thread", 3), ("gevent", 3)])
def test_no_handshake_notices_a_rotation(tmp_path: Path, model: str, times: int) -> None:
    if missing := registry.page(model).missing():
        pytest.skip(f"{model}: {missing}")
    good(line.rotations, tmp_path, times, model)


@pytest.mark.parametrize("model", MODELS)
def test_old_tls_and_renegotiation_are_refused(tmp_path: Path, model: str) -> None:
    good(line.versions, tmp_path, model, quick=True)


def test_what_testssl_finds_is_told() -> None:
    result = Result("testssl.sh")
    fine = ["TLS1_2", "TLS1_3", "CRIME_TLS"]
    findings = [{"id": each, "severity": "OK", "finding": "as it should be"} for each in fine]
    findings += [{"id": "TLS1", "severity": "LOW", "finding": "offered (deprecated)"}]
    findings += [{"id": "TLS1_1", "severity": "INFO", "finding": "not offered"}]
    findings += [{"id": "LUCKY13", "severity": "LOW", "finding": "potentially vulnerable, uses TLS CBC ciphers"}]
    findings += [{"id": "secure_client_renego", "severity": "MEDIUM", "finding": "VULNERABLE, potential DoS threat"}]
    line.of_testssl(result, findings)
    found(result, "did not look for heartbleed", "TLS1 offered", "secure_client_renego VULNERABLE")
    assert "LUCKY13" not in str(result) and "TLS1_1" not in str(result)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("late", ["handshakes saw an old certificate"]),
        ("fails", ["good clients lost"]),
        ("old", ["TLSv1 is spoken", "TLSv1_1 is spoken", "renegotiation was let through"]),
    ],
)
def test_a_bad_tls_server_is_found_out(tmp_path: Path, fault: str, told: list[str]) -> None:
    authority = Authority(tmp_path)
    authority.sign("server")
    with logged(tmp_path, str(BAD_TLS_SERVER), fault) as server:
        if fault == "old":
            if shutil.which("sslscan"):
                told = [*told, "sslscan: protocol tls 1.0, protocol tls 1.1, ", ", renegotiation"]
            found(line.versions_of(Result(fault), server), *told)
        else:
            found(line.rotations_of(Result(fault), server, tmp_path, authority, 5), *told)


def test_lost_packets_corrupt_nothing(tmp_path: Path) -> None:
    good(line.loss, tmp_path, seconds=3, permille=50, deadline=3.0)


def test_no_loss_and_no_deadline_are_seen(tmp_path: Path) -> None:
    result = line.loss(tmp_path, seconds=0, permille=0, deadline=0.5, idle_timeout=0)
    if result.skipped:
        pytest.skip(result.skipped)
    found(result, "no packet was lost", "were not cut")
