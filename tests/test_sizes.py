"""How large things may be: what does not fit is two things, or has a decision note that says why it is one."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

from house import files, modules, nodes, uses

ROOT = Path(__file__).parent.parent
CODE = ("src", "tests", "proof", "benchmarks", "docs", "examples")
LONGEST_FILE = 450
LONGEST_FUNCTION = 40
LONGEST_EXAMPLE = 60
SHORTEST_FILE = 60  # where one other file has a use for it
FILES_BESIDE_PACKAGES = 14
UNFORMATTED = 5

# A path below src/pronghorn (of a file) or path:name (of a function), and the note below docs/decisions/ that says why.
LARGER: dict[str, str] = {}
# Files, or folders, that are shorter and have one user or none, and why each is a file all the same.
SHORT = {
    "__main__.py": "python -m pronghorn asks for it",
    "bus/__init__.py": "the public names, which are imported when they are used",
    "bus/carriers.py": "the hub and clients elsewhere choose a carrier, and import no broker before",
    "worker_process/bus_place.py": "worker.py has enough to do",
    "admin/": "what the admin process answers, and where it asks, are files of their own, which grow",
    "cli/": "a command is a file",
    "models/": "a model is a page, however short",
    "settings/": "a panel of --help is a file",
    "supervisor/autoreload.py": "server.py imports it with --reload only",
    "shared_limits/parts.py": "arithmetic that knows of no scoreboard",
    "supervisor/observer_side.py": "server.py imports it with --observer only",
    "handlers/timed_messages.py": "where nobody reads metrics no worker imports it",
    "handlers/paced_messages.py": "without --message-rate-per-source no worker imports it",
    "handlers/message_types.py": "types only, which nothing that runs imports",
    "observers/__init__.py": "what observers share, and server.py puts together",
    "listening/conflicts.py": "server.py, which has a use for it, stands above all packages",
    "supervisor/event_counts.py": "server.py, which has a use for it, stands above all packages",
    "testing/__init__.py": "tests of users import it",
    "testing/reference_asyncio.py": "without it the other reference handlers would bring asyncio along",
}


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


def test_no_file_is_too_long() -> None:
    lines = {name(path): len(path.read_text().splitlines()) for path in sources()}
    assert not {path: count for path, count in lines.items() if count > LONGEST_FILE and path not in LARGER}


def test_no_function_is_too_long() -> None:
    lines = {
        f"{name(path)}:{each.name}": length(each)
        for path in sources()
        for each in nodes(path)
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {each: count for each, count in lines.items() if count > LONGEST_FUNCTION and each not in LARGER}


def test_what_one_file_uses_is_a_part_of_it() -> None:
    users = Counter(each for path in files() for each in uses(path))
    short = [path for module, path in modules().items() if users[module] <= 1 and is_short(path)]
    alone = {name(path) for path in short} - {name(path) for path in short if any(map(name(path).startswith, SHORT))}
    assert not alone, "fold each into the file that uses it, or say in SHORT why not"


def is_short(path: Path) -> bool:
    lines = len(path.read_text().splitlines())
    return lines < SHORTEST_FILE and (path.name != "__init__.py" or lines > 1)


def test_few_files_stand_beside_the_packages() -> None:
    assert len([path for path in files() if "/" not in name(path)]) <= FILES_BESIDE_PACKAGES


def test_code_is_as_the_formatter_leaves_it() -> None:
    """A comment that keeps lines as they are is for tables that would be unreadable otherwise."""
    everywhere = [
        path for folder in ("src", "tests", "proof", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")
    ]
    kept = {path.relative_to(ROOT).as_posix(): path.read_text().count("# fmt:" + " ") for path in everywhere}
    assert sum(kept.values()) <= UNFORMATTED, {path: count for path, count in kept.items() if count}


def test_every_exception_has_its_note() -> None:
    for place, note in LARGER.items():
        assert (ROOT / "src" / "pronghorn" / place.partition(":")[0]).is_file(), place
        assert (ROOT / "docs" / "decisions" / note).is_file(), note


def test_examples_fit_on_a_page() -> None:
    long = [
        path.name for path in (ROOT / "examples").glob("*.py") if len(path.read_text().splitlines()) > LONGEST_EXAMPLE
    ]
    assert not long
