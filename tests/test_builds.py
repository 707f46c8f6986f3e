"""Which build runs: pure or compiled, as `make compiled` and .ci/run expect it, in this process and in servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

from house import SOURCE
from launch import launched_code
from pronghorn.builds import PURE, build

PROJECT = (Path(__file__).parent.parent / "pyproject.toml").read_text()
EXPECTED = os.environ.get("PRONGHORN_EXPECT_BUILD", "")
HANDLER = """
import pronghorn, sys
from pronghorn.connection import channel

@pronghorn.message(pronghorn.lines)
def where(line):
    return channel.__file__.encode()
"""


def modules() -> list[str]:
    import tomllib

    hook = tomllib.loads(PROJECT)["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    return list(hook["modules"])


def is_compiled(file: str) -> bool:
    return file.endswith(tuple(EXTENSION_SUFFIXES))


@pytest.mark.skipif(not EXPECTED, reason="nobody has said in PRONGHORN_EXPECT_BUILD which build this should be")
def test_this_is_the_build_that_is_expected() -> None:
    assert build().partition(" ")[0] == EXPECTED


def test_all_modules_of_a_build_are_of_one_kind_here_and_in_a_server(tmp_path: Path) -> None:
    compiled = build() != PURE
    for name in modules():
        file = import_module(name).__file__
        assert file is not None and is_compiled(file) is compiled, file
    with launched_code(tmp_path, HANDLER, "where", workers=1) as server, server.connect() as sock:
        sock.sendall(b"\n")
        assert is_compiled(sock.recv(1000).decode().strip()) is compiled
    told = subprocess.run([sys.executable, "-m", "pronghorn", "--version"], capture_output=True, text=True, timeout=30)
    assert told.stdout.rstrip().endswith(f"({build()})")


def test_what_is_to_be_compiled_is_there_and_needs_no_frame() -> None:
    for name in modules():
        assert (SOURCE.parent / (name.replace(".", "/") + ".py")).is_file(), f"mend pyproject.toml: no {name}"
        assert not name.startswith(("pronghorn.models.", "pronghorn.serving.event_loop")), name
        assert name != "pronghorn.connection.timer_queue"  # callback_frames.py finds connections by their frames


@pytest.mark.parametrize("there", [True, False])
def test_a_note_without_modules_for_this_python_is_no_compiled_build(there: bool, tmp_path: Path) -> None:
    note, module = tmp_path / "pronghorn" / "compiled.json", tmp_path / "pronghorn" / f"hot{EXTENSION_SUFFIXES[0]}"
    note.parent.mkdir()
    note.write_text(json.dumps({"by": "Cython 3.3.1", "modules": ["pronghorn.hot"]}))
    if there:
        module.touch()
    assert build(str(note)) == ("compiled by Cython 3.3.1" if there else PURE)


# What users do with the classes of a hot module, whichever build it is.


def test_classes_of_hot_modules_are_ordinary_ones() -> None:
    from pronghorn.connection.channel import AnyChannel, Channel
    from pronghorn.framing import Cutter, lines

    class Mine(Channel):
        __slots__ = ()

    class Other(Channel):
        __slots__ = ()

    made: Any = Mine.__new__(Mine)
    with pytest.raises(AttributeError):
        made.is_closing()  # a slot that is empty
    made.state = None
    assert made.is_closing() is False
    made.__class__ = Other
    assert made.is_closing() is False and type(made) is Other
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnyChannel, "is_closing", lambda self: "replaced")
        assert made.is_closing() == "replaced"
        made._paused = False
        assert made.is_reading() is False  # it calls what is there now
    assert made.is_closing() is False
    assert isinstance(lines.cutter(100), Cutter)


def test_a_slot_that_a_subclass_hides_is_not_read_past_it() -> None:
    from pronghorn.connection.channel import CLOSING, Channel

    class Hides(Channel):
        __slots__ = ()

    plain: Any = Channel.__new__(Channel)
    plain.state = CLOSING
    hides: Any = Hides.__new__(Hides)
    hides.state = CLOSING
    for _ in range(3):
        assert plain.is_closing() and hides.is_closing()
    Hides.state = property(lambda self: None)  # type: ignore[assignment,method-assign]
    assert plain.is_closing() and not hides.is_closing()
    del Hides.state
    assert hides.is_closing()


def test_tracebacks_lead_to_the_source() -> None:
    import traceback

    from pronghorn.connection import transport

    with pytest.raises(ValueError) as caught:
        transport.limits_of(1, 2)
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert last.filename == os.path.join(os.path.dirname(str(transport.__file__)), "transport.py")
    assert last.line is not None and last.line.startswith("raise ValueError") and last.name.endswith("limits_of")
