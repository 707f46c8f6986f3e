"""How many, and whom not: exact under one worker and under many, polite to those who are refused, bounded in memory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boards import board_of
from launch import launched, script, wait_for
from pronghorn.errors import PronghornError
from pronghorn.listening.listener import Exhausted
from pronghorn.models import fork, registry
from pronghorn.models.registry import load
from pronghorn.scoreboard import connection_limits as limits_file
from pronghorn.scoreboard import message_rates
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.scoreboard.connection_limits import (
    ALL,
    DENIED,
    DESCRIPTORS,
    SECOND,
    SOURCE_TOO_FAST,
    TOO_FAST,
    TOO_MANY,
    Bucket,
    Limits,
    SourceBuckets,
)
from pronghorn.scoreboard.counts import ACCEPTED, CLOSED_WORD, OPEN, ChildCounts
from pronghorn.scoreboard.map import RATE_LOCK
from pronghorn.scoreboard.row import SERVING, Row
from pronghorn.scoreboard.sources import WIDTH
from pronghorn.serving.context import Context
from pronghorn.serving.emfile import SpareDescriptor
from pronghorn.settings import settle
from pronghorn.system import drain
from pronghorn.system.descriptors import free_descriptors
from pronghorn.system.drain import Drain
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, until

PATIENCE = 15.0
QUICK = ("epoll", "thread")
NAMES = [name for name in registry.MODELS if name not in ("kqueue", "iterative", "prefork")]
MODELS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
# What is counted is the same board's under all models, so that a lone worker is tried under two of them.
CASES = [(model, 1) for model in QUICK] + [
    (name, 3) if name in QUICK else pytest.param(name, 3, marks=pytest.mark.slow) for name in NAMES
]
QUIET = 0.15
START = 1_000 * SECOND


def rows(board: Scoreboard, count: int) -> list[Row]:
    return [board.take(slot, 1) for slot in range(count)]


# The whole server's limits, over the scoreboard.


def test_never_more_than_the_limit_and_the_last_place_can_be_had(board: Scoreboard) -> None:
    settings = settle({"max_connections": 5})
    first, second = rows(board, 2)
    one, two = Limits(settings, first), Limits(settings, second)
    assert [one.reserve() for _ in range(3)] + [two.reserve() for _ in range(3)] == [True] * 5 + [False]
    first.add(OPEN, -1)
    assert [two.reserve(), one.reserve()] == [True, False]
    assert [row.open for row in board.rows()] == [2, 3]


def test_one_worker_holds_no_more_than_it_can(board: Scoreboard) -> None:
    settings = settle({"max_connections": 5})
    one, two = (Limits(settings, row) for row in rows(board, 2))
    one.most = 2
    assert [one.reserve() for _ in range(3)] == [True, True, False]
    assert one.reached() == (2, DESCRIPTORS)
    assert [two.reserve() for _ in range(4)] == [True, True, True, False]
    assert two.reached() == (5, ALL), "all that the server has, not this worker's"


def test_sources_are_counted_over_all_workers(board: Scoreboard) -> None:
    settings = settle({"max_connections_per_source": 2})
    one, two = (Limits(settings, row) for row in rows(board, 2))
    peer, same, other = ("192.0.2.1", 1), ("::ffff:192.0.2.1", 2), ("192.0.2.2", 3)
    assert [one.refusal(peer), two.refusal(same), one.refusal(peer), two.refusal(other)] == ["", "", TOO_MANY, ""]
    one.left(peer)
    assert [two.refusal(peer), one.refusal(peer)] == ["", TOO_MANY]
    assert [one.refusal(""), one.refusal(""), one.refusal("")] == ["", "", ""]  # a unix socket has no sources


def test_a_connection_is_open_until_its_source_has_its_place_back(
    board: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads that none is open finds room."""
    for module, name in ((message_rates, "_map"), (drain, "_current"), (drain, "_connections")):
        monkeypatch.setattr(module, name, getattr(module, name))  # a Context sets them
    (row,) = rows(board, 1)
    peer, told, still_open = ("192.0.2.1", 1), SimpleNamespace(limits=None), list[int]()
    told.limits = SimpleNamespace(left=lambda peer: still_open.append(row.open))
    conn: Any = SimpleNamespace(number=1, peer=peer, listener="", bytes_in=0, bytes_out=0, messages=0)
    offer = SimpleNamespace(service=told, take_child=lambda counts: None)
    shared = ChildCounts(1)
    lent = shared.lend()
    lent.words[CLOSED_WORD["done"]] = 1
    settings = settle({"max_connections_per_source": 1})
    with contextlib.closing(Drain(1.0)) as began:
        context = Context(
            offers=[], settings=settings, model=load("epoll"), drain=began, observe=lambda _: None, row=row
        )
        monkeypatch.setattr(context, "_left", told.limits.left)
        row.add(OPEN)
        context.handed_over(conn)
        row.add(OPEN)
        monkeypatch.setattr(fork, "reap", lambda children: [(4711, 0, (peer, lent, 0.0, offer, 1))])
        fork.settle_dead(context, shared, SimpleNamespace(asked=False))  # type: ignore[arg-type]
    assert (still_open, row.open) == ([1, 1], 0)


