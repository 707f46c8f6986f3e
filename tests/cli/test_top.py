"""`pronghorn top`: rates between two answers, what fits a terminal, the screen's keys, and real servers that end while
they are watched."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from launch import PATIENCE, Launched, launched, wait_for
from pronghorn.cli import main
from pronghorn.cli.top import columns, filters, model, plain, summary
from pronghorn.cli.top.asking import Asking, Turns
from pronghorn.cli.top.model import Answer, Frame, History, Row, View
from pronghorn.control.client import NoServer
from pronghorn.errors import BadSetting, PronghornError

HOSTILE = "\x1b]0;owned\x07\u202e\n[red]x"


def status(uptime: float, accepted: int = 0, **more: Any) -> Row:
    counts = {"accepted": accepted, "messages": 10 * accepted, "bytes_in": 0, "bytes_out": 0, "refused": 0}
    listener = {
        "name": "tls",
        "listening": ["192.0.2.1:443", "[2001:db8::1]:443"],
        "handler": "shop:reply",
        "tls": "on",
    }
    queues = [{"waiting": 3, "backlog": 128}, None]
    return {
        "state": "SERVING",
        "name": "shop",
        "pid": 100,
        "uptime": uptime,
        "generation": 2,
        "handler": "shop:reply",
        "model": "epoll",
        "open": 2,
        "handler_errors": 0,
        "workers": {"wanted": 2, "ready": 2, "draining": 0},
        "listeners": [{**listener, "accept_queue": queues, "open": 2, "handler_errors": 1, **counts}],
        **counts,
        **more,
    }


def worker(slot: int, age: float, cpu: float | None = 0.0) -> Row:
    return {
        "slot": slot,
        "pid": 4194300 + slot,
        "generation": 300,
        "state": "SERVING",
        "age": age,
        "open": 100_000,
        "accepted": 10**12,
        "messages": 10**15,
        "bytes_in": 2**60,
        "bytes_out": 1023,
        "refused": None,
        "memory": 2**33,
        "cpu_seconds": cpu,
        "beat_age": 31.0,
    }


def connection(number: int, **more: Any) -> Row:
    return {
        "id": f"4194301-{number}",
        "worker": 1,
        "peer": f"203.0.113.250:{50000 + number}",
        "listener": "tls",
        "age": 8640.0,
        "idle": 0.4,
        "bytes_in": 2**30,
        "bytes_out": 1023,
        "messages": 12,
        "state": "OPEN",
        "tls": {"version": "TLSv1.3", "sni": "example.org"},
        "fields": {"device": "4711"},
        "tcp_state": "ESTABLISHED",
        "rtt_us": 340_000,
        "retransmits": 3,
        "send_queue": 70_000,
        "receive_queue": 0,
        **more,
    }


def told(*rows: Row, matched: int | None = None) -> Row:
    return {"connections": [*rows], "matched": len(rows) if matched is None else matched, "silent": [], "elsewhere": {}}


def frame(connections: Row | None = None, **more: Any) -> Frame:
    history = History()
    history.add(Answer(status(10.0), [worker(1, 9.0), worker(2, 9.0)]))
    found = told(connection(1), connection(2)) if connections is None else connections
    return history.add(Answer(status(12.0, 20, **more), [worker(1, 11.0, 1.5), worker(2, 11.0, 0.0)], found))


class Played(Asking):
    """A server whose answers are here."""

    def __init__(self) -> None:
        super().__init__(lambda: "nowhere", View())
        self.asked: list[Row] = []
        self.uptime = 10.0
        self.rows = [connection(number) for number in range(1, 41)]
        self.error: PronghornError | None = None
        self.answers: dict[str, Any] = {}

    def _ask(self, path: str, request: Row, waiting: Callable[[], None] = lambda: None) -> Any:
        if self.error is not None:
            raise self.error
        if (command := request["command"]) in self.answers:
            return self.answers[command]
        self.asked.append(request)
        self.uptime += 0.5
        if request["command"] == "status":
            return status(self.uptime)
        if request["command"] == "workers":
            return {"workers": [worker(1, self.uptime, 0.0), worker(2, self.uptime, self.uptime / 2)]}
        if request["command"] == "kill-connection":
            self.rows = [each for each in self.rows if each["id"] not in request["ids"]]
            return {"ended": request["ids"], "gone": [], "late": [], "silent": []}
        return told(*self.rows, matched=10_000)

    def last(self, command: str) -> Row:
        return next(each for each in reversed(self.asked) if each["command"] == command)


# ---- rates -----------------------------------------------------------------------------------------------------------


def test_rates_are_by_the_servers_clock_and_unknown_at_first() -> None:
    history = History()
    first = history.add(Answer(status(10.0, 100), [worker(1, 9.0)]))
    assert first.server["accepted_per_second"] is None and first.workers[0]["cpu_percent"] is None
    second = history.add(Answer(status(12.0, 150), [worker(1, 11.0, 1.5)]))
    assert second.server["accepted_per_second"] == 25.0 and second.server["messages_per_second"] == 250.0
    assert second.workers[0]["cpu_percent"] == 75.0
    assert second.listeners[0]["accepted_per_second"] == 25.0


def test_a_rate_is_of_the_last_seconds_and_not_of_one_answer() -> None:
    """Workers tell messages once or twice a second: between answers of half a second a rate would be 0 or double."""
    history, rates = History(), []
    for turn in range(20):
        counted = turn // 2 * 100  # each second one
        rates.append(history.add(Answer(status(turn * 0.5, counted), [])).server["accepted_per_second"])
    assert all(80 <= rate <= 120 for rate in rates[6:])


def test_another_server_begins_anew() -> None:
    history = History()
    history.add(Answer(status(1000.0, 10**6), []))
    after = history.add(Answer(status(1001.0, 5, pid=101), []))
    assert after.server["accepted_per_second"] is None
    again = history.add(Answer(status(1.0, 0, pid=101), []))  # an upgrade may keep the process
    assert again.server["accepted_per_second"] is None and again.past == {}


def test_a_worker_that_has_got_the_number_of_another_has_no_rate_yet() -> None:
    history = History()
    history.add(Answer(status(10.0), [worker(1, 9.0, 50.0)]))
    after = history.add(Answer(status(12.0), [worker(1, 0.5, 0.1)]))
    assert after.workers[0]["cpu_percent"] is None and after.workers[0]["accepted_per_second"] is None


def test_a_lone_listener_without_a_name_has_the_servers_counts() -> None:
    lone = {"name": "127.0.0.1:8000", "listening": ["127.0.0.1:8000"], "accept_queue": [None]}
    history = History()
    history.add(Answer(status(10.0, 0, listeners=[lone]), []))
    (row,) = history.add(Answer(status(12.0, 20, listeners=[lone]), [])).listeners
    assert (row["open"], row["accepted_per_second"], columns.title(row)["title"]) == (2, 10.0, "127.0.0.1:8000")


def test_latencies_are_of_the_last_minute() -> None:
    def timed(age: float, *times: tuple[float | None, int]) -> Row:
        return {**worker(1, age), "service_times": [*times]}

    history = History()
    first = history.add(Answer(status(10.0), [timed(9.0, (0.001, 1000))]))
    assert first.workers[0]["p99_seconds"] is None  # of what was before nobody knows when
    after = history.add(Answer(status(70.0), [timed(69.0, (0.001, 1060), (0.5, 40))]))
    assert (after.workers[0]["p50_seconds"], after.workers[0]["p99_seconds"]) == (0.001, 0.5)
    assert after.server["p99_seconds"] == 0.5 and "service_times" not in after.workers[0]
    text = "\n".join(line.plain for line in plain.page(after, View(), "", 80, 24))
    assert "p50 1.0ms  p99 500ms" in text and "p99" in text.split()
    later = history.add(Answer(status(130.0), [timed(129.0, (0.001, 1061), (0.5, 40), (None, 100))]))
    assert later.workers[0]["p99_seconds"] is None  # beyond all that is measured
    assert history.add(Answer(status(190.0), [worker(1, 189.0)])).workers[0]["p50_seconds"] is None


def test_what_is_missing_is_said() -> None:
    silent = [{"worker": 2, "pid": 77, "open": 5000}]
    found = {**told(connection(1), matched=9000), "silent": silent, "elsewhere": {"open": 12}}
    words = summary.shown(frame(found), View(), "")
    assert words == (
        "1 of 9,000 connections by age; worker 2 (process 77) does not answer for its 5000; "
        "12 more are with the program before an upgrade"
    )


def test_trouble_has_a_line() -> None:
    history = History()
    history.add(Answer(status(10.0, kernel_listen_overflows=5, refused=3), []))
    shown = history.add(Answer(status(13.0, kernel_listen_overflows=11, refused=6), []))
    (line,) = [each.plain for each in summary.summary(shown, 120) if each.plain.startswith("Trouble")]
    assert "6 refused (1.0/s)" in line and "2.0 connections/s come to full accept queues" in line
    quiet = History().add(Answer(status(10.0, kernel_listen_overflows=11), []))
    assert not [each for each in summary.summary(quiet, 80) if each.plain.startswith("Trouble")]


def test_a_bus_that_is_used_has_a_line() -> None:
    def line(first: Row, then: Row) -> str:
        history = History()
        history.add(Answer(status(10.0, bus=first), []))
        shown = history.add(Answer(status(12.0, bus=then), []))
        assert shown.plain()["server"]["bus"] == shown.server["bus"]
        return "".join(each.plain for each in summary.summary(shown, 150) if each.plain.startswith("Bus"))

    def counts(times: int) -> Row:
        return {"publications": 10 * times, "deliveries": 30 * times, "slow_worker": times - 1, "slow_broker": times}

    told = {"names": 3, "members": 1234}
    assert line({"carrier": "off"}, {"carrier": "off"}) == line({"carrier": "local"}, {"carrier": "local"}) == ""
    local = line({"carrier": "local"}, {"carrier": "local", "counts": counts(1), **told})
    assert "Bus         5.0/s published  15.0/s delivered  1 dropped (0.5/s)  3 names of 1,234 connections" in local
    away = {"carrier": "redis://:***@192.0.2.1", "broker": {"up": False, "why": "Redis does not answer."}}
    assert line(away, away).startswith("Bus         broker away  0/s published")
    assert line(away, away).endswith("redis://:***@192.0.2.1: Redis does not answer.")
    there = {**away, "broker": {"up": True, "why": ""}, "counts": counts(1), **told}
    after = line(there, {**there, "counts": counts(3)})
    assert "10.0/s published  30.0/s delivered" in after and "5 dropped (2.0/s)" in after
    assert after.startswith("Bus         broker there  ") and after.endswith("  redis://:***@192.0.2.1")


def test_a_chart_is_as_high_as_its_greatest_value() -> None:
    assert model.chart([0, 50, 100], 10) == "▁▅█"
    assert model.chart([0.0, 0.0], 10) == "▁▁" and model.chart([5.0], 0) == ""


def test_rows_without_a_value_come_last() -> None:
    rows = [{"n": 1}, {"n": None}, {"n": 3}]
    assert [row["n"] for row in model.in_order(rows, "n", True)] == [3, 1, None]


# ---- what fits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 80, 100, 160, 250])
@pytest.mark.parametrize("height", [0, 10, 24, 50])
def test_a_frame_fits_the_terminal(width: int, height: int) -> None:
    many = told(*(connection(number, peer="[2001:db8:1111:2222:3333:4444:5555:6666]:55555") for number in range(60)))
    lines = plain.page(frame(many, last_reload={"ok": False, "why": "x" * 500}), View(), "", width, height)
    assert all(cell_len(line.plain) <= width for line in lines)
    assert len(lines) == height if height else len(lines) > 60


def test_eighty_columns_have_what_is_needed() -> None:
    text = "\n".join(line.plain for line in plain.page(frame(), View(), "", 80, 24))
    for (
        head
    ) in "Listener Queue Worker State PID Gen Silent CPU Memory New/s Msg/s Peer Id Age↓ RTT Retr SndQ RcvQ".split():
        assert head in text.split(), head
    assert "3/128" in text and "4194301-1" in text and "203.0.113.250:50001" in text and "340ms" in text


def test_no_byte_of_a_peer_or_handler_drives_the_terminal() -> None:
    bad = connection(
        1, peer=HOSTILE, fields={HOSTILE: HOSTILE}, state=HOSTILE, tls={"version": HOSTILE, "sni": HOSTILE}
    )
    shown = frame(told(bad), name=HOSTILE, handler=HOSTILE, last_reload={"ok": False, "why": HOSTILE})
    lines = [line.plain for line in plain.page(shown, View(), HOSTILE, 250)]
    lines += [each for pair in summary.details(bad) for each in pair]
    assert all(line.isprintable() for line in lines)
    assert any("\\x1b]0;owned" in line for line in lines) and any("[red]x" in line for line in lines)


def test_a_server_of_another_version_is_shown_as_far_as_it_is_understood() -> None:
    asking = Played()
    asking.answers = {"status": {"state": "NEW", "more": [1]}, "workers": {"workers": [{}]}, "connections": {}}
    assert "NEW" in plain.page(asking.frame(), View(), "", 80, 24)[0].plain


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("status", []),
        ("status", {"workers": "many"}),
        ("status", {"uptime": float("inf")}),
        ("status", {"listeners": [{"listening": ["a"], "accept_queue": ["?"]}]}),
        ("workers", {}),
        ("workers", {"workers": [{"service_times": [[1]]}]}),
        ("connections", {"connections": [{"fields": {"a": 1}}]}),
    ],
)
def test_what_is_no_answer_is_an_error(command: str, answer: Any) -> None:
    asking = Played()
    asking.answers[command] = answer
    with pytest.raises(PronghornError, match="cannot be understood"):
        asking.frame()


def test_wide_letters_are_cut_by_their_width() -> None:
    (row,) = columns.grid(columns.CONNECTIONS, [connection(1, peer="接" * 40)], 80).rows
    assert sum(each.cell_len for each in row) + len(row) - 1 <= 80 and "…" in row[0].plain


# ---- filters ---------------------------------------------------------------------------------------------------------


def test_a_filter_is_words_that_all_have_to_fit() -> None:
    text = (
        "192.0.2.0/24 peer=unix listener=tls worker=3 state=half-closed age>10m idle>500ms device=4711 fields.state=x"
    )
    assert filters.parsed(text) == {
        "peer": ["192.0.2.0/24", "unix"],
        "listener": "tls",
        "worker": 3,
        "state": "HALF_CLOSED",
        "older": 600.0,
        "idle": 0.5,
        "fields": {"device": "4711", "state": "x"},
    }
    assert filters.parsed("  ") == {}


@pytest.mark.parametrize("text", ["state=opne", "age>soon", "worker=first", "10.0.0.0/33", "peer=garbage!"])
def test_a_wrong_filter_is_explained(text: str) -> None:
    with pytest.raises(BadSetting, match=re.escape(text.partition("=")[2] or text)):
        filters.parsed(text)


def test_an_order_has_the_names_of_columns_too() -> None:
    assert [filters.order(each) for each in ("rtt", "In", "send-queue", "age")] == [
        "rtt_us",
        "bytes_in",
        "send_queue",
        "age",
    ]
    with pytest.raises(BadSetting, match="retransmits"):
        filters.order("retransmit")


# ---- the screen ------------------------------------------------------------------------------------------------------


def played(play: Callable[[Any, Any, Played], Any], size: tuple[int, int] = (80, 24)) -> None:
    """Runs a coroutine of the pilot, the application and the server, on a screen of that size."""
    from pronghorn.cli.top.screen import Top

    async def run() -> None:
        asking = Played()
        top = Top(asking, 60.0, "", asking.frame())
        async with top.run_test(size=size) as pilot:
            await play(pilot, top, asking)

    asyncio.run(run())


async def until(pilot: Any, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the screen did not come to it"
        pilot.app._turns.now()
        await asyncio.sleep(0.02)


def words(top: Any, name: str) -> str:
    return str(top.screen_stack[0].query_one(name).render())


def content(top: Any) -> str:
    """What the box in front of the screen says."""
    console = Console(width=90, file=io.StringIO())
    console.print(top.screen.query_one("#content").content)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.slow
def test_keys_sort_filter_and_choose() -> None:
    async def play(pilot: Any, top: Any, asking: Played) -> None:
        table = top.query_one("#connections")
        await until(pilot, lambda: table.row_count == 40)
        await pilot.press("down", "down")
        assert table.current == "4194301-3"
        asking.rows = asking.rows[1:]
        await until(pilot, lambda: table.row_count == 39)
        assert table.current == "4194301-3"  # the cursor stays with its connection
        await pilot.press(">")
        await until(pilot, lambda: asking.last("connections")["sort"] == "idle")
        await pilot.press("r")
        await until(pilot, lambda: asking.last("connections").get("reverse"))
        await pilot.press("/")
        top.query_one("#filter").value = "device=1"
        await pilot.press("enter")
        await until(pilot, lambda: asking.last("connections").get("fields") == {"device": "1"})
        await until(
            pilot, lambda: "39 of 10,000 connections by idle time, reversed, only device=1" in words(top, "#title")
        )
        await pilot.press("/")
        top.query_one("#filter").value = "age>x"
        await pilot.press("enter")
        await until(pilot, lambda: "has no duration" in words(top, "#notice"))
        await pilot.press("escape")
        assert top.focused is table
        await pilot.press("shift+tab", ">", "r")  # workers, the last one first
        await until(pilot, lambda: top.query_one("#workers").get_row_at(0)[0].plain.strip() == "2")
        await pilot.press("q")

    played(play)


@pytest.mark.slow
def test_a_connection_is_shown_in_detail_and_ended_after_a_question() -> None:
    async def play(pilot: Any, top: Any, asking: Played) -> None:
        await until(pilot, lambda: top.query_one("#connections").row_count == 40)
        asking.rows[0]["fields"] = {"note": HOSTILE}
        await pilot.press("enter")
        await until(pilot, lambda: len(top.screen_stack) == 2)
        first, asking.rows = asking.rows[0], asking.rows[1:]
        await until(pilot, lambda: "no longer shown" in content(top))
        asking.rows.insert(0, first)
        await until(pilot, lambda: "no longer shown" not in content(top))
        assert "\\x1b]0;owned" in content(top) and "example.org" in content(top)
        await pilot.press("k")  # that one, although the cursor has moved on meanwhile
        await until(pilot, lambda: type(top.screen).__name__ == "Question" and "4194301-1 of" in content(top))
        await pilot.press("y")
        await until(pilot, lambda: "Connection 4194301-1 has been ended." in words(top, "#notice"))
        await pilot.press("k", "n")
        await until(pilot, lambda: len(top.screen_stack) == 1)
        assert [each["ids"] for each in asking.asked if each["command"] == "kill-connection"] == [["4194301-1"]]
        await pilot.press("p", "p", "question_mark", "escape", "ctrl+c")
        assert top.return_value == 0

    played(play, (100, 30))


@pytest.mark.slow
def test_a_server_that_is_gone_is_waited_for() -> None:
    async def play(pilot: Any, top: Any, asking: Played) -> None:
        asking.error = NoServer("No server is running.")
        await until(pilot, lambda: "No server is running. Waiting for it." in words(top, "#notice"))
        asking.error = None
        await until(pilot, lambda: not top.query_one("#notice").display)

    played(play, (40, 10))


# ---- the command -----------------------------------------------------------------------------------------------------


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main.run(["top", *arguments])
    output, errors = capsys.readouterr()
    return code, output, errors


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Launched, str]]:
    """A server with three clients, and its control socket."""
    folder = tmp_path_factory.mktemp("top")
    path = str(folder / "control.sock")
    with ExitStack() as stack:
        server = stack.enter_context(launched(folder, control_socket=path, workers=2, model="epoll"))
        server.ready(2)
        for _ in range(3):
            client = stack.enter_context(server.connect())
            client.sendall(b"hello\n")
            assert client.recv(100) == b"HELLO\n"
        yield server, path


def opened(path: str) -> int:
    """How many connections are open, by the server's counts and by the list of its workers; -1 where these differ."""
    found = Asking(lambda: path, View()).frame()
    return len(found.connections) if len(found.connections) == found.server["open"] else -1


