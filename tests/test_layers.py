"""Which way imports run: downward only, in the order of tests/house.py, and no circles; docs/house.md draws it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import house
import make_house
from house import DEPTH, files, imports, modules, name, nodes, package, packages, uses

LONGEST_FIRST_LINE = 117
OBSERVERS_MAY = {"observers", "errors", "events", "settings", "system"}
WORKERS_LAW = {"signal", "logging"}
# These start processes, and a child has signals of its own; or end those that a handler has started; or serve the
# supervisor: what system/ has is used from above the worker too.
MAY_TOUCH_SIGNALS = {"models/child_process.py", "models/children.py", "models/fork.py", "handlers/programs.py"}
ABOVE_TOO = {"system"}
BYTES = {"recv", "recv_into", "recvfrom", "recvmsg", "send", "sendall", "sendmsg", "sendto", "sendfile"}
NOT_IN_WORKERS = {*"click rich_click rich textual prompt_toolkit matplotlib dataclasses difflib asyncio".split()}


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


def test_every_package_has_its_place() -> None:
    assert {package(path) for path in files()} == set(DEPTH)


def test_imports_run_downward() -> None:
    upward = [
        f"{name(path)} imports {each}, which does not stand below it"
        for path in files()
        for each in sorted(packages(path))
        if package(path) != "__init__" and DEPTH[each] <= DEPTH[package(path)]
    ]
    assert not upward


def test_no_circles() -> None:
    graph = {module: uses(path) for module, path in modules().items() if module != "__init__"}
    assert circles(graph) == []


def test_a_circle_is_found_wherever_its_imports_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.py").write_text("from pronghorn import two\n")
    (tmp_path / "two.py").write_text("def f():\n    from pronghorn.three import Three\n")
    (tmp_path / "three.py").write_text("if TYPE_CHECKING:\n    from pronghorn.one import One\nclass Three: ...\n")
    (tmp_path / "four.py").write_text("from pronghorn.one import f\n")
    monkeypatch.setattr(house, "SOURCE", tmp_path)
    modules.cache_clear()
    try:
        assert circles({module: uses(path) for module, path in modules().items()}) == [{"one", "two", "three"}]
    finally:
        modules.cache_clear()


def test_observers_only_watch() -> None:
    for path in files():
        if package(path) == "observers":
            assert packages(path) <= OBSERVERS_MAY, name(path)
        elif "observers" in packages(path):
            assert package(path) in ("server", "beside"), (
                f"{name(path)} imports an observer; only the server puts them together"
            )


@pytest.mark.parametrize("path", [each for each in files() if package(each) == "models"], ids=name)
def test_models_touch_no_bytes(path: Path) -> None:
    assert not {"errno", "logging"} & set(imports(path))
    calls = [node for node in nodes(path) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    touching = [f"line {call.lineno}: .{call.func.attr}()" for call in calls if call.func.attr in BYTES]  # type: ignore
    assert not touching


def test_nothing_below_the_worker_touches_signals_or_logs() -> None:
    for path in files():
        below = DEPTH[package(path)] > DEPTH["worker_process"] and package(path) not in ABOVE_TOO
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


def test_the_page_of_files_is_up_to_date() -> None:
    if make_house.PAGE.read_text() != make_house.page():
        pytest.fail("Run: make docs", pytrace=False)


def test_the_first_line_of_a_file_says_what_it_is() -> None:
    lines = {name(path): make_house.first_line(path) for path in files()}
    assert not {
        path: line for path, line in lines.items() if not line.endswith((".", "?")) or len(line) > LONGEST_FIRST_LINE
    }