def test_a_slash_64_is_one_source(board: Scoreboard) -> None:
    limits = Limits(settle({"max_connections_per_source": 1}), rows(board, 1)[0])
    assert limits.refusal(("2001:db8::1", 1)) == ""
    assert limits.refusal(("2001:db8::ffff:1", 1)) == TOO_MANY
    assert limits.refusal(("2001:db8:0:1::1", 1)) == ""


def test_a_proxy_is_counted_by_its_clients(board: Scoreboard) -> None:
    settings = settle({"max_connections_per_source": 1, "proxy_from": "10.0.0.0/8", "deny": "192.0.2.66"})
    limits = Limits(settings, rows(board, 1)[0])
    assert [limits.refusal(("10.1.1.1", each)) for each in range(3)] == ["", "", ""]
    assert [limits.refusal_of_client(("192.0.2.1", each)) for each in range(2)] == ["", TOO_MANY]
    assert limits.refusal_of_client(("192.0.2.66", 1)) == DENIED


# So many in a second.


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


def test_a_bucket_lets_through_its_rate(board: Scoreboard) -> None:
    clock = Clock()
    bucket = Bucket(10, board, clock)
    taken = []
    for _ in range(1000):  # ten seconds, a hundred clients in each
        if bucket.take():
            taken.append(clock.now)
        clock.now += SECOND // 100
    assert len(taken) == 10 * 10 + 9
    assert max(sum(at <= each < at + SECOND for each in taken) for at in range(START + SECOND, clock.now, SECOND)) <= 11
    assert sum(each < START + SECOND // 5 for each in taken) in (11, 12)


def test_one_that_was_not_needed_is_given_back(board: Scoreboard) -> None:
    clock = Clock()
    one, two = Bucket(2, board, clock), Bucket(2, board, clock)
    assert [one.take(), two.take(), one.take()] == [True, True, False]
    two.give_back()
    assert [one.take(), two.take()] == [True, False]
    for later in range(2, 6):  # and what was given back long ago is there once only
        clock.now = START + later * SECOND
        assert [one.take(), two.take(), one.take(), two.take()] == [True, True, False, False]
        one.give_back()


def test_a_worker_that_holds_the_lock_stops_nobody(board: Scoreboard) -> None:
    clock = Clock()
    bucket, (ready, said) = Bucket(5, board, clock), os.pipe()
    pid = os.fork()
    if pid == 0:
        fcntl.lockf(board.fileno(), fcntl.LOCK_EX, 1, RATE_LOCK)
        os.write(said, b"x")
        signal.pause()
    try:
        assert os.read(ready, 1)
        began = time.monotonic()
        assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]
        assert time.monotonic() - began < 5, "it waits once, and then for nobody"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(said)
    clock.now += SECOND
    with contextlib.closing(Scoreboard.adopt(os.dup(board.fileno()))) as again:
        assert [Bucket(5, again, clock).take() for _ in range(6)] == [True] * 5 + [False]
    fcntl.lockf(board.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, RATE_LOCK)  # which its death has freed


class Ideal:
    """One bucket for all, in plain words."""

    def __init__(self, rate: int) -> None:
        self.rate, self.level, self.now = rate, rate * SECOND, START

    def until(self, now: int) -> None:
        self.level = min(self.rate * SECOND, self.level + (now - self.now) * self.rate)
        self.now = now

    def take(self) -> bool:
        fits = self.level >= SECOND
        self.level -= fits * SECOND
        return fits


STEPS = st.tuples(st.sampled_from("takes takes takes takes gives_back dies starts".split()), st.integers(0, 5))


