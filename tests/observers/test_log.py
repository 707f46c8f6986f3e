"""The log: words for events, and what it keeps out."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from launch import launched
from pronghorn import events
from pronghorn.errors import MessageTooLong
from pronghorn.events import Event
from pronghorn.observers import Observers
from pronghorn.observers.escaping import LONGEST_TEXT, ending, escaped, peer_name
from pronghorn.observers.log import LogObserver, formatter
from pronghorn.observers.log_lines import WORDS

PEER = ("127.0.0.1", 51234)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> Iterator[LogObserver]:
    observer = LogObserver("debug", clock)
    yield observer
    observer.close()


def told(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().err


def test_every_event_has_words() -> None:
    silent = {events.Pulse, events.LogLevelSet, events.AccessLogSet}
    assert set(WORDS) == set(Event.__subclasses__()) - silent, "a pulse keeps a watchdog quiet, settings are obeyed"


def test_a_record_has_the_prefix_that_log_parsers_know(log: LogObserver, capfd: pytest.CaptureFixture[str]) -> None:
    log(events.ListenerOpened("127.0.0.1:8000"))
    line = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\] \[(\d+)\] \[INFO\] Listening at: tcp://127\.0\.0\.1:8000\n"
    match = re.fullmatch(line, told(capfd))
    assert match is not None and int(match[1]) == os.getpid()


def test_an_address_says_whether_it_speaks_tls(log: LogObserver, capfd: pytest.CaptureFixture[str]) -> None:
    for address in ("127.0.0.1:8443", "unix:/run/upper"):
        log(events.ListenerOpened(address, tls=True))
    said = told(capfd)
    assert "Listening at: tls://127.0.0.1:8443\n" in said
    assert "Listening at: unix:/run/upper (TLS)\n" in said


def test_on_a_terminal_the_level_leads_and_is_coloured_unless_the_user_objects() -> None:
    record = logging.LogRecord("pronghorn.error", logging.INFO, "", 0, "words", None, None)
    assert formatter(coloured=False, terminal=True).format(record) == "INFO:     words"
    assert formatter(coloured=True, terminal=True).format(record) == "\x1b[32mINFO\x1b[0m:     words"


def test_the_classic_line_for_each_client(log: LogObserver, capfd: pytest.CaptureFixture[str]) -> None:
    log(events.ConnectionOpened(1, PEER))
    log(events.ConnectionClosed(1, PEER, "done", 1.5, 10, 20, 2))
    opened, closed = told(capfd).splitlines()
    assert opened.endswith("[DEBUG] received from 127.0.0.1 at PORT 51234")
    assert closed.endswith(
        "closed connection 1 from 127.0.0.1 at PORT 51234: done after 1.500 s, 10 bytes in, 20 bytes out"
    )


def test_clients_are_told_at_debug_only(capfd: pytest.CaptureFixture[str]) -> None:
    log = LogObserver("info")
    log(events.ConnectionOpened(1, PEER))
    log(events.PeerFailed(1, PEER, ConnectionResetError()))
    log(events.PeerFailed(1, PEER, MessageTooLong(10)))
    log.close()
    (line,) = told(capfd).splitlines()
    assert "longer than 10 bytes" in line


@pytest.mark.parametrize(("level", "heard"), [("info", False), ("debug", True)])
def test_events_that_nobody_hears_need_not_be_made(level: str, heard: bool) -> None:
    log = LogObserver("info")
    observers = Observers(log)
    observers(events.LogLevelSet(level))
    try:
        assert observers.hears(events.ConnectionClosed) is observers.hears(events.ConnectionOpened) is heard
        assert observers.hears(events.LogLevelSet) and observers.hears(events.DrainStarted)
        assert Observers(log, print).hears(events.ConnectionClosed)
    finally:
        log.close()


def test_a_failing_handler_is_told_with_number_and_with_the_users_frames_only(
    log: LogObserver, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    try:
        log._clock.explode()  # type: ignore[attr-defined]
    except AttributeError as error:
        log(events.HandlerFailed(7, PEER, error))
    text = told(capfd)
    first, *rest = text.splitlines()
    assert first.endswith(
        "Handler failed on connection 7 from 127.0.0.1 at PORT 51234: "
        "AttributeError: 'Clock' object has no attribute 'explode'"
    )
    assert all(line.startswith("  ") for line in rest)
    assert __file__ in text and "Traceback" in text


def test_nobody_forges_a_record(log: LogObserver, capfd: pytest.CaptureFixture[str]) -> None:
    evil = "a\r\n[2026-01-01] [1] [INFO] forged\x1b[2J\x00\u2028\x85"
    log(events.HandlerFailed(1, PEER, ValueError(evil)))
    log(events.PeerFailed(2, evil, OSError(evil)))
    text = told(capfd)
    assert "\\r\\n[2026-01-01]" in text
    assert not {"\r", "\x1b", "\x00", "\u2028", "\x85"} & set(text)
    assert not any(line.startswith("[2026-01-01]") for line in text.splitlines())


EVIL = "a\r\n[2026-01-01] [1] [INFO] forged\x1b[2J\u2028" + "x" * 1000
OF_TYPE: dict[Any, Any] = {
    str: EVIL,
    int: 2,
    float: 1.5,
    float | None: 1.5,
    bool: True,
    BaseException: ValueError(EVIL),
    OSError: OSError(1, EVIL),
    tuple[str, ...]: (EVIL, EVIL),
    tuple[str, int] | str: (EVIL, 1),
    tuple[tuple[tuple[str, int] | str, float], ...]: (((EVIL, 1), 1.0), (EVIL, 1.0)),
    tuple[tuple[str, int], ...]: ((EVIL, 2), (EVIL, 1)),
    tuple[tuple[str, str], ...]: ((EVIL, EVIL),),
}


@pytest.mark.parametrize("kind", WORDS)
def test_every_field_of_every_event_is_escaped_and_capped(kind: type[Event]) -> None:
    values = {name: OF_TYPE[hint] for name, hint in get_type_hints(kind).items()}
    if kind is events.PathAtRisk:
        values["setting"] = "config"
    head, *lines = WORDS[kind].text(kind(**values)).split("\n")
    assert head.isprintable() and len(head) < 8 * LONGEST_TEXT
    assert all(line.startswith("  ") and line.isprintable() for line in lines)


class Untold(Exception):
    """Its text is a fault of its own."""

    def __str__(self) -> str:
        raise RuntimeError


def test_an_error_that_has_no_text_or_a_forged_name_is_told_all_the_same(
    log: LogObserver, capfd: pytest.CaptureFixture[str]
) -> None:
    log(events.HandlerFailed(1, PEER, Untold()))
    log(events.HandlerFailed(2, PEER, type("Kind\n[2026-01-01] [1] [INFO] forged", (Exception,), {})("x")))
    text = told(capfd)
    assert "Untold: <str() failed>" in text
    assert "Kind\\n[2026-01-01]" in text
    assert not any(line.startswith("[2026-01-01]") for line in text.splitlines())


def test_a_text_as_long_as_a_message_is_cut_before_it_is_looked_at(
    log: LogObserver, capfd: pytest.CaptureFixture[str]
) -> None:
    log(events.HandlerFailed(1, PEER, ValueError("\n" * 3_000_000)))
    assert len(told(capfd)) < 70 * LONGEST_TEXT


def test_what_asyncio_logs_by_itself_is_escaped_too(
    log: LogObserver, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("asyncio")
    error = ValueError("a\r\n[2026-01-01] [1] [INFO] forged\x1b[2J" + "x" * 10_000)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logger.error("Task exception was never retrieved\nfuture: %r", error, exc_info=error)
    first, *rest = told(capfd).splitlines()
    assert first.endswith("[ERROR] Task exception was never retrieved")
    assert rest and all(line.startswith("  ") and len(line) <= LONGEST_TEXT + 2 for line in rest)
    assert "\x1b" not in "".join(rest)
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
    logger.error("for whoever has set up logging")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log.close()
    assert logger.handlers == []
    assert told(capfd) == ""


def test_peer_data_is_capped() -> None:
    assert len(escaped("x" * 10_000_000)) == LONGEST_TEXT
    assert len(escaped("\x00" * 10_000_000)) == LONGEST_TEXT
    assert escaped("Grüße") == "Grüße"


def test_floods_are_told_once_in_ten_seconds_each(
    log: LogObserver, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    refused = events.ConnectionRefused(PEER, "--max-threads")
    failed = events.AcceptFailed("127.0.0.1:8000", OSError(errno.EMFILE, "Too many open files"), 0.1)
    for _ in range(1000):
        log(refused)
        log(failed)
        clock.now += 0.009
    assert len(told(capfd).splitlines()) == 2
    clock.now += 2.0
    log(refused)
    log(events.ConnectionRefused(PEER, "another limit"))
    first, other = told(capfd).splitlines()
    assert first.endswith("--max-threads (999 more since the last such line)")
    assert other.endswith("another limit")


def test_the_flood_of_many_processes_is_one(log: LogObserver, clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    refused = events.ConnectionRefused(PEER, "no PROXY header")
    for _ in range(20):
        if not (pid := os.fork()):
            try:
                log(refused)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
    assert len(told(capfd).splitlines()) == 1
    clock.now += 11.0
    log(refused)
    assert told(capfd).endswith("no PROXY header (19 more since the last such line)\n")


def test_of_too_many_kinds_those_told_long_ago_are_forgotten(
    log: LogObserver, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(5000):
        clock.now += 0.001
        log(events.ConnectionRefused(PEER, f"limit {number}"))
    assert len(told(capfd).splitlines()) == 5000
    log(events.ConnectionRefused(PEER, "limit 4999"))
    assert told(capfd) == ""


def test_what_a_peer_can_make_a_handler_raise_is_no_flood_either(
    log: LogObserver, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    def raised(number: int) -> ValueError:
        try:
            raise ValueError(f"number {number}")
        except ValueError as error:
            return error

    for number in range(1000):
        log(events.HandlerFailed(number, PEER, raised(1)))
        log(events.PeerFailed(number, PEER, MessageTooLong(10)))
    log(events.HandlerFailed(1, PEER, KeyError("another")))
    text = told(capfd)
    assert text.count("number 1\n") == 2  # once in the line, once in its traceback
    assert text.count("MessageTooLong") == 1
    assert text.count("another") == 2
    clock.now += 11
    log(events.HandlerFailed(1, PEER, raised(1)))
    first = told(capfd).splitlines()[0]
    assert first.endswith("ValueError: number 1 (999 more since the last such line)")


def test_why_a_worker_did_not_start_ends_with_the_error_and_its_traceback_follows(
    log: LogObserver, capfd: pytest.CaptureFixture[str]
) -> None:
    log(events.WorkerNotStarted(1, "'m:h' failed to import.\nTraceback:\n  File m.py\nValueError: no", 0.2))
    log(events.WorkerNotStarted(1, "fork: Resource temporarily unavailable", 0.1))
    first, *rest, last = told(capfd).splitlines()
    assert first.endswith("did not start: 'm:h' failed to import. ValueError: no; next attempt in 0.2 s")
    assert rest == ["  Traceback:", "    File m.py", "  ValueError: no"]
    assert last.endswith("fork: Resource temporarily unavailable; next attempt in 0.1 s")


def test_peers_have_names() -> None:
    assert peer_name(("::1", 5)) == "::1 at PORT 5"
    assert peer_name("") == "a unix socket"
    assert peer_name("/run/x") == "unix socket /run/x"


def test_how_a_process_ended() -> None:
    assert ending(3) == "ended with exit status 3"
    assert ending(-signal.SIGTERM) == "was killed by SIGTERM"
    assert "out of memory" in ending(-signal.SIGKILL)


def test_an_observer_that_raises_is_reported_once_and_rests_for_ten_seconds(
    log: LogObserver, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[Event] = []

    def broken(event: Event) -> None:
        raise SystemExit("no use")

    observers = Observers(broken, seen.append, log, clock=clock)
    for _ in range(3):
        observers(events.DrainStarted("SIGTERM", 30, 2))
    assert len([each for each in seen if isinstance(each, events.DrainStarted)]) == 3 and len(observers) == 2
    assert told(capfd).count("raised SystemExit: no use on DrainStarted; it is left out for 10 s") == 1
    clock.now += 10
    assert len(observers) == 3
    observers(events.DrainStarted("SIGTERM", 30, 2))
    assert told(capfd).count("raised SystemExit: no use") == 1


def test_a_logger_that_its_owner_has_set_up_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("pronghorn.error")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.WARNING)
    try:
        log = LogObserver("debug")
        log(events.ListenerOpened("127.0.0.1:8000"))
        log(events.ListenerSkipped("[::1]:8000", "not here"))
        log.close()
        assert {record.getMessage() for record in caplog.records} == {"Not listening at [::1]:8000: not here"}
        assert logger.handlers == [caplog.handler]
    finally:
        logger.removeHandler(caplog.handler)
        logger.setLevel(logging.NOTSET)


TELL = """
import os, sys
from pronghorn import events
from pronghorn.observers.log import LogObserver
{before}
log = LogObserver("debug")
for number in range({count}):
    log(events.ListenerOpened("127.0.0.1:8000"))
