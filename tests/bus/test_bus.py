"""The bus of a server: joined, published and asked under every model, in every style, over real processes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from bus_devices import ANSWERING, MESSAGE, Device, bus_process, raised

from launch import Launched, launched_code, wait_for
from pronghorn import bus
from pronghorn.bus.joined import JOINED
from pronghorn.bus.local import LocalBus
from pronghorn.bus.wire import JOIN, REFUSE, RESULT, SHARED, Reader, frame
from pronghorn.connection import groups
from pronghorn.connection.blocking import Connection
from pronghorn.identity import BusPlace
from pronghorn.settings import settle
from pronghorn.supervisor import bus_side
from pronghorn.system import privileges
from pronghorn.system.descriptor_queue import DescriptorQueue
from pronghorn.system.drain import Drain
from pronghorn.system.privileges import Person

PLAIN = """
import os, pronghorn
from pronghorn import bus

@pronghorn.message(pronghorn.lines)
def handler(line):
    word, _, rest = line.partition(b" ")
    if word == b"join":
        bus.join(rest)
    return b"%d" % os.getpid()
"""
BLOCKING = """
import os
from pronghorn import bus

def handler(conn):
    for line in conn.makefile("rb"):
        word, _, rest = line.strip().partition(b" ")
        if word == b"join":
            conn.join(rest)
        elif word == b"alone":
            conn.join(rest, exclusive=True)
        conn.sendall(b"%d\\n" % os.getpid())
"""
PROTOCOL = """
import os, pronghorn

