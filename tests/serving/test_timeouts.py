"""Deadlines: no peer holds a connection for longer than it may, under any model and in any style."""

from __future__ import annotations

import math
import re
import select
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from launch import pairs
from pauses import undisturbed
from pronghorn.connection.blocking import Connection
from pronghorn.connection.socket_facts import unsent
from pronghorn.connection.states import State
from pronghorn.errors import AGE, IDLE, MESSAGE_TIMEOUT, WRITE_TIMEOUT
from pronghorn.models import registry
from pronghorn.serving.timeouts import ChannelTimeouts, OutsideTimeouts
from pronghorn.settings import settle
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, until
from pronghorn.testing.tls import over_tls
from pronghorn.tls.records import Records
from timeouts_under_test import TAKEN_WHOLE
from tls_under_test import Authority

HANDLERS = "timeouts_under_test"
FLOWS = ("iterative", "fork", "prefork", "thread", "pool", "gevent")
LOOPS = ("select", "poll", "epoll", "kqueue", "asyncio", "uvloop")
EVERY = (*FLOWS, *LOOPS)
BY_UNIX = pairs("lines/epoll lines/thread Reacts/fork streams/thread")
OFF = {"idle_timeout": 0, "message_timeout": 0, "write_timeout": 0}
SMALL = 64 * 1024
GIVES = ("sh", "-c", "read line; test $line = hello && echo hello || head -c 800000 /dev/zero; cat")


def needs(model: str) -> None:
    missing = registry.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")


# The passes, with a clock of their own.


class FakeChannel:
    """What a pass looks at."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.seen: Any = None
        self.opened = self.heard = 0.0
        self.heard_in = self.acknowledged = 0
        self.bytes_in = self.bytes_out = self.messages = 0
        self.wants_write = self.unfinished = self.lingers = False
        self.goodbye = ""
        self.state = State.OPEN

    def is_lingering(self) -> bool:
        return self.lingers

    def cool(self) -> None: ...


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def channel(pair: tuple[socket.socket, socket.socket]) -> FakeChannel:
    return FakeChannel(pair[0])


def passes(timeouts: ChannelTimeouts, channel: FakeChannel, until: float) -> tuple[float, str]:
    """When a connection is over its time, and why; an empty reason if it never is."""
    now = max(0.0, timeouts._next)
    while now < until:
        for _, why in timeouts.due([channel], now):
            return now, why
        now += timeouts.interval
    return now, ""


def test_one_that_says_nothing_is_idle(channel: FakeChannel) -> None:
    when, why = passes(ChannelTimeouts(settle({**OFF, "idle_timeout": 300}), False), channel, 1000)
    assert why == IDLE
    assert 300 <= when <= 302


def test_what_it_says_counts_and_what_we_say_does_not(channel: FakeChannel) -> None:
    timeouts = ChannelTimeouts(settle({**OFF, "idle_timeout": 100}), False)
    for now in range(300):
        channel.bytes_out += 1
        if now % 90 == 0:
            channel.bytes_in += 1
        assert not timeouts.due([channel], float(now)), now
    when, why = passes(timeouts, channel, 1000)
    assert why == IDLE
    assert 370 <= when <= 372


def test_what_nobody_has_read_was_said_all_the_same(
    channel: FakeChannel, pair: tuple[socket.socket, socket.socket]
) -> None:
    pair[1].send(b"x")
    assert passes(ChannelTimeouts(settle({**OFF, "idle_timeout": 10}), False), channel, 100)[1] == ""


def test_a_byte_now_and_then_does_not_make_a_message(channel: FakeChannel) -> None:
    timeouts = ChannelTimeouts(settle({**OFF, "message_timeout": 30}), True)
    for now in range(100):
        channel.bytes_in += 1
        channel.unfinished = now >= 10
        found = timeouts.due([channel], float(now))
        if found:
            break
    assert found == [(channel, MESSAGE_TIMEOUT)]
    assert 40 <= now <= 42


def test_one_message_after_the_other_each_has_its_time(channel: FakeChannel) -> None:
    timeouts = ChannelTimeouts(settle({**OFF, "message_timeout": 30}), True)
    channel.unfinished = True
    for now in range(200):
        channel.messages = now // 25
        assert not timeouts.due([channel], float(now))


def test_messages_have_no_deadline_where_no_framing_cuts_them(channel: FakeChannel) -> None:
    channel.unfinished = True
    assert passes(ChannelTimeouts(settle({**OFF, "message_timeout": 30}), False), channel, 100)[1] == ""


def test_no_progress_is_no_progress(channel: FakeChannel) -> None:
    timeouts = ChannelTimeouts(settle({**OFF, "write_timeout": 30}), False)
    channel.wants_write = True
    for now in range(100):  # a byte in twenty seconds is some
        channel.bytes_out = now // 20
        assert not timeouts.due([channel], float(now))
    when, why = passes(timeouts, channel, 1000)
    assert why == WRITE_TIMEOUT
    assert 110 <= when <= 112


def test_who_has_taken_everything_is_asked_no_more(
    channel: FakeChannel, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel holds is asked once after each time that something was sent, and of silent ones never."""
    asked: list[float] = []
    monkeypatch.setattr("pronghorn.serving.timeouts.unsent", lambda sock: asked.append(now) or 0)
    timeouts = ChannelTimeouts(settle({**OFF, "write_timeout": 5}), False)
    for now in range(100):
        channel.bytes_out = now // 25
        assert not timeouts.due([channel], float(now))
    assert asked == [25, 50, 75]


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="the kernel does not tell")
def test_what_the_kernel_took_and_the_peer_did_not_is_unsent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        theirs.connect(listener.getsockname())
        with listener.accept()[0] as ours:
            channel, timeouts = FakeChannel(ours), ChannelTimeouts(settle({**OFF, "write_timeout": 30}), False)
            channel.bytes_out = ours.send(bytes(100_000))
            assert passes(timeouts, channel, 20) == (20, "")
            theirs.recv(100_000, socket.MSG_WAITALL)
            until(lambda: not unsent(ours), "everything is taken")
            assert passes(timeouts, channel, 100)[1] == ""
            assert channel.seen is None and channel.acknowledged == channel.bytes_out
            channel.bytes_out += ours.send(bytes(100_000))
            when, why = passes(timeouts, channel, 1000)
            assert why == WRITE_TIMEOUT
            assert 130 <= when <= 132


