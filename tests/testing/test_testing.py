"""The public tools for tests: what they do, and that they leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import pronghorn
from launch import halt, lives
from pronghorn.errors import BadSetting, MissingExtra, PronghornError
from pronghorn.handlers import builtin
from pronghorn.settings.source import Source
from pronghorn.testing.chaos import ChaosProxy, Way
from pronghorn.testing.checks import check_handler, check_model
from pronghorn.testing.forms import FORMS
from pronghorn.testing.promises import PROMISES
from pronghorn.testing.served import serving, source_of
from pronghorn.testing.talk import PATIENCE, exchange, until
from pronghorn.testing.tls import SealedClient, over_tls, throw_away_pair, trusting
from pronghorn.testing.transport import FakeTransport

GUIDE = Path(__file__).parents[2] / "docs" / "testing.md"


# Handlers of this file: the server imports it in a process of its own.


@pronghorn.message(pronghorn.lines)
def backwards(line: bytes) -> bytes:
    return line[::-1]


class Box:
    @staticmethod
    def handle(conn: socket.socket) -> None:
        conn.sendall(b"from a box\n")


class Once(socketserver.StreamRequestHandler):
    """One answer per connection, as HTTP/1.0 has it."""

    def handle(self) -> None:
        self.wfile.write(b"you said " + self.rfile.readline())


class TakesAllAtOnce(pronghorn.Protocol):
    """Believes that a question arrives in one piece, and one at a time."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"yes\n" if data == b"is it?\n" else b"what?\n")