class handler(pronghorn.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        word, _, rest = data.strip().partition(b" ")
        if word == b"join":
            self.transport.join(rest)
        elif word == b"alone":
            self.transport.join(rest, exclusive=True)
        self.transport.write(b"%d\\n" % os.getpid())
"""
STREAMS = """
import os
from pronghorn import bus

async def handler(reader, writer):
    while line := await reader.readline():
        word, _, rest = line.strip().partition(b" ")
        if word == b"join":
            writer.transport.join(rest)
        elif word == b"alone":
            writer.transport.join(rest, exclusive=True)
        writer.write(b"%d\\n" % os.getpid())
        await writer.drain()
"""
CONVERSATION = """
import os, pronghorn
from pronghorn import bus

@pronghorn.conversation(pronghorn.lines)
async def handler(conn):
    async for line in conn:
        word, _, rest = line.partition(b" ")
        if word == b"join":
            conn.join(rest)
        elif word == b"alone":
            conn.join(rest, exclusive=True)
        elif word == b"publish":
            name, _, payload = rest.partition(b" ")
            await conn.send(b"%d" % await bus.apublish(name, payload))
            continue
        await conn.send(b"%d" % os.getpid())
"""
STYLES = {
    "message": MESSAGE,
    "plain": PLAIN,
    "blocking": BLOCKING,
    "protocol": PROTOCOL,
    "streams": STREAMS,
    "conversation": CONVERSATION,
}
# Each model once, and each style once beside every channel it may have: select and poll have epoll's, uvloop has
# asyncio's, pool has thread's.
MODELS = ("select", "poll", "epoll", "asyncio", "uvloop", "fork", "thread", "pool", "gevent")
PAIRS = [
    *[(model, "message") for model in MODELS],
    *[(model, "protocol") for model in ("epoll", "asyncio", "uvloop", "thread", "gevent")],
    *[(model, "blocking") for model in ("fork", "thread", "gevent")],
    *[(model, "streams") for model in ("epoll", "asyncio", "thread")],
    *[(model, "conversation") for model in ("epoll", "asyncio", "fork")],
    *[(model, "plain") for model in ("epoll", "thread")],
]
QUICK = (("epoll", "message"), ("thread", "blocking"), ("asyncio", "streams"))


@contextlib.contextmanager
def served(folder: Path, code: str, model: str, workers: int = 1, **settings: Any) -> Iterator[Launched]:
    with launched_code(
        folder, code, model=model, workers=workers, control_socket=str(folder / "c.sock"), log_level="debug", **settings
    ) as server:
        server.ready(workers)
        yield server


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """One server for the tests that change nothing in it: each has group names of its own."""
    with served(tmp_path_factory.mktemp("b"), MESSAGE, "epoll", workers=2, bus_max_message=1000) as server:
        yield server


def client(folder: Path) -> bus.Client:
    return bus.connect(f"unix:{folder}/c.bus")


@pytest.mark.parametrize(
    ("model", "style"), [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow) for pair in PAIRS]
)
def test_what_is_published_comes_to_those_who_have_joined(tmp_path: Path, model: str, style: str) -> None:
    bare = style in ("blocking", "protocol", "streams")
    end = b"\n" if bare else b""  # the others frame what is published
    with (
        served(tmp_path, STYLES[style], model) as server,
        client(tmp_path) as outside,
        Device(server) as one,
        Device(server) as two,
        Device(server) as other,
    ):
        one.ask(b"join room")
        two.ask(b"join room")
        other.ask(b"join elsewhere")
        for number in range(20):
            assert outside.publish("room", b"m%d" % number + end) == 2
        for device in (one, two):
            assert [device.line() for _ in range(20)] == [b"m%d" % number for number in range(20)]
        assert outside.publish("nobody", b"x") == 0
        two.close()
        wait_for(lambda: dict(outside.groups()) == {"room": 1, "elsewhere": 1}, "the end of one")
        assert outside.publish("room", b"last" + end) == 1
        assert one.line() == b"last"
        assert one.ask(b"x").isdigit()
        if style != "plain":
            with Device(server) as again:
                again.ask(b"alone room")
                assert one.lines.read() == b"", "the older one has been ended"
                assert outside.publish("room", b"mine" + end) == 1
                assert again.line() == b"mine"
            wait_for(lambda: "replaced" in server.log, "the reason")
        assert "Traceback" not in server.log


@pytest.mark.slow
@pytest.mark.parametrize("model", ["epoll", "asyncio", "thread", "fork", "gevent"])
def test_a_question_is_answered_by_the_connection_that_joined_last(tmp_path: Path, model: str) -> None:
    with (
        served(tmp_path, ANSWERING, model) as server,
        client(tmp_path) as outside,
        Device(server) as old,
        Device(server) as device,
    ):
        old.ask(b"join device:1")
        device.ask(b"join device:1")
        with answering(device) as answers:
            assert outside.ask("device:1", b"status?", timeout=10) == b"re: status?"
            assert [outside.ask("device:1", b"%d" % each, 10) for each in range(20)] == [
                b"re: %d" % each for each in range(20)
            ]
        answers.join()
        with pytest.raises(bus.NoAnswer, match=r"has not answered in 0\.3 s"):
            outside.ask("device:1", b"are you there?", timeout=0.3)
        with pytest.raises(bus.NobodyThere):
            outside.ask("device:2", b"x")
        asked = threading.Thread(target=lambda: caught.append(raised(lambda: outside.ask("device:1", b"?", 30))))
        caught: list[BaseException | None] = []
        asked.start()
        assert device.line() == b"are you there?"
        assert device.line() == b"?"
        device.close()
        asked.join(15)
        assert isinstance(caught[0], bus.BusLost), "its connection ended before it answered"
        assert outside.publish("device:1", b"you", to="one") == 1, "the one before is the latest now"
        assert old.line() == b"you"


@contextlib.contextmanager
def answering(device: Device) -> Iterator[threading.Thread]:
    """A device that answers whatever it is asked, until it is told to stop."""
    over = threading.Event()

    def answer() -> None:
        device.sock.settimeout(0.1)
        while not over.is_set():
            try:
                line = device.sock.recv(100)
            except TimeoutError:
                continue
            device.sock.sendall(b"re: " + line)
        device.sock.settimeout(15)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield thread
    finally:
        over.set()
        thread.join()


def test_a_handler_without_on_bus_cannot_be_asked(two_workers: Launched) -> None:
    with client(two_workers.folder) as outside, Device(two_workers) as device:
        device.ask(b"join device:1")
        with pytest.raises(bus.CannotAnswer, match="no on_bus"):
            outside.ask("device:1", b"?")


FAILING = """
def on_bus(conn, message):
    if message.payload == b"boom":
        raise ZeroDivisionError("boom")
    return message.payload

def handler(conn):
    for line in conn.makefile("rb"):
        word, _, rest = line.strip().partition(b" ")
        conn.join(rest, on_bus=on_bus)
        conn.sendall(b"joined\\n")
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", ["thread", "gevent"])
def test_an_on_bus_that_raises_ends_its_own_connection_and_nothing_else(tmp_path: Path, model: str) -> None:
    with served(tmp_path, FAILING, model) as server, client(tmp_path) as outside:
        for _ in range(2):  # the worker goes on to hear what is published
            with Device(server) as device, Device(server) as other:
                device.ask(b"join device:1")
                other.ask(b"join device:2")
                assert outside.ask("device:1", b"x", 10) == b"x"
                with pytest.raises(bus.CannotAnswer, match="raised an exception"):
                    outside.ask("device:1", b"boom", 10)
                assert device.line() == b"", "as if the handler itself had raised it"
                assert outside.ask("device:2", b"y", 10) == b"y"
        wait_for(lambda: server.log.count("ZeroDivisionError: boom") == 2, "the log has the exception, once each")


@pytest.mark.slow
def test_the_bus_socket_is_the_workers_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("to give files away needs root")
    monkeypatch.setattr(privileges, "person", Person(65534, 65534, (65534,), "nobody", "/"))
    door, made = DescriptorQueue.create(), Mock()
    monkeypatch.setattr(bus_side, "SideProcess", made)
    side = bus_side.BusSide(door, settle({"bus_socket": str(tmp_path / "b")}), "", print)
    try:
        side.watch(Mock(), Mock())
        side._wanted()
        assert (tmp_path / "b").stat().st_uid == 65534
        assert made.call_args.kwargs["settings"]["admitted"] == [0, 65534]
    finally:
        side.close()
        door.close()


@pytest.mark.slow
def test_nothing_is_kept_of_a_blocking_connection_that_is_gone() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        conn = Connection(ours.family, ours.type, 0, fileno=ours.detach())
        conn.begin(1, "", Drain(1.0), "a")
        before = len(groups._locks)
        groups.shared_lock(conn)
        conn.sendall(b"x")
        assert len(groups._locks) == before + 1
        conn.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            conn.send(b"y")
        del conn
        gc.collect()
        assert len(groups._locks) == before


def test_publishers_in_other_workers_reach_everybody_in_their_order(two_workers: Launched) -> None:
    with contextlib.ExitStack() as stack:
        devices, pids = list[Device](), set[bytes]()
        while len(devices) < 12 or len(pids) < 2:  # in both workers, of which one may accept all for a while
            devices.append(stack.enter_context(Device(two_workers)))
            pids.add(devices[-1].ask(b"join order"))
        publishers = [stack.enter_context(Device(two_workers)) for _ in range(4)]
        for number in range(25):
            for place, each in enumerate(publishers):
                assert each.ask(b"publish order %d %d" % (place, number)) == b"%d" % len(devices)
        for device in devices:
            lines = [device.line().split() for _ in range(100)]
            for place in range(4):
                assert [int(number) for by, number in lines if int(by) == place] == list(range(25))
        with client(two_workers.folder) as outside:  # uvloop closes the listener of a server that nobody refers to
            assert outside.publish("nobody", b"") == 0, "so many messages bring the collector of cycles"


def joined_again(outside: bus.Client, wanted: dict[str, int]) -> bool:
    try:
        return dict(outside.groups()) == wanted
    except bus.BusError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(("model", "deaths"), [("epoll", 2), ("thread", 1), ("fork", 1), ("gevent", 1)])
def test_a_hub_that_dies_is_replaced_and_all_join_again(tmp_path: Path, model: str, deaths: int) -> None:
    with (
        served(tmp_path, MESSAGE, model, workers=2) as server,
        client(tmp_path) as outside,
        Device(server) as one,
        Device(server) as two,
    ):
        one.ask(b"join room")
        two.ask(b"join room")
        for _ in range(deaths):
            hub = bus_process(server)
            assert outside.publish("room", b"before") == 2
            hub.kill()
            hub.wait(15)
            assert one.ask(b"x").isdigit() if not one.line() else True
            assert two.line() == b"before"
            wait_for(lambda: joined_again(outside, {"room": 2}), "both")
            assert outside.publish("room", b"after") == 2
            assert one.line() == two.line() == b"after"


@pytest.mark.slow
def test_what_a_dead_worker_had_is_gone_and_nobody_waits_for_it(tmp_path: Path) -> None:
    with served(tmp_path, MESSAGE, "epoll") as server, client(tmp_path) as outside, Device(server) as one:
        pid = int(one.ask(b"join room"))
        os.kill(pid, signal.SIGSTOP)
        try:
            assert outside.publish("room", b"x") == 0, "it has not said that it reached anybody"
        finally:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: outside.groups() == [], "the end of its link")
        assert outside.publish("room", b"x") == 0


