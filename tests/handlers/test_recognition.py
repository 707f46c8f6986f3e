"""What is served is known before the first client: wrappers are followed, and what could serve nobody is refused."""

from __future__ import annotations

import asyncio
import functools
import http.server
import socketserver
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pronghorn
from pronghorn.errors import BadHandler, IncompatibleHandler
from pronghorn.handlers import handler, importing, loading, recognise
from pronghorn.models.registry import check, choose, page
from pronghorn.settings import settle
from pronghorn.settings.source import Source


class Hello(asyncio.Protocol):
    def __init__(self, word: bytes) -> None:
        self.word = word


class Ours(pronghorn.Protocol):
    def __init__(self, word: bytes) -> None:
        self.word = word


class Greeter(socketserver.StreamRequestHandler):
    def __init__(self, word: bytes, *args: Any) -> None:
        super().__init__(*args)


class Sealed(socketserver.TCPServer):
    def server_activate(self) -> None:
        self.socket = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_socket(self.socket, server_side=True)


class Bound:
    async def streams(self, reader: Any, writer: Any) -> None: ...

    def talk(self, conn: Any) -> None: ...

    def __call__(self, conn: Any) -> None: ...


class Duck:
    def connection_made(self, transport: Any) -> None: ...


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(*args)

    return call


def given_a_word(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(conn: Any) -> Any:
        return function("word", conn)

    return call


@given_a_word
def with_a_word(word: str, conn: Any) -> None: ...


async def streams(word: bytes, reader: Any, writer: Any) -> None: ...


async def main(conn: Any) -> None: ...


@traced
async def decorated(reader: Any, writer: Any) -> None: ...


def callback(reader: Any, writer: Any) -> None: ...


FOLLOWED = [
    (functools.partial(Hello, b"hi"), "asyncio"),
    (lambda: Hello(b"hi"), "asyncio"),
    (functools.partial(Ours, b"hi"), "protocol"),
    (lambda: Ours(b"hi"), "protocol"),
    (functools.partial(streams, b"hi"), "asyncio"),
    (lambda reader, writer: streams(b"hi", reader, writer), "asyncio"),
    (decorated, "asyncio"),
    (functools.partial(http.server.SimpleHTTPRequestHandler, directory="site"), "blocking"),
    (lambda *args: Greeter(b"hi", *args), "blocking"),
    (lambda conn: asyncio.run(main(conn)), "blocking"),
    (with_a_word, "blocking"),
    (Bound().streams, "asyncio"),
    (Bound().talk, "blocking"),
    (Bound(), "blocking"),
    (lambda conn, address: None, "blocking"),
    (pronghorn.message(pronghorn.lines)(bytes.upper), "message"),
    (pronghorn.message(pronghorn.lines)(Bound().talk), "message"),
]


@pytest.mark.parametrize(("handler", "style"), FOLLOWED)
def test_a_wrapper_is_served_by_what_it_leads_to(handler: Any, style: str) -> None:
    assert recognise.recognise(handler, settle({})).facts.style == style


async def three(a: Any, b: Any, c: Any) -> None: ...
async def one(conn: Any) -> None: ...
async def asgi(scope: Any, receive: Any, send: Any) -> None: ...
def wsgi(environ: Any, start_response: Any) -> None: ...
def nothing() -> None: ...


def yields(conn: Any) -> Any:
    yield b"x"


@pronghorn.message(pronghorn.lines)
def no_message() -> None: ...


class Web:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


def sealed() -> socketserver.TCPServer:
    server = socketserver.TCPServer(("127.0.0.1", 0), Greeter, bind_and_activate=False)
    server.socket = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_socket(server.socket, server_side=True)
    return server


REFUSED = [
    (lambda: Hello, "wants word.*partial"),
    (lambda: Ours, "wants word.*partial"),
    (lambda: functools.partial(Hello, b"a", b"b"), "cannot make a protocol"),
    (lambda: Hello(b"x"), "Give the class"),
    (lambda: three, "a, b, c; it is given a reader and a writer"),
    (lambda: one, "conn; it is given a reader and a writer.*reader, writer"),
    (lambda: asgi, "ASGI.*uvicorn"),
    (Web, "ASGI"),
    (lambda: wsgi, "WSGI.*gunicorn"),
    (lambda: nothing, "--factory"),
    (lambda: callback, "no coroutine function.*--style asyncio"),
    (lambda: yields, "generator"),
    (lambda: no_message, "takes no argument"),
    (lambda: Duck, "base class"),
    (lambda: http.server.ThreadingHTTPServer, "class of servers.*bind_and_activate"),
    (lambda: asyncio.DatagramProtocol, "UDP"),
    (sealed, "plain text.*--tls-cert"),
    (lambda: Sealed(("127.0.0.1", 0), Greeter, bind_and_activate=False), "plain text"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_what_could_serve_nobody_is_refused_with_the_reason_and_the_mend(make: Any, words: str) -> None:
    handler = make()
    with pytest.raises(BadHandler, match=f"(?s){words}"):
        recognise.recognise(handler, settle({}))
    if isinstance(handler, socketserver.BaseServer):
        handler.server_close()


def test_style_asyncio_takes_a_callback_of_streams() -> None:
    assert recognise.recognise(callback, settle({"style": "asyncio"})).facts.needs_asyncio


def test_a_handler_that_patches_runs_under_gevent_only() -> None:
    facts = handler.HandlerFacts("x", "blocking", patched=True)
    assert choose(facts)[0] == "gevent"
    check(page("gevent"), facts)
    with pytest.raises(IncompatibleHandler, match="Use --model gevent"):
        check(page("thread"), facts)
    with pytest.raises(IncompatibleHandler, match="has a loop of its own"):
        check(page("asyncio"), handler.HandlerFacts("x", "asyncio", patched=True))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
    monkeypatch.setattr(importing, "_folders", set())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(name: str) -> str:
    return loading.load(Source(name), settle({})).facts.style


BLOCKING = "def handler(conn): ...\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def other(conn): ...\nasync def handler(reader, writer): ...\n", "asyncio"),
        ("import asyncio\nclass Only(asyncio.Protocol): ...\ndef helper(x): ...\n", "asyncio"),
        ("import socketserver\nfrom asyncio import Protocol\ndef only(conn): ...\n", "blocking"),
        ("def one(conn): ...\ndef two(conn): ...\n", "one or .*:two"),
        ("def none(): ...\n", "has no handler"),
    ],
)
def test_a_file_alone_names_its_one_handler(place: Path, text: str, found: str) -> None:
    (place / "handler_alone.py").write_text(text)
    assert Source("handler_alone.py").is_users_code
    sys.modules.pop("handler_alone", None)
    try:
        if found in ("asyncio", "blocking"):
            assert load("handler_alone.py") == found
        else:
            with pytest.raises(BadHandler, match=found):
                load("handler_alone.py")
    finally:
        sys.modules.pop("handler_alone", None)