@given(
    st.lists(st.tuples(STEPS, st.sampled_from([0, 0, 1, 10, 100, 300, 1500])), max_size=200),
    st.sampled_from([1, 4, 20]),
)
def test_buckets_of_many_workers_are_one(steps: list[tuple[tuple[str, int], int]], rate: int) -> None:
    """Also of those that start, or are replaced, in the middle."""
    ideal, clock = Ideal(rate), Clock()
    with contextlib.closing(Scoreboard.create()) as board:
        workers = rows(board, 2)
        buckets = [Bucket(rate, board, clock) for row in workers]
        for (what, which), pause in steps:
            clock.now += pause * SECOND // 1000
            ideal.until(clock.now)
            which %= len(workers)
            if what == "takes":
                assert buckets[which].take() == ideal.take()
            elif what == "gives_back" and ideal.level <= (rate - 1) * SECOND:
                buckets[which].give_back()
                ideal.level += SECOND
            elif what == "dies" and len(workers) > 1:
                board.release(workers.pop(which).index)
                del buckets[which]
            elif what == "starts" and len(workers) < 6:
                workers.append(board.take(9, 2))
                buckets.append(Bucket(rate, board, clock))


@pytest.mark.slow
def test_workers_that_take_at_the_same_moment_never_take_too_many(board: Scoreboard) -> None:
    """Processes, as many as there are moments to collide in."""
    rate, began = 1000, time.monotonic_ns()
    pids = []
    for row in rows(board, 4):
        pids.append(os.fork())
        if pids[-1] == 0:
            bucket, until = Bucket(rate, board), time.monotonic_ns() + SECOND // 2
            while time.monotonic_ns() < until or row.words[ACCEPTED] < rate // 4:
                row.words[ACCEPTED] += bucket.take()
            os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)
    took = (time.monotonic_ns() - began) / SECOND
    assert rate <= board.totals()["accepted"] <= rate * (1 + took)


def test_the_rate_is_the_whole_servers(board: Scoreboard) -> None:
    settings = settle({"accept_rate": 3})
    limits = [Limits(settings, row) for row in rows(board, 3)]
    told = [each.refusal(("192.0.2.1", 1)) for each in limits for _ in range(2)]
    assert told == ["", "", "", TOO_FAST, TOO_FAST, TOO_FAST]
    limits[1].refused()
    late = Limits(settings, board.take(3, 2))
    assert [late.refusal(("192.0.2.1", 1)), late.refusal(("192.0.2.1", 1))] == ["", TOO_FAST]


def test_who_comes_too_fast_is_not_counted_by_its_source_and_who_is_too_many_not_by_the_second(
    board: Scoreboard,
) -> None:
    limits = Limits(settle({"accept_rate": 2, "max_connections_per_source": 1}), rows(board, 1)[0])
    one, two, three = ((f"192.0.2.{each}", 1) for each in (1, 2, 3))
    assert [limits.refusal(each) for each in (one, one, one, two, three)] == ["", TOO_MANY, TOO_MANY, "", TOO_FAST]
    assert limits.refusal_of_client(three) == ""


def test_a_source_has_a_rate_of_its_own_over_all_workers_and_no_other_pays_for_it(board: Scoreboard) -> None:
    limits = [Limits(settle({"accept_rate_per_source": 3}), row) for row in rows(board, 2)]
    fast, calm = ("192.0.2.1", 1), [(f"192.0.2.{each}", 1) for each in range(2, 40)]
    assert [each.refusal(fast) for each in limits * 4] == [""] * 3 + [SOURCE_TOO_FAST] * 5
    assert [limits[0].refusal(each) for each in calm] == [""] * len(calm)
    assert limits[0].refusal(("::ffff:192.0.2.1", 7)) == SOURCE_TOO_FAST, "mapped into IPv6 it is the same source"
    assert limits[1].refusal_of_client(fast) == SOURCE_TOO_FAST, "by a proxy, too"
    assert [limits[0].refusal("unix:/x") for _ in range(9)] == [""] * 9
    late = Limits(settle({"accept_rate_per_source": 3}), board.take(9, 2))
    assert late.refusal(fast) == SOURCE_TOO_FAST, "also for a worker that has just started"


