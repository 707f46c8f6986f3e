"""Which way imports run: downward only, and no circles. docs/design.md draws the same picture in words."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "pronghorn"

# From the top down. A package, or a file beside them, uses itself and what stands below it: so no two of one line use
# each other. `__init__` has the public names, and imports them only when they are asked for.
ORDER = (
    "__main__",
    "testing",
    "cli",
    "server",
    "control",
    "supervisor",
    "worker",
    "models",
    "serving",
    "handlers",
    "tls",
    "connection listening scoreboard",
    "system",
    "boot framing lifespans",
    "settings observers",
    "errors events peers tracebacks",
    "__init__",
)
DEPTH = {room: depth for depth, rooms in enumerate(ORDER) for room in rooms.split()}
OBSERVERS_MAY = {"observers", "events", "scoreboard", "system"}
WORKERS_LAW = {"signal", "logging"}
# These start processes, and a child has signals of its own; or end those that a handler has started; or serve the
# supervisor: what system/ has is used from above the worker too.
MAY_TOUCH_SIGNALS = {"models/fork.py", "handlers/programs.py"}
ABOVE_TOO = {"system"}
BYTES = {"recv", "recv_into", "recvfrom", "recvmsg", "send", "sendall", "sendmsg", "sendto", "sendfile"}
NOT_IN_WORKERS = {
    "click", "rich_click", "rich", "textual", "prompt_toolkit", "matplotlib", "dataclasses", "difflib", "asyncio",
}  # fmt: skip
# To be untied: the files of each circle.
TIED = (
    {"scoreboard.board", "scoreboard.row"},
    {"supervisor.changes", "supervisor.supervisor"},
)


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def modules() -> dict[str, Path]:
    """Every file by the name that imports it, below `pronghorn`: `tls.records`, or `settings` for a package."""
    return {name(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in files()}


def nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        yield from nodes(child)


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, in full: at its head, inside a function, or for type checkers only."""
    for node in nodes(tree(path)):
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


def rooms(path: Path) -> set[str]:
    return {each.partition(".")[0] for each in uses(path)} - {room(path)}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of files each of which leads to all the others (R. Tarjan, 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    way: list[str] = []
    found = []

    def visit(each: str) -> None:
        number[each] = lowest[each] = len(number)
        way.append(each)
        for other in sorted(graph.get(each, ())):
            if other not in number:
                visit(other)
            if other in way:
                lowest[each] = min(lowest[each], lowest[other])
        if lowest[each] == number[each]:
            circle = set(way[way.index(each) :])
            del way[way.index(each) :]
            if len(circle) > 1:
                found.append(circle)

    for each in sorted(graph):
        if each not in number:
            visit(each)
    return found


def test_every_room_has_its_place() -> None:
    assert {room(path) for path in files()} == set(DEPTH)


@pytest.mark.parametrize("path", files(), ids=name)
def test_imports_run_downward(path: Path) -> None:
    if room(path) in ("__init__", "observers"):
        return
    above = {each for each in rooms(path) if DEPTH[each] <= DEPTH[room(path)]}
    assert not above, f"{name(path)} imports {', '.join(sorted(above))}, which does not stand below it"


def test_no_circles() -> None:
    graph = {module: uses(path) for module, path in modules().items() if module != "__init__"}
    assert [circle for circle in circles(graph) if circle not in TIED] == []


def test_a_circle_is_found_wherever_its_imports_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = tmp_path / "pronghorn"
    house.mkdir()
    (house / "one.py").write_text("from pronghorn import two\n")
    (house / "two.py").write_text("def f():\n    from pronghorn.three import Three\n")
    (house / "three.py").write_text("if TYPE_CHECKING:\n    from pronghorn.one import One\nclass Three: ...\n")
    (house / "four.py").write_text("from pronghorn.one import f\n")
    monkeypatch.setitem(globals(), "SOURCE", house)
    modules.cache_clear()
    try:
        assert circles({module: uses(path) for module, path in modules().items()}) == [{"one", "two", "three"}]
    finally:
        modules.cache_clear()


def test_observers_only_watch() -> None:
    for path in files():
        if room(path) == "observers":
            assert rooms(path) <= OBSERVERS_MAY, name(path)
        elif "observers" in rooms(path):
            assert room(path) == "server", f"{name(path)} imports an observer; only the server puts them together"


@pytest.mark.parametrize("path", [each for each in files() if room(each) == "models"], ids=name)
def test_models_touch_no_bytes(path: Path) -> None:
    assert not {"errno", "logging"} & set(imports(path))
    calls = [node for node in nodes(tree(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    touching = [f"line {call.lineno}: .{call.func.attr}()" for call in calls if call.func.attr in BYTES]  # type: ignore
    assert not touching


def test_nothing_below_the_worker_touches_signals_or_logs() -> None:
    for path in files():
        below = DEPTH[room(path)] > DEPTH["worker"] and room(path) not in {*ABOVE_TOO, "observers"}
        if below and name(path) not in MAY_TOUCH_SIGNALS:
            assert not WORKERS_LAW & set(imports(path)), name(path)


def loaded_by(statement: str) -> set[str]:
    command = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=30, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_else() -> None:
    ours = {each for each in loaded_by("import pronghorn") if each.startswith("pronghorn")}
    assert ours == {"pronghorn"}
    assert not loaded_by("import pronghorn") & {"msgspec", "asyncio", *NOT_IN_WORKERS}


def test_settings_cost_little() -> None:
    assert not loaded_by("import pronghorn.settings") & NOT_IN_WORKERS


def test_a_worker_imports_only_what_serving_needs() -> None:
    assert not loaded_by("import pronghorn.server, pronghorn.models.epoll, pronghorn.handlers.builtin") & NOT_IN_WORKERS


def test_what_every_fork_copies_is_little() -> None:
    """A fork copies the map of its process, and these bring shared libraries and half a megabyte along."""
    loaded = loaded_by("import pronghorn.server, pronghorn.models.fork, pronghorn.handlers.builtin")
    assert not loaded & {"subprocess", "tempfile", "random", "shutil", "lzma", "bz2", "hashlib", "ssl"}