def test_an_age_is_told_once(channel: FakeChannel) -> None:
    timeouts = ChannelTimeouts(settle({**OFF, "max_connection_age": 50}), False)
    when, why = passes(timeouts, channel, 100)
    assert why == AGE
    assert 50 <= when <= 52
    channel.goodbye = "age"
    assert passes(timeouts, channel, 100)[1] == ""


def test_nothing_is_due_while_it_lingers_or_shakes_hands(channel: FakeChannel) -> None:
    for state, lingers in ((State.OPENING, False), (State.CLOSING, True)):
        channel.state, channel.lingers = state, lingers
        assert passes(ChannelTimeouts(settle({**OFF, "idle_timeout": 10}), False), channel, 100)[1] == ""


def test_without_deadlines_there_are_no_passes(channel: FakeChannel) -> None:
    timeouts = ChannelTimeouts(settle(OFF), True)
    assert timeouts.interval == math.inf
    assert timeouts.due([channel], 1e9) == []
    assert timeouts.wait(1e9) == math.inf
    assert channel.seen is None


@pytest.mark.parametrize(("shortest", "interval"), [(300, 1.0), (30, 1.0), (5, 0.25), (0.1, 0.05)])
def test_passes_are_as_frequent_as_the_shortest_deadline_asks(shortest: float, interval: float) -> None:
    assert ChannelTimeouts(settle({**OFF, "idle_timeout": shortest}), False).interval == interval


