"""How large things may be: what does not fit is two things, or has a decision note that says why it is one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST_FILE = 450
LONGEST_FUNCTION = 40
LONGEST_EXAMPLE = 60

# A path below src/pronghorn (of a file) or path:name (of a function), and the note below docs/decisions/ that says why.
LARGER: dict[str, str] = {}


def sources() -> list[Path]:
    return sorted((ROOT / "src").rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT / "src" / "pronghorn").as_posix()


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines, its docstring left out."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


@pytest.mark.parametrize("path", sources(), ids=name)
def test_no_file_is_too_long(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LONGEST_FILE or name(path) in LARGER


@pytest.mark.parametrize("path", sources(), ids=name)
def test_no_function_is_too_long(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {f"{name(path)}:{each.name}": length(each) for each in functions if length(each) > LONGEST_FUNCTION}
    assert not {each: lines for each, lines in long.items() if each not in LARGER}


def test_every_exception_has_its_note() -> None:
    for place, note in LARGER.items():
        assert (ROOT / "src" / "pronghorn" / place.partition(":")[0]).is_file(), place
        assert (ROOT / "docs" / "decisions" / note).is_file(), note


def test_examples_fit_on_a_page() -> None:
    long = [
        path.name for path in (ROOT / "examples").rglob("*.py") if len(path.read_text().splitlines()) > LONGEST_EXAMPLE
    ]
    assert not long
