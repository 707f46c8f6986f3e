"""What --admin-write needs before the server binds anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from pronghorn.cli.check import examined
from pronghorn.control.admin_process import check, token_of
from pronghorn.errors import BadSetting
from pronghorn.events import SecretsExposed
from pronghorn.settings import settle
from pronghorn.settings.layers import Layers
from pronghorn.settings.source import Source
from pronghorn.system.startup import ProcessSetup

pytest.importorskip("h11")
TOKEN = "only-for-this-test-0123456789"


def asked(path: Path, **changed: object) -> str:
    values = {"admin": "127.0.0.1:0", "admin_write": True, "admin_token_file": str(path), **changed}
    settings = settle({name: value for name, value in values.items() if value is not None})
    check(settings)
    return token_of(settings)


def test_a_token_has_its_line_end_taken_off(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\r\n")
    assert asked(tmp_path / "token") == TOKEN
    assert asked(tmp_path / "token", admin_write=False) == "", "it is not even read"


@pytest.mark.parametrize("missing", ["admin", "admin_token_file"])
def test_write_is_refused_without_what_it_needs(tmp_path: Path, missing: str) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with pytest.raises(BadSetting, match=f"--admin-write needs --{missing.replace('_', '-')}"):
        asked(tmp_path / "token", **{missing: None})


@pytest.mark.parametrize(
    "raw", [b"", b" \n", b"sh0rt", b"two words of a token", b"x" * 513, b"\xff" * 20, b"a" * 20 + b"\n" + b"b" * 20]
)
def test_a_file_that_holds_no_token_is_refused_and_not_quoted(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "token").write_bytes(raw)
    with pytest.raises(BadSetting, match="--admin-token-file") as error:
        asked(tmp_path / "token")
    assert not raw.strip() or raw.strip().decode("latin-1") not in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="No such file"):
        asked(tmp_path / "token")


def test_check_looks_at_it_too(tmp_path: Path) -> None:
    settled = Layers({"admin": "127.0.0.1:0", "admin_write": True}, {}, Source(name="upper")).settle()
    with pytest.raises(BadSetting, match="--admin-write needs --admin-token-file"):
        examined(settled)


@pytest.mark.parametrize(("mode", "told"), [(0o644, True), (0o640, False), (0o600, False)])
def test_a_secret_that_everybody_may_read_is_told_in_the_log(tmp_path: Path, mode: int, told: bool) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(mode)
    given = {"admin": "127.0.0.1:0", "admin_write": True, "admin_token_file": str(path)}
    settings = settle({**given, "bus": "redis://127.0.0.1", "bus_password_file": str(path)})
    with ProcessSetup(settings) as setup:
        found = [each for each in setup.at_risk("") if isinstance(each, SecretsExposed)]
    assert [(each.path, each.flag) for each in found] == [
        (str(path), flag) for flag in ("--admin-token-file", "--bus-password-file") if told
    ]