@pytest.mark.slow
def test_connections_of_old_workers_are_reached_after_a_reload_and_an_upgrade(tmp_path: Path) -> None:
    with served(tmp_path, MESSAGE, "epoll") as server, client(tmp_path) as outside, Device(server) as old:
        first = old.ask(b"join room")
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reloaded in" in server.log, "the reload")
        with Device(server) as new:
            assert new.ask(b"join room") != first
            assert new.ask(b"publish room hello") == b"2"
            assert old.line() == b"hello"
            server.send(signal.SIGUSR2)
            wait_for(lambda: "Upgraded: process" in server.log, "the upgrade")
            upgraded = int(server.log.rpartition("Upgraded: process ")[2].split()[0])
            wait_for(lambda: joined_again(outside, {"room": 2}), "those of the old program")
            with Device(server) as newest:
                newest.ask(b"join room")
                assert outside.publish("room", b"all") == 3
                assert [each.line() for each in (old, newest)] == [b"all", b"all"]
                assert [new.line(), new.line()] == [b"hello", b"all"]
            os.kill(upgraded, signal.SIGTERM)


@pytest.mark.slow
def test_a_name_can_be_refused_to_the_second(tmp_path: Path) -> None:
    code = (
        MESSAGE.replace("exclusive=True", "exclusive='refuse'")
        .replace("            self.conn.join(rest, ", "            try: self.conn.join(rest, ")
        .replace("exclusive='refuse')", "exclusive='refuse')\n            except bus.NameTaken: return b'taken'")
    )
    with (
        served(tmp_path, code, "epoll", workers=2) as server,
        client(tmp_path) as outside,
        Device(server) as one,
        Device(server) as two,
    ):
        assert one.ask(b"alone device:1").isdigit()
        assert two.ask(b"alone device:1") == b"taken"
        assert outside.publish("device:1", b"x") == 1
        assert one.line() == b"x"
        one.close()
        wait_for(lambda: two.ask(b"alone device:1").isdigit(), "its turn")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["epoll", "thread", "gevent"])