def test_one_frame_of_a_real_server(shop: tuple[Launched, str], capsys: pytest.CaptureFixture[str]) -> None:
    server, path = shop
    wait_for(lambda: opened(path) == 3, "the end of clients of other tests")
    code, output, errors = ran(capsys, "--once", "--interval", "100ms", "--socket", path)
    assert (code, errors) == (0, "")
    assert "3 open" in output and "workers 2/2" in output and "\x1b" not in output
    assert f"127.0.0.1:{server.address[1]}" in output and "3 connections by age" in output
    assert len([line for line in output.splitlines() if " SERVING " in line and line.startswith("      ")]) == 2


def test_a_connection_of_a_real_server_is_found_and_ended(shop: tuple[Launched, str]) -> None:
    server, path = shop
    with server.connect() as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"HELLO\n"
        host, port = client.getsockname()
        asking = Asking(lambda: path, View(filters=filters.parsed(f"{host}:{port} state=open")))
        (row,) = wait_for(lambda: asking.frame().connections, "the connection")
        assert (row["peer"], row["tcp_state"], row["bytes_in"]) == (f"{host}:{port}", "ESTABLISHED", 6)
        assert asking.end(row["id"]) == f"Connection {row['id']} has been ended."
        assert client.recv(100) == b""
        wait_for(lambda: not asking.frame().connections, "the end of the connection")
        assert asking.end(row["id"]) == f"Connection {row['id']} has ended already."


