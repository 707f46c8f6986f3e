"""What --bind means, and what is said when it means nothing."""

from __future__ import annotations

import socket
import sys

import msgspec
import pytest

from pronghorn.errors import BadSetting, CannotBind
from pronghorn.listening.addresses import parse_bind, places, spoken, zoned
from pronghorn.listening.binding import check_binds, open_listeners
from pronghorn.settings import Settings, settle


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000, ""),
        ("localhost:0", "localhost", 0, ""),
        (":8000", "", 8000, ""),
        ("[::1]:65535", "::1", 65535, ""),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80, ""),
        ("unix:/run/a:1", "", 0, "/run/a:1"),
        ("unix:here", "", 0, "here"),
        ("unix:@here", "", 0, "@here"),
        ("unix:./@here", "", 0, "./@here"),
    ],
)
def test_parse_bind(text: str, host: str, port: int, path: str) -> None:
    bind = parse_bind(text)
    assert (bind.text, bind.host, bind.port, bind.path) == (text, host, port, path)


@pytest.mark.parametrize(
    ("text", "same", "tls"),
    [
        ("*:8000", ":8000", None),
        ("tcp://[::1]:80", "[::1]:80", False),
        ("tls://localhost:80", "localhost:80", True),
        ("tls://*:80", ":80", True),
    ],
)
def test_other_ways_to_write_an_address(text: str, same: str, tls: bool | None) -> None:
    assert parse_bind(text) == msgspec.structs.replace(parse_bind(same), tls=tls)


def test_a_scheme_that_the_settings_contradict_is_refused() -> None:
    with pytest.raises(BadSetting, match="no certificate"):
        check_binds(Settings(bind=("tls://127.0.0.1:0",)))
    with pytest.raises(BadSetting, match="The listener speaks TLS"):
        check_binds(settle({"listeners": [{"bind": "tcp://127.0.0.1:0", "tls": "on", "tls_cert": "x.pem"}]}))
    check_binds(Settings(bind=("tcp://127.0.0.1:0", "127.0.0.1:0"), tls_cert=("x.pem",)))  # this one has none, then
    with pytest.raises(BadSetting, match="neither an owner nor permissions"):
        check_binds(Settings(bind=("unix:@a",), unix_mode="660"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8000", "Write :8000 for every interface, or 127.0.0.1:8000 for this host alone."),
        ("99999", "A port is a number from 0 to 65535."),
        ("localhost", "It has no port."),
        ("localhost:", "'' is no port"),
        ("localhost:http", "'http' is no port"),
        ("localhost:65536", "'65536' is no port"),
        ("localhost:-1", "'-1' is no port"),
        ("localhost:٣", "is no port"),
        ("::1:8000", "Write [::1]:8000."),
        (
            "udp://localhost:8000",
            "Nothing but tcp:// or tls:// may stand before a host and a port.\nWrite localhost:8000.",
        ),
        ("http://localhost:8000/shop", "Write localhost:8000."),
        ("http://localhost/", "Write HOST:PORT"),
        ("/run/shop.sock", "A path needs unix: before it.\nWrite unix:/run/shop.sock."),
        ("shop/sock", "Write unix:shop/sock."),
        ("tcp://unix:/run/a", "stands before a host and a port only"),
        ("tls://tcp://localhost:1", "stands before a host and a port only"),
        ("tls://fd://3", "stands before a host and a port only"),
        ("unix:@", "It has no name."),
        ("[::1:8000", "Write [::1]:8000."),
        ("[localhost]:8000", "'localhost' is no IPv6 address."),
        ("[]:8000", "no IPv6 address"),
        ("[::ffff:127.0.0.1]:8000", "Write 127.0.0.1:8000."),
        ("a b:8000", "'a b' is no host."),
        ("user@host:8000", "is no host"),
        ("unix:", "It has no path."),
        ("unix:a\0b", "A path holds no NUL."),
        ("unix:" + "x" * 108, "The path has 108 bytes, and the system takes 107 at most."),
        ("unix:" + "é" * 54, "The path has 108 bytes"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another longest path")
def test_what_cannot_be_read_says_what_would_be_right(text: str, said: str) -> None:
    with pytest.raises(BadSetting) as caught:
        parse_bind(text)
    assert said in str(caught.value)
    assert "--bind" in caught.value.what
    assert caught.value.hint


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70])
def test_a_name_that_does_not_resolve(host: str) -> None:
    with pytest.raises(CannotBind) as caught:
        places(parse_bind(f"{host}:8000"))
    assert f"{host!r} does not resolve" in caught.value.why


@pytest.mark.parametrize(
    ("binds", "said"),
    [
        (("127.0.0.1:8000", "127.0.0.1:8000"), "--bind gives 127.0.0.1:8000 twice."),
        (("localhost:8000", "127.0.0.1:8000"), "--bind gives localhost:8000 and 127.0.0.1:8000."),
        (("127.0.0.1:8000", ":8000"), "0.0.0.0:8000 covers 127.0.0.1:8000."),
        (("[::]:8000", "[::1]:8000"), "[::]:8000 covers [::1]:8000."),
        (("unix:a", "unix:./a"), "--bind gives unix:a and unix:./a."),
        ((), "--bind is empty."),
    ],
)
def test_the_same_address_twice(binds: tuple[str, ...], said: str) -> None:
    with pytest.raises(BadSetting) as caught:
        open_listeners(Settings(bind=binds), lambda event: None)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("127.0.0.1:1,name=api", "127.0.0.1:1,name=web", "Listener 'api' and listener 'web' are both at 127.0.0.1:1."),
        ("127.0.0.1:1,name=api", ":1,name=web", "Listener 'api' is at 127.0.0.1:1, and listener 'web' at :1."),
        ("127.0.0.1:1", "127.0.0.1:1,name=web", "--bind 127.0.0.1:1 and listener 'web' are both at 127.0.0.1:1."),
        ("unix:a,tls=off", "unix:a,tls=off", "Two listeners are at unix:a."),
    ],
)
def test_listeners_at_the_same_address_are_both_named(first: str, second: str, said: str) -> None:
    settings = Settings(bind=(first, second))
    for attempt in (lambda: open_listeners(settings, lambda event: None), lambda: check_binds(settings)):
        with pytest.raises(BadSetting) as caught:
            attempt()
        assert caught.value.what == said


def test_a_zone_stays_in_the_address() -> None:
    zone = socket.if_nameindex()[0]
    assert zoned(("fe80::1", 80, 0, zone[0])) == f"fe80::1%{zone[1]}"
    assert zoned(("fe80::1", 80, 0, 2**31 - 1)) == f"fe80::1%{2**31 - 1}"
    assert zoned(("::1", 80, 0, 0)) == zoned(("::1", 80)) == "::1"
    assert spoken((socket.AF_INET6, ("fe80::1", 80, 0, zone[0]))) == f"[fe80::1%{zone[1]}]:80"