@pytest.mark.parametrize("slow", ["close", "drop-oldest"])
def test_a_connection_that_does_not_read_holds_up_nobody(tmp_path: Path, model: str, slow: str) -> None:
    bounds = {"max_write_buffer": 256 * 1024, "bus_slow": slow}
    with (
        served(tmp_path, MESSAGE, model, **bounds) as server,
        client(tmp_path) as outside,
        Device(server) as deaf,
        Device(server) as fine,
    ):
        deaf.ask(b"join room")
        fine.ask(b"join room")
        reached = []
        for number in range(300):
            reached.append(outside.publish("room", b"%06d" % number + b"x" * 65530))
            assert fine.line()[:6] == b"%06d" % number
        assert reached[0] == 2
        if slow == "close":
            assert reached[-1] == 1, "it was ended"
            wait_for(lambda: dict(outside.groups()) == {"room": 1}, "its end")
            wait_for(lambda: "does not read what the bus has for it: it is closed" in server.log, "a word in the log")
        else:
            assert reached[-1] == 2
            got = [int(deaf.line()[:6]) for _ in range(2)]
            assert got == [0, 1]
            last = -1
            while last < 299:
                number = int(deaf.line()[:6])
                assert number > last
                last = number
            told = "does not read what the bus has for it: its oldest messages are dropped"
            wait_for(lambda: told in server.log, "a word in the log")
            assert server.log.count(told) == 1, "each connection is told of once"