def test_an_expensive_pass_is_rare() -> None:
    """Ten thousand that are silent cost a hundredth of the time: the pass says itself when the next may be."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        crowd = [FakeChannel(ours) for _ in range(10_000)]
        timeouts = ChannelTimeouts(settle({"idle_timeout": 300}), True)
        began = time.monotonic()
        for channel in crowd:
            channel.opened = channel.heard = began
        assert timeouts.due(crowd, began) == []
        assert timeouts.wait(began) >= 1.0
        timeouts.interval, timeouts._next = 0.0, 0.0
        assert timeouts.due(crowd, began) == []
    assert timeouts.wait(began) > 0.0, (
        "a pass over ten thousand takes time, and a hundred times of it is left to others"
    )


def test_a_pass_that_others_interrupted_is_followed_by_the_next_as_soon_as_ever(
    channel: FakeChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts = ChannelTimeouts(settle({**OFF, "idle_timeout": 0.4}), False)
    over = timeouts._over
    monkeypatch.setattr(timeouts, "_over", lambda *args: time.sleep(0.05) or over(*args))  # others have the processor
    timeouts.due([channel], 100.0)
    assert timeouts.wait(100.0) < 1.0, "a deadline waits for a hundred times what others took"


def test_a_unix_connection_is_seen_from_outside_by_what_was_read(pair: tuple[socket.socket, socket.socket]) -> None:
    with Connection(fileno=pair[0].detach()) as conn:
        conn.begin(1, "", None)
        conn.opened = 0.0
        timeouts = OutsideTimeouts(settle({**OFF, "idle_timeout": 10}), False)
        for now in range(50):
            assert not timeouts.due([conn], float(now)), "nobody counts"
        conn.protocol = object()  # whose reads are counted
        for now in range(50, 70):
            conn.bytes_in += now < 55
            if timeouts.due([conn], float(now)):
                break
        assert 64 <= now <= 66


# All models.


@contextmanager
def served(handler: object, model: str, **settings: Any) -> Iterator[Served]:
    needs(model)
    source = f"{HANDLERS}:{handler}" if isinstance(handler, str) else handler
    keywords = {**OFF, "log_level": "debug", "workers": 1, **settings}
    with serving(source, model=model, **keywords) as server:
        yield server


def told(server: Served, why: str, count: int = 1) -> list[float]:
    """The log gives the reason, and no traceback; how long so many connections lived that were cut, in seconds."""

    def lives() -> list[str]:
        return re.findall(rf"[ (]{why}\)? after ([0-9.]+) s", server.log())

    until(lambda: len(lives()) >= count, f"{count} connections have ended for {why}")
    assert "Traceback" not in server.log()
    return [float(each) for each in lives()]


STYLES = {
    "lines": EVERY,
    "Reacts": ("fork", "thread", "epoll", "uvloop"),
    "streams": ("iterative", "fork", "thread", "poll", "asyncio", "uvloop"),
    "async_lines": ("thread", "asyncio"),
    "blocking": FLOWS,
    "OldStyle": ("prefork", "thread"),
}


@contextmanager
def of_every_style(model: str, clients: int, **settings: Any) -> Iterator[tuple[Served, list[str]]]:
    """A server of all styles of a model, each at a listener of its own, that serves so many clients of each at once."""
    names = [name for name, fit in STYLES.items() if model in fit]
    listeners = [{"name": each, "bind": "127.0.0.1:0", "handler": f"{HANDLERS}:{each}"} for each in names]
    workers = clients * len(names) if model in ("iterative", "prefork") else 1
    with served(names[0], model, workers=workers, listeners=listeners, **settings) as server:
        yield server, names


def greeted(server: Served, index: int = 0, name: str = "") -> socket.socket:
    """A client that was answered. A deadline may pass before its first word, where this process is paused for so long:
    then it comes again."""
    for _ in range(20):
        client = server.connect(index)
        try:
            if answer := exchange(client, b"hello\n", expect=6):
                assert answer.upper() == b"HELLO\n", name
                return client
        except ConnectionResetError:
            pass
        client.close()
    raise AssertionError(f"{name}: nobody is answered")


def all_serve(server: Served, names: list[str]) -> None:
    for index, name in enumerate(names):
        greeted(server, index, name).close()


@pytest.mark.slow
@pytest.mark.parametrize("model", EVERY)
def test_a_silent_peer_is_ended(model: str) -> None:
    """In every style."""
    with of_every_style(model, 1, idle_timeout=0.4) as (server, names), ExitStack() as stack:
        began = time.monotonic()
        clients = [stack.enter_context(greeted(server, index, name)) for index, name in enumerate(names)]
        for name, client in zip(names, clients, strict=True):
            assert exchange(client) == b"", f"{name}: an end in order, no reset"
            assert time.monotonic() - began >= 0.4
        told(server, "idle", len(names))
        all_serve(server, names)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["iterative", "fork", "thread", "gevent"])
def test_a_program_whose_peer_is_silent_is_ended(model: str) -> None:
    with served(("cat",), model, idle_timeout=0.4) as server, greeted(server) as client:
        assert exchange(client) == b""
        told(server, "idle")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model"), [("ticks", "thread"), ("ticks", "fork"), ("async_ticks", "asyncio"), ("async_ticks", "thread")]
)
def test_what_we_say_does_not_keep_it(name: str, model: str) -> None:
    with served(name, model, idle_timeout=0.4) as server, server.connect() as client:
        assert exchange(client).startswith(b"tick\n")
        told(server, "idle")


@contextmanager
def side_by_side(*cases: tuple[Any, str], **settings: Any) -> Iterator[list[Served]]:
    """Servers of these handlers and models, so that one wait is enough for all; none of a model that is missing."""
    with ExitStack() as stack:
        here = [(handler, model) for handler, model in cases if registry.page(model).missing() is None]
        yield [stack.enter_context(served(handler, model, **settings)) for handler, model in here]


@pytest.mark.slow
def test_between_two_passes_nothing_spins() -> None:
    """Passes may be more frequent than heartbeats; until the next of them, a server that has nothing to do rests."""
    with side_by_side(*(("lines", model) for model in EVERY), idle_timeout=2) as servers, ExitStack() as stack:
        for server in servers:
            client = stack.enter_context(server.connect())
            assert exchange(client, b"hello\n", expect=6) == b"HELLO\n"

        def worked() -> list[float]:
            workers = [[psutil.Process(pid) for pid in server.worker_pids()] for server in servers]
            return [sum(sum(each.cpu_times()[:2]) for each in mine) for mine in workers]

        before, began = worked(), time.monotonic()
        until(lambda: time.monotonic() >= began + 1.0)
        for server, one, other in zip(servers, before, worked(), strict=True):
            assert other - one < 0.25, server.model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model"), [*(("lines", model) for model in EVERY), *pairs("async_lines/asyncio async_lines/thread")]
)
def test_a_byte_now_and_then_is_no_message(name: str, model: str) -> None:
    with served(name, model, message_timeout=0.4) as server, server.connect() as client:
        assert exchange(client, b"whole\n", expect=6) == b"WHOLE\n"
        poller = select.poll()
        poller.register(client, select.POLLIN)
        deadline = time.monotonic() + 10
        while not poller.poll(20):
            assert time.monotonic() < deadline
            try:
                client.sendall(b"x")
            except (ConnectionResetError, BrokenPipeError):
                break  # the end came between the look and the byte
        try:
            assert client.recv(100) == b"", "the message never came to its end"
        except ConnectionResetError:
            pass  # our last byte crossed the end
        told(server, "message timeout")
        with server.connect() as another:
            assert exchange(another, b"hello\n", expect=6) == b"HELLO\n"


@pytest.mark.slow
@pytest.mark.parametrize("model", EVERY)
def test_a_peer_that_never_reads_is_cut(model: str) -> None:
    """In every style; also where the kernel has the whole reply, and the handler is through with it, as is the process:
    only the kernel knows then that the peer takes none."""
    questions = (b"BIG\n", b"SOME\n")
    with of_every_style(model, 2, write_timeout=0.5) as (server, names), ExitStack() as stack:
        for index in range(len(names)):
            for question in questions:
                stack.enter_context(server.connect(index, receive_buffer=SMALL)).sendall(question)
        assert min(told(server, "write timeout", len(questions) * len(names))) >= 0.5
        all_serve(server, names)


@pytest.mark.slow
@pytest.mark.parametrize("model", FLOWS)
def test_a_peer_that_never_reads_what_a_program_has_said_is_cut(model: str) -> None:
    with served(GIVES, model, write_timeout=0.5) as server, server.connect(receive_buffer=SMALL) as deaf:
        deaf.sendall(b"SOME\n")
        assert told(server, "write timeout")[0] >= 0.5
        with server.connect() as another:
            assert exchange(another, b"hello\n", expect=6) == b"hello\n"


@pytest.mark.slow
def test_a_peer_that_takes_a_little_now_and_then_is_not_cut() -> None:
    """Whether the kernel has the whole reply, or has no room for more until a third of what it holds is taken."""
    cases = pairs("lines/epoll streams/uvloop lines/thread blocking/gevent")
    with side_by_side(*cases, write_timeout=1.0) as servers:

        def trial() -> None:
            before = [server.log().count("write timeout") for server in servers]
            with ExitStack() as stack:
                peers = []
                for server in servers:
                    for question in (b"SOME\n", b"BIG\n"):
                        peers.append(stack.enter_context(server.connect(receive_buffer=SMALL)))
                        peers[-1].sendall(question)
                due = time.monotonic()
                for _ in range(len(TAKEN_WHOLE) // SMALL):  # several times as long as one has that takes nothing
                    due += 0.3
                    until(lambda due=due: time.monotonic() >= due)  # type: ignore[misc]
                    assert all(peer.recv(SMALL) for peer in peers)
                for server, count in zip(servers, before, strict=True):
                    assert server.log().count("write timeout") == count, server.model

        undisturbed(trial)


@pytest.mark.slow
def test_a_peer_that_takes_a_long_reply_is_not_idle() -> None:
    """It takes a part of it now and then, says nothing, and is cut for idleness when it has it all."""
    cases: list[tuple[Any, str]] = [
        *pairs("lines/epoll streams/uvloop blocking/fork blocking/gevent"),
        (GIVES, "thread"),
    ]
    with side_by_side(*cases, idle_timeout=0.5) as servers:
        undisturbed(lambda: takes_a_long_reply(servers))


def takes_a_long_reply(servers: list[Served]) -> None:
    ends = [len(told(server, "idle", 0)) for server in servers]
    with ExitStack() as stack:
        peers = []
        for server in servers:
            peers.append(stack.enter_context(server.connect(receive_buffer=SMALL)))
            peers[-1].sendall(b"SOME\n")
        due = began = time.monotonic()
        taken = dict.fromkeys(peers, 0)
        while time.monotonic() - began < 1.6:
            due += 0.1
            until(lambda due=due: time.monotonic() >= due)  # type: ignore[misc]
            for server, peer in zip(servers, peers, strict=True):
                taken[peer] += (some := taken_by(peer, SMALL // 2))
                assert some, f"{server.model}: cut after {taken[peer]} bytes and {time.monotonic() - began:.2f} s"
        for server, peer, count in zip(servers, peers, ends, strict=True):
            assert taken[peer] < len(TAKEN_WHOLE) and len(told(server, "idle", 0)) == count, server.model
        with ThreadPoolExecutor(len(peers)) as pool:  # all at once: who waits for others takes nothing meanwhile
            rests = list(pool.map(all_of, peers))
        for server, peer, rest, count in zip(servers, peers, rests, ends, strict=True):
            assert taken[peer] + rest >= len(TAKEN_WHOLE), server.model
            told(server, "idle", count + 1)


def taken_by(sock: socket.socket, most: int) -> int:
    """How many bytes have come; 0 at the end, in order or by a reset."""
    try:
        return len(sock.recv(most))
    except ConnectionResetError:
        return 0


def all_of(sock: socket.socket) -> int:
    """How many bytes come until the end."""
    return sum(iter(lambda: taken_by(sock, 1 << 20), 0))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["epoll", "thread"])
def test_a_peer_that_takes_nothing_of_a_long_reply_is_idle(model: str) -> None:
    with served("lines", model, idle_timeout=0.5) as server, server.connect(receive_buffer=SMALL) as deaf:
        deaf.sendall(b"BIG\n")
        told(server, "idle")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), [*BY_UNIX, *pairs("blocking/thread blocking/gevent")])
def test_a_peer_that_never_reads_a_unix_socket_is_cut(name: str, model: str, tmp_path: Any) -> None:
    bind = f"unix:{tmp_path}/s"
    with served(name, model, write_timeout=0.4, bind=bind) as server, server.connect() as deaf:
        deaf.sendall(b"BIG\n")
        told(server, "write timeout")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), [*BY_UNIX, ("streams", "uvloop")])
def test_a_silent_peer_of_a_unix_socket_is_ended(name: str, model: str, tmp_path: Any) -> None:
    with served(name, model, idle_timeout=0.4, bind=f"unix:{tmp_path}/s") as server, greeted(server) as client:
        assert exchange(client) == b""
        told(server, "idle")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model"),
    pairs("lines/fork lines/thread lines/epoll lines/asyncio Reacts/thread Reacts/epoll")
    + pairs("streams/thread streams/uvloop blocking/iterative blocking/gevent"),
)
def test_an_old_connection_is_ended_as_draining_would_end_it(name: str, model: str) -> None:
    with served(name, model, max_connection_age=0.4) as server, greeted(server) as client:
        assert exchange(client) == b""
        told(server, "age")


@pytest.mark.parametrize("model", ["epoll", "thread"])
def test_a_handler_may_have_names_of_its_own(model: str) -> None:
    with served("Collects", model, message_timeout=0.3) as server:
        for _ in range(2):
            with server.connect() as client:
                assert exchange(client, b"hello\n", expect=6) == b"HELLO\n"
            until(lambda: ": done after" in server.log())
        assert server.stop() == 0
        assert "Traceback" not in server.log()
        assert "fault" not in server.log()


@pytest.mark.parametrize("model", ["epoll", "thread", "asyncio"])
def test_the_protocol_learns_why(model: str) -> None:
    with served("Reacts", model, idle_timeout=0.3) as server:
        with server.connect() as client:
            assert exchange(client) == b""
        until(lambda: ": timeout (idle) after" in server.log())

        def last() -> bytes:
            with server.connect() as another:
                return exchange(another, b"LAST\n", expect=5, reset_ends=True)

        until(lambda: last().startswith(b"PeerT"), "the name of what the protocol was told")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["iterative", "fork", "thread", "gevent", "select", "uvloop"])
def test_a_protocol_that_never_closes_is_cut_all_the_same(model: str) -> None:
    with served("Stays", model, idle_timeout=0.4) as server, server.connect() as client:
        late = time.monotonic() + 0.3
        with suppress(OSError):
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
        assert exchange(client, reset_ends=time.monotonic() > late) == b""
        told(server, "idle")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model"),
    [("pushes", "asyncio"), ("pushes", "uvloop"), ("pushes", "thread"), ("Pushes", "epoll"), ("Pushes", "asyncio")],
)
def test_a_handler_that_pushes_what_nobody_takes_loses_its_connection(name: str, model: str) -> None:
    with served(name, model, max_write_buffer=4 * 1024 * 1024) as server, server.connect(receive_buffer=SMALL) as deaf:
        before = server.memory()
        deaf.sendall(b"go\n")
        told(server, "write buffer")
        assert "TooMuchUnsent" in server.log()
        assert server.memory() - before < 32 * 1024 * 1024


@pytest.mark.parametrize(("deadline", "late"), [(300, 30.0), (30, 3.0), (2, 1.0), (0.4, 1.0)])
def test_the_first_look_comes_early_enough_for_what_began_before_it(deadline: float, late: float) -> None:
    """Until then nobody knows of it: that, a heartbeat and a pass are what its end may be late."""
    message = OutsideTimeouts(settle({**OFF, "message_timeout": deadline}), True)
    assert message.first_look(kernel_knows=True) + 0.5 + message.interval <= late
    idle = OutsideTimeouts(settle({**OFF, "idle_timeout": deadline}), False)
    assert idle.first_look(kernel_knows=False) + 0.5 + idle.interval <= late
    assert idle.first_look(kernel_knows=True) == deadline / 2, "the many that live for a moment do without"


# TLS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model"),
    pairs("lines/iterative lines/fork lines/pool lines/gevent lines/select lines/asyncio lines/uvloop")
    + pairs("async_lines/thread async_lines/epoll"),
)
def test_a_byte_now_and_then_of_a_record_is_no_message(name: str, model: str, tmp_path: Path) -> None:
    """Whoever never ends a TLS record has begun a message all the same."""
    certificate, key = Authority(tmp_path).sign("server")
    pair = {"tls_cert": certificate, "tls_key": key}
    with served(name, model, message_timeout=0.6, **pair) as server, over_tls(server.connect()) as client:
        assert exchange(client, b"whole\n", expect=6) == b"WHOLE\n"
        assert client.records is not None
        record = client.records.seal(b"never whole\n" * 1000)
        poller = select.poll()
        poller.register(client, select.POLLIN)
        sent, deadline = 0, time.monotonic() + 10
        while not poller.poll(20):
            assert time.monotonic() < deadline
            try:
                sent += socket.socket.send(client, record[sent : sent + 1])
            except (ConnectionResetError, BrokenPipeError):
                break  # the end came between the look and the byte
        told(server, "message timeout")


def test_records_know_whether_one_has_begun(tmp_path: Path) -> None:
    """However they are cut: of those of the handshake too, which are no data."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = Records(context, "localhost", client=True)
    client.shake()
    hello = client.unsent()
    sealed = hello * 3
    for size in (*range(1, 12), len(hello), len(hello) + 3):
        records = Records(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        fed = 0
        while fed < len(sealed):
            piece = sealed[fed : fed + size]
            records.feed(piece)
            fed += len(piece)
            assert records.unfinished is (fed % len(hello) != 0), (size, fed)