print("alive")
"""


def run(before: str, count: int, **streams: object) -> bytes:
    text = TELL.format(before=before, count=count)
    done = subprocess.run([sys.executable, "-c", text], stdout=subprocess.PIPE, timeout=30, **streams)  # type: ignore[call-overload]
    return bytes(done.stdout)


def test_a_closed_or_full_standard_error_is_survived_in_silence() -> None:
    assert run("os.close(2)", 10) == b"alive\n"
    if os.path.exists("/dev/full"):
        with open("/dev/full", "wb") as full:
            assert run("", 10, stderr=full) == b"alive\n"


@pytest.mark.slow
def test_a_log_that_nobody_reads_stops_nobody_and_says_later_what_was_dropped() -> None:
    reader, writer = os.pipe()
    try:
        text = "os.set_blocking(2, True)"
        assert run(text, 10_000, stderr=writer) == b"alive\n"
    finally:
        os.close(writer)
        os.close(reader)


def test_records_that_were_dropped_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    saved = os.dup(2)
    os.dup2(writer, 2)
    try:
        log = LogObserver("debug")
        try:
            while True:
                os.write(writer, b"x" * 65536)
        except BlockingIOError:
            pass
        for _ in range(3):
            log(events.ListenerOpened("127.0.0.1:8000"))
        os.read(reader, 1 << 20)
        log(events.ListenerOpened("127.0.0.1:8000"))
        assert b"(3 records were dropped" in os.read(reader, 65536)
        log.close()
    finally:
        os.dup2(saved, 2)
        for fd in (reader, writer, saved):
            os.close(fd)


def test_a_handler_that_raises_is_logged_once_by_a_server(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import pronghorn\n@pronghorn.message(pronghorn.lines)\ndef fail(line):\n    raise ValueError(line)\n"
    )
    with launched(tmp_path, "mine:fail") as server:
        assert server.ask(b"\x1b[31mred\n") == b""
        assert server.stop() == 0
        assert server.log.count("Handler failed on connection ") == 1
        assert "\x1b" not in server.log
        assert "pronghorn/handlers" not in server.log and "mine.py" in server.log