def test_what_cannot_be_sent_is_refused_in_words(tmp_path: Path, two_workers: Launched) -> None:
    with Device(two_workers) as device:
        device.ask(b"join words")
        with client(two_workers.folder) as outside:
            with pytest.raises(bus.BadBusMessage, match="has 300"):
                outside.publish("x" * 300, b"")
            with pytest.raises(bus.BadBusMessage, match="not empty"):
                outside.publish("", b"")
            with pytest.raises(TypeError, match="a str or bytes, not int"):
                outside.publish(5, b"")  # type: ignore[arg-type]
            for timeout in (0, -1, float("inf"), 86400):
                with pytest.raises(ValueError, match=r"at most 3,600\.0; got"):
                    outside.ask("room", b"x", timeout)
            for nothing in (None, "5"):
                with pytest.raises(TypeError, match="number of seconds"):
                    outside.ask("room", b"x", nothing)  # type: ignore[arg-type]
            with pytest.raises(bus.BadBusMessage, match="bus-max-message"):
                outside.publish("words", b"x" * 1001)
            with pytest.raises(bus.BadBusMessage, match="bus-max-message"):
                outside.ask("words", b"x" * 1001)
            with pytest.raises(TypeError, match="encode"):
                outside.publish("words", "text")  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="'all' or 'one'"):
                outside.publish("words", b"x", to="some")
            assert outside.publish("words", b"x" * 1000) == 1
            assert outside.publish("a name with blanks, \N{GREEK SMALL LETTER ALPHA} and \udcff", b"x") == 0
    with pytest.raises(bus.BusUnavailable, match="no worker"):
        bus.publish("room", b"x")
    with pytest.raises(bus.BusUnavailable, match="Is the server running"):
        bus.connect(f"unix:{tmp_path}/nothing").publish("room", b"x")
    with pytest.raises(bus.BadBusMessage, match="unix:PATH"):
        bus.connect("http://x")


def test_coroutines_publish_and_ask(tmp_path: Path) -> None:
    async def talk(device: Device) -> None:
        async with bus.aconnect(f"unix:{tmp_path}/c.bus") as outside:
            assert await outside.publish("device:1", b"hello") == 1
            asked = [asyncio.ensure_future(outside.ask("device:1", b"%d" % each, 10)) for each in range(3)]
            assert [await asyncio.to_thread(device.line) for _ in range(4)] == [b"hello", b"0", b"1", b"2"]
            device.sock.sendall(b"a\nb\nc\n")
            assert [await each for each in asked] == [b"a", b"b", b"c"]
            with pytest.raises(bus.NobodyThere):
                await outside.ask("device:2", b"")

    with served(tmp_path, ANSWERING, "epoll") as server, Device(server) as device:
        device.ask(b"join device:1")
        asyncio.run(talk(device))


@pytest.mark.slow
def test_a_conversation_publishes_without_holding_up_its_loop(tmp_path: Path) -> None:
    with served(tmp_path, CONVERSATION, "asyncio") as server, Device(server) as one, Device(server) as two:
        two.ask(b"join room")
        assert one.ask(b"publish room hello") == b"1"
        assert two.line() == b"hello"


def test_strangers_are_not_admitted(two_workers: Launched) -> None:
    if os.geteuid() != 0:
        pytest.skip("to be somebody else needs root")
    folder = two_workers.folder
    with Device(two_workers) as device:
        device.ask(b"join strangers")
        os.chmod(folder / "c.bus", 0o666)
        for each in (folder, *folder.parents):
            if each.stat().st_uid == 0 and each != Path("/"):
                os.chmod(each, os.stat(each).st_mode | 0o005)
        child = os.fork()
        if not child:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            error = raised(lambda: client(folder).publish("strangers", b"x"))
            os._exit(0 if isinstance(error, bus.BusUnavailable) and "not admitted" in str(error) else 1)
        assert os.waitpid(child, 0)[1] == 0
        with client(folder) as outside:
            assert outside.publish("strangers", b"x") == 1


def test_garbage_ends_a_link_and_nothing_else(two_workers: Launched) -> None:
    with Device(two_workers) as device, client(two_workers.folder) as outside:
        device.ask(b"join garbage")
        for raw in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\0\0\0\1\xc1",
            frame(RESULT, 1, 1),
            frame(JOIN, "x"),
            b"\0\0\0\2\x91\x63",
        ):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(15)
                sock.connect(str(two_workers.folder / "c.bus"))
                sock.sendall(raw)
                with contextlib.suppress(ConnectionResetError):
                    assert sock.recv(100) == b""
        assert outside.publish("garbage", b"x") == 1
        assert "Traceback" not in two_workers.log


