"""Load processes against servers with one fault each: what is counted, and what only the open loop shows."""

from __future__ import annotations

import base64
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pronghorn.bench.loads import Job, LoadFailed, Outcome, loads
from pronghorn.bench.sockets import Address

UPPER = {"kind": "upper", "size": 32}
BROKEN = {
    "request": "def request(n): return 1\ndef reply(n, received): return True",
    "raises": "def request(n): raise KeyError('nothing')\ndef reply(n, received): return True",
    "no reply": "def request(n): return b'x'",
    "import": "import nothing_of_this_name",
}


@contextmanager
def server(handle: Callable[[socket.socket], object], most: int = 1_000_000) -> Iterator[Address]:
    """A thread for each connection, which `handle` has; after `most` connections it listens no more."""

    def converse(sock: socket.socket) -> None:
        with sock:
            try:
                handle(sock)
            except OSError:
                pass

    def accept() -> None:
        for _ in range(most):
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=converse, args=(sock,), daemon=True).start()
        listener.close()

    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        address = listener.getsockname()
        threading.Thread(target=accept, daemon=True).start()
        yield address
        try:
            listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def upper(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(data.upper())


def run(address: Address, seconds: float = 0.2, count: int = 1, **job: Any) -> Outcome:
    with loads(Job(address, **{"talk": UPPER, "clients": 4, **job}), count) as load:
        return load.run(seconds)


def long_enough(trial: Callable[[float], Outcome], enough: Callable[[Outcome], object]) -> Outcome:
    """Of a trial that takes so many seconds: if the machine has not had enough of them for it, of a longer one."""
    for seconds in (0.1, 0.5, 2.5):
        outcome = trial(seconds)
        if enough(outcome):
            break
    return outcome


def test_replies_are_counted_and_checked_over_several_processes() -> None:
    with server(upper) as address:
        with loads(Job(address, UPPER, clients=5, depth=3), 2) as load:
            assert (load.count, load.opened, load.errors) == (2, 5, {})
            load.run(0.05)
            outcome = long_enough(load.run, lambda each: each.in_time)
        assert outcome.messages == outcome.latencies.count >= outcome.in_time > 0
        assert (outcome.errors, outcome.unserved, outcome.unanswered) == ({}, 0, 0)
        assert 0 < outcome.latencies.quantile(0.5) < outcome.seconds


def test_a_connection_for_each_message() -> None:
    seen = []
    with server(lambda sock: (seen.append(1), upper(sock))) as address:
        outcome = long_enough(lambda each: run(address, each, connect=True, sources=5), lambda each: each.messages)
    assert outcome.errors == {}
    assert 0 < outcome.messages <= len(seen)


@pytest.mark.slow
def test_the_closed_loop_hides_a_stall_which_the_open_loop_shows() -> None:
    """The server stalls for 100 ms, once in 200 messages; a client that waits for its reply asks less meanwhile."""

    def stalls(sock: socket.socket) -> None:
        count = 0
        while data := sock.recv(65536):
            count += 1
            if count % 200 == 0:
                time.sleep(0.1)
            sock.sendall(data.upper())

    with server(stalls) as address:
        closed = long_enough(lambda each: run(address, 5 * each, clients=1), lambda each: each.messages > 250)
        opened = run(address, 0.8, clients=1, rate=500.0)
    assert closed.latencies.quantile(0.99) < 0.1 <= closed.latencies.quantile(1.0)
    assert opened.latencies.quantile(0.9) > 0.02  # a fifth of all were due while the server stalled
    assert opened.latencies.quantile(1.0) >= 0.1


@pytest.mark.slow
def test_a_rate_that_is_too_high_shows_as_latency_and_as_being_behind() -> None:
    def slow(sock: socket.socket) -> None:
        while data := sock.recv(65536):
            time.sleep(0.02)
            sock.sendall(data.upper())

    with server(slow) as address:
        outcome = run(address, 0.5, clients=1, rate=500.0)
    assert outcome.messages < 50 < outcome.unanswered
    assert outcome.messages + outcome.unanswered == outcome.latencies.count == 250
    assert outcome.behind > 0.3 and outcome.latencies.quantile(0.5) > 0.1


@pytest.mark.slow
def test_what_was_due_while_the_load_process_had_no_processor_is_not_hidden() -> None:
    """Not even at the end, when it is too late to send it."""
    with server(upper) as address, loads(Job(address, UPPER, clients=1, rate=100.0)) as load:
        pid, goes_on = load._processes[0].process.pid, list[threading.Timer]()

        def pause(messages: int) -> None:
            if not goes_on:
                os.kill(pid, signal.SIGSTOP)
                goes_on.append(threading.Timer(0.4, os.kill, (pid, signal.SIGCONT)))
                goes_on[0].start()

        outcome = load.run(0.3, pause)
    assert outcome.messages + outcome.unanswered == outcome.latencies.count == 30
    assert outcome.latencies.quantile(0.5) > 0.1


def test_wrong_replies_are_errors_with_an_example() -> None:
    def wrong(sock: socket.socket) -> None:
        while data := sock.recv(65536):
            sock.sendall(data)

    with server(wrong) as address:
        outcome = long_enough(lambda each: run(address, each), lambda each: each.errors["wrong reply"][0] >= 4)
    count, example = outcome.errors["wrong reply"]
    assert count >= 4 and "THE QUICK" in example
    assert outcome.messages == 0


def test_more_than_was_asked_for_is_wrong() -> None:
    with server(
        lambda sock: [sock.sendall(data.upper() * 2) for data in iter(lambda: sock.recv(65536), b"")]
    ) as address:
        assert "wrong reply" in long_enough(lambda each: run(address, each), lambda each: each.errors).errors


def test_a_server_that_dies_is_refused_and_reset() -> None:
    """The first connections are closed with their message unread, which resets them; later ones find nobody."""

    def trial(seconds: float) -> Outcome:
        with server(lambda sock: time.sleep(0.02), most=4) as address:
            return run(address, 3 * seconds)

    outcome = long_enough(trial, lambda each: "refused" in each.errors)
    assert outcome.errors.keys() <= {"reset", "refused", "closed early"}
    assert "refused" in outcome.errors and outcome.messages == 0


def test_a_connection_for_each_message_where_the_server_dies() -> None:
    """A message that goes out with the connection's first steps may be refused before it is waited for."""

    def trial(seconds: float) -> Outcome:
        with server(upper, most=20) as address:
            return run(address, 3 * seconds, connect=True)

    outcome = long_enough(trial, lambda each: "refused" in each.errors)
    assert outcome.messages <= 20 and outcome.errors["refused"][0] > 0


def test_a_server_that_says_nothing_is_a_timeout_and_its_clients_unserved() -> None:
    with server(lambda sock: sock.recv(1 << 20) and time.sleep(0.6)) as address:
        outcome = long_enough(
            lambda each: run(address, 3 * each, clients=2, timeout=0.1),
            lambda each: each.errors.get("timeout", (0, ""))[0] >= 2,
        )
    assert outcome.errors["timeout"][0] >= 2 and outcome.unserved == 2


@pytest.mark.slow
def test_one_message_and_its_one_reply() -> None:
    talk = {"kind": "same", "message": base64.b64encode(b"ping").decode(), "reply": base64.b64encode(b"PING").decode()}
    with server(upper) as address:
        assert run(address, talk=talk, depth=2).errors == {}
        other = {"kind": "length", "message": talk["message"], "length": 4}
        assert run(address, talk=other).errors == {}


@pytest.mark.slow
def test_a_script_speaks_the_protocol_of_a_user(tmp_path: Path) -> None:
    """Numbers as text with a length before, after a greeting of two lines; each reply is the number doubled."""

    def doubles(sock: socket.socket) -> None:
        sock.sendall(b"220-hello\r\n220 ready\r\n")
        with sock.makefile("rb") as file:
            while size := file.read(2):
                reply = b"%d" % (2 * int(file.read(int(size))))
                sock.sendall(b"%02d%b" % (len(reply), reply))

    (tmp_path / "beside.py").write_text("END = b'220 ready\\r\\n'")
    (tmp_path / "mine.py").write_text(
        "import beside\n"
        "def greeting(received):\n"
        "    return len(received) if received.endswith(beside.END) else None\n"
        "def request(n):\n"
        "    text = b'%d' % n\n"
        "    return b'%02d%b' % (len(text), text)\n"
        "def reply(n, received):\n"
        "    size = 2 + int(received[:2]) if len(received) > 1 else 2\n"
        "    if len(received) < size or size == 2: return None\n"
        "    return size if int(received[2:size]) == 2 * n else False\n"
    )
    talk = {"kind": "script", "path": str(tmp_path / "mine.py")}
    with server(doubles) as address:
        for job in ({"depth": 3}, {"connect": True}):
            outcome = long_enough(
                lambda each, job=job: run(address, each, talk=talk, **job),  # type: ignore[misc]
                lambda each: each.messages,
            )
            assert outcome.errors == {} and outcome.messages > 0


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_script_that_cannot_be_used_says_why(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with server(upper) as address, pytest.raises(LoadFailed) as caught:
        run(address, talk={"kind": "script", "path": str(tmp_path / "mine.py")})
    assert caught.value.why and "Traceback" not in str(caught.value)
