"""Handlers that crash on one message: the service goes on, and the log stays readable."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from launch import PATIENCE, Launched, halt, launched, wait_for
from pronghorn.scoreboard.stacks import SIZE, Stacks
from pronghorn.scoreboard.suspects import PLACES, REFUSED, REFUSED_WORDS, TABLE_WORDS, OpenSources, Refused, key, name
from pronghorn.supervisor.crash_penalty import HALF_LIFE, LONGEST, MOST, Suspect, Suspicion
from pronghorn.supervisor.replacement_rate import AT_ONCE, RATE, Pace

HANDLER = f"{Path(__file__).parents[1] / 'handlers_that_wait.py'}:crashes"


def ask(server: Launched, line: bytes, head: bytes = b"") -> bytes:
    """One answer; empty if the connection was lost."""
    with suppress(OSError), server.connect() as sock:
        sock.settimeout(PATIENCE)
        sock.sendall(head + line)
        return sock.recv(100)
    return b""


@contextmanager
def attacked(server: Launched, head: bytes = b"") -> Iterator[list[bytes]]:
    """While a peer sends the message that crashes a worker, again and again; what it was answered."""
    over = threading.Event()
    answers: list[bytes] = []

    def attack() -> None:
        while not over.is_set():
            answers.append(ask(server, b"crash\n", head))

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("model", ["asyncio", "thread"])
def test_who_comes_next_is_not_lost_to_the_message_that_crashed_the_worker_before(model: str, tmp_path: Path) -> None:
    with launched(tmp_path, HANDLER, model=model, workers=1) as server:
        (worker,) = server.ready()
        halt(server.pid)  # so that both wait for the same new worker, in this order
        assert ask(server, b"crash\n") == b""
        wait_for(lambda: psutil.Process(worker).status() == psutil.STATUS_ZOMBIE, "its end")
        with server.connect() as bad, server.connect() as good:
            bad.sendall(b"crash\n")
            good.sendall(b"hello\n")
            server.send(signal.SIGCONT)
            assert good.recv(100) == b"HELLO\n"


@pytest.mark.parametrize("model", ["epoll", "prefork", "fork"])
def test_one_message_that_crashes_does_not_take_the_service_away(model: str, tmp_path: Path) -> None:
    good: list[bytes] = []

    def answered() -> bool:
        good.append(ask(server, b"hello\n"))
        return good.count(b"HELLO\n") >= 20

    with launched(tmp_path, HANDLER, model=model, workers=2) as server:
        server.ready(2)
        with attacked(server) as attacks:
            wait_for(lambda: len(attacks) > AT_ONCE, "processes that died", 30)
            wait_for(answered, "answers", 30)
            wait_for(lambda: all(each in server.log for each in ("Fatal Python error", "was killed by")), "a record")
        log = server.log
        assert "next attempt in" not in log, "a worker that has served is followed by no growing pause"
        assert 1 <= log.count("Fatal Python error") < 8, "one stack in ten seconds and place"
        assert 1 <= log.count("was killed by SIGABRT") < 8, "and the others are counted"
        assert "in crashes" in log
        assert "supervisor.py" not in log, "frames of the house are left out"
        wait_for(lambda: ask(server, b"hello\n") == b"HELLO\n", "an answer")
        assert server.stop() == 0


def test_a_worker_that_dies_without_serving_is_followed_by_a_growing_pause(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(
        "import os, threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), os.kill(os.getpid(), 6)), daemon=True).start()\n"
        "def handle(conn): pass\n"
    )
    with launched(tmp_path, "dies:handle", model="thread") as server:
        wait_for(lambda: server.log.count("is ready, process id") >= 4, "four workers")
        assert "have to wait" not in server.log


def test_many_may_be_replaced_at_once_and_then_so_many_in_a_second() -> None:
    pace, workers = Pace(), 4
    at = [pace.allows(100.0, workers) for _ in range(2000)]
    assert at[: workers + AT_ONCE] == [100.0] * (workers + AT_ONCE)
    assert at[-1] == pytest.approx(100.0 + (len(at) - 1 - workers - AT_ONCE) / RATE)
    pace.recorded = True
    assert pace.allows(1000.0, workers) == 1000.0
    assert not pace.recorded, "after a rest it would be recorded again"


def test_stacks_are_bounded_and_only_whole_ones_are_taken() -> None:
    stacks = Stacks()
    try:
        assert stacks.take() == ""
        os.write(stacks.fileno(), b"  File of another\nFatal Python error: Aborted\n\nCurrent thread\n  File x\n")
        assert stacks.take() == "Fatal Python error: Aborted\nCurrent thread\n  File x"
        os.write(stacks.fileno(), b'  File "a fragment"\n')
        assert stacks.take() == ""
        with suppress(OSError):  # the file does not grow
            for _ in range(3 * SIZE // 1024):
                os.write(stacks.fileno(), b"Fatal Python error: \xff" + b"x" * 1003)
        assert os.fstat(stacks.fileno()).st_size == SIZE
        assert len(stacks.take()) <= 1024
        os.lseek(stacks.fileno(), 2**40, os.SEEK_SET)
        assert stacks.take() == "" or len(stacks.take()) <= SIZE
    finally:
        stacks.close()


@pytest.mark.parametrize("end", [signal.SIGSEGV, signal.SIGKILL])
def test_the_end_of_a_connections_process_is_told_with_its_peer(end: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(f"import os\ndef handle(conn):\n    os.kill(os.getpid(), {int(end)})\n")
    with launched(tmp_path, "ends:handle", model="fork") as server:
        assert ask(server, b"x") == b""
        wait_for(lambda: f"was killed by {end.name}" in server.log, "its record")
        assert "The process of a connection from 127.0.0.1 at PORT" in server.log
        assert ("in handle" in server.log) is (end == signal.SIGSEGV)


# Whose connections were open.


def head(address: str) -> bytes:
    return f"PROXY TCP4 {address} 198.51.100.1 1000 2000\r\n".encode()


@pytest.mark.parametrize("model", ["epoll", "thread"])
def test_a_source_that_workers_die_of_is_refused_and_nobody_else(model: str, tmp_path: Path) -> None:
    good: list[bytes] = []

    def refused() -> bool:
        good.append(ask(server, b"hello\n", head("192.0.2.1")))
        return "Refused 192.0.2.66 at PORT 1000: --crash-penalty" in server.log

    settings = {"model": model, "workers": 2, "proxy_from": "127.0.0.1", "crash_penalty": "1h"}
    with launched(tmp_path, HANDLER, **settings) as server:
        server.ready(2)
        with attacked(server, head("192.0.2.66")):
            wait_for(refused, "the refusal", 30)
            wait_for(lambda: server.log.count("is ready, process id") >= 4, "workers")
            assert [ask(server, b"hello\n", head("192.0.2.1")) for _ in range(20)] == [b"HELLO\n"] * 20
        told = "died while 192.0.2.66 was connected: it is refused for 3600 s"
        wait_for(lambda: told in server.log, "the supervisor's word, which workers do not wait for")
        assert "192.0.2.1 was connected" not in server.log


@pytest.mark.parametrize(
    ("settings", "address", "why"),
    [
        ({"crash_penalty": "0"}, "192.0.2.66", "by --crash-penalty 0"),
        ({"crash_penalty": "1h"}, "192.0.2.66", "since nobody else was there"),
        ({"crash_penalty": "1h"}, "127.0.0.66", ""),
    ],
)
def test_who_may_be_everybody_is_never_refused(
    settings: dict[str, str], address: str, why: str, tmp_path: Path
) -> None:
    with launched(tmp_path, HANDLER, model="epoll", proxy_from="127.0.0.1", **settings) as server:
        for _ in range(5):
            ask(server, b"crash\n", head(address))
        wait_for(lambda: ask(server, b"hello\n", head(address)) == b"HELLO\n", "an answer")
        assert f"it is not refused, {why}" in server.log if why else "was connected" not in server.log
        assert "Refused" not in server.log


def test_a_source_is_an_address_or_a_64_and_nobody_who_speaks_for_others() -> None:
    assert name(key(("192.0.2.7", 1))) == "192.0.2.7" == name(key(("::ffff:192.0.2.7", 2)))
    assert name(key(("2001:db8:0:1:aaaa::1", 1))) == "2001:db8:0:1::/64"
    assert name(key(("fe80::1%eth0", 1))) == "fe80::/64"
    assert [key(each) for each in (("127.0.0.1", 1), ("127.9.9.9", 1), ("::1", 1), "", "/path", ("x", 1))] == [0] * 6


def test_the_table_of_open_sources_is_bounded_and_believes_nothing() -> None:
    words = memoryview(bytearray(TABLE_WORDS * 8)).cast("q")
    table = OpenSources(words)
    for source in (5, 5, 5 + PLACES, -7):
        table.add(source)
    table.remove(5)
    table.remove(999)
    assert table.open() == {5: 1, 5 + PLACES: 0, -7: 0}
    table.remove(5)
    table.remove(5)
    assert table.open() == {5 + PLACES: 0, -7: 0}
    assert table.seen() == {5, 5 + PLACES, -7}
    for source in range(1, 100 * PLACES):
        table.add(source)
    assert len(table.open()) <= PLACES
    for index in range(TABLE_WORDS):
        words[index] = -(2**63) if index % 2 else 2**63 - 1
    table.open(), table.seen()


def test_who_is_refused_is_let_in_again_and_of_too_many_the_first() -> None:
    words = memoryview(bytearray(REFUSED_WORDS * 8)).cast("q")
    refused, now = Refused(words), time.monotonic_ns()
    assert not refused.holds(5)
    refused.refuse(5, now + 10**12)
    assert refused.holds(5) and not refused.holds(6) and not refused.holds(0)
    refused.refuse(5, now - 1)
    assert not refused.holds(5)
    for source in range(1, REFUSED + 2):
        refused.refuse(source, now + 10**12 + source)
    assert not refused.holds(1) and all(map(refused.holds, range(2, REFUSED + 2)))


def test_the_source_that_is_there_at_several_deaths_is_it() -> None:
    suspicion = Suspicion()
    assert suspicion.death({1: 0}, 0.0) is None, "once is chance"
    found = suspicion.death({1: 0}, 1.0)
    assert found is not None and found[0] == 1 and found[1].deaths == 2

    suspicion = Suspicion()
    for death in range(50):
        assert suspicion.death({1: 0, 2: 0}, float(death)) is None, "two who cannot be told apart"

    suspicion, found = Suspicion(), None
    for death in range(20):  # one is always there, the other four times in five
        found = suspicion.death({1: 0} if death % 5 == 4 else {1: 0, 2: 0}, float(death)) or found
        assert found is None or found[0] == 1
    assert found is not None

    suspicion = Suspicion()
    for death in range(50):
        assert suspicion.death({1: 100, 2: 100}, float(death)) is None, "whose others ended in order"

    suspicion = Suspicion()
    for death in range(50):
        assert suspicion.death({1: 0}, death * 10 * HALF_LIFE) is None, "blame fades"


def test_who_was_seen_is_remembered_for_a_while() -> None:
    suspicion = Suspicion()
    assert suspicion.alone(1, 0.0)
    suspicion.see([1], 0.0)
    assert suspicion.alone(1, 0.0)
    suspicion.see([2], 0.0)
    assert not suspicion.alone(1, 0.0)
    assert suspicion.alone(1, HALF_LIFE)
    suspicion.see(range(1, 10**4), 0.0)
    assert not suspicion.alone(1, 0.0)


def test_suspects_are_bounded_and_a_penalty_grows() -> None:
    suspicion = Suspicion()
    for source in range(1, 5 * MOST):
        suspicion.death({source: 0}, 0.0)
    assert len(suspicion) <= MOST
    suspect = Suspect()
    lengths = [suspect.refuse(suspect.until, 10.0) for _ in range(10)]
    assert lengths[:4] == [10.0, 20.0, 40.0, 80.0] and lengths[-1] == LONGEST
    assert suspect.refuse(suspect.until + LONGEST, 10.0) == 10.0