@pytest.mark.slow
def test_nothing_of_the_bus_is_there_before_it_is_used(tmp_path: Path) -> None:
    code = """
import sys

def handler(conn):
    conn.sendall(str([each for each in sys.modules if "pronghorn.bus" in each]).encode())
"""
    with served(tmp_path, code, "thread") as server:
        assert server.ask(b"") == b"['pronghorn.bus', 'pronghorn.bus.joined']"
        assert len(server.workers()) == 1
        assert not (tmp_path / "c.bus").exists()


@pytest.mark.slow
def test_without_a_bus_joining_is_refused(tmp_path: Path) -> None:
    code = MESSAGE.replace(
        "            self.conn.join(rest)",
        "            try: self.conn.join(rest)\n            except bus.BusError as error: return error.why.encode()",
    )
    with served(tmp_path, code, "epoll", bus="off") as server, Device(server) as device:
        assert b"--bus off" in device.ask(b"join room")


@pytest.mark.slow
def test_what_a_connection_has_joined_moves_with_it(tmp_path: Path) -> None:
    with (
        served(tmp_path, MESSAGE, "epoll", on_reload="handover") as server,
        client(tmp_path) as outside,
        Device(server) as device,
    ):
        first = device.ask(b"alone device:1")
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reloaded in" in server.log, "the reload")
        wait_for(lambda: device.ask(b"x") != first, "the new worker")
        wait_for(lambda: joined_again(outside, {"device:1": 1}), "the name")
        assert outside.publish("device:1", b"hello") == 1
        assert device.line() == b"hello"


@pytest.mark.slow
def test_what_a_protocol_has_joined_moves_with_it(tmp_path: Path) -> None:
    with (
        served(tmp_path, PROTOCOL, "epoll", on_reload="handover") as server,
        client(tmp_path) as outside,
        Device(server) as device,
    ):
        first = device.ask(b"alone device:1")
        server.send(signal.SIGHUP)
        wait_for(lambda: device.ask(b"x") != first, "the new worker")
        wait_for(lambda: joined_again(outside, {"device:1": 1}), "the name")
        assert outside.publish("device:1", b"hello\n") == 1
        assert device.line() == b"hello"


@pytest.mark.slow
def test_a_connection_that_no_new_worker_takes_keeps_its_names(tmp_path: Path) -> None:
    refusing = "\n    def handed_over(self, conn, state):\n        raise OSError('not here')\n"
    with (
        served(tmp_path, ANSWERING + refusing, "epoll", on_reload="handover") as server,
        client(tmp_path) as outside,
        Device(server) as device,
    ):
        first = device.ask(b"alone device:1")
        server.send(signal.SIGHUP)
        wait_for(lambda: "not here" in server.log and "Reloaded in" in server.log, "the refusal")
        wait_for(lambda: joined_again(outside, {"device:1": 1}), "the name")
        with answering(device):
            assert outside.ask("device:1", b"status?", timeout=10) == b"re: status?"
        assert device.ask(b"x") == first


def test_a_lifespan_publishes_before_its_worker_is_ready(tmp_path: Path) -> None:
    code = f"""
import pronghorn
from pronghorn import bus

def life():
    with open({str(tmp_path / "said")!r}, "w") as said:
        said.write(str(bus.publish("room", b"x")))
    yield

@pronghorn.lifespan(life)
@pronghorn.message(pronghorn.lines)
def handler(line):
    return line
"""
    with served(tmp_path, code, "epoll") as server, Device(server) as device:
        assert device.ask(b"x") == b"x"
        assert (tmp_path / "said").read_text() == "0"


@pytest.mark.slow
def test_a_thread_that_a_handler_waits_for_may_ask(tmp_path: Path) -> None:
    code = """
import asyncio, pronghorn
from pronghorn import bus

@pronghorn.message(pronghorn.lines)
async def handler(line, conn):
    if line == b"join":
        conn.join("me", on_bus=lambda conn, message: b"fine")
        return b"joined"
    if line == b"wrong":
        try:
            conn.join("me", on_bus=5)
        except TypeError as error:
            return str(error).encode()
    return await asyncio.to_thread(bus.ask, "me", line, 10)
"""
    for model in ("epoll", "asyncio"):
        with served(tmp_path, code, model) as server, Device(server) as device:
            device.ask(b"join")
            assert device.ask(b"status?") == b"fine"
            assert b"a function of two arguments" in device.ask(b"wrong")


