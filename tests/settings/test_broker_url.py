"""URLs of brokers: what is right, what is refused and why, and that no secret of theirs shows anywhere."""

from __future__ import annotations

import msgspec
import pytest

from pronghorn.errors import BadSetting, MissingExtra
from pronghorn.settings import settle
from pronghorn.settings.broker_url import hidden, parse, with_password, without_secret
from pronghorn.supervisor.bus_side import carrier_of

SECRET = "Xyzzy-4711"
RIGHT = [
    ("redis://h", "", "", (("h", 0),), ""),
    (f"redis://:{SECRET}@h:6379/0?prefix=shop", "", SECRET, (("h", 6379),), "/0"),
    ("rediss+sentinel://a:1,b:2/mymaster/0", "", "", (("a", 1), ("b", 2)), "/mymaster/0"),
    (f"redis://u:p%40%2F{SECRET}@[::1]:6379", "u", f"p@/{SECRET}", (("::1", 6379),), ""),
    ("redis+unix:///run/redis.sock?db=1", "", "", (), "/run/redis.sock"),
    (f"nats://{SECRET}@a:4222,b", SECRET, "", (("a", 4222), ("b", 0)), ""),
    ("tls://gateway:@h", "gateway", "", (("h", 0),), ""),
]
WRONG = [
    (f"rdis://:{SECRET}@h", "Did you mean 'redis'"),
    (f"http://u:{SECRET}@h", "no such carrier"),
    (f"u:{SECRET}@h", "no such carrier"),
    ("redis://", "a host"),
    (f"redis://:{SECRET}@", "a host"),
    (f"redis://:{SECRET}@h:99999", "99999"),
    (f"redis://:{SECRET}@h:port", "a host"),
    (f"redis://:a/{SECRET}@h", "%2F"),
    (f"redis://:a#{SECRET}@h", "%23"),
    (f"redis://:a?{SECRET}@h", "%3F"),
    (f"redis://:{SECRET} @h", "printable ASCII"),
    (f"redis://:{SECRET}\u00e9@h", "printable ASCII"),
    (f"redis://h?password={SECRET}&x", "KEY=VALUE"),
    ("redis+unix://h/run/redis.sock", "three slashes"),
]


@pytest.mark.parametrize(("url", "user", "password", "hosts", "path"), RIGHT)
def test_a_url_is_taken_apart(url: str, user: str, password: str, hosts: object, path: str) -> None:
    found = parse(url)
    assert (found.user, found.password, found.hosts, found.path) == (user, password, hosts, path)
    assert settle({"bus": url}).bus == url


@pytest.mark.parametrize(("url", "why"), WRONG)
def test_a_wrong_url_is_refused_without_its_password(url: str, why: str) -> None:
    with pytest.raises(BadSetting) as caught:
        settle({"bus": url}, {"bus": "PRONGHORN_BUS"})
    told = str(caught.value)
    assert why in told and "PRONGHORN_BUS cannot be" in told and "local, off, or the URL" in told
    assert SECRET not in told


@pytest.mark.parametrize("url", [each[0] for each in [*RIGHT, *WRONG]])
def test_no_secret_is_shown(url: str) -> None:
    for text in (hidden(url), without_secret(url), repr(settle({"bus": url}) if url in dict.fromkeys(RIGHT) else "")):
        assert SECRET not in text
    assert (hidden(url) != url) == (SECRET in url)


def test_settings_are_represented_without_secrets() -> None:
    whole = settle({"bus": f"redis://:{SECRET}@h", "workers": 3})
    assert repr(whole) == "Settings(workers=3, bus='redis://:***@h')"
    assert msgspec.structs.replace(whole, bus="off").bus == "off"


@pytest.mark.parametrize(
    ("url", "password", "whole"),
    [
        ("redis://h/0", "a@b", "redis://:a%40b@h/0"),
        ("redis://u@h", "x", "redis://u:x@h"),
        ("redis+sentinel://h/s?sentinel_password=x", "y", "redis+sentinel://:y@h/s?sentinel_password=x"),
        ("nats://h", "token", "nats://token@h"),
        ("nats://u:@h", "p w", "nats://u:p%20w@h"),
    ],
)
def test_a_password_comes_out_of_a_file(tmp_path: object, url: str, password: str, whole: str) -> None:
    pytest.importorskip("redis", reason="redis is not installed")
    pytest.importorskip("nats", reason="nats-py is not installed")
    file = f"{tmp_path}/password"
    with open(file, "w") as out:
        out.write(password + "\n")
    assert carrier_of(settle({"bus": url, "bus_password_file": file})) == whole
    assert with_password(url, password) == whole
    with pytest.raises(BadSetting, match="has a password too"):
        carrier_of(settle({"bus": whole, "bus_password_file": file}))


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb", b"\xff", b"x" * 1100])
def test_a_file_that_holds_no_password_is_refused(tmp_path: object, content: bytes) -> None:
    pytest.importorskip("redis", reason="redis is not installed")
    file = f"{tmp_path}/password"
    with open(file, "wb") as out:
        out.write(content)
    with pytest.raises(BadSetting, match="one line of 1 to"):
        carrier_of(settle({"bus": "redis://h", "bus_password_file": file}))


def test_what_is_missing_is_said(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSetting, match="needs --bus"):
        carrier_of(settle({"bus_password_file": "x"}))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pronghorn\[nats\]"):
        carrier_of(settle({"bus": f"nats://{SECRET}@h"}))
    assert carrier_of(settle({"bus": "local"})) == carrier_of(settle({"bus": False})) == ""