def test_a_frame_as_json(shop: tuple[Launched, str], capsys: pytest.CaptureFixture[str]) -> None:
    wait_for(lambda: opened(shop[1]) == 3, "the end of clients of other tests")
    code, output, _ = ran(capsys, "--once", "--json", "--interval", "100ms", "--socket", shop[1])
    found = json.loads(output)
    assert code == 0 and found["server"]["open"] == 3
    assert found["listeners"][0]["queue"]["waiting"] == 0 and found["listeners"][0]["queue"]["backlog"] > 0
    assert all(each["cpu_percent"] is not None for each in found["workers"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--socket", "/nowhere/x.sock"], 1, "No server answers at /nowhere/x.sock.\nThere is no such socket."),
        (["--interval", "1ms"], 2, "--interval cannot be '1ms'."),
        (["--sort", "colour"], 2, "Connections cannot be sorted by 'colour'."),
        (["--filter", "state=x"], 2, "The filter 'state=x' names no state."),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, output, errors = ran(capsys, "--plain", *arguments)
    assert (found, output) == (code, "") and said in errors and "Traceback" not in errors
    found, output, errors = ran(capsys, "--json", *arguments)
    assert (found, errors) == (code, "") and json.loads(output)["error"]["exit_code"] == code


def test_a_stale_socket_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "x.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    code, _, errors = ran(capsys, "--socket", path)
    assert code == 1 and "the server that made it has died" in errors


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == "textual" or each.endswith("top.screen")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "textual", None)
    monkeypatch.setattr("pronghorn.cli.top._full_screen", lambda: True)
    code, _, errors = ran(capsys)
    assert code == 2 and "pip install textual" in errors and "pronghorn top --plain" in errors


class Watched:
    """The command on a terminal of its own."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pronghorn", "top", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", **environment},
        )
        os.close(slave)
        self.seen = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while more := os.read(self.master, 65536):
                self.seen += more
        except OSError:
            pass

    def until(self, words: bytes) -> None:
        wait_for(lambda: words in self.seen, f"{words!r} on the screen")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def watched() -> Iterator[Callable[..., Watched]]:
    with ExitStack() as stack:

        def start(*arguments: str, **environment: str) -> Watched:
            found = Watched(*arguments, **environment)
            stack.callback(found.close)
            return found

        yield start


@pytest.mark.slow
def test_the_terminal_is_restored(shop: tuple[Launched, str], watched: Callable[..., Watched]) -> None:
    """Keys and signals alike; and NO_COLOR is obeyed."""
    ends = [watched("--socket", shop[1], NO_COLOR="1") for _ in range(3)]
    for top in ends:
        top.until(b"SERVING")
    os.write(ends[0].master, b"q")
    ends[1].process.send_signal(signal.SIGTERM)
    os.write(ends[2].master, b"\x03")
    assert [top.process.wait(PATIENCE) for top in ends] == [0, 128 + signal.SIGTERM, 0]
    for top in ends:
        top.until(b"\x1b[?1049l")
        assert b"\x1b[?1049h" in top.seen and b"Traceback" not in top.seen
        colours = re.findall(rb"\x1b\[([0-9;]*)m", top.seen)
        assert not [each for each in colours if re.search(rb"(^|;)(3[0-8]|4[0-8]|9[0-7])(;|$)", each)]


@pytest.mark.slow
def test_plain_frames_are_drawn_over_each_other(shop: tuple[Launched, str], watched: Callable[..., Watched]) -> None:
    top = watched("--plain", "--interval", "100ms", "--socket", shop[1], LINES="20")
    top.until(b"SERVING")
    top.until(b"\n")
    first = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", top.seen).partition(b"\n")[0]
    assert b"under epoll" in first and b"Connections" not in first
    top.until(b"\x1b[1A")  # back to the first line
    top.process.send_signal(signal.SIGINT)
    assert top.process.wait(PATIENCE) == 130
    wait_for(lambda: top.seen.rstrip().endswith(b"\x1b[?25h"), "the cursor")
    assert b"Traceback" not in top.seen


@pytest.mark.slow
def test_a_server_that_ends_and_comes_back(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    command = [sys.executable, "-m", "pronghorn", "top", "--plain", "--interval", "100ms", "--socket", path]
    with launched(tmp_path, control_socket=path) as server:
        server.ready()
        with open(tmp_path / "out", "wb") as output, open(tmp_path / "err", "wb") as errors:
            top = subprocess.Popen(command, stdout=output, stderr=errors)
        try:
            frames = lambda: (tmp_path / "out").read_text().count(" SERVING  up ")  # noqa: E731
            wait_for(frames, "the first frame")
            assert server.stop() == 0
            wait_for(lambda: "Waiting for it." in (tmp_path / "err").read_text(), "the words of a server that is gone")
            before = frames()
            with launched(tmp_path, control_socket=path):
                wait_for(lambda: frames() > before, "a frame of the next server")
            assert top.poll() is None
            top.send_signal(signal.SIGINT)
            assert top.wait(PATIENCE) == 130
        finally:
            top.kill()
            top.wait()
    assert "Traceback" not in (tmp_path / "err").read_text()


def test_turns_go_on_after_an_error() -> None:
    asking, found = Played(), list[Frame | PronghornError]()
    asking.error = NoServer("No server is running.")
    turns = Turns(asking, 0.01, found.append)
    turns.start()
    wait_for(lambda: len(found) > 1)
    asking.error = None
    wait_for(lambda: isinstance(found[-1], Frame))
    turns.end()
    turns.join(PATIENCE)
