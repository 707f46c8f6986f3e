"""What a worker says on its line: in pieces, as rubbish, as a flood, with descriptors; bounded whatever it is."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pronghorn.errors import from_parts
from pronghorn.serving.connection_inquiry import MOST_AT_ONCE
from pronghorn.supervisor.generation import NEVER, Slot, Worker
from pronghorn.supervisor.report_reader import LONGEST_REPORT, MOST_REPORTS, ReportReader
from pronghorn.system.lines import BUFFER
from pronghorn.worker_process.reports import (
    LONGEST_TRACE,
    Crashed,
    Drained,
    GoOn,
    Listed,
    ListenersReleased,
    Ready,
    StartFailed,
    Starting,
)

Line = tuple[ReportReader, socket.socket]


@pytest.fixture
def line() -> Iterator[Line]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        yield ReportReader(ours), theirs


def test_reports_come_in_pieces(line: Line) -> None:
    reports, theirs = line
    theirs.sendall(b'{"type":"Rea')
    assert reports.take() == []
    theirs.sendall(b'dy"}\n{"type":"Drained","cut":3}\n')
    assert reports.take() == [Ready(), Drained(3)]
    assert reports.take() == [] and not reports.ended
    theirs.close()
    assert reports.take() == [] and reports.ended and not reports.fault


def test_the_longest_report_that_a_worker_makes_fits(line: Line) -> None:
    reports, theirs = line
    theirs.setblocking(True)
    said = msgspec.json.encode(Crashed("\x00" * LONGEST_TRACE)) + b"\n"
    found = []
    for start in range(0, len(said), BUFFER // 2):
        theirs.sendall(said[start : start + BUFFER // 2])
        found += reports.take()
    assert found == [Crashed("\x00" * LONGEST_TRACE)] and not reports.fault


ROW = b'{"number":1,"peer":"x","age":0.5}'
ANSWER = b'{"type":"Listed","ask":1,"rows":[%s],"matched":1,"over":true}\n'


def test_an_answer_is_heard_once_for_each_question(line: Line) -> None:
    reports, theirs = line
    for number in range(MOST_REPORTS * 2):  # which are no part of the few reports of a life
        assert reports.ask(GoOn(number))
        theirs.sendall(ANSWER % ROW)
        assert len(reports.take()) == 1 and not reports.fault
    theirs.sendall(ANSWER % ROW)
    reports.take()
    assert "unasked" in reports.fault


def test_a_worker_that_does_not_answer_is_not_asked_without_end(line: Line) -> None:
    reports, _ = line
    assert [reports.ask(GoOn(1)) for _ in range(MOST_AT_ONCE + 1)] == [True] * MOST_AT_ONCE + [False]


@pytest.mark.parametrize(
    "more",
    [
        b'"bytes_in":-5,"messages":99999999999999999999999999999999,"rtt_us":-1',
        b'"listener":"%s"' % (b"x" * 10_000),
        b'"tls":{"version":"%s","sni":"%s"}' % (b"v" * 9999, b"s" * 9999),
        b'"fields":{%s}' % b",".join(b'"%d%s":"%s"' % (number, b"n" * 300, b"v" * 999) for number in range(99)),
        b'"age":1e308,"idle":-1e308',
    ],
)
def test_a_row_is_believed_within_bounds(line: Line, more: bytes) -> None:
    reports, theirs = line
    reports.ask(GoOn(1))
    theirs.setblocking(True)
    theirs.sendall(ANSWER % (ROW[:-1] + b"," + more + b"}"))
    (answer,) = reports.take() or reports.take() or reports.take()
    assert isinstance(answer, Listed) and not reports.fault
    (row,) = answer.rows
    assert len(msgspec.json.encode(row)) < 12_000
    assert row.bytes_in >= 0 and 0 <= row.messages <= 2**53 and 0 <= row.age <= 2**53
    assert (row.idle is None or row.idle >= 0) and (row.rtt_us is None or row.rtt_us >= 0)


@pytest.mark.parametrize("row", [b"{}", b"7", ROW[:-1] + b',"state":"AJAR"}', ROW.replace(b"0.5", b"NaN")])
def test_what_is_no_row_is_a_fault(line: Line, row: bytes) -> None:
    reports, theirs = line
    reports.ask(GoOn(1))
    theirs.sendall(ANSWER % row)
    assert reports.take() == [] and "is no report" in reports.fault


@pytest.mark.parametrize(
    "said", [b"rubbish\n", b"\n", b"{}\n", b'{"type":"Drained","cut":1e99}\n', b"\xff\n", b"[" * 5000 + b"\n"]
)
def test_rubbish_is_a_fault(line: Line, said: bytes) -> None:
    reports, theirs = line
    theirs.sendall(b'{"type":"Ready"}\n' + said + b'{"type":"ListenersReleased"}\n')
    assert reports.take() == [Ready()]
    assert "is no report" in reports.fault and reports.fault.isprintable() and len(reports.fault) < 250
    assert reports.take() == []


def test_a_flood_of_reports_is_a_fault(line: Line) -> None:
    reports, theirs = line
    theirs.sendall(b'{"type":"ListenersReleased"}\n' * (MOST_REPORTS + 1))
    reports.take()
    assert "more than 64 things" in reports.fault


def test_a_report_without_an_end_is_a_fault_and_takes_no_memory(line: Line) -> None:
    reports, theirs = line
    turns = 0
    while not reports.fault:
        try:
            theirs.send(b"x" * BUFFER)
        except BlockingIOError:
            pass
        reports.take()
        turns += 1
        assert len(reports._lines.rest) <= LONGEST_REPORT + BUFFER
    assert "longer than 256 KiB" in reports.fault and not reports._lines.rest
    assert turns <= LONGEST_REPORT // BUFFER + 100


def test_descriptors_that_are_sent_along_are_not_taken(line: Line) -> None:
    reports, theirs = line
    before = len(os.listdir("/dev/fd"))
    for _ in range(50):
        fds = array.array("i", [0] * 100)
        theirs.sendmsg([b'{"type":"ListenersReleased"}\n'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        assert reports.take() == [ListenersReleased()]
    assert len(os.listdir("/dev/fd")) == before


def test_the_last_words_are_bounded_where_others_go_on_writing(line: Line) -> None:
    reports, theirs = line
    theirs.sendall(b'{"type":"ListenersReleased"}\n' * 3)
    assert reports.rest() == [ListenersReleased()] * 3 and not reports.ended


texts = st.text(max_size=20)
failed = st.builds(StartFailed, st.dictionaries(st.sampled_from(["kind", "what", "why", "hint", "exit_code"]), texts))
finished = st.builds(Drained, st.integers(-(2**70), 2**70))
empty = st.builds(Ready) | st.builds(ListenersReleased)
reports = st.one_of(empty, st.builds(Starting, texts), finished, failed, st.builds(Crashed, texts))
said_well = reports.map(msgspec.json.encode)
bits = st.lists(st.one_of(st.binary(max_size=40), said_well, st.just(b"\n")), max_size=20)


@settings(deadline=None, max_examples=100)
@given(bits)
def test_whatever_is_said_nothing_is_raised(said: list[bytes]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = Worker(1, None, Slot(1), ours, None, None, None, now=0.0)  # type: ignore[arg-type]
        assert worker.ready_at == NEVER
        for piece in said:
            theirs.sendall(piece)
            for report in worker.reports.take():
                if isinstance(report, StartFailed):
                    str(from_parts(report.parts))
                elif isinstance(report, Crashed):
                    worker.crash = report.trace
                elif isinstance(report, Drained):
                    assert 0 <= report.cut <= 2**31
        str(worker.start_failure(1))
        assert worker.reports.fault.isprintable()
