"""Spread goodbyes: the pace with a clock that is an argument; and devices that stay connected through a reload."""

from __future__ import annotations

import random
import selectors
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodbye_trials import HANDLERS, histogram, spread
from launch import Launched, launched, pairs, wait_for
from pauses import undisturbed
from pronghorn.serving.goodbyes import LATER, SAID, Answer, Goodbyes, part_of
from pronghorn.settings import settle
from pronghorn.settings.source import Source


class Clock:
    """Turned by the test: each look happens at `next_look`, and takes no time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def said(counts: list[int], seconds: float, quiet_from: dict[int, float], late: float = 0.0) -> list[float]:
    """When goodbye was said in processes with so many connections each; a connection is quiet from `quiet_from` on,
    or always. Looks come `late` at random."""
    found: list[float] = []
    dice = random.Random(1)

    def process(slot: int, count: int) -> None:
        clock, open = Clock(), dict.fromkeys(range(count))
        goodbyes = Goodbyes(open, seconds, part_of(slot), clock.now)

        def say(number: int, waited: float) -> Answer:
            assert waited >= 0
            if clock.now < 100.0 + quiet_from.get(number, 0.0):
                return LATER
            found.append(clock.now)
            del open[number]
            return SAID

        while open and clock.now < 100 + 20 * seconds:
            clock.now = goodbyes.next_look + late * dice.random()
            goodbyes.look(open, clock, say, clock)
        assert not open

    for slot, count in enumerate(counts, 1):
        process(slot, count)
    return found


@pytest.mark.slow
@given(st.lists(st.integers(0, 300), min_size=1, max_size=8), st.floats(2, 60))
def test_over_all_processes_goodbyes_are_even(counts: list[int], seconds: float) -> None:
    found = said(counts, seconds, {})
    share = sum(counts) / seconds
    seen = histogram(found, 100.0)
    assert max(seen, default=0) <= share + len(counts) + 1
    assert all(each >= share - len(counts) - 1 for each in seen[: int(seconds) - 1])
    assert max(found, default=0) <= 100.0 + seconds + 0.1


@pytest.mark.parametrize("workers", [2, 3, 4, 8, 16, 100])
def test_workers_with_one_connection_each_are_even_too(workers: int) -> None:
    seen = histogram(said([1] * workers, 20.0, {}), 100.0, 5.0)
    assert sum(seen) == workers and max(seen) <= workers / 4 + 1 and len(seen) >= 3


def test_those_that_become_quiet_at_the_same_time_are_no_storm() -> None:
    found = said([1000], 20.0, dict.fromkeys(range(1000), 12.0))
    assert min(found) >= 112.0
    assert max(histogram(found, 100.0)) <= 2 * 1000 / 20


def test_looks_that_come_late_are_no_storm() -> None:
    assert max(histogram(said([1000], 20.0, {}, late=0.5), 100.0)) <= 2 * 1000 / 20


def test_one_that_comes_later_has_its_turn_and_one_that_is_gone_takes_none() -> None:
    clock, open, told = Clock(), {1: None, 2: None}, []
    goodbyes = Goodbyes(open, 2.0, 0.0, clock.now)

    def say(number: int, waited: float) -> Answer:
        told.append(number)
        return SAID

    del open[2]
    open[3] = None
    for _ in range(10):
        clock.now = goodbyes.next_look
        goodbyes.look(open, clock, say, clock)
    assert told == [1, 3]
    assert goodbyes.is_through(clock.now, 1.0) and not goodbyes.is_through(clock.now, 1.0)


def test_a_look_that_others_interrupted_is_followed_by_the_next_as_soon_as_ever() -> None:
    open = {1: None, 2: None}
    goodbyes = Goodbyes(open, 0.1, 0.0, time.monotonic())
    time.sleep(0.1)

    def say(number: int, waited: float) -> Answer:
        time.sleep(0.05)  # others have the processor
        return LATER

    began = time.monotonic()
    goodbyes.look(open, time.monotonic, say, time.thread_time)
    assert goodbyes.next_look - began < 0.5, "a goodbye waits for twenty times what others took"


def test_a_stop_leaves_time_for_the_last_words() -> None:
    assert settle({}).stop_spread == 0.0
    assert settle({"drain_spread": 20}).stop_spread == 20.0
    assert settle({"drain_spread": 60}).stop_spread == 30.0 - 2.0 - 1.0, "--drain-timeout is the upper bound"
    assert settle({"drain_spread": 60, "drain_quiet": 30}).stop_spread == 0.0


def greeted(server: Launched, word: bytes) -> socket.socket:
    """A client whose line was answered."""
    sock = server.connect()
    sock.sendall(word + b"\n")
    assert sock.recv(100).split()[0] == word
    return sock


def ends(clients: list[socket.socket]) -> list[float]:
    """When each of them found the server's end, in whatever order."""
    found, selector = [], selectors.DefaultSelector()
    for each in clients:
        selector.register(each, selectors.EVENT_READ)
    while len(found) < len(clients):
        ready = selector.select(10)
        assert ready, f"{len(found)} of {len(clients)} have ended"
        for key, _ in ready:
            assert isinstance(key.fileobj, socket.socket) and key.fileobj.recv(100) == b""
            selector.unregister(key.fileobj)
            key.fileobj.close()
            found.append(time.monotonic())
    selector.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "handler"),
    pairs("epoll/stay_message epoll/StayCallbacks thread/StayCallbacks asyncio/stay_streams fork/StayRequest"),
)
def test_a_reload_says_goodbye_to_one_after_the_other_but_to_those_that_want_to_stay(
    model: str, handler: str, tmp_path: Path
) -> None:
    undisturbed(lambda: reload_with_goodbyes(model, handler, tmp_path))


