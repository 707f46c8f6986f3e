"""Observers of the user's own: imported in workers and beside the supervisor, called with public events, and refused
before anything is bound."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import pronghorn
from launch import launched, text_of, wait_for
from pronghorn import events
from pronghorn.errors import BadHandler
from pronghorn.handlers import importing
from pronghorn.handlers.user_observers import UserObserver, find, make
from pronghorn.observers import Observers

EXAMPLE = Path(__file__).parents[2] / "examples" / "observer.py"
OBSERVER = """
import json, os, threading
import pronghorn
from pronghorn import events

VERSION = 1

class Watch(pronghorn.Observer):
    def __call__(self, event):
        with open("heard", "a") as file:
            worker = pronghorn.worker().number if isinstance(event, events.OF_WORKERS) else 0
            print(json.dumps([type(event).__name__, os.getpid(), worker, VERSION]), file=file)

    def forked(self):
        with open("heard", "a") as file:
            print(json.dumps(["forked", os.getpid(), 0, VERSION]), file=file)

    def close(self):
        with open("heard", "a") as file:
            print(json.dumps(["close", os.getpid(), 0, VERSION]), file=file)

@pronghorn.message(pronghorn.lines)
def handler(line):
    if line == b"fail":
        raise ValueError("no")
    return line
"""


def heard(folder: Path) -> list[list[Any]]:
    return [json.loads(line) for line in text_of(folder / "heard").splitlines()]


def hears(folder: Path, name: str, pid: int = 0, version: int = 1) -> list[Any]:
    """The first event of this name, once it was heard."""
    return wait_for(
        lambda: next(
            (each for each in heard(folder) if each[0] == name and each[1] in (pid or each[1],) and each[3] == version),
            False,
        ),
        f"{name} {version}",
    )


@pytest.mark.slow
def test_workers_and_the_supervisor_are_heard_and_a_reload_imports_anew(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OBSERVER)
    with launched(tmp_path, "mine:handler", observer=("mine:Watch",), workers=1, model="epoll") as server:
        server.ready()
        assert server.ask(b"hello\n") == b"hello\n"
        _, worker, number, _ = hears(tmp_path, "ConnectionClosed")
        assert number == 1
        assert server.ask(b"fail\n") == b""
        hears(tmp_path, "HandlerFailed", worker)
        aside = hears(tmp_path, "ServerStarted")[1]
        assert aside not in (worker, server.pid)
        (tmp_path / "mine.py").write_text(OBSERVER.replace("VERSION = 1", "VERSION = 2"))
        server.send(signal.SIGHUP)
        second = hears(tmp_path, "Reloaded", version=2)[1]
        hears(tmp_path, "close", worker)
        hears(tmp_path, "close", aside)
        assert server.ask(b"hello\n") == b"hello\n"
        hears(tmp_path, "ConnectionClosed", version=2)
        (tmp_path / "mine.py").write_text(OBSERVER.replace("pronghorn.Observer", "pronghorn.Obsever"))
        server.send(signal.SIGHUP)
        hears(tmp_path, "ReloadFailed", second, version=2)
        assert server.stop() == 0
    names = [each[0] for each in heard(tmp_path) if each[3] == 2]
    assert {"ServerStopped", "WorkerExited"} <= {*names}
    assert names.count("close") == 2
    assert not any(each[1] == server.pid for each in heard(tmp_path))


@pytest.mark.slow
def test_one_that_raises_is_told_with_the_place_and_counted_in_workers_and_beside_the_supervisor(
    tmp_path: Path,
) -> None:
    pytest.importorskip("prometheus_client")
    (tmp_path / "mine.py").write_text(OBSERVER + "def wrong(event):\n    raise KeyError('no')\n")
    settings = {"observer": ("mine:wrong",), "workers": 1, "model": "epoll", "admin": "127.0.0.1:0"}
    with launched(tmp_path, "mine:handler", **settings) as server:
        server.ready()
        assert server.ask(b"hello\n") == b"hello\n"

        def failures() -> float:
            with urllib.request.urlopen(f"http://{server.report['admin'][0]}/metrics", timeout=15) as response:
                found = re.search(rb"^pronghorn_observer_failures_total (\S+)$", response.read(), re.MULTILINE)
            return float(found[1]) if found else 0.0

        wait_for(lambda: failures() >= 2, "a failure of each process")
        assert "The observer 'mine:wrong' raised KeyError: 'no' on Connection" in server.log
        assert f'File "{tmp_path}/mine.py"' in server.log


@pytest.mark.slow
def test_a_process_with_one_connection_has_the_observer_to_itself(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OBSERVER)
    with launched(tmp_path, "mine:handler", observer=("mine:Watch",), workers=1, model="fork") as server:
        server.ready()
        assert server.ask(b"hello\n") == b"hello\n"
        worker = hears(tmp_path, "ConnectionOpened")[1]
        child = hears(tmp_path, "ConnectionClosed")[1]
        assert child != worker
        hears(tmp_path, "close", child)
        assert [each[0] for each in heard(tmp_path) if each[1] == child] == ["forked", "ConnectionClosed", "close"]


@pytest.mark.slow
def test_the_example_keeps_connections_in_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "connections.db"
    monkeypatch.setenv("CONNECTIONS_DB", str(file))
    with launched(tmp_path, f"{EXAMPLE}:handler", observer=(f"{EXAMPLE}:Connections",), workers=2) as server:
        server.ready(2)
        for _ in range(5):
            assert server.ask(b"hello\n") == b"HELLO\n"
        assert server.stop() == 0
    with closing(sqlite3.connect(file)) as database:
        found = database.execute("SELECT id, bytes_in, bytes_out, reason FROM connections").fetchall()
    assert [each[1:] for each in found] == [(6, 6, "done")] * 5
    assert len({each[0] for each in found}) == 5


SLOW = """
import os
import pronghorn
from pronghorn import events

