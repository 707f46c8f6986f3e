"""The standard streams: open whatever happened before, and errors told in words that fit the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pronghorn.errors import BadHandler
from pronghorn.system.stdio import complain, keep_standard_descriptors


def test_closed_standard_streams_are_no_trouble(tmp_path: Path) -> None:
    run = (
        "import os, sys\nfor fd in range(3): os.close(fd)\n"
        "import pronghorn.system.stdio as s\ns.keep_standard_descriptors()\n"
        "open('fds', 'w').write(' '.join(os.readlink(f'/proc/self/fd/{n}') for n in range(3)))\n"
    )
    assert subprocess.run([sys.executable, "-c", run], cwd=tmp_path).returncode == 0
    assert (tmp_path / "fds").read_text().split() == [os.devnull] * 3


def test_keep_standard_descriptors_touches_nothing_that_is_open() -> None:
    before = [os.fstat(fd) for fd in range(3)]
    keep_standard_descriptors()
    assert [os.fstat(fd)[:3] for fd in range(3)] == [each[:3] for each in before]


def test_an_error_is_told_in_three_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert complain(BadHandler("What.", "Why.", "What to do.")) == 4
    assert capsys.readouterr().err == "Error: What.\nWhy.\nWhat to do.\n"
    complain(BadHandler("What."))
    assert capsys.readouterr().err == "Error: What.\n"


def pretend_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_are_for_terminals_that_have_them(
    variable: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend_terminal(monkeypatch)
    complain(BadHandler("What."))
    assert capsys.readouterr().err == "\x1b[1;31mError:\x1b[0m What.\n"
    monkeypatch.setenv(*variable)
    complain(BadHandler("What."))
    assert capsys.readouterr().err == "Error: What.\n"


def test_an_error_fits_the_terminal_and_a_traceback_keeps_its_shape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend_terminal(monkeypatch)
    trace = f"Traceback:\n  File {'x' * 70}, line 2\n    {'1 + ' * 30}1\n\nZeroDivisionError"
    complain(BadHandler("what " * 30, trace, "Mend that."))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines[1]) < 80 and lines[1].startswith("what ")
    shape = [len(line) - len(line.lstrip()) for line in lines[2:]]
    assert shape == [0, 2, 2, 4, 4, 0, 0, 0]
    assert lines[-1] == "Mend that."


def test_the_lines_of_a_reason_stay_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    complain(BadHandler("It failed.", '  File "shop.py", line 4\n    def\n       ^', "Mend it."))
    said = ["Error: It failed.", '  File "shop.py", line 4', "    def", "       ^", "Mend it."]
    assert capsys.readouterr().err.splitlines() == said


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
def test_when_nobody_can_be_told_the_exit_status_says_it(closed: str) -> None:
    command = f'"$0" -m pronghorn serve --workers 0 {closed}'
    done = subprocess.run(["/bin/sh", "-c", command, sys.executable], capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (2, b"")
