"""Limits over two servers with one broker, Redis or NATS: servers of three models, and a broker that comes back."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import brokers
from boards import board_of, details_of
from launch import PATIENCE, Launched, launched, wait_for
from pronghorn.errors import BadSetting
from pronghorn.scoreboard.shared_limits import FAILURES, HOSTS, PART, UP, WHOLE, part
from pronghorn.settings.layers import settle
from pronghorn.supervisor.limits_side import check

V6, RATE = "2001:db8::7", 40


class Host:
    """A server, its scoreboard, and clients."""

    def __init__(self, server: Launched) -> None:
        self.server, self.board = server, board_of(server)
        self._clients: list[socket.socket] = []

    def knock(self, source: str) -> bool:
        """Whether a client is served, and stays; a proxy speaks for it, unless it comes from its own address."""
        host = source if source == own_address() else "127.0.0.1"
        sock = socket.create_connection((host, self.server.address[1]), timeout=PATIENCE)
        self._clients.append(sock)
        kind, here = ("TCP6", "2001:db8::1") if ":" in source else ("TCP4", "10.0.0.1")
        header = f"PROXY {kind} {source} {here} 4711 80\r\n" if host != source else ""
        try:
            sock.sendall(header.encode() + b"hello\n")
            return bool(sock.recv(100))
        except ConnectionError:
            return False

    def admits(self, source: str) -> None:
        """Wait until a client is served: once it has a place in the rate, too."""
        wait_for(lambda: self.knock(source), "a client that is served")

    def close(self) -> None:
        """All clients leave."""
        for each in self._clients:
            each.close()
        self._clients.clear()

    def knows(self, connections: int) -> bool:
        """Whether one source has so many connections elsewhere."""
        return max(self.board.elsewhere) == connections


def own_address() -> str:
    """An address of this machine that is not loopback's, and so is shared; empty if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
            found = str(sock.getsockname()[0])
        except OSError:
            return ""
    return "" if found.startswith("127.") else found


@contextmanager
def hosts(folder: Path, bus: str, *models: str, **settings: Any) -> Iterator[list[Host]]:
    """Servers that know of each other, one of each model."""
    settings |= {"bus": bus, "shared_limits": "bus", "bind": "0.0.0.0:0"}
    with ExitStack() as stack:
        made = []
        for number, model in enumerate(models):
            (folder / str(number)).mkdir()
            made.append(Host(stack.enter_context(launched(folder / str(number), model=model, **settings))))
            stack.callback(made[-1].close)
        for each in made:
            wait_for(lambda each=each: each.board.words[HOSTS] == 2, "hosts that know of each other", 30)
        yield made


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[brokers.Broker]:
    pytest.importorskip("redis", reason="redis-py is not installed")
    broker = brokers.redis(tmp_path_factory.mktemp("redis"))
    with brokers.running(broker):
        yield broker