@pytest.mark.slow
def test_a_name_that_may_be_refused_is_not_taken_by_a_new_link() -> None:
    (ours, hub), there = socket.socketpair(), threading.Event()
    hub.settimeout(15)

    def connect() -> socket.socket:
        assert there.wait(10), "a connection has joined before there was a link"
        return ours

    local = LocalBus(
        BusPlace(connect=connect, join=print, longest=100, most_unsent=100, drops_oldest=False, slow=print)
    )
    joining = threading.Thread(target=lambda: raised(lambda: local.join(8, "free?", "refuse", object)))  # type: ignore[arg-type]
    joining.start()
    try:
        wait_for(lambda: 8 in JOINED, "the question")
        local._groups.add(7, b"sure", SHARED, object, print)  # type: ignore[arg-type]
        there.set()
        joining.join(10)  # nobody answers it
        reader, joins = Reader(), list[Any]()
        while len(joins) < 2:
            joins += [each[3:5] for each in reader.feed(hub.recv(1000)) if each[0] == JOIN]
        assert joins == [[b"sure", SHARED], [b"free?", REFUSE]]
        assert 8 not in JOINED
    finally:
        JOINED.clear()
        local._link.close()
        hub.close()
        wait_for(lambda: ours.fileno() < 0, "the end of the link")


@pytest.mark.parametrize("model", ["epoll", "thread"])
def test_an_error_of_the_bus_is_no_end_of_the_clients_connection(tmp_path: Path, model: str) -> None:
    code = """
import pronghorn
from pronghorn import bus

@pronghorn.message(pronghorn.lines)
def handler(line):
    raise bus.BusLost() if line == b"lost" else bus.BusUnavailable("The hub is away.")
"""
    with served(tmp_path, code, model) as server, Device(server) as one, Device(server) as two:
        assert one.ask(b"lost") == two.ask(b"away") == b""
        wait_for(lambda: server.log.count("Handler failed") == 2, "the errors in the log")
        wait_for(lambda: "BusLost" in server.log and "BusUnavailable" in server.log, "what they are")


@pytest.mark.slow
def test_a_client_comes_back_after_the_server_was_started_again(tmp_path: Path) -> None:
    with client(tmp_path) as outside:
        for _ in range(2):
            with served(tmp_path, MESSAGE, "epoll") as server, Device(server) as device:
                device.ask(b"join room")
                wait_for(lambda: joined_again(outside, {"room": 1}), "the client")
                assert outside.publish("room", b"hello") == 1
                assert device.line() == b"hello"
            with pytest.raises(bus.BusError):
                outside.publish("room", b"x", timeout=0.3)


@pytest.mark.slow
def test_a_hub_that_hangs_is_replaced(tmp_path: Path) -> None:
    with served(tmp_path, MESSAGE, "epoll") as server, client(tmp_path) as outside, Device(server) as device:
        device.ask(b"join room")
        hub = bus_process(server)
        hub.suspend()
        wait_for(lambda: "has said nothing for 5 s" in server.log, "the end of the hub")
        wait_for(lambda: joined_again(outside, {"room": 1}), "the next one")
        assert outside.publish("room", b"hello") == 1
        assert device.line() == b"hello"


@pytest.mark.slow
def test_a_fault_of_the_link_is_told_and_survived(tmp_path: Path) -> None:
    code = (
        MESSAGE
        + """
from pronghorn.bus import local
deliver = local.deliver
def fails_once(*about):
    local.deliver = deliver
    raise ZeroDivisionError("on purpose")
local.deliver = fails_once
"""
    )
    with served(tmp_path, code, "epoll") as server, client(tmp_path) as outside, Device(server) as device:
        device.ask(b"join room")
        assert outside.publish("room", b"x") == 0
        wait_for(lambda: "ZeroDivisionError: on purpose" in server.log, "the record")
        wait_for(lambda: joined_again(outside, {"room": 1}), "its return")
        assert outside.publish("room", b"hello") == 1
        assert device.line() == b"hello"