@given(st.lists(st.tuples(st.integers(0, SECOND), st.integers(0, 3)), max_size=80), st.integers(1, 5))
def test_no_source_gets_more_than_its_rate_whoever_shares_its_places(steps: list[tuple[int, int]], rate: int) -> None:
    """In a table in which all sources collide in one line, and each has another place in the other."""
    board, now = Scoreboard.create(), START
    with contextlib.closing(board), pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits_file, "buckets", lambda key, host, at="": (0, WIDTH + int(host)))
        buckets = SourceBuckets(rate, board, clock=lambda: now)
        took: dict[int, list[int]] = {}
        for pause, source in steps:
            now += pause
            if buckets.take((str(source), 1)):
                took.setdefault(source, []).append(now)
    for instants in took.values():
        for first in instants:
            within = [each for each in instants if first <= each <= first + SECOND]
            assert len(within) <= 2 * rate, "what had filled in a second of rest, and what came in the next"


@pytest.mark.slow
def test_a_flood_of_one_source_is_turned_away_by_name(tmp_path: Path) -> None:
    with launched(tmp_path, accept_rate_per_source=2, workers=2) as server:
        answers = [server.ask(b"x\n") for _ in range(2)]
        assert answers == [b"X\n"] * 2
        wait_for(server.refuses, "a refusal")
        wait_for(lambda: re.search(r"Refused 127\.0\.0\.1.*--accept-rate-per-source", server.log), "a word of it")


# The reserve.


