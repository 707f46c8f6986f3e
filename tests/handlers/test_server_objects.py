"""What blocking handlers find of socketserver's server objects, and what handlers may do with a connection: give it to
a thread or a process, and ask for its addresses when it is over."""

from __future__ import annotations

import socket
import xmlrpc.client
from pathlib import Path
from typing import Any

import pytest

from launch import launched, wait_for

HERE = Path(__file__).parents[1]


def serving(folder: Path, name: str, **settings: Any) -> Any:
    return launched(folder, f"{HERE}/objects_under_test.py:{name}", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["thread", "fork"])
def test_methods_of_a_server_object_are_called_as_serve_forever_does(tmp_path: Path, model: str) -> None:
    with serving(tmp_path, "telling", model=model) as server:
        called = "get_request verify_request process_request"
        assert server.ask(b"x\n").decode() == f"{called} shutdown_request"
        assert server.ask(b"fail\n").decode() == f"{called} handle_error shutdown_request"
        assert b"shutdown() of a server object" in server.ask(b"stop\n")
        assert server.stop() == 0


def test_a_server_object_knows_the_listeners_address_and_keeps_none_of_its_own(tmp_path: Path) -> None:
    with serving(tmp_path, "plain", model="thread") as server:
        host, port = server.address
        assert server.ask(b"where\n").decode() == f"{(host, port)} {port} True"
        assert server.ask(b"fail\n") == b""
        wait_for(lambda: "ValueError: of the handler" in server.log)
        assert server.stop() == 0


@pytest.mark.slow
def test_servers_of_the_standard_library(tmp_path: Path) -> None:
    with serving(tmp_path, "xml", model="thread") as server:
        assert xmlrpc.client.ServerProxy(f"http://127.0.0.1:{server.address[1]}").pow(2, 5) == 32
    with serving(tmp_path, "wsgi", model="thread") as server:
        assert server.ask(b"GET / HTTP/1.0\r\n\r\n").endswith(b"\r\n%d" % server.address[1])


def test_http_server_at_a_unix_socket(tmp_path: Path) -> None:
    (tmp_path / "page.txt").write_text("the page\n")
    with (
        launched(tmp_path, "http.server:SimpleHTTPRequestHandler", bind=f"unix:{tmp_path}/web"),
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.settimeout(15)
        sock.connect(f"{tmp_path}/web")
        sock.sendall(b"GET /page.txt HTTP/1.0\r\n\r\n")
        assert b"".join(iter(lambda: sock.recv(65536), b"")).endswith(b"the page\n")


@pytest.mark.parametrize("model", ["thread", "fork", "iterative"])
def test_a_connection_that_a_thread_has_is_kept_until_the_thread_closes_it(tmp_path: Path, model: str) -> None:
    with serving(tmp_path, "keeps", model=model) as server:
        assert server.ask(b"word") == b"late word"
        assert server.stop() == 0


@pytest.mark.slow
def test_what_a_blocking_handler_returns_is_told_once(tmp_path: Path) -> None:
    with serving(tmp_path, "forgets", model="fork") as server:
        for _ in range(3):
            assert server.ask(b"x") == b""
        assert server.stop() == 0
        assert server.log.count("forgets returned bytes, which goes nowhere") == 1


@pytest.mark.parametrize("model", ["thread", "iterative"])
def test_a_connection_can_be_sent_to_a_spawned_process(tmp_path: Path, model: str) -> None:
    with serving(tmp_path, "sends_on", model=model) as server:
        assert server.ask(b"") == b"from a child"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model"),
    [("streams", "asyncio"), ("streams", "thread"), ("Aio", "epoll"), ("Aio", "uvloop"), ("Ours", "thread")],
)
def test_addresses_are_known_after_the_end(tmp_path: Path, name: str, model: str) -> None:
    with serving(tmp_path, name, model=model) as server:
        with server.connect() as sock:
            first = sock.getsockname()
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""
        wait_for(lambda: (tmp_path / "told.txt").exists() and (tmp_path / "told.txt").read_text())
        assert (tmp_path / "told.txt").read_text() == repr((first, server.address))
        assert server.stop() == 0
        assert "failed" not in server.log


EARLY = """
import asyncio, warnings

warnings.simplefilter("ignore")
{made}
ready = loop.create_future()
loop.call_soon(ready.set_result, b"same")


async def handler(reader, writer):
    writer.write(await ready if asyncio.get_running_loop() is loop else b"another")
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", ["asyncio", "uvloop", "epoll", "select"])
@pytest.mark.parametrize(
    "made",
    ["loop = asyncio.get_event_loop()", "loop = asyncio.new_event_loop()\nasyncio.set_event_loop(loop)"],
    ids=["taken", "made"],
)
def test_a_loop_of_the_import_is_the_one_that_serves(tmp_path: Path, model: str, made: str) -> None:
    if model == "uvloop":
        pytest.importorskip("uvloop")
    (tmp_path / "early.py").write_text(EARLY.format(made=made))
    with launched(tmp_path, "early.py", model=model) as server:
        assert server.ask(b"") == b"same"


@pytest.mark.slow
def test_a_handler_that_patches_by_gevent(tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    (tmp_path / "green.py").write_text(
        "from gevent import monkey\nmonkey.patch_all()\ndef handler(conn): conn.sendall(conn.recv(9))\n"
    )
    with launched(tmp_path, "green.py") as server:
        assert server.report["model"] == "gevent"
        assert server.ask(b"x") == b"x"
    with launched(tmp_path, "green.py", model="thread") as server:
        assert "Use --model gevent" in server.report["error"]["hint"]
        assert server.exit() == 2