@pytest.fixture(scope="module")
def pair(redis: brokers.Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    """Two hosts for several tests."""
    with two_hosts(tmp_path_factory.mktemp("pair"), redis, "pair") as made:
        yield made


@contextmanager
def two_hosts(folder: Path, redis: brokers.Broker, prefix: str) -> Iterator[list[Host]]:
    own: dict[str, Any] = {"proxy_from": "127.0.0.1", "workers": 2, "admin": "127.0.0.1:0"}
    own |= {"max_connections_per_source": 4, "accept_rate": RATE}
    with hosts(folder, f"redis://127.0.0.1:{redis.port}?prefix={prefix}", "epoll", "epoll", **own) as made:
        yield made


@pytest.mark.slow
def test_a_source_has_its_connections_over_hosts_of_any_model(tmp_path: Path) -> None:
    pytest.importorskip("nats", reason="nats-py is not installed")
    source = own_address()  # fork counts no clients of proxies
    if not source:
        pytest.skip("this machine has no address but loopback's")
    nats = brokers.nats()
    with (
        brokers.running(nats),
        hosts(tmp_path, f"nats://127.0.0.1:{nats.port}", "thread", "fork", max_connections_per_source=4) as (one, two),
    ):
        assert one.knock(source) and one.knock(source)
        wait_for(lambda: two.knows(2), "what the other host has")
        assert two.knock(source) and two.knock(source) and not two.knock(source)
        wait_for(lambda: one.knows(2), "what the other host has")
        assert not one.knock(source)
        for each in (one, two):
            wait_for(
                lambda each=each: "--max-connections-per-source, over all hosts" in each.server.log, "a word of it"
            )


@pytest.mark.slow
def test_what_a_source_has_no_more_at_one_host_it_may_have_at_another(pair: list[Host]) -> None:
    one, two = pair
    for each in pair:
        wait_for(lambda each=each: each.knows(0), "the end of clients of other tests")
    for source in (V6, V6, "2001:db8::ffff"):
        one.admits(source)
    wait_for(lambda: two.knows(3))
    two.admits(V6)
    assert not two.knock(V6)
    wait_for(lambda: one.knows(1))
    assert not one.knock(V6), "three here and one there"
    one.close()
    wait_for(lambda: two.knows(0))
    for _ in range(3):
        two.admits(V6)
    assert not two.knock(V6), "its own limit counts as ever"
    two.close()


def admitted(pair: list[Host], seconds: float) -> tuple[list[int], float] | None:
    """How many clients each host has let in, and in how many seconds; None if it did not have a part of the rate all
    the time, or too few clients to use it, as when this machine is so busy that the beats are late."""
    counts, came, whole = [0, 0], [0, 0], list[bool]()
    began = time.monotonic()

    def knock(place: int) -> None:
        words, number = pair[place].board.words, 0
        while time.monotonic() < began + seconds:
            number += 1
            came[place] += 1
            counts[place] += pair[place].knock(f"10.{place}.{number // 250}.{number % 250}")
            whole.append(part(words, time.monotonic_ns()) == WHOLE)
            time.sleep(0.004)

    threads = [Thread(target=knock, args=(place,)) for place in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    took = time.monotonic() - began
    for each in pair:
        each.close()
    return None if any(whole) or min(came) < RATE * took else (counts, took)


@pytest.mark.slow
def test_all_hosts_together_keep_to_the_rate(pair: list[Host]) -> None:
    for each in pair:
        wait_for(lambda each=each: 0 < each.board.words[PART] < WHOLE)
    counts, took = wait_for(lambda: admitted(pair, 1.5) or False, "a trial without a pause", 60)
    assert RATE <= sum(counts) <= 1.25 * RATE * (1 + took) + 2, f"{counts} in {took:.1f} s"
    assert min(counts) >= max(counts) / 3, "both have a part"


@pytest.mark.slow
def test_each_host_has_its_own_limits_without_the_broker_and_a_dead_host_is_forgotten(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With a broker and hosts of its own: tests come in any order."""
    pytest.importorskip("redis", reason="redis-py is not installed")
    redis = brokers.redis(tmp_path_factory.mktemp("redis"))
    with brokers.running(redis), two_hosts(tmp_path, redis, "own") as (one, two):
        source = "192.0.2.9"
        for _ in range(4):
            one.admits(source)
        wait_for(lambda: two.knows(4))
        assert not two.knock(source)
        redis.kill()
        for _ in range(4):
            two.admits(source)
        assert not two.knock(source), "its own limit"
        two.close()
        wait_for(lambda: "are this host's own" in two.server.log)
        wait_for(lambda: two.board.words[UP] == 0 and two.board.words[FAILURES] > 0)
        redis.start()
        wait_for(lambda: two.board.words[HOSTS] == 2 and two.knows(4), "what is shared again", 30)
        assert not two.knock(source)
        assert two.server.log.count("are this host's own") == 1
        wait_for(lambda: details_of(two.server)["refused_source_count_in_all"] >= 2)
        one.server.end()
        wait_for(lambda: two.knock(source), "a host that is forgotten", 30)
        wait_for(lambda: two.board.words[HOSTS] == 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"accept_rate": 5}, "needs a broker"),
        ({"accept_rate": 5, "bus": "off"}, "needs a broker"),
        ({"bus": "redis://127.0.0.1"}, "nothing to share"),
    ],
)
def test_what_cannot_be_shared_is_refused_in_words(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSetting, match=words):
        check(settle({"shared_limits": "bus", **settings}))
