"""The ledger's trials with small numbers, on Pronghorn and on servers that are known to be bad.

`make proof` runs the same trials with large ones. A detector that never fires proves nothing: each one is shown to
fail here, against a server that has the fault it looks for.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import handover_trials as handing
import ledger_reloads as reloading
import ledger_sampler
import ledger_trials as trials
from handover_clients import COROUTINE
from launch import logged, wait_for
from ledger import Book, Row
from ledger_client import Clients, steady
from ledger_sampler import Sampler
from pronghorn.errors import MissingExtra
from pronghorn.models.registry import load
from pronghorn.settings.model import MODELS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the ledger's sampler reads Linux's /proc"),
]
BAD_SERVERS = Path(__file__).parent / "bad_servers.py"
BLOCKING = "iterative fork prefork thread pool gevent".split()
PAIRS = [(model, "message") for model in MODELS if model != "auto"]
PAIRS += [("epoll", "protocol"), ("thread", "protocol"), ("epoll", "asyncio"), ("uvloop", "asyncio")]
PAIRS += [("thread", "blocking"), ("fork", "blocking")]


def available(model: str) -> None:
    try:
        load(model)
    except MissingExtra as error:
        pytest.skip(str(error))


def good(trial: Callable[..., trials.Result], folder: Path, *arguments: Any, **settings: Any) -> None:
    result = trials.tried(trial, folder, *arguments, **settings)
    print(result)
    assert not result.faults, str(result)


# R9


@pytest.mark.parametrize(("model", "style"), PAIRS)
def test_term_answers_whoever_is_in_flight_or_in_the_queue(tmp_path: Path, model: str, style: str) -> None:
    available(model)
    good(trials.term, tmp_path, model, style, count=25)


@pytest.mark.parametrize("model", ["epoll", "thread"])
def test_term_under_load_serves_or_refuses(tmp_path: Path, model: str) -> None:
    good(trials.term_under_load, tmp_path, model, rate=400, seconds=0.5)


# R3


@pytest.mark.parametrize(("model", "times"), [("epoll", 5), ("thread", 3), ("uvloop", 3), ("prefork", 3)])
def test_no_client_notices_a_reload(tmp_path: Path, model: str, times: int) -> None:
    available(model)
    good(reloading.reloads, tmp_path, times, rate=500, model=model)


# R20


def test_connections_move_at_each_reload_and_lose_nothing(tmp_path: Path) -> None:
    good(handing.handovers, tmp_path, times=5, count=60, pause=0.02)


def test_kills_between_cost_the_connections_of_killed_workers_and_no_others(tmp_path: Path) -> None:
    good(handing.handovers, tmp_path, times=6, count=60, kills=True, pause=0.02)


def test_connections_of_coroutines_move_when_they_wait_and_lose_nothing(tmp_path: Path) -> None:
    good(handing.handovers, tmp_path, times=3, count=40, pause=0.05, handler=COROUTINE, model="asyncio")


def test_no_client_notices_an_upgrade(tmp_path: Path) -> None:
    good(reloading.upgrades, tmp_path, times=3)


def test_no_client_notices_a_reload_that_fails(tmp_path: Path) -> None:
    good(reloading.broken_reloads, tmp_path, times=len(reloading.BROKEN) + 1)


@pytest.mark.parametrize("model", ["fork", "epoll"])
def test_a_bind_that_is_removed_resets_nobody(tmp_path: Path, model: str) -> None:
    good(reloading.removed_bind, tmp_path, model, rate=150)


# R4, R4b


def test_kills_lose_only_the_connections_of_the_killed(tmp_path: Path) -> None:
    good(trials.kills, tmp_path, seconds=2.0, rate=500)


def test_the_death_of_the_supervisor_loses_nobody_who_was_served(tmp_path: Path) -> None:
    good(trials.orphans, tmp_path, times=2)


# The detectors


def run(folder: Path, fault: str, trial: str) -> trials.Result:
    """A trial of a bad server."""
    with logged(folder, str(BAD_SERVERS), fault) as server:
        if trial == "term":
            return trials.term_of(server, folder, 20, 20, "hold", fault)
        if trial == "kills":
            return trials.kills_of(server, 4, 1.5, 300)
        return reloading.reloads_of(server, folder, 4, 1 if fault == "old-first" else 4, 300)


@pytest.mark.parametrize("trial", ["term", "kills", "reload"])
def test_the_trials_pass_without_a_fault(tmp_path: Path, trial: str) -> None:
    good(run, tmp_path, "none", trial)


@pytest.mark.parametrize(
    ("fault", "trial", "found"),
    [
        ("closes-first", "reload", ["clients lost", " refused", "listeners:"]),
        ("old-first", "reload", ["a client waited", "the slowest reload took"]),
        ("reuseport", "reload", ["clients lost", "reset-before-byte", "listeners:"]),
        ("leaks", "reload", ["descriptors grew"]),
        ("drops", "reload", ["clients lost", " corrupt"]),
        ("twice", "reload", ["clients lost", " duplicate"]),
        ("forgets", "reload", ["never ended"]),
        ("unread", "reload", ["clients lost"]),
        ("resets", "term", ["clients lost", "reset-before-byte"]),
        ("zombies", "kills", ["were not reaped"]),
        ("one-dies-all", "kills", ["no killed worker had"]),
    ],
)
def test_a_bad_server_is_found_out(tmp_path: Path, fault: str, trial: str, found: list[str]) -> None:
    result = run(tmp_path, fault, trial)
    told = str(result)
    assert result.faults
    assert all(each in told for each in found), told


# The books themselves


def row(text: str) -> Row:
    return Row("\t".join(text.split("|")))


def test_the_books_are_compared_in_both_directions(tmp_path: Path) -> None:
    (tmp_path / "ledger.7").write_text(
        "open 1 127.0.0.2:5 1.0\nname 1 a\nend 1 2 1.5\n"  # as it should be
        "open 2 127.0.0.2:6 1.0\nname 2 b\nend 2 1 1.5\n"  # it says one, the client has two
        "open 3 127.0.0.2:7 1.0\nname 3 c\n"  # no end
        "open 4 127.0.0.2:8 1.0\nname 4 a\nend 4 2 1.5\n"  # the same again
        "open 5 127.0.0.2:9 1.0\nname 5 nobody\nend 5 1 1.5\n"
    )
    end = "|2|2|{}|0|"
    rows = [
        row("a|whole|ok|127.0.0.2:5|1.0|1.5" + end.format(7)),
        row("b|whole|ok|127.0.0.2:6|1.0|1.5" + end.format(7)),
        row("c|whole|ok|127.0.0.2:7|1.0|1.5" + end.format(8)),
        row("d|whole|ok|127.0.0.2:1|1.0|1.5" + end.format(7)),
    ]
    told = "\n".join(Book(rows, tmp_path).faults())
    words = ("twice on the server's side: a", "counts differ: <b", "never ended: <c", "by another", "no client")
    for fault in (*words, "in no server's book: <d"):
        assert fault in told, told
    assert len(Book(rows, tmp_path).faults()) == 6, told


def test_a_loss_belongs_to_the_process_that_had_it_or_follows_a_kill(tmp_path: Path) -> None:
    (tmp_path / "ledger.7").write_text("open 1 127.0.0.2:5 1.0\nname 1 a\n")
    (tmp_path / "ledger.8").write_text("open 1 127.0.0.2:6 1.0\n")
    rows = [
        row("a|whole|reset-mid|127.0.0.2:5|1.0|1.5|2|1|7|0|"),
        row("b|whole|eof-early|127.0.0.2:6|1.0|1.5|2|0|||"),
        row("c|whole|reset-before-byte|127.0.0.2:7|1.0|1.5|2|0|||"),
        row("d|whole|reset-before-byte|127.0.0.2:8|1.0|2.5|2|0|||"),
    ]
    assert [each.name for each in Book(rows, tmp_path, {7: 1.4}).not_by_a_kill()] == ["b", "d"]
    assert [each.name for each in Book(rows, tmp_path, {8: 1.4}).not_by_a_kill()] == ["a", "d"]


def test_nobody_listens_and_nobody_answers() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        clients = Clients(sock.getsockname(), patience=0.2)
        clients.open()
        sock.listen(1)
        clients.open()
        clients.finish(10)
        assert [each.outcome for each in clients.done] == ["refused", "timeout"]
        clients.close()


def test_clients_that_wait_too_long_are_not_joined_by_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        clients = Clients(server.getsockname(), patience=30)
        end = time.monotonic() + 0.1
        steady(clients, 1000, {"whole": 1}, lambda: time.monotonic() > end, most=3)
        assert len(clients.live) == 3
        assert not clients.done
        clients.close()


def test_the_sampler_sees_the_dead() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    with Sampler(os.getpid(), 0, every=0.02) as sampler:
        wait_for(lambda: pid in sampler.zombies, "a dead process that nobody waits for")
        os.waitpid(pid, 0)


def test_the_dead_may_wait_as_long_as_their_parent_has_no_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_sampler, "withheld", lambda pid: time.monotonic())
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    with Sampler(os.getpid(), 0, every=0.02) as sampler:
        wait_for(lambda: sampler.longest > ledger_sampler.WORN + 0.1)
        assert not sampler.zombies
        os.waitpid(pid, 0)
