"""The access log's lines: what is in them, that nobody forges one, and what becomes of those that do not fit."""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pronghorn.errors import BadSetting
from pronghorn.events import AccessLogDropped, AccessLogSet, ConnectionClosed, ConnectionRefused, DrainFinished, Event
from pronghorn.observers import Observers
from pronghorn.observers.access_format import LONGEST, line_of
from pronghorn.observers.access_log import MOST_REFUSALS, AccessLog, record
from pronghorn.settings import settle
from pronghorn.settings.access_format import FIELDS
from pronghorn.system.access_writer import CHUNK, Writer

NOW = 1_795_410_719.6468  # 2026-11-23 05:11:59.647 UTC
PEER = ("192.0.2.7", 51234)
ENDED = ConnectionClosed(
    37,
    PEER,
    "timeout",
    1.5234,
    1204,
    88231,
    14,
    detail="idle",
    listener="tls",
    fields=(("device", "4711"),),
    id="12411-37",
    state="cD",
    first_byte=0.0123,
    proxy=("10.0.0.1", 80),
    tls="TLSv1.3",
    sni="a.example",
    worker=2,
    generation=3,
)
EVIL = 'x"\n192.0.2.1:1 forged \x1b[31m\x00 \u202e \udc80 ' + "\N{SNOWMAN}" * 500


def text(event: Any, form: str) -> str:
    line = line_of(form)(record(event, NOW).removesuffix(b"\n")).decode()
    assert line.endswith("\n") and line.count("\n") == 1
    return line.removesuffix("\n")


def test_the_line_of_a_connection_in_text() -> None:
    line = text(ENDED, "text")
    assert line == (
        "192.0.2.7:51234 [23/Nov/2026:05:11:58.123 +0000] "
        "tls w2/12411-37 1523ms first=12 in=1204 out=88231 msgs=14 cD timeout "
        "detail=idle tls=TLSv1.3 sni=a.example proxy=10.0.0.1:80 device=4711"
    )


def test_the_line_of_a_connection_in_json_has_the_same_names() -> None:
    said = json.loads(text(ENDED, "json"))
    assert said.keys() <= FIELDS.keys()
    assert said.pop("time") == "2026-11-23T05:11:58.123Z"
    assert said == {
        "peer": "192.0.2.7:51234",
        "listener": "tls",
        "worker": 2,
        "generation": 3,
        "id": "12411-37",
        "duration": 1.5234,
        "messages": 14,
        "bytes_in": 1204,
        "bytes_out": 88231,
        "first_byte": 0.0123,
        "proxy": "10.0.0.1:80",
        "tls": "TLSv1.3",
        "sni": "a.example",
        "state": "cD",
        "reason": "timeout",
        "detail": "idle",
        "log": {"device": "4711"},
    }


def test_every_field_can_be_named_and_is_one_word_or_quoted() -> None:
    for name in FIELDS:
        assert text(ENDED, f"<{{{name}}}>").startswith("<")
        assert text(ConnectionRefused(PEER, "--deny"), f"<{{{name}}}>").startswith("<")
    assert text(ENDED, "{log.device} {log.other} {{}} %s {pid}") == "4711 - {} %s 12411"
    refused = ConnectionRefused(PEER, "--accept-rate", worker=1)
    assert text(refused, "{id} {duration_ms} {bytes_in} {state} {reason}") == "- 0 - PA --accept-rate"


@pytest.mark.parametrize("form", ["text", "json", "{peer} {sni} {reason} {log} {log.device}"])
def test_nobody_forges_a_line(form: str) -> None:
    fields = (("device", EVIL), (EVIL, "1"), *((f"field{number}", EVIL) for number in range(30)))
    event = ConnectionClosed(1, EVIL, EVIL, 1.0, 1, 1, 1, EVIL, EVIL, EVIL, fields, "1-1", sni=EVIL, proxy=EVIL)
    for one in (event, ConnectionRefused(EVIL, EVIL, EVIL, EVIL)):
        line = text(one, form)
        assert line.isprintable() and len(line.encode()) <= LONGEST
        if form == "json":
            assert json.loads(line)["peer"].startswith("unix:x")


@pytest.mark.parametrize(
    ("form", "hint"),
    [
        ("{peeer}", "did you mean 'peer'"),
        ("jason", "did you mean 'json'"),
        ("{peer", "braces"),
        ("{peer:>9}", "nothing"),
    ],
)
def test_a_wrong_format_is_refused_with_the_nearest_right_one(form: str, hint: str) -> None:
    with pytest.raises(BadSetting, match=hint):
        settle({"access_log_format": form})


class Silent:
    def __call__(self, event: Event) -> None:
        raise AssertionError

    def hears(self, kind: type[Event]) -> bool:
        return False


