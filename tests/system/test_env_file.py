"""`--env-file`: what its lines mean, what is said of wrong ones without their values, and who gets the variables."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from launch import launched, launched_code, wait_for
from pronghorn.errors import BadSetting
from pronghorn.settings import settle
from pronghorn.settings.source import Source
from pronghorn.system.env_file import parsed, read

GOOD = [
    ("A=1\nB=two words\n", {"A": "1", "B": "two words"}),
    ("  A =  1  \r\n\n# B=2\n ; C=3\nexport D=4", {"A": "1", "D": "4"}),
    ("A=\nB=''\n", {"A": "", "B": ""}),
    ("URL=postgres://u:p@host/db?x=1#y\n", {"URL": "postgres://u:p@host/db?x=1#y"}),
    ("A='a \"b\" $HOME \\n'\n", {"A": 'a "b" $HOME \\n'}),
    ('A=" \\"x\\" \\\\ \\$y \\n"\nB=2', {"A": ' "x" \\ $y \\n', "B": "2"}),
    ('KEY="-----BEGIN\nabc\n-----END"\nB=2\n', {"KEY": "-----BEGIN\nabc\n-----END", "B": "2"}),
    ("A=one \\\n  two\nB=a\\ b\\'c\n", {"A": "one   two", "B": "a b'c"}),
    ('A=pre" mid "post\nA_b9=x\n', {"A": "pre mid post", "A_b9": "x"}),
    ("A=1\nA=2\n", {"A": "2"}),
    ("PRONGHORN_HUNTER=mine\n", {"PRONGHORN_HUNTER": "mine"}),
    ("", {}),
    ("# ends without a line feed", {}),
]
BAD = [
    ("A=1\nsecret\n", "Line 2"),
    ("\n\n9A=secret\n", "Line 3"),
    ("A-B=secret\n", "Line 1"),
    ("=secret\n", "Line 1"),
    ("A=1\nB='x\n\nC=secret\n", "Line 2"),
    ('A=1\nB="secret', "Line 2"),
    ("PRONGHORN_WORKERS=2\n", "PRONGHORN_WORKERS is a setting of the server"),
]


@pytest.mark.parametrize(("text", "variables"), GOOD)
def test_lines_are_read_as_systemd_reads_them(text: str, variables: dict[str, str]) -> None:
    assert parsed(text, "x.env") == variables


@pytest.mark.parametrize(("text", "told"), BAD)
def test_a_wrong_line_is_named_and_its_value_is_not(text: str, told: str) -> None:
    with pytest.raises(BadSetting) as caught:
        parsed(text, "x.env")
    assert told in str(caught.value) and "x.env" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_later_files_win_and_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    one, two = tmp_path / "one.env", tmp_path / "two.env"
    one.write_text("A=1\nB=1\n")
    two.write_text("B=2\n")
    assert read(settle({"env_file": [str(one), str(two)]})) == {"A": "1", "B": "2"}
    two.write_bytes(b"A=\xff\n")
    for path in (two, tmp_path, tmp_path / "missing"):
        with pytest.raises(BadSetting, match=r"--env-file is .*"):
            read(settle({"env_file": [str(path)]}))


HANDLER = """
import os, pronghorn
AT_IMPORT = os.environ["WORD"]  # the probe has it, too
@pronghorn.message(pronghorn.lines)
def handler(line):
    return f"{AT_IMPORT} {os.environ.get(line.decode())}".encode()
"""


@pytest.mark.slow
def test_handlers_have_the_variables_and_a_reload_takes_new_ones(tmp_path: Path) -> None:
    file = tmp_path / "my.env"
    file.write_text("WORD=first-secret\nGONE=yes\n")
    file.chmod(0o644)
    with launched_code(tmp_path, HANDLER, env_file="my.env") as server:
        assert server.ask(b"GONE\n") == b"first-secret yes\n"
        assert "Everybody may read the --env-file my.env" in server.log
        assert b"first-secret" not in Path(f"/proc/{server.pid}/environ").read_bytes()
        file.write_text("WORD=second-secret\n")
        server.send(signal.SIGHUP)
        wait_for(lambda: "Reloaded" in server.log, "the reload")
        assert server.ask(b"GONE\n") == b"second-secret None\n", "what the file has no more, they have no more"
        file.write_text("WORD=third-secret\nnonsense-secret\n")
        server.send(signal.SIGHUP)
        wait_for(lambda: "Line 2 of the --env-file my.env" in server.log, "the refusal")
        assert server.ask(b"x\n") == b"second-secret None\n", "and nothing has changed"
        assert "secret" not in server.log


@pytest.mark.slow
def test_a_program_has_them(tmp_path: Path) -> None:
    (tmp_path / "my.env").write_text("WORD=hello\n")
    with launched(tmp_path, Source(command=("printenv", "WORD")), env_file=str(tmp_path / "my.env")) as server:
        assert server.ask(b"") == b"hello\n"