class Queue:
    """A listener in whose queue clients wait."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)

    def accept(self) -> Any:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def test_the_reserve_is_spent_at_the_second_shortage_and_refilled() -> None:
    reserve, shortage = SpareDescriptor(), Exhausted(errno.EMFILE, "Too many open files")
    with contextlib.closing(reserve):
        held = reserve.fileno()
        assert held >= 0 and not os.get_inheritable(held)
        queue: Any = Queue((1, "a"), (2, "b"), None)
        assert list(reserve.accepted(queue, shortage)) == []
        found = []
        for each in reserve.accepted(queue, shortage):
            assert reserve.fileno() == -1
            found.append(each)
        assert found == [(1, "a"), (2, "b")]
        assert reserve.fileno() >= 0
        queue = Queue(BlockingIOError())
        assert list(reserve.accepted(queue, shortage)) == []
        assert reserve.fileno() >= 0


def test_the_reserve_helps_against_nothing_else() -> None:
    with contextlib.closing(SpareDescriptor()) as reserve:
        for number in (errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            for _ in range(2):
                assert list(reserve.accepted(Queue((1, "a")), Exhausted(number, ""))) == []  # type: ignore[arg-type]


def test_free_descriptors_are_those_that_can_be_opened() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        try:
            most = max(map(int, os.listdir("/dev/fd"))) + 100
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, most), hard))
            free = free_descriptors()
            for _ in range(free):
                stack.callback(os.close, os.dup(0))
            with pytest.raises(OSError):
                os.dup(0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Under every model.


@contextlib.contextmanager
def limited(model: str, **settings: Any) -> Iterator[Served]:
    missing = registry.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")
    with serving("upper", model=model, **settings) as server:
        yield server
        assert "Traceback" not in server.log()


@contextlib.contextmanager
def connected(server: Served, count: int, source: Callable[[int], str] = lambda index: "127.0.0.1") -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        clients = []
        for index in range(count):
            client = stack.enter_context(socket.socket())
            client.settimeout(PATIENCE)
            client.bind((source(index), 0))
            client.connect(server.address)
            clients.append(client)
        yield clients


def answered(client: socket.socket) -> bool:
    """Whether there is an answer; False is an end, in order. A reset raises."""
    return exchange(client, b"a", expect=1) == b"A"


def is_silent(client: socket.socket, seconds: float = QUIET) -> bool:
    return not select.select([client], [], [], seconds)[0]


@pytest.mark.parametrize(("model", "workers"), CASES)
def test_beyond_the_limit_of_all_clients_wait_in_the_queue(model: str, workers: int) -> None:
    with limited(model, max_connections=4, workers=workers) as server, connected(server, 7) as clients:
        for client in clients:
            client.sendall(b"a")
        served: set[socket.socket] = set()

        def so_many(count: int) -> bool:
            served.update(select.select([each for each in clients if each not in served], [], [], 0)[0])
            return len(served) >= count

        until(lambda: so_many(4))
        time.sleep(QUIET)
        so_many(7)
        assert len(served) == 4
        told = r"there is no room beside \d open connections \(--max-connections\)"
        until(lambda: re.search(told, server.log()), "a word of it")
        for count in (5, 6, 7):
            gone = served.pop()
            assert gone.recv(1) == b"A"
            clients.remove(gone)
            gone.close()
            until(lambda count=count: so_many(4))  # type: ignore[misc]
            assert len(served) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "setting"), [("thread", "max_threads"), ("pool", "pool_size"), ("fork", "max_children")]
)
def test_who_waits_for_a_flow_of_control_is_told_of(model: str, setting: str) -> None:
    told = f"there is no room beside 2 open connections (--{setting.replace('_', '-')})"
    with limited(model, **{setting: 2}) as server, connected(server, 2) as inside:
        assert all(map(answered, inside))
        served = board_of(server).rows()[0]
        beat = served.beat
        until(lambda: served.beat > beat + 1.5)
        assert told not in server.log(), "nobody waits"
        with connected(server, 1) as (waiting,):
            until(lambda: told in server.log())
            inside[0].close()
            assert answered(waiting)


@pytest.mark.parametrize(("model", "workers"), CASES)
def test_beyond_the_limit_of_a_source_clients_are_turned_away(model: str, workers: int) -> None:
    with limited(model, max_connections_per_source=3, workers=workers) as server:
        for _ in range(2):  # what was counted is taken back
            with connected(server, 5, lambda index: "127.0.0.2") as clients, connected(server, 1) as (other,):
                told = [answered(client) for client in clients]
                assert told.count(True) == 3, told
                assert answered(other)
            until(lambda: sum(row.open for row in board_of(server).rows()) == 0)
        assert "--max-connections-per-source" in server.log()


@pytest.mark.parametrize(("model", "workers"), CASES)
def test_beyond_the_rate_clients_are_turned_away(model: str, workers: int) -> None:
    with limited(model, accept_rate=20, workers=workers, pool_size=100) as server:
        begun = time.monotonic()
        with connected(server, 60) as clients:
            told = [answered(client) for client in clients]
        took = time.monotonic() - begun
        assert 20 - 2 * workers <= told.count(True) <= 20 * (1 + took), (told, took)
        assert "--accept-rate" in server.log()
        with connected(server, 1) as (late,):
            until(lambda: answered(late) or _again(server))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_the_rate_holds_while_workers_come_and_go(model: str) -> None:
    """From the start on, while one is killed and replaced, and through a reload."""
    rate, taken = 20, []  # when each client who was served began and had its answer
    busy, last = 0.0, time.monotonic()  # without the time in which nobody came, as on a busy machine

    def hammer(over: Callable[[], bool]) -> None:
        nonlocal busy, last
        while not over():
            began = time.monotonic()
            busy, last = busy + min(began - last, 0.1), began
            with connected(server, 1) as (client,):
                try:
                    served = answered(client)
                except ConnectionResetError:
                    continue  # it was the killed worker's
                if served:
                    taken.append((began, time.monotonic()))

    with limited(model, accept_rate=rate, workers=3, pool_size=100) as server:
        board = board_of(server)
        began = time.monotonic()

        def whole(generation: int, *gone: int) -> Callable[[], bool]:
            def look() -> bool:
                found = [row for row in board.rows() if (row.generation, row.state) == (generation, SERVING)]
                return len(found) == 3 and not {row.pid for row in found} & set(gone)

            return look

        hammer(whole(1))
        killed = server.worker_pids()[0]
        os.kill(killed, signal.SIGKILL)
        hammer(whole(1, killed))
        server.send_signal(signal.SIGHUP)
        hammer(whole(2))
        until = time.monotonic() + 1
        hammer(lambda: time.monotonic() > until)
        took = time.monotonic() - began
    assert rate * 0.5 * busy <= len(taken) <= rate * (1 + took), (len(taken), busy, took)
    for first, (since, _) in enumerate(taken):
        for last, (_, end) in enumerate(taken[first:], 1):
            assert last <= rate * (1 + end - since), f"{last} clients within {end - since:.3f} s"


def _again(server: Served) -> bool:
    with connected(server, 1) as (client,):
        return answered(client)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["iterative", "prefork", *NAMES])
def test_who_is_denied_is_turned_away(model: str) -> None:
    with limited(model, deny=("127.0.0.2/31",), allow=("127.0.0.3", "127.0.0.1")) as server:
        with connected(server, 4, lambda index: f"127.0.0.{index + 1}") as clients:
            assert [exchange(client, b"a", end=True) for client in clients] == [b"A", b"", b"A", b""]
        until(lambda: "Refused 127.0.0.2 at PORT" in server.log())


BOTH_FAMILIES = """
import socket
import pronghorn
listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
pronghorn.serve("upper", bind=f"fd://{{listening.fileno()}}", model={model!r}, deny="127.0.0.66",
                max_connections_per_source=2, pool_size=50)
