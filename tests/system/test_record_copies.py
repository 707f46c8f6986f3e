"""Copies of records for the status page: sent by every process, never waited for, and read within bounds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from pronghorn.observers.log import LogObserver
from pronghorn.observers.log_lines import ERROR, INFO, WARNING
from pronghorn.system.record_copies import LONGEST, MOST_IN_A_WINDOW, MOST_KEPT, WINDOW, Copies, LastRecords


@pytest.fixture
def copies() -> Iterator[Copies]:
    made = Copies()
    yield made
    made.close()


@pytest.fixture
def last(copies: Copies) -> Iterator[LastRecords]:
    found = LastRecords(os.dup(copies.reader))
    yield found
    found.close()


def test_warnings_and_errors_arrive_and_nothing_else(copies: Copies, last: LastRecords) -> None:
    for level in (INFO, WARNING, ERROR):
        copies.send(level, f"record of {level} \u202e \udcff")
    last.take(time.monotonic())
    assert [each.level for each in last.kept] == [WARNING, ERROR]
    assert {each.process for each in last.kept} == {os.getpid()} and last.kept[0].at == pytest.approx(
        time.time(), abs=60
    )


def test_a_process_that_was_forked_sends_too(copies: Copies, last: LastRecords) -> None:
    child = os.fork()
    if child == 0:
        copies.send(ERROR, "of the child")
        os._exit(0)
    os.waitpid(child, 0)
    last.take(time.monotonic())
    assert [(each.process, each.text) for each in last.kept] == [(child, "of the child")]


def test_nobody_waits_for_a_reader(copies: Copies, last: LastRecords) -> None:
    began = time.process_time()
    for number in range(20_000):
        copies.send(WARNING, f"{number} {'x' * 3000}")
    assert time.process_time() - began < 5.0
    while last.take(0.0):
        pass
    assert 0 < len(last.kept) <= MOST_KEPT and len(last.kept[0].text) < 3000
    copies.close()
    copies.send(WARNING, "nobody has the socket any more")


def test_a_hostile_process_costs_little_and_forges_no_more_than_a_record(copies: Copies, last: LastRecords) -> None:
    for data in (
        b"",
        b"\xff",
        b"\x94\x01",
        b"x" * LONGEST,
        b"\x91" * 10_000,
        b"\x94\xcb\x7f\xf0\0\0\0\0\0\0\x1e\x01\xa1x",
    ):
        copies._ours.send(data)
        last.take(0.0)
    assert not last.kept and last.left_out == 6
    for number in range(2 * MOST_IN_A_WINDOW):
        copies.send(ERROR, str(number))
        last.take(1.0)
    assert int(last.kept[-1].text) < MOST_IN_A_WINDOW
    copies.send(ERROR, "later")
    last.take(1.0 + WINDOW)
    assert last.kept[-1].text == "later"


def test_the_log_copies_what_it_logs(copies: Copies, last: LastRecords) -> None:
    log = LogObserver("error")
    try:
        log.copy_to(copies.send)
        log._say(WARNING, "below the log's level")
        log._say(ERROR, "told")
    finally:
        log.close()
    last.take(time.monotonic())
    assert [each.text for each in last.kept] == ["told"]
