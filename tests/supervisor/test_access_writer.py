"""The access log of a running server: under every model, while it is rotated, reloaded, upgraded, full and killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest

import pronghorn
from launch import Launched, launched, launched_code, text_of, wait_for
from pronghorn.models import registry
from pronghorn.testing.served import Served, serving


@pronghorn.message(pronghorn.lines)
def upper(line: bytes, conn: Any) -> bytes:
    conn.log["device"] = "4711"
    if line == b"fail":
        raise ValueError
    return line.upper()


@pronghorn.message(pronghorn.lines)
def wordy(line: bytes, conn: Any) -> bytes:
    conn.log.update({f"field{number}": 900 * "x" for number in range(4)})
    return line.upper()


class Reacts(pronghorn.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.log["device"] = "4711"

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def copy(reader: Any, writer: Any) -> None:
    writer.get_extra_info("log")["device"] = "4711"
    async for line in reader:
        writer.write(line)


def hold(conn: Any) -> None:
    pronghorn.current_log()["device"] = "4711"
    while data := conn.recv(1000):
        conn.sendall(data)


HANDLERS = {"message": upper, "protocol": Reacts, "asyncio": copy, "blocking": hold}


def ask(server: Served, question: bytes = b"hello\n") -> bytes:
    with server.connect() as sock:
        sock.sendall(question)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(1000), b""))


def worker(server: Served | Launched) -> int:
    """The process id of the first worker."""
    log = server.log() if isinstance(server, Served) else server.log
    return int(log.partition("Worker 1 is ready, process id ")[2].split()[0].rstrip('",'))


@contextmanager
def served(server: Served) -> Iterator[socket.socket]:
    """A connection that has got an answer: those before may count for a moment longer."""

    def attempt() -> socket.socket | Literal[False]:
        sock = server.connect()
        try:
            sock.sendall(b"x\n")
            if sock.recv(10) == b"X\n":
                return sock
        except ConnectionError:
            pass
        sock.close()
        return False

    with wait_for(attempt, "an answer") as sock:
        yield sock


def lines_of(path: Path, count: int = 1) -> list[dict[str, Any]]:
    """So many lines, once they are there."""
    wait_for(lambda: path.exists() and path.read_text().count("\n") >= count, f"{count} lines")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["fork", "thread", "epoll", "asyncio", "gevent"])
def test_every_style_under_every_kind_of_model_tells_the_same(model: Any, tmp_path: Path) -> None:
    page = registry.page(model)
    if page.missing() is not None:
        pytest.skip(f"{model}: {page.missing()}")
    styles = [each for each in registry.styles(page) if each in HANDLERS and (model, each) != ("epoll", "asyncio")]
    listeners: Any = [{"bind": "127.0.0.1:0", "name": each, "handler": HANDLERS[each]} for each in styles]
    path = tmp_path / "log"
    with serving(listeners=listeners, model=model, access_log=str(path), access_log_format="json") as server:
        for index in range(len(styles)):
            for question in (b"hello\n", b""):  # the second says nothing: a probe
                with server.connect(index) as sock:
                    sock.sendall(question)
                    sock.shutdown(socket.SHUT_WR)
                    peer, reply = "{}:{}".format(*sock.getsockname()), b"".join(iter(lambda: sock.recv(1000), b""))
                    assert reply.lower() == question
        process = worker(server)
        lines_of(path, len(styles))  # a client finds the end before the line is written
        with server.connect() as sock:
            sock.sendall(b"stay\n")
            assert sock.recv(100)
            server.stop()
    *told, last = lines_of(path, len(styles) + 1)
    assert sorted(each["listener"] for each in told) == sorted(styles)
    assert peer.startswith("127.0.0.1:")
    for each in told:
        assert (each["state"], each["reason"], each["bytes_in"], each["bytes_out"]) == ("--", "done", 6, 6)
        assert each["log"] == {"device": "4711"} and each["id"].startswith(f"{process}-")
        assert 0 <= each["first_byte"] <= each["duration"]
    assert last["state"] == "DD"


@pytest.mark.slow
def test_ends_refusals_and_killed_children_have_their_state(tmp_path: Path) -> None:
    path = tmp_path / "log"
    settings: dict[str, Any] = {"access_log": str(path), "access_log_format": "json", "drain_timeout": 0.2}
    with serving(upper, model="fork", idle_timeout=0.3, max_connections_per_source=1, **settings) as server:
        ask(server, b"fail\n")

        def was_refused() -> bool:
            """Whether one was there still when the other came: it may have been idle for too long by then."""
            before = len(lines_of(path))
            with served(server) as idle:
                with server.connect() as refused:
                    assert refused.recv(10) == b""
                assert idle.recv(10) == b""
            return "--max-connections-per-source" in {each["reason"] for each in lines_of(path, before + 2)}

        wait_for(was_refused, "the refusal")

        def was_killed() -> bool:
            """Whether one was killed before it was idle for too long."""
            before = len(lines_of(path))
            with served(server) as sock:
                for child in psutil.Process(worker(server)).children():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
                assert sock.recv(10) == b""
            return "killed" in {each["reason"] for each in lines_of(path, before + 1)}

        wait_for(was_killed, "the line of the killed child")
        told = lines_of(path, 4)
    states = {each["state"]: each for each in told}
    assert states.keys() == {"HD", "cD", "PA"}, told
    assert states["PA"]["reason"] == "--max-connections-per-source" and "id" not in states["PA"]
    assert [each["detail"] for each in told if each["state"] == "HD" and "detail" in each] == ["ValueError"]
    assert any(each["reason"] == "killed" for each in told)


@pytest.mark.slow
def test_renamed_it_goes_on_in_a_new_file_with_a_signal_and_without(tmp_path: Path) -> None:
    path, asked = tmp_path / "log", 0
    with serving(upper, model="epoll", access_log=str(path), access_log_format="json") as server:

        def has_lines() -> bool:
            nonlocal asked
            asked += 1
            ask(server)
            return path.exists() and path.stat().st_size > 0

        wait_for(has_lines, "lines")
        path.rename(tmp_path / "log.1")
        os.kill(server.pid, signal.SIGUSR1)
        wait_for(has_lines, "lines in a new file")
        path.rename(tmp_path / "log.2")
        wait_for(has_lines, "lines in a new file, without a signal")
        server.stop()
    told = [json.loads(line) for each in tmp_path.glob("log*") for line in each.read_text().splitlines()]
    assert len({each["id"] for each in told}) == len(told) == asked


@pytest.mark.slow
def test_a_reload_changes_path_and_format_or_nothing(tmp_path: Path) -> None:
    config = tmp_path / "pronghorn.toml"
    config.write_text("")
    with launched(tmp_path, "upper", config=str(config), model="epoll") as server:
        server.ready()

        def reload(text: str, told: str) -> None:
            before = server.log.count(told)
            config.write_text(text)
            server.send(signal.SIGHUP)
            wait_for(lambda: server.log.count(told) > before, told)

        reload("access_log = 'one'\naccess_log_format = '{bytes_in}'\n", "generation 2 serves")
        server.ask(b"x\n")
        wait_for(lambda: text_of(tmp_path / "one") == "2\n", "a line of the first")
        reload("access_log = '/no/such/folder/log'\n", "Reload failed")
        reload("access_log_format = '{bites_in}'\n", "did you mean 'bytes_in'")
        server.ask(b"xx\n")
        wait_for(lambda: text_of(tmp_path / "one") == "2\n3\n", "the old one goes on")
        reload("access_log = 'two'\naccess_log_format = '{bytes_out} out'\n", "generation 3 serves")

        def written() -> str:
            server.ask(b"xxx\n")
            return text_of(tmp_path / "two")

        assert wait_for(written, "a line of the second").startswith("4 out\n")
        assert server.stop() == 0


@pytest.mark.slow
def test_a_full_disk_and_a_reader_that_is_gone_cost_lines_and_nothing_else(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with serving(upper, model="epoll", access_log="/dev/full") as server:
        for _ in range(3):
            assert ask(server) == b"HELLO\n"
        wait_for(lambda: "of the access log lost: No space left on device" in server.log(), "the loss told")
        server.stop()


@pytest.mark.slow
def test_a_reader_that_never_reads_stops_nobody(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with serving(wordy, model="epoll", access_log=str(pipe)) as server:
            asked = 0
            more = 5  # a single one is told as often as others of its kind, once in ten seconds
            while more:
                assert ask(server) == b"HELLO\n"
                asked += 1
                more -= "does not keep up" in server.log()
            server.stop()
            assert "were not written before the server's end" in server.log()
            lost = sum(int(each.replace(",", "")) for each in LOST.findall(server.log()))
        got = os.read(reader, 2**20)
        assert lost + got.count(b"\n") == asked, "each line is written, or told as lost"
        assert got.count(b"\n") and all(each.startswith(b"127.0.0.1:") for each in got.split(b"\n")[:-1])
    finally:
        os.close(reader)


LOST = re.compile(r"([\d,]+) lines? of the access log lost")


def writers(server: psutil.Process) -> list[psutil.Process]:
    return [each for each in server.children() if "access" in each.name() + " ".join(each.cmdline())]


@pytest.mark.slow
def test_a_killed_writer_an_upgrade_and_a_stop_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with launched(tmp_path, "upper", access_log=str(path), access_log_format="{bytes_in}", model="epoll") as server:
        server.ready()
        asked = 0

        def ask_some() -> None:
            nonlocal asked
            for _ in range(20):
                asked += 1
                server.ask(b"x" * (asked - 1) + b"\n")

        ask_some()
        wait_for(lambda: path.read_text().count("\n") == asked, "the lines")
        old = wait_for(lambda: writers(psutil.Process(server.pid)), "the writer")[0]
        old.kill()
        ask_some()
        wait_for(lambda: path.read_text().count("\n") == asked, "the lines, by another process")
        server.send(signal.SIGUSR2)
        wait_for(lambda: "Upgraded: process" in server.log, "the upgrade")
        ask_some()
        successor = int(server.log.rpartition("Upgraded: process ")[2].split()[0])
        os.kill(successor, signal.SIGTERM)
        wait_for(lambda: not psutil.pid_exists(successor), "the end")
        assert sorted(map(int, path.read_text().split())) == list(range(1, asked + 1))


@pytest.mark.slow
def test_standard_output_keeps_its_flags_and_may_have_no_reader(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import pronghorn\n"
        "pronghorn.serve('upper', bind='127.0.0.1:0', model='epoll', access_log='-', control_socket='off')\n"
    )
    ours, theirs = os.pipe()
    flags = fcntl.fcntl(theirs, fcntl.F_GETFL)
    with open(tmp_path / "stderr", "wb") as errors:
        process = subprocess.Popen([sys.executable, "script.py"], stdout=theirs, stderr=errors, cwd=tmp_path)
    try:
        log = tmp_path / "stderr"
        wait_for(lambda: " Serving " in log.read_text(), "the start")
        port = int(log.read_text().partition("tcp://127.0.0.1:")[2].split()[0])

        def reply() -> bytes:
            with socket.create_connection(("127.0.0.1", port), 10) as sock:
                sock.sendall(b"x\n")
                return sock.recv(10)

        assert reply() == b"X\n"
        assert os.read(ours, 1000).endswith(b"-- done\n")
        os.close(ours)
        wait_for(lambda: reply() == b"X\n" and "nobody reads it any more" in log.read_text(), "the loss told")
        assert fcntl.fcntl(theirs, fcntl.F_GETFL) == flags
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
        os.close(theirs)


LOGGING = """
import logging, pronghorn