"""


@pytest.mark.slow
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no socket can have both families here")
@pytest.mark.parametrize("model", NAMES)
def test_ipv4_is_ipv4_also_at_a_listener_of_both_families(tmp_path: Path, model: str) -> None:
    if registry.page(model).missing() is not None:
        pytest.skip(f"{model}: {registry.page(model).missing()}")
    with script(tmp_path, BOTH_FAMILIES.format(model=model)) as server, contextlib.ExitStack() as stack:

        def told(source: str) -> bool:
            client = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET))
            client.settimeout(PATIENCE)
            client.bind((source, 0))
            client.connect(("::1" if ":" in source else "127.0.0.1", server.address[1]))
            return answered(client)

        sources = ["127.0.0.1", "127.0.0.66", "127.0.0.2", "::1"]
        assert [told(source) for _ in range(3) for source in sources] == [True, False, True, True] * 2 + [False] * 4
        wait_for(lambda: "Refused 127.0.0.66 at PORT" in server.log, "the refusal")
        assert "Traceback" not in server.log
        stack.close()
        assert server.stop() == 0


def test_fork_cannot_count_the_clients_of_proxies() -> None:
    settings: dict[str, Any] = {"max_connections_per_source": 1, "proxy_from": ("127.0.0.1",)}
    with (
        pytest.raises(PronghornError, match="cannot be kept under fork with --proxy-from"),
        serving("upper", model="fork", **settings),
    ):
        pass


# Out of descriptors, for real.

linux = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="prlimit(2) is a call of Linux")
SHORT_OF_DESCRIPTORS = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))
import pronghorn
pronghorn.serve("upper", bind="127.0.0.1:0", model={model!r}, pool_size=1000)
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", [each for each in NAMES if each != "fork"])
def test_without_a_limit_of_connections_the_descriptors_are_one(tmp_path: Path, model: str) -> None:
    if registry.page(model).missing() is not None:
        pytest.skip(f"{model}: {registry.page(model).missing()}")
    with script(tmp_path, SHORT_OF_DESCRIPTORS.format(model=model)) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(100)]
        for client in clients:
            client.sendall(b"a")
        wait_for(lambda: "there is no room beside" in server.log, "the full server")
        assert "open connections (the descriptors of a worker, ulimit -n)" in server.log
        wait_for(lambda: len(select.select(clients, [], [], 0)[0]) > 40, "answers")
        time.sleep(QUIET)
        served = select.select(clients, [], [], 0)[0]
        assert len(served) < 96
        assert "accept failed" not in server.log
        for client in served:
            client.close()
            clients.remove(client)
        for client in clients:
            assert client.recv(1) == b"A"
        assert server.stop() == 0


@contextlib.contextmanager
def no_descriptor_left(pid: int) -> Iterator[None]:
    """The process finds no number for one more, until the end of the block."""
    used = {int(each) for each in os.listdir(f"/proc/{pid}/fd")}
    lowest = next(each for each in range(len(used) + 1) if each not in used)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("model", ["iterative", *NAMES])
def test_out_of_descriptors_clients_are_turned_away_and_service_comes_back(model: str) -> None:
    with limited(model) as server:
        (pid,) = server.worker_pids()
        held = model != "iterative"  # there it would hold the only flow of control
        with connected(server, held) as before:
            assert all(map(answered, before))
            if model == "fork":  # a child may answer before its parent has let go of the connection
                until(lambda: {each.status for each in psutil.Process(pid).net_connections()} == {psutil.CONN_LISTEN})
            with no_descriptor_left(pid):
                process = psutil.Process(pid)
                worked, begun = sum(process.cpu_times()[:2]), time.monotonic()
                with connected(server, 200) as clients:
                    assert all(exchange(client, b"", expect=0) == b"" for client in clients)
                    assert clients[-1].recv(1) == b""
                until(lambda: time.monotonic() > begun + 2)
                assert sum(process.cpu_times()[:2]) - worked < 0.05 * (time.monotonic() - begun) + 0.03
                assert server.log().count("accept failed") == 1
                assert "Too many open files" in server.log()
                assert all(map(answered, before))
            begun = time.monotonic()
            with connected(server, 1) as (after,):
                assert answered(after)
            assert time.monotonic() - begun < PATIENCE / 3, "it rests for a tenth of a second"
        assert server.stop() == 0
