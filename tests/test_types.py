"""The types of the public names, tried by two checkers: what is right passes, and what is wrong is refused.

The programs are in tests/typed/. In a file `*_bad.py` each statement with a comment `# wrong` must be refused by both
checkers, and nothing else in any file. The examples pass as well.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent
PROGRAMS = sorted((HERE / "typed").glob("*.py"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
Found = dict[tuple[str, int], str]
"""What a checker has to say, by file and line."""


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=140)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy() -> Found:
    said = run("mypy", "--output", "json", *map(str, [*PROGRAMS, *EXAMPLES]))
    reports = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return {(Path(each["file"]).name, each["line"]): each["message"] for each in reports if each["severity"] == "error"}


def pyright(folder: Path) -> Found:
    config: dict[str, Any] = {
        "include": list(map(str, [*PROGRAMS, *EXAMPLES])),
        "typeCheckingMode": "strict",
        "reportMatchNotExhaustive": False,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    said = run("basedpyright", "--outputjson", "--project", str(folder), "--pythonpath", sys.executable)
    found: Found = {}
    for each in json.loads(said)["generalDiagnostics"]:
        if each["severity"] == "error":
            found[Path(each["file"]).name, each["range"]["start"]["line"] + 1] = each["message"]
    return found


def check(found: Found) -> None:
    """Each statement that is marked was refused, and nothing else was."""
    faults = []
    for path in [*PROGRAMS, *EXAMPLES]:
        text = path.read_text()
        marked = {number for number, line in enumerate(text.splitlines(), 1) if "# wrong:" in line}
        for statement in ast.parse(text).body:
            begin = min(each.lineno for each in (statement, *getattr(statement, "decorator_list", [])))
            lines = range(begin, (statement.end_lineno or begin) + 1)
            said = [
                f"{path.name}:{line}: {found.pop((path.name, line))}" for line in lines if (path.name, line) in found
            ]
            if marked.isdisjoint(lines):
                faults += said
            elif not said:
                faults.append(f"{path.name}:{begin}: this is wrong, and was not refused")
    assert not faults, "\n".join(faults)
    assert not found


@pytest.mark.slow
def test_mypy_takes_what_is_right_and_refuses_the_rest() -> None:
    check(mypy())


@pytest.mark.slow
def test_pyright_takes_what_is_right_and_refuses_the_rest(tmp_path: Path) -> None:
    try:
        importlib.metadata.version("basedpyright")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("basedpyright is not installed: make venv installs it")
    check(pyright(tmp_path))


def test_the_mark_of_typed_packages_is_there() -> None:
    assert (ROOT / "src" / "pronghorn" / "py.typed").is_file()