def reload_with_goodbyes(model: str, handler: str, folder: Path) -> None:
    settings: dict[str, Any] = {"model": model, "on_reload": "spread", "drain_spread": 0.5, "drain_quiet": 0.05}
    with launched(folder, Source(name=f"{HANDLERS}:{handler}"), **settings) as server:
        stays, *leave = [greeted(server, word) for word in [b"stay", *[b"x"] * 6]]
        server.send(signal.SIGHUP)
        found = ends(leave)
        assert found[-1] - found[0] >= 0.2, "one after the other"
        if model != "fork":
            wait_for(lambda: "1 stays: its handler wants that" in server.log, "its turn")
        for word in (b"still", b"quit"):
            stays.sendall(word + b"\n")
            assert stays.recv(100).startswith(word)
        assert stays.recv(100) == b""
        stays.close()


@pytest.mark.slow
@pytest.mark.parametrize(("model", "handler"), pairs("asyncio/Push thread/message"))
def test_a_stop_is_spread_too(model: str, handler: str, tmp_path: Path) -> None:
    undisturbed(lambda: stop_with_goodbyes(model, handler, tmp_path))


def stop_with_goodbyes(model: str, handler: str, folder: Path) -> None:
    settings: dict[str, Any] = {"model": model, "drain_spread": 0.5, "drain_quiet": 0.05, "drain_timeout": 10.0}
    with launched(folder, Source(name=f"{HANDLERS}:{handler}"), **settings) as server:
        clients = [greeted(server, b"x") for _ in range(6)]
        server.send(signal.SIGTERM)
        found = ends(clients)
        assert server.exit() == 0
    assert "Saying goodbye to 6 connections over 0.5 s" in server.log
    assert found[-1] - found[0] >= 0.2, "one after the other"


@pytest.mark.slow
def test_many_devices_come_back_one_after_the_other(tmp_path: Path) -> None:

    def trial() -> None:
        result = spread(tmp_path, "epoll", count=30, seconds=0.8, pause=0.1, workers=2)
        assert not result.faults, result

    undisturbed(trial)  # where this process is paused, many goodbyes are found at once