@pytest.mark.parametrize("name", ["socket", "asyncio", "pronghorn", "msgspec", "string"])
def test_a_file_may_have_the_name_of_a_module(place: Path, name: str) -> None:
    (place / f"{name}.py").write_text(BLOCKING)
    before = sys.modules.get(name)
    assert load(f"{name}.py:handler") == "blocking"
    assert sys.modules.get(name) is before
    with pytest.raises(BadHandler, match=f"(?s)same name as a module.*{name}.py:handler"):
        load(f"{name}:handler")


def test_a_file_beside_the_handler_takes_no_modules_place(place: Path) -> None:
    (place / "colorsys.py").write_text("raise RuntimeError('of the user')\n")
    (place / "handler_beside.py").write_text(f"import colorsys\nassert colorsys.rgb_to_hls\n{BLOCKING}")
    (place / "handler_wants.py").write_text("from colorsys import mine\n")
    sys.modules.pop("colorsys", None)
    assert load("handler_beside.py:handler") == "blocking"
    with pytest.raises(BadHandler, match=r"colorsys.py has the same name as a module"):
        load("handler_wants.py:handler")


def test_a_packages_file_is_imported_as_a_module_of_its_package(place: Path) -> None:
    folder = place / "handlers_package" / "inner"
    folder.mkdir(parents=True)
    for each in (folder, folder.parent):
        (each / "__init__.py").write_text("")
    (folder.parent / "words.py").write_text("WORD = 1\n")
    (folder / "one.py").write_text(f"from ..words import WORD\n{BLOCKING}")
    assert load("handlers_package/inner/one.py:handler") == "blocking"
    loose = place / "loose"
    loose.mkdir()
    (loose / "handler_loose.py").write_text(f"from .words import WORD\n{BLOCKING}")
    with pytest.raises(BadHandler, match=r"package.module:name"):
        load("loose/handler_loose.py:handler")


def test_an_address_that_the_module_binds_is_named(place: Path) -> None:
    (place / "handler_binds.py").write_text(
        "import socket\n"
        "with socket.create_server(('127.0.0.1', 0)) as one, socket.create_server(one.getsockname()): ...\n"
    )
    with pytest.raises(BadHandler, match="bind_and_activate=False"):
        load("handler_binds.py:handler")
