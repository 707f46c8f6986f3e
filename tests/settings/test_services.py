"""Listeners with settings of their own: what is taken, what falls back to the server's, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pronghorn.cli.config import rows, show, toml
from pronghorn.errors import BadSetting, IncompatibleHandler
from pronghorn.handlers.handler import HandlerFacts
from pronghorn.handlers.loading import Asked
from pronghorn.models.registry import choose_for_all
from pronghorn.settings import settle
from pronghorn.settings.layers import Layers
from pronghorn.settings.services import Service, services
from pronghorn.settings.source import Source
from pronghorn.supervisor.planning import judged

FILE = """
handler = "mine.py:f"
framing = "lines"
idle-timeout = "5m"
tls-cert = "c.pem"
tls-alpn = ["h2"]
[[listener]]
name = "plain"
bind = ":5000"
tls = false
[[listener]]
name = "mllp"
bind = ["127.0.0.1:2575", "unix:/run/mllp"]
handler = "other.py:g"
idle-timeout = "10m"
tls-min-version = 1.3
"""


def of_file(tmp_path: Path, text: str, **given: Any) -> dict[str, Service]:
    (tmp_path / "pronghorn.toml").write_text(text)
    settings = Layers(given, file=str(tmp_path / "pronghorn.toml")).settle().settings
    return {each.name: each for each in services(settings)}


def of(**values: Any) -> dict[str, Service]:
    return {each.name: each for each in services(settle(values))}


def test_what_a_table_does_not_say_falls_back_to_the_servers(tmp_path: Path) -> None:
    plain, mllp = of_file(tmp_path, FILE).values()
    assert (plain.name, plain.bind, plain.source) == ("plain", ((0, ":5000"),), None)
    assert (plain.settings.idle_timeout, plain.settings.framing) == (300, "lines")
    assert (plain.settings.tls_cert, plain.settings.tls_alpn, plain.settings.tls_at_once) == ((), (), False)
    assert [address for _, address in mllp.bind] == ["127.0.0.1:2575", "unix:/run/mllp"]
    assert mllp.source == Source("other.py:g")
    assert (mllp.settings.idle_timeout, mllp.settings.tls_cert, mllp.settings.tls_alpn) == (600, ("c.pem",), ("h2",))
    assert (mllp.settings.tls_min_version, mllp.settings.tls_at_once) == ("1.3", True)
    assert mllp.settings.framing == "", "what belongs to the server's handler was taken for another one"


def test_the_line_takes_the_place_of_the_addresses_of_the_file(tmp_path: Path) -> None:
    found = of_file(tmp_path, FILE, bind=(":1,name=plain,idle-timeout=3s", ":2"))
    assert {name: each.bind for name, each in found.items()} == {"": ((1, ":2"),), "plain": ((0, ":1"),)}
    assert (found["plain"].settings.idle_timeout, found["plain"].settings.tls) == (3, "off")
    assert found[""].settings.tls_at_once


@pytest.mark.parametrize("text", [":1,name=a,framing=marked(x, y),tls-alpn=h2,http/1.1", "tcp://:1"])
def test_settings_stand_behind_an_address(text: str) -> None:
    (one,) = services(settle({"bind": (text,), "tls_cert": "c.pem"}))
    expected = ("tcp://:1", "", (), False) if text[0] == "t" else (":1", "marked(x, y)", ("h2", "http/1.1"), True)
    assert (one.bind[0][1], one.settings.framing, one.settings.tls_alpn, one.settings.tls_at_once) == expected


def test_a_variable_has_several_with_settings_behind_each() -> None:
    found = of(bind=":1,name=a,framing=marked(x, y), idle-timeout=2s,:2,[::]:3,name=c")
    assert {name: each.bind[0] for name, each in found.items()} == {"a": (0, ":1"), "": (1, ":2"), "c": (2, "[::]:3")}
    assert (found["a"].settings.framing, found["a"].settings.idle_timeout) == ("marked(x, y)", 2)


def test_what_is_settled_can_be_settled_again() -> None:
    settings = settle({"listeners": [{"name": "a", "bind": ":1", "allow": "10.0.0.0/8", "tls": False}]})
    again = settle(msgspec.json.decode(msgspec.json.encode({"listeners": settings.listeners})))
    assert services(again) == services(settings)


def test_config_shows_them_and_writes_the_same_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pronghorn.toml").write_text(FILE)
    (tmp_path / "again.toml").write_text("")
    settled = Layers(file=str(tmp_path / "pronghorn.toml")).settle()
    show(settled, "")
    said = capsys.readouterr().out
    assert "listener plain" in said and "[[listener]] in" in said and "127.0.0.1:8000" not in said
    assert [each["name"] for each in rows(settled)["listeners"]["value"]] == ["plain", "mllp"]
    (tmp_path / "again.toml").write_text(toml(settled))
    assert Layers(file=str(tmp_path / "again.toml")).settle().settings == settled.settings


def test_a_certificate_of_its_own_comes_with_its_key_and_turns_tls_on() -> None:
    own = of(tls="off", tls_cert="c", tls_key="k", listeners=[{"name": "a", "bind": ":1", "tls_cert": "own.pem"}])["a"]
    assert (own.settings.tls_cert, own.settings.tls_key, own.settings.tls) == (("own.pem",), (), "on")


def test_a_listener_that_systemd_hands_down_by_its_name_needs_no_address() -> None:
    assert of(listeners=[{"name": "web"}])["web"].bind == ((0, "fd://web"),)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"listeners": [{"bind": ":1", "idle_time": 3}]}, "Did you mean 'idle_timeout'"),
        ({"listeners": [{"bind": ":1", "workers": 3}]}, "one of the whole server"),
        ({"listeners": [{"bind": ":1", "idle_timeout": "x"}]}, "idle_timeout of listeners, listener 1 cannot be 'x'"),
        ({"listeners": [{"name": "a", "bind": ":1"}, {"name": "a", "bind": ":2"}]}, "Two listeners have the name 'a'"),
        ({"listeners": [{"name": "a b", "bind": ":1"}]}, "A listener's name has"),
        ({"listeners": [{"tls": "off"}]}, "has no bind"),
        ({"listeners": {"bind": ":1"}}, "above each"),
        ({"listeners": [{"bind": ":1", "handler": "a", "exec": "b"}]}, "both handler and exec"),
        ({"bind": (":1,name=a", ":2,name=a")}, "Two listeners have the name 'a'"),
        ({"bind": (":1,tls=on",)}, "There is no certificate"),
        ({"bind": (":1,tls=maybe",)}, "one of on, off, starttls"),
        ({"bind": (":1,name=a,name=b",)}, "gives name twice"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(values: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSetting) as refused:
        services(settle(values))
    assert said in str(refused.value)


def test_a_table_in_a_file_is_called_listener(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"Write \[\[listener\]\]"):
        of_file(tmp_path, '[[listeners]]\nbind = ":1"')
    with pytest.raises(BadSetting, match=r"idle of \[\[listener\]\] in pronghorn.toml, listener a|which stands in"):
        of_file(tmp_path, '[[listener]]\nname = "a"\nbind = ":1"\nidle = 3')


def facts(*words: str) -> list[HandlerFacts]:
    return [HandlerFacts(f"{word}.py", *word.split("/")) for word in words]


@pytest.mark.parametrize(
    ("styles", "model"),
    [
        (("message", "protocol"), {"epoll", "kqueue", "poll"}),
        (("message", "asyncio"), {"uvloop", "asyncio"}),
        (("asyncio", "blocking"), {"thread"}),
        (("blocking", "program", "message"), {"fork"}),
        (("message/async", "protocol"), {"uvloop", "asyncio"}),
    ],
)
def test_auto_is_a_model_that_runs_the_handlers_of_all(styles: tuple[str, ...], model: set[str]) -> None:
    assert choose_for_all(facts(*styles))[0] in model


def test_handlers_that_no_model_runs_together_are_refused() -> None:
    with pytest.raises(IncompatibleHandler, match="No model runs the handlers of all listeners"):
        choose_for_all(facts("blocking", "asyncio/async"))


def test_a_refusal_names_the_listener() -> None:
    settings = settle({"model": "epoll"})
    asked = [Asked(None, settings), Asked(None, settings, "Listener 'b'")]
    with pytest.raises(IncompatibleHandler, match=r"^Listener 'b': 'blocking.py' is of blocking style"):
        judged(asked, facts("message", "blocking"), settings)