handler = logging.StreamHandler()
handler.addFilter(pronghorn.ConnectionFilter())
logging.basicConfig(handlers=[handler], format="%(id)s %(peer)s %(worker)s %(message)s", level="INFO")
logging.info("imported")
structured = pronghorn.ConnectionFilter.fields

@pronghorn.message(pronghorn.lines)
def reply(line):
    logging.info("got %s", line.decode())
    return line

async def copy(reader, writer):
    logging.info("structured %s", structured()["id"])
    logging.info("got %s", (await reader.readline()).decode().strip())
    writer.write(b"x")

def hold(conn):
    logging.info("got %s", conn.recv(100).decode().strip())
    conn.sendall(b"x")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), [("reply", "epoll"), ("hold", "fork"), ("copy", "thread")])
def test_a_handlers_own_records_tell_their_connection(name: str, model: str, tmp_path: Path) -> None:
    with launched_code(tmp_path, LOGGING, name, model=model) as server:
        with server.connect() as sock:
            sock.sendall(b"hello\n")
            assert sock.recv(10)
            said = f"{worker(server)}-1 {'{}:{}'.format(*sock.getsockname())} 1 got hello"
        wait_for(lambda: said in server.log, said)
        assert "- - - imported" in server.log
        assert name != "copy" or f"structured {worker(server)}-1" in server.log


@pytest.mark.slow
def test_records_in_json_have_the_fields_of_their_events(tmp_path: Path) -> None:
    with serving(upper, model="epoll", log_format="json") as server:
        ask(server, b"fail\n")
        wait_for(lambda: "HandlerFailed" in server.log(), "the record")
        server.stop()
        said = [json.loads(line) for line in server.log().splitlines()]
    failed = next(each for each in said if each.get("event") == "HandlerFailed")
    ready = next(each for each in said if each.get("event") == "WorkerReady")
    assert ready["worker"] == 1 and failed["id"] == f"{ready['pid']}-1"
    assert failed["peer"].startswith("127.0.0.1:") and failed["error"] == "ValueError"
    assert failed["worker"] == 1