class HurriesOff(pronghorn.Protocol):
    """Takes the peer's end for the end of everything."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.transport.abort()


def hoards(conn: socket.socket) -> None:
    """Reads as fast as it can and keeps it all; answers at the end."""
    conn.sendall(b"".join(iter(lambda: conn.recv(65536), b"")).upper())


# FakeTransport


class Recorder(asyncio.Protocol):
    stays = False

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.calls.append(data)
        if data == b"bye":
            self.transport.close()
            self.calls.append("closed")

    def eof_received(self) -> bool:
        self.calls.append("end")
        return self.stays

    def connection_lost(self, exc: BaseException | None) -> None:
        self.calls.append(("lost", type(exc).__name__))

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")


def test_the_peer_speaks_and_ends() -> None:
    protocol = Recorder()
    transport = FakeTransport(protocol)
    transport.receive(b"hello")
    transport.end()
    assert protocol.calls == ["made", b"hello", "end", ("lost", "NoneType")]
    assert transport.closed and transport.lost and not transport.aborted
    with pytest.raises(AssertionError, match="closed"):
        transport.receive(b"more")


def test_a_protocol_may_stay_after_the_peers_end() -> None:
    protocol = Recorder()
    protocol.stays = True
    transport = FakeTransport(protocol)
    transport.end()
    assert not transport.closed
    transport.write(b"still here")
    assert transport.take() == b"still here"


def test_connection_lost_never_comes_from_within_close() -> None:
    protocol = Recorder()
    FakeTransport(protocol).receive(b"bye")
    assert protocol.calls[-2:] == ["closed", ("lost", "NoneType")]


def test_a_reset_is_told_as_an_error_once() -> None:
    protocol = Recorder()
    transport = FakeTransport(protocol)
    transport.reset()
    transport.settle()
    assert protocol.calls == ["made", ("lost", "ConnectionResetError")]


def test_a_peer_that_does_not_read() -> None:
    protocol = Recorder()
    transport = FakeTransport(protocol)
    assert transport.get_write_buffer_size() == 0
    transport.stall()
    assert transport.get_write_buffer_size() > transport.get_write_buffer_limits()[1]
    transport.resume()
    assert protocol.calls == ["made", "pause", "resume"]
    transport.set_write_buffer_limits(high=100)
    assert transport.get_write_buffer_limits() == (25, 100)


def test_what_is_written_is_recorded() -> None:
    transport = FakeTransport(Recorder(), peer="/a/socket", number=7)
    transport.write(bytearray(b"one "))
    transport.writelines([b"two ", b"three"])
    assert transport.take() == b"one two three"
    assert transport.take() == b""
    transport.write_eof()
    with pytest.raises(RuntimeError, match="write_eof"):
        transport.write(b"four")
    assert transport.written == b"one two three" and transport.wrote_eof
    assert transport.get_extra_info("peername") == transport.peer == "/a/socket"
    assert transport.get_extra_info("cipher", "none") == "none"
    assert transport.number == 7


def test_a_paused_protocol_is_given_nothing() -> None:
    transport = FakeTransport(Recorder())
    transport.pause_reading()
    with pytest.raises(AssertionError, match="paused"):
        transport.receive(b"hello")
    transport.resume_reading()
    transport.receive(b"hello")
    transport.abort()
    assert transport.aborted and transport.closed


def test_draining_by_style() -> None:
    asyncios = Recorder()
    transport = FakeTransport(asyncios)
    transport.drain()
    assert asyncios.calls == ["made", "end", ("lost", "NoneType")] and transport.draining
    ours = FakeTransport(TakesAllAtOnce())
    ours.drain()
    assert ours.closed


def test_a_buffered_protocol_is_filled() -> None:
    class Buffered(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.room = bytearray(4)
            self.got = b""

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.room

        def buffer_updated(self, nbytes: int) -> None:
            self.got += self.room[:nbytes]

    protocol = Buffered()
    FakeTransport(protocol).receive(b"ten bytes!")
    assert protocol.got == b"ten bytes!"


def test_streams_run_over_it() -> None:
    async def talk() -> tuple[bytes, bytes]:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = FakeTransport(protocol)
        writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
        transport.receive(b"a line\n")
        writer.write(b"a reply\n")
        await writer.drain()
        writer.close()
        transport.settle()
        return await reader.readline(), transport.take()

    assert asyncio.run(talk()) == (b"a line\n", b"a reply\n")


# What a handler is called in another process.


def test_a_handler_is_named_by_its_file() -> None:
    assert source_of(backwards) == Source(name=f"{os.path.abspath(__file__)}:backwards")
    assert source_of(Box.handle) == Source(name=f"{os.path.abspath(__file__)}:Box.handle")
    assert source_of(builtin.echo) == Source(name="pronghorn.handlers.builtin:echo")
    assert source_of("upper") == Source(name="upper")
    assert source_of(["tr", "a-z", "A-Z"]) == Source(command=("tr", "a-z", "A-Z"))


def shadowed() -> None:
    """Replaced below."""


original, shadowed = shadowed, lambda: None  # type: ignore[assignment]


def test_a_handler_that_cannot_be_found_again_is_refused() -> None:
    def local(conn: socket.socket) -> None:
        pass

    for handler, why in (
        (lambda conn: None, "a lambda"),
        (local, "inside a function"),
        (original, "something else"),
        (object(), "no function or class"),
        (len, "no function or class"),
    ):
        with pytest.raises(ValueError, match=why):
            source_of(handler)


# serving()


def test_a_handler_object_is_served() -> None:
    with serving(backwards) as server, server.connect() as client:
        assert server.model in ("epoll", "kqueue", "poll")
        assert exchange(client, b"hello\n", expect=6) == b"olleh\n"
    with serving(Box.handle, model="thread") as server, server.connect() as client:
        assert exchange(client) == b"from a box\n"


def test_every_address_is_told_and_connected_to(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with serving("echo", bind=["127.0.0.1:0", f"unix:{path}"]) as server:
        host, port = server.address
        assert host == "127.0.0.1" and port > 0
        assert server.addresses == [("127.0.0.1", port), path]
        for index in range(2):
            with server.connect(index) as client:
                assert client.gettimeout()
                assert exchange(client, b"hello", expect=5) == b"hello"


def test_a_program_is_served() -> None:
    with serving(("tr", "a-z", "A-Z")) as server, server.connect() as client:
        assert server.model == "fork"
        assert exchange(client, b"hello", end=True) == b"HELLO"


def test_imports_work_as_they_do_for_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "by_folder.py").write_text("from by_path import reply as handle\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "by_path.py").write_text("def reply(conn):\n    conn.sendall(b'found')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    for name in ("by_folder:handle", "by_folder.py:handle"):
        with serving(name) as server, server.connect() as client:
            assert exchange(client) == b"found"


def test_processes_and_exit_status() -> None:
    with serving("upper", model="thread", workers=2) as server:
        until(lambda: server.log().count("is ready") == 2)
        assert len(server.worker_pids()) == 2
        assert server.pid not in server.worker_pids() and server.pid != os.getpid()
        assert os.getpgid(server.pid) == server.pid != os.getpgid(0)
        assert server.memory() > 0
        assert server.stop() == 0
        assert not server.running
        assert server.worker_pids() == server.processes() == []
        assert server.stop() == 0, "once more does no harm"
    assert "Draining (SIGTERM)" in server.log(), "the log is there afterwards"


def test_a_server_that_does_not_end_in_time() -> None:
    with serving("upper") as server, server.connect() as client:
        exchange(client, b"hello", expect=5)
        halt(server.pid)
        with pytest.raises(TimeoutError, match="within"):
            server.stop(timeout=0.05)
        os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize("end", ["leave", "raise", "kill the supervisor"])
@pytest.mark.parametrize(("handler", "model"), [("upper", "fork"), (("cat",), "fork"), (("cat",), "thread")])
def test_no_process_is_left(handler: Any, model: str, end: str) -> None:
    family: list[psutil.Process] = []
    connected: list[socket.socket] = []

    def hold() -> None:
        with serving(handler, model=model, workers=2) as server, server.connect() as one, server.connect() as other:
            for client in (one, other):
                assert exchange(client, b"HELLO", expect=5) == b"HELLO"
            family.extend(server.processes())
            if end == "kill the supervisor":
                os.kill(server.pid, signal.SIGKILL)
                assert server.wait() == -signal.SIGKILL
            connected.extend([one.dup(), other.dup()])  # so that programs have no reason to end by themselves
            if end == "raise":
                raise LookupError

    if end == "raise":
        with pytest.raises(LookupError):
            hold()
    else:
        hold()
    assert len(family) >= 5
    until(lambda: not any(lives(each) for each in family), "all processes are gone")
    for client in connected:
        client.close()


@pytest.mark.parametrize(
    ("handler", "settings", "code", "why"),
    [
        ("no_such_module:handler", {}, 4, "no_such_module"),
        ("uper", {}, 4, "upper"),
        (Once, {"model": "epoll"}, 2, "flow of control"),
        ("upper", {"bind": "192.0.2.1:0"}, 5, "192.0.2.1"),
    ],
)
def test_a_server_that_cannot_start_says_why(handler: Any, settings: dict[str, Any], code: int, why: str) -> None:
    with pytest.raises(PronghornError, match=why) as caught, serving(handler, **settings):
        pass
    assert caught.value.exit_code == code


def test_a_wrong_setting_starts_nothing() -> None:
    with pytest.raises(BadSetting, match="wrokers"), serving("upper", wrokers=2):
        pass


def test_exchange_has_a_deadline() -> None:
    with serving("discard") as server, server.connect() as client:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="0 bytes came"):
            exchange(client, b"hello", patience=0.05)
        assert time.monotonic() - began < PATIENCE / 2
        assert client.gettimeout(), "the socket is as it was"


def test_until_says_what_was_awaited() -> None:
    with pytest.raises(AssertionError, match="the sky falls"):
        until(lambda: False, "the sky falls", patience=0.01)


# Promises


def test_every_promise_has_a_name_and_a_sentence() -> None:
    names = [promise.name for promise in PROMISES]
    assert len(set(names)) == len(names) >= 15
    assert all(promise.__doc__ and promise.__doc__.endswith(".") for promise in PROMISES)


def test_a_good_handler_keeps_its_promises() -> None:
    check_handler(backwards, b"hello\n", b"olleh\n")


def test_a_handler_for_one_question() -> None:
    check_handler(Once, b"something\n", b"you said something\n", model="thread", once=True)


def test_a_handler_that_answers_at_the_end() -> None:
    check_handler(("tr", "a-z", "A-Z"), b"hello", b"HELLO", model="thread", half_close=True)


def test_a_handler_that_says_nothing() -> None:
    check_handler("discard", b"hello", b"")


def test_broken_promises_are_named() -> None:
    with pytest.raises(AssertionError) as caught:
        check_handler(TakesAllAtOnce, b"is it?\n", b"yes\n")
    told = {each.name for each in PROMISES if re.search(rf"^{each.name}:", str(caught.value), re.MULTILINE)}
    assert told >= {"split_writes_change_nothing", "merged_writes_change_nothing"}
    assert "answers_on_every_address" not in told, "what is kept is not named"
    assert "The log ends:" in str(caught.value)


def test_a_reply_lost_at_half_close_is_found_out() -> None:
    others = [each.name for each in PROMISES if each.name != "half_close_gets_its_reply"]
    with pytest.raises(AssertionError, match="half_close_gets_its_reply"):
        check_handler(HurriesOff, b"is it?\n", b"yes\n", half_close=True, leave_out=others)


def test_a_handler_that_fills_the_memory_is_found_out() -> None:
    with pytest.raises(AssertionError, match="its memory grew by"):
        check_handler(hoards, b"question" * 1000, b"QUESTION" * 1000, model="thread", half_close=True)


def test_promises_are_kept_over_tls() -> None:
    check_handler(backwards, b"hello\n", b"olleh\n", tls=True)
    with pytest.raises(AssertionError, match="split_writes_change_nothing"):
        check_handler(TakesAllAtOnce, b"is it?\n", b"yes\n", model="thread", tls=True)
    check_model("poll", [form for form in FORMS if form.name in ("message-prefixed", "blocking", "program")], tls=True)


def test_a_client_with_tls_tells_of_an_end_that_is_none() -> None:
    with (
        serving("upper") as server,
        SealedClient(server.connect(), trusting()) as client,
        pytest.raises(ConnectionResetError, match="No TLS"),
    ):
        client.recv(100)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving("upper", **throw_away_pair(folder)) as server,
        ChaosProxy(server.address, down=Way(end_after=4000)) as network,
        SealedClient(network.connect(), trusting()) as client,
    ):
        client.sendall(b"x" * 10_000)
        with pytest.raises(ConnectionResetError, match="close_notify"):
            while client.recv(10_000):
                pass


def test_what_tls_has_sealed_is_sent_to_the_last_byte() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = throw_away_pair(folder)
        with serving("pronghorn.testing.reference:upper_prefixed", **settings) as server:
            for size in range(200_000, 200_030):  # an answer comes only once all has come
                sock = server.connect()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                with over_tls(sock) as client:
                    got = exchange(client, size.to_bytes(4) + b"x" * size, expect=size + 4)
                assert got[4:] == b"X" * size


def test_promises_can_be_left_out() -> None:
    with pytest.raises(AssertionError, match=r"^\d broken"):
        check_handler(TakesAllAtOnce, b"is it?\n", b"yes\n", leave_out=["split_writes_change_nothing"])
    with pytest.raises(ValueError, match="Did you mean 'split_writes_change_nothing'"):
        check_handler("upper", b"a", b"A", leave_out=["split_writes_change"])
    with pytest.raises(ValueError, match="at least one byte"):
        check_handler("upper", b"", b"")


def test_check_model() -> None:
    few = [form for form in FORMS if form.name in ("message", "blocking")]  # poll runs the one and refuses the other
    check_model("poll", few)
    with pytest.raises(BadSetting, match="There is no model"):
        check_model("pol")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a model that Linux lacks")
def test_check_model_says_what_is_missing() -> None:
    with pytest.raises(MissingExtra, match="kqueue"):
        check_model("kqueue")


# The guide


@pytest.mark.slow
def test_the_guides_examples_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) == GUIDE.read_text().count("```python") == 5
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stdout


def test_the_guide_lists_every_promise() -> None:
    rows = [f"| `{each.name}` | {' '.join(str(each.__doc__).split())} |\n" for each in PROMISES]
    table = "| promise | what it says |\n|---|---|\n" + "".join(rows)
    assert f"<!-- promises -->\n{table}<!-- /promises -->\n" in GUIDE.read_text(), f"the table should be:\n{table}"
