"""Recognition: the table of styles, and what is said of what is none."""

from __future__ import annotations

import asyncio
import functools
import socketserver
import sys
from pathlib import Path
from typing import Any

import pytest

import pronghorn
from pronghorn.errors import BadHandler, BadSetting, IncompatibleHandler
from pronghorn.handlers import handler, loading, recognise
from pronghorn.models.registry import check, choose, page, pages, styles
from pronghorn.settings import Settings, settle
from pronghorn.settings.source import Source


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a handler's file comes into sys.path: other tests have none of it."""
    monkeypatch.setattr(sys, "path", [*sys.path])


def facts(handler: Any, **settings: Any) -> handler.HandlerFacts:
    return recognise.recognise(handler, settle(settings)).facts


async def streams(reader: Any, writer: Any) -> None: ...


class CallableCoroutine:
    async def __call__(self, reader: Any, writer: Any) -> None: ...


class Aio(asyncio.Protocol): ...


class Ours(pronghorn.Protocol): ...


class Old(socketserver.BaseRequestHandler): ...


def blocking(conn: Any) -> None: ...


def make() -> Aio:
    return Aio()


@pronghorn.message(pronghorn.lines)
def reply(line: bytes) -> bytes:
    return line


@pronghorn.message(pronghorn.lines)
async def slow_reply(line: bytes) -> bytes:
    return line


@pytest.mark.parametrize(
    "handler, style, blocks, needs_asyncio",
    [
        (reply, "message", False, False),
        (slow_reply, "asyncio", False, True),
        (Ours, "protocol", False, False),
        (streams, "asyncio", False, True),
        (functools.partial(streams), "asyncio", False, True),
        (CallableCoroutine(), "asyncio", False, True),
        (Aio, "asyncio", False, True),
        (blocking, "blocking", True, False),
        (Old, "blocking", True, False),
        (socketserver.TCPServer(("127.0.0.1", 0), Old, bind_and_activate=False), "blocking", True, False),
    ],
)
def test_the_table_of_styles(handler: Any, style: str, blocks: bool, needs_asyncio: bool) -> None:
    found = facts(handler)
    assert (found.style, found.blocks, found.needs_asyncio) == (style, blocks, needs_asyncio)
    if isinstance(handler, socketserver.TCPServer):
        handler.server_close()


def test_settings_override() -> None:
    assert facts(blocking, framing="lines").style == "message"
    assert facts(blocking, style="message").style == "message"
    assert facts(lambda: make(), style="asyncio").style == "asyncio"  # a plain callable is a Protocol factory then
    with pytest.raises(BadSetting, match="framing"):
        facts(Ours, framing="lines", style="protocol")


@pytest.mark.parametrize("not_one", [None, 5, "upper", object()])
def test_what_cannot_be_called_is_no_handler(not_one: Any) -> None:
    with pytest.raises(BadHandler, match="cannot be called"):
        facts(not_one)


def load(name: str, **settings: Any) -> handler.Handler:
    return loading.load(Source(name), settle(settings))


def test_built_in_ones() -> None:
    for name in loading.BUILT_IN:
        assert load(name).facts.name == name
    with pytest.raises(BadHandler, match="'upper'"):
        load("uper")


def test_a_module_and_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "handlers_one.py").write_text("class Inner:\n    def handle(conn): pass\nnumber = 5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load("handlers_one:Inner.handle").facts.style == "blocking"
    assert load(f"{tmp_path}/handlers_one.py:Inner.handle").facts.style == "blocking"
    with pytest.raises(BadHandler, match="has no 'Iner'"):
        load("handlers_one:Iner")
    with pytest.raises(BadHandler, match="no file"):
        load(f"{tmp_path}/none.py:x")
    with pytest.raises(BadHandler, match="names no handler"):
        load(":x")


@pytest.mark.parametrize("line", ["import nowhere_to_be_found", "raise SystemExit(3)", "1/0", "def ("])
def test_an_import_that_fails_shows_the_users_own_frames_only(tmp_path: Path, line: str) -> None:
    (tmp_path / "handlers_two.py").write_text(f"\n{line}\n")
    with pytest.raises(BadHandler) as caught:
        load(f"{tmp_path}/handlers_two.py:x")
    assert "handlers_two.py" in caught.value.what
    assert "handlers_two.py" in caught.value.why and "line 2" in caught.value.why
    assert "importlib" not in caught.value.why and "pronghorn/handlers" not in caught.value.why


def test_a_factory_is_called_and_its_error_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "handlers_three.py").write_text("def make():\n    return lambda conn: None\ndef bad():\n    1/0\n")
    assert load(f"{tmp_path}/handlers_three.py:make", factory=True).facts.style == "blocking"
    with pytest.raises(BadHandler, match="factory"):
        load(f"{tmp_path}/handlers_three.py:bad", factory=True)


def test_a_program_must_exist() -> None:
    assert loading.load(Source(command=("cat", "-u")), Settings()).facts.style == "program"
    with pytest.raises(BadHandler, match="cannot be run"):
        loading.load(Source(command=("no-such-program",)), Settings())


@pytest.mark.parametrize(
    ("source", "settings", "words"),
    [
        (Source(command=("cat", "-n")), {"style": "blocking"}, "--style is 'blocking', but 'cat -n' is a program"),
        (Source(command=("cat",)), {"framing": "lines"}, "--framing is 'lines', but 'cat' is a program"),
        (Source(command=("cat",)), {"factory": True}, "--factory is set, but 'cat' is a program"),
        (Source("echo"), {"factory": True}, "--factory is set, but 'echo' is built in"),
        (Source("echo"), {"style": "program"}, "--style is 'program', but the handler is none"),
        (Source("json:loads"), {"style": "program"}, "--style is 'program', but the handler is none"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(source: Source, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSetting, match=words) as caught:
        loading.load(source, settle(settings))
    assert caught.value.hint
    assert loading.load(Source(command=("cat",)), settle({"style": "program"})).facts.style == "program"


def test_auto_chooses_by_style() -> None:
    chosen = {handler: choose(facts(handler))[0] for handler in (reply, Ours, blocking)}
    assert chosen == {reply: "epoll", Ours: "epoll", blocking: "thread"}
    assert choose(facts(streams))[0] in ("uvloop", "asyncio")
    assert choose(loading.load(Source(command=("cat",)), Settings()).facts)[0] == "fork"


def test_impossible_pairs_are_refused_with_the_reason_and_the_alternatives() -> None:
    for model in pages():
        for each in (reply, Ours, streams, blocking):
            found = facts(each)
            if found.style in styles(model):
                check(model, found)
            else:
                with pytest.raises(IncompatibleHandler) as caught:
                    check(model, found)
                assert caught.value.why and "--model" in caught.value.hint
                assert model.name not in caught.value.hint.split(": ")[1].rstrip(".").split(", ")
    assert "gevent" not in [model.name for model in pages() if "asyncio" in styles(model)]
    assert styles(page("epoll")) == ["message", "protocol", "asyncio"]


def test_a_wrong_name_is_answered_with_what_could_be_meant(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nimport os\nPORT = 8000\ndef one(conn): ...\nclass Two: ...\n"
    (tmp_path / "named.py").write_text(text)
    with pytest.raises(BadHandler) as caught:
        load(f"{tmp_path}/named.py:zzz")
    assert caught.value.hint == "Choose one of: one, Two."