class Slow(pronghorn.Observer):
    hears = (events.ConnectionClosed,)

    def __call__(self, event):
        os.close(os.open("go", os.O_RDONLY))  # until somebody writes to the pipe
"""


@pytest.mark.slow
def test_an_observer_that_holds_up_the_loop_is_named_with_the_connection(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SLOW)
    os.mkfifo(tmp_path / "go")
    with launched(
        tmp_path, "upper", observer=("mine.py:Slow",), workers=1, model="epoll", slow_callback=0.05
    ) as server:
        server.ready()
        assert server.ask(b"hello\n") == b"HELLO\n"
        wait_for(lambda: "holds up this worker's loop" in server.log, "the observer in the log")
        assert f"at {tmp_path}/mine.py:10 in __call__" in server.log
        assert "-1 from 127.0.0.1 at PORT" in server.log
        (tmp_path / "go").write_bytes(b"")


def test_an_observer_that_cannot_be_imported_is_refused_before_anything_is_bound(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("1 / 0\n")
    with launched(tmp_path, "upper", observer=("mine:Watch",)) as server:
        error = server.report["error"]
        assert "--observer" in error["what"] and "ZeroDivisionError" in error["why"]
        assert server.exit() == 4
        assert "Listening" not in server.log


# Without a server.


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = [*importing.sys.path]
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    importing.sys.path[:] = path
    importing.sys.modules.pop("mine", None)


@pytest.mark.parametrize(
    ("code", "name", "says"),
    [
        ("", "mine.py", "names no observer"),
        ("", "mine.py:Watch", "has no 'Watch'"),
        ("Watch = 1", "mine.py:Watch", "cannot be called"),
        ("class Watch: pass", "mine.py:Watch", "has no method __call__"),
        ("import pronghorn\nclass Watch(pronghorn.Observer): pass", "mine.py:Watch", "has no method __call__"),
        ("import pronghorn\nwatch = pronghorn.Observer()", "mine.py:watch", "has no method __call__"),
        ("class Watch:\n    def __call__(self): pass", "mine.py:Watch", "takes no event"),
        ("class Watch:\n    def __call__(self, one, two): pass\nwatch = Watch()", "mine.py:watch", "takes no event"),
        ("def watch(): pass", "mine.py:watch", "takes no event"),
        (
            "class Watch:\n    def __init__(self, more): pass\n    def __call__(self, event): 1",
            "mine.py:Watch",
            "without arguments, and wants more",
        ),
        ("async def watch(event): pass", "mine.py:watch", "not awaited"),
        ("class Watch:\n    async def __call__(self, event): pass", "mine.py:Watch", "not awaited"),
        ("def watch(event): pass\nwatch.hears = 1", "mine.py:watch", "tuple of events"),
        (
            "from pronghorn import events\nclass Watch:\n    hears = (events.Pulse,)\n    def __call__(self, event): 1",
            "mine.py:Watch",
            "no public event",
        ),
    ],
)
def test_what_is_no_observer_is_refused_with_the_reason(folder: Path, code: str, name: str, says: str) -> None:
    (folder / "mine.py").write_text(code)
    with pytest.raises(BadHandler) as caught:
        find(name)
    assert says in str(caught.value)


def test_an_observer_that_cannot_be_made_is_named(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "class Watch:\n    def __init__(self): raise TypeError('no DSN')\n    def __call__(self, event): 1\n"
        "def watch(*events): pass\npartly = __import__('functools').partial(print, 'heard')\nlines = [].append\n"
    )
    with pytest.raises(BadHandler, match=r"'mine.py:Watch' cannot be made") as caught:
        make(["mine.py:Watch"])
    assert "no DSN" in caught.value.why and "handler" not in caught.value.hint
    make(["mine.py:watch", "mine.py:partly", "mine.py:lines"])


class Failures(pronghorn.Observer):
    hears = (events.HandlerFailed,)

    def __init__(self) -> None:
        self.heard: list[events.Event] = []

    def __call__(self, event: events.Event) -> None:
        self.heard.append(event)
        raise ValueError("no")


def test_only_what_it_hears_is_made_and_one_that_raises_rests() -> None:
    told: list[events.Event] = []

    def log(event: events.Event) -> None:
        told.append(event)

    log.hears = lambda kind: False  # type: ignore[attr-defined]
    failures = Failures()
    observers = Observers(log, clock=lambda: 1.0)
    observers.add(UserObserver("mine:Failures", failures))
    assert not observers.hears(events.ConnectionClosed)
    assert observers.hears(events.HandlerFailed)
    failed = events.HandlerFailed(1, "", ValueError())
    observers(events.ConnectionOpened(1, ""))
    observers(failed)
    observers(failed)
    assert failures.heard == [failed]
    (report,) = [each for each in told if isinstance(each, events.ObserverFailed)]
    assert report.observer == "'mine:Failures'"


def test_public_events_are_told_as_they_are_through_a_line() -> None:
    from pronghorn.handlers.observer_process import heard as from_line
    from pronghorn.handlers.observer_process import told

    event = events.Reloaded(2, 0.5, later=("bind",), moved=3)
    assert from_line(json.loads(json.dumps(told(event)))) == event
    for kind in events.OF_SUPERVISOR:
        assert not any("error" in name for name in kind.__struct_fields__)  # an exception would not get through
