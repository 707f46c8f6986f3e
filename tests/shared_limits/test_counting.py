"""Limits over two hosts, each with its scoreboard; what one has is carried to the other by hand."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from pronghorn.scoreboard.board import Scoreboard
from pronghorn.scoreboard.connection_limits import (
    SECOND,
    TOO_FAST,
    TOO_FAST_IN_ALL,
    TOO_MANY,
    TOO_MANY_IN_ALL,
    Limits,
    SharedBucket,
)
from pronghorn.scoreboard.counts import ACCEPTED
from pronghorn.scoreboard.row import Row
from pronghorn.scoreboard.shared_limits import HOSTS, LEAST, PART, SOURCES, UNTIL, WHOLE
from pronghorn.settings.layers import settle
from pronghorn.shared_limits.counting import Counting
from pronghorn.shared_limits.records import Record, unpacked

EACH, OTHER, V6 = ("192.0.2.1", 5), ("192.0.2.2", 5), ("2001:db8::7", 5)


class Clock:
    """Nanoseconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000 * SECOND

    def __call__(self) -> int:
        return self.now


class Host:
    """A server's scoreboard, one worker's limits, and what shares them."""

    def __init__(self, per_source: int = 0, rate: int = 0, **settings: object) -> None:
        self.board = Scoreboard.create()
        self.settings = settle(
            {"max_connections_per_source": per_source, "accept_rate": rate, "shared_limits": "bus", **settings}
        )
        self.row = self.board.take(1, 1)
        self.row.now_serving(1)
        self.clock = Clock()
        self.counting = Counting(self.board, per_source, rate, self.clock)
        self.limits = self.worker(self.row)

    def worker(self, row: Row) -> Limits:
        limits = Limits(self.settings, row)
        if isinstance(limits._bucket, SharedBucket):
            limits._bucket._clock = self.clock
        return limits

    def record(self) -> Record:
        record = unpacked(self.counting.record())
        assert record is not None
        return record

    def come(self, peer: tuple[str, int], count: int) -> list[str]:
        return [self.limits.refusal(peer) for _ in range(count)]


@contextlib.contextmanager
def hosts(count: int, *, per_source: int = 0, rate: int = 0) -> Iterator[list[Host]]:
    made = [Host(per_source, rate) for _ in range(count)]
    yield made
    for each in made:
        each.board.close()


def share(all: list[Host], seconds: float = 3.0) -> None:
    """A beat of all hosts. What has been written is true by the system's clock, which the workers read."""
    records = [each.record() for each in all]
    for each in all:
        others = [record for record in records if record.server != each.counting.server]
        each.counting.write(others, seconds)
        each.board.words[UNTIL] = max(time.monotonic_ns(), each.clock.now) + int(seconds * SECOND)


@pytest.mark.parametrize("peer", [EACH, V6])
def test_a_source_has_its_connections_over_all_hosts(peer: tuple[str, int]) -> None:
    with hosts(2, per_source=4) as (one, two):
        assert one.come(peer, 3) == [""] * 3
        share([one, two])
        assert two.come(peer, 2) == ["", TOO_MANY_IN_ALL]
        assert two.come(OTHER, 5) == [*[""] * 4, TOO_MANY], "another source has all of its own here"
        share([one, two])
        assert one.come(peer, 1) == [TOO_MANY_IN_ALL]
        one.limits.left(peer)
        share([one, two])
        assert [*two.come(peer, 1), *one.come(peer, 1)] == ["", ""], "in one beat neither host knows of the other"
        share([one, two])
        assert [*two.come(peer, 1), *one.come(peer, 1)] == [TOO_MANY_IN_ALL] * 2


def test_clients_of_a_proxy_are_counted_and_the_proxy_and_loopback_are_not() -> None:
    made = [Host(2, 0, proxy_from="10.0.0.1") for _ in range(2)]
    one, two = made
    assert [one.limits.refusal(("10.0.0.1", each)) for each in range(3)] == [""] * 3
    assert [one.limits.refusal_of_client(EACH) for _ in range(2)] == ["", ""]
    assert one.come(("127.0.0.1", 1), 2) == one.come(("::1", 1), 2) == ["", ""]
    assert one.come("unix:", 3) == [""] * 3  # type: ignore[arg-type]
    share(made)
    assert list(one.record().sources.values()) == [2]
    assert two.limits.refusal_of_client(EACH) == TOO_MANY_IN_ALL
    assert two.come(("127.0.0.1", 1), 2) == ["", ""]


def test_what_is_known_of_others_is_true_for_a_while_and_then_nothing_is() -> None:
    with hosts(2, per_source=2, rate=10) as (one, two):
        one.come(EACH, 2)
        share([one, two])
        assert two.come(EACH, 1) == [TOO_MANY_IN_ALL]
        two.board.words[UNTIL] = time.monotonic_ns() - 1
        assert two.come(EACH, 2) == ["", ""]
        two.limits.left(EACH)
        share([one, two])
        two.counting.alone()
        assert two.come(EACH, 2) == ["", TOO_MANY] and two.board.words[PART] == 0