class Log:
    """An access log with a clock of its own, and what it tells."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[Event] = []
        self.log = AccessLog(self.told.append, lambda *_: None, lambda: self.now)
        self.log(AccessLogSet("/log", "{peer}"))

    def read(self) -> bytes:
        try:
            return os.read(self.log.lines, 2**20)
        except BlockingIOError:
            return b""


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.log.close()
    os.close(made.log.lines)


def test_what_the_pipe_does_not_take_is_dropped_counted_and_told_once_in_ten_seconds(log: Log) -> None:
    while not log.told:
        log.log(ENDED)
    for _ in range(99):
        log.log(ENDED)
    log.now = 11.0
    log.log(ENDED)
    lines = log.read().splitlines()
    assert {line_of("{peer}")(each) for each in lines} == {b"192.0.2.7:51234\n"} and len(lines) > 1000
    assert [each.lines for each in log.told if isinstance(each, AccessLogDropped)] == [1, 100]
    while len(log.log._dropped) == 0:
        log.log(ENDED)
    Observers(log.log)(DrainFinished(0, 0.0))
    assert [each.lines for each in log.told if isinstance(each, AccessLogDropped)] == [1, 100, 1], "and at the end"
    log.read()
    log.log(ENDED)
    assert line_of("{id}")(log.read().rstrip()) == b"12411-37\n"


@pytest.mark.parametrize("peer", [PEER, "", "/run/\udc80 x"])
@pytest.mark.parametrize("first", [None, 0.0123])
def test_a_plain_end_that_is_noted_has_the_line_of_its_event(log: Log, peer: Any, first: float | None) -> None:
    note = log.log.notes(12411, 2, 3, "tls")
    assert note is not None
    note(peer, 37, 1.5234, first, 1204, 88231, 14)
    noted = log.read()
    log.log(
        ConnectionClosed(
            *(37, peer, "done", 1.5234, 1204, 88231, 14),
            id="12411-37",
            first_byte=first,
            worker=2,
            generation=3,
            listener_name="tls",
        )
    )
    told = log.read().rstrip()
    for form in ("{peer} {first_byte} {id} {listener} w{worker} {generation} {duration_ms} {state} {reason}", "{more}"):
        assert line_of(form)(noted.rstrip()) == line_of(form)(told)


def test_ends_that_are_gathered_are_written_in_few_pieces_and_as_many_of_them_as_there_is_room_for(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    note, pieces, write = log.log.notes(12411, 2, 3, "tls", True), list[bytes](), os.write
    assert note is not None
    monkeypatch.setattr(os, "write", lambda fd, data: pieces.append(data) or write(fd, data))
    for number in range(100):
        note(PEER, number, 1.0, None, 1, 1, 1)
    assert log.read() == b""
    log.log(ENDED)  # what is told in another way comes behind them
    ids = [line_of("{id}")(each) for each in log.read().splitlines()]
    assert ids == [b"12411-%d\n" % each for each in range(100)] + [b"12411-37\n"]
    assert 2 < len(pieces) < 20 and max(map(len, pieces)) <= LONGEST
    while not log.told:
        log.log(ENDED)
    os.read(log.log.lines, 4096)  # room for one page
    log.log(ENDED)
    for number in range(60):
        note(PEER, number, 1.0, None, 1, 1, 1)
    log.log.flush()
    got = sum(each.startswith(b"[[") for each in log.read().splitlines())
    log.now = 11.0
    log.log(ENDED)
    dropped = [each.lines for each in log.told if isinstance(each, AccessLogDropped)]
    assert 20 < got < 60 and dropped == [1, 60 - got]


def test_ends_are_noted_only_where_nobody_else_hears_of_them(log: Log) -> None:
    observers = Observers(log.log, Silent())
    assert observers.only(ConnectionClosed) is log.log
    observers.add(log.told.append)
    assert observers.only(ConnectionClosed) is None
    log.log(AccessLogSet("", ""))
    assert Observers(log.log).only(ConnectionClosed) is None


def test_probes_are_left_out_and_refusals_are_few_in_a_second(log: Log) -> None:
    log.log(ConnectionClosed(1, PEER, "done", 0.0, 0, 0, 0, probe=True))
    assert log.read() == b""
    for _ in range(MOST_REFUSALS + 50):
        log.log(ConnectionRefused(PEER, "--deny"))
    assert log.read().count(b"\n") == MOST_REFUSALS
    log.log(DrainFinished(0, 0.0))
    assert sum(each.lines for each in log.told if isinstance(each, AccessLogDropped)) == 50


def test_a_low_limit_of_descriptors_is_none_for_the_access_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pipe is moved out of the way of the descriptors of connections, unless `ulimit -n` has no room there."""
    monkeypatch.setattr("pronghorn.observers.access_log.HIGH", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    made = Log()
    made.log(ENDED)
    assert line_of("{id}")(made.read().rstrip()) == b"12411-37\n"
    made.log.close()
    os.close(made.log.lines)


def test_a_descriptor_that_somebody_has_closed_is_not_written_to(log: Log) -> None:
    theirs, client = os.pipe()
    os.dup2(client, log.log._fd)  # the number is a client's now
    log.log(ENDED)
    os.set_blocking(theirs, False)
    with pytest.raises(BlockingIOError):
        os.read(theirs, 100)
    for fd in (theirs, client):
        os.close(fd)


def test_a_record_without_an_end_takes_no_memory_of_the_process_that_writes() -> None:
    files, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    class Side:
        descriptors = {"lines": -1, "files": files.detach()}  # noqa: RUF012

        def send(self, message: dict[str, Any]) -> bool:
            return True

    side: Any = Side()
    writer = Writer(side, line_of)
    for _ in range(10):
        assert writer._lines_of(b"x" * CHUNK) == b""
        assert len(writer._begun) <= CHUNK
    assert writer._lines_of(b"\n" + record(ENDED, NOW)).startswith(b"192.0.2.7:51234 ")
    writer._files.close()
    other.close()
