"""The files of Pronghorn, the order of its packages, and which file imports which: read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "pronghorn"

# From the top down. A package, or a file beside them, uses itself and what stands below it: so no two of one line use
# each other. `__init__` has the public names, and imports them only when they are asked for.
ORDER = (
    "__main__",
    "testing",
    "cli admin",
    "server bench",
    "beside server_process",
    "control observers",
    "supervisor",
    "worker_process",
    "models",
    "serving",
    "handlers",
    "tls shared_limits",
    "connection listening scoreboard",
    "bus",
    "system metrics",
    "boot framing identity lifespans",
    "settings",
    "builds errors events peers tracebacks",
    "__init__",
)
DEPTH = {each: depth for depth, line in enumerate(ORDER) for each in line.split()}


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def package(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def modules() -> dict[str, Path]:
    """Every file by the name that imports it, below `pronghorn`: `tls.records`, or `settings` for a package."""
    return {name(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in files()}


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All that stands in a file."""
    return list(ast.walk(tree(path)))


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, in full: at its head, inside a function, or for type checkers only."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: imports say the whole name"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            below = {each: each.removeprefix("pronghorn.") in modules() for each in whole}
            yield from (each for each, is_module in below.items() if is_module)
            if not all(below.values()):
                yield node.module or ""


def uses(path: Path) -> set[str]:
    """The files of ours that a file imports; the public names stand in none."""
    return {each.removeprefix("pronghorn.") for each in imports(path) if each.startswith("pronghorn.")}


def packages(path: Path) -> set[str]:
    return {each.partition(".")[0] for each in uses(path)} - {package(path)}