def test_two_workers_of_one_host_are_told_as_one_and_a_reload_changes_nothing() -> None:
    with hosts(2, per_source=4) as (one, two):
        second = one.worker(one.board.take(2, 1))
        assert [one.limits.refusal(EACH), second.refusal(EACH), second.refusal(EACH)] == [""] * 3
        share([one, two])
        assert two.come(EACH, 2) == ["", TOO_MANY_IN_ALL]
        one.board.release(one.row.index)
        share([one, two])
        assert list(one.record().sources.values()) == [2]


def test_few_connections_of_a_great_limit_are_told_to_nobody_and_what_is_told_is_bounded() -> None:
    with hosts(1, per_source=100) as (one,):
        assert one.board.words[LEAST] == 6
        peers = [(f"198.51.{each // 250}.{each % 250}", 1) for each in range(500)]
        for peer in peers:
            one.come(peer, 1)
        assert one.record().sources == {}
        one.come(EACH, 6)
        assert list(one.record().sources.values()) == [6]
        for _ in range(3):
            one.limits.left(EACH)
        assert one.record().sources == {} == one.record().sources
        assert not any(one.board.noted), "what is told no more is noted no more"


def test_a_note_that_another_source_has_overwritten_is_not_forgotten() -> None:
    with hosts(1, per_source=4) as (one,):
        one.come(EACH, 2)
        assert len(one.record().sources) == 1
        for place in range(len(one.board.noted)):
            one.board.noted[place] = 0
        assert len(one.record().sources) == 1
        assert one.board.words[SOURCES] == 1


def test_a_server_is_known_by_its_scoreboard_whichever_program_tells() -> None:
    with hosts(2, per_source=4) as (one, two):
        assert one.counting.server == Counting(one.board, 4, 0).server != two.counting.server


def test_what_a_hostile_worker_has_written_is_mended_with_the_next_beat() -> None:
    with hosts(2, per_source=4, rate=100) as (one, two):
        share([one, two])
        for _ in range(2):
            for words in (one.board.elsewhere, one.board.noted):
                for place in range(0, len(words), 7):
                    words[place] = 2**31 - place
            one.board.words[LEAST] = one.board.words[PART] = one.board.words[UNTIL] = -(2**63)
            one.come(EACH, 1)
            share([one, two])
            assert not any(one.board.elsewhere) and 0 < one.board.words[PART] < WHOLE
        assert one.come(EACH, 3) == ["", "", TOO_MANY] and two.come(OTHER, 4) == [""] * 4
        assert list(one.record().sources.values()) == [4]


def admitted(hosts: list[Host], each: list[int], seconds: int, tenths: int = 5) -> list[int]:
    """How many connections came in to each host, where so many knock at each in a tenth of a second; a beat takes so
    many tenths."""
    counts = [0] * len(hosts)
    for tenth in range(seconds * 10):
        if tenth % tenths == 0:
            share(hosts)
        for place, host in enumerate(hosts):
            host.clock.now += SECOND // 10
            for _ in range(each[place]):
                host.row.add(ACCEPTED)
                counts[place] += not host.limits.refusal((f"192.0.2.{place}", 1))
    return counts


def test_all_hosts_together_keep_to_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    with hosts(3, rate=100) as made:
        found = admitted(made, [30, 30, 1], 20)
        assert 100 * 20 * 0.9 <= sum(found) <= 100 * (20 + 1) + 100, found
        assert found[2] >= 0.9 * 200, "those with the fewest clients have what they need"
        assert found[0] == pytest.approx(found[1], rel=0.1)
        assert [each.board.words[HOSTS] for each in made] == [3] * 3
        assert sum(each.board.words[PART] for each in made) <= WHOLE * 1.01
        assert TOO_FAST_IN_ALL in made[2].come(EACH, 100)


def test_clients_that_move_to_another_host_have_the_rate_there_soon() -> None:
    with hosts(2, rate=100) as made:
        admitted(made, [30, 0], 5)
        found = admitted(made, [0, 30], 10)
        assert 100 * 8 <= sum(found) <= 100 * 12, found


def test_a_rate_of_one_over_many_hosts_lets_somebody_in_at_each() -> None:
    with hosts(4, rate=1) as made:
        found = admitted(made, [1, 1, 1, 1], 40)
        assert all(found) and sum(found) <= 40 + 4 + 4, found


def test_a_host_that_knows_of_no_other_has_the_whole_rate() -> None:
    with hosts(1, rate=10) as (one,):
        assert one.come(EACH, 11) == [*[""] * 10, TOO_FAST]
        share([one])
        one.clock.now += SECOND
        assert one.come(EACH, 11) == [*[""] * 10, TOO_FAST]
