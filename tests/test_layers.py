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

# From the top down; a room may use its own layer and those below it.
LAYERS = (
    {"__main__", "cli", "testing"},
    {"server", "presence"},
    {
        "supervisor", "desk", "changes", "renewal", "errand", "upkeep", "workforce", "slots", "reports", "guard",
        "reload", "suspicion", "orphans", "upgrade", "planning", "predecessors", "control", "call", "watch", "watcher",
        "surroundings", "pid_file", "restart", "debuggers", "log_process",
    },
    {"worker", "probe", "helper", "processes", "program", "privileges", "log_config", "log_file"},
    {"models"},
    {"handlers", "services"},
    {
        "farewells", "debts", "whereabouts",
        "framing", "proxy_protocol", "networks", "introduction", "listener", "opening", "inherited", "socket_options",
        "addresses", "bind_errors", "unix_path", "trusted_paths", "act_as", "client_hello", "tls", "bare",
        "certificates", "pem", "tls_channel", "tls_connection", "tls_words", "watchdog",
        "connection", "drive", "channel", "transport", "aiochannel", "limits", "deadlines", "drain", "meeting",
        "ending", "scoreboard", "scoreboard_page", "shared_memory", "sources", "counts", "waits", "lifespans",
        "tracebacks", "timeouts", "socket_facts", "settings", "wary", "stacks", "suspects", "contexts",
        "loop_methods", "adopted",
    },
    {"errors", "events", "standard"},
)  # fmt: skip
ASIDE = {"__init__", "observers", "kernel"}
OBSERVERS_MAY = {"observers", "events", "scoreboard", "kernel", "standard"}
KERNEL_IS_FOR = {"cli", "server", "observers", "kernel"}
WORKERS_LAW = {"signal", "logging"}
# These start processes, and a child has signals of its own; or end those that a handler has started.
MAY_TOUCH_SIGNALS = {"models/fork.py", "handlers/programs.py", "act_as.py", "ending.py"}
BYTES = {"recv", "recv_into", "recvfrom", "recvmsg", "send", "sendall", "sendmsg", "sendto", "sendfile"}
NOT_IN_WORKERS = {
    "click", "rich_click", "rich", "textual", "prompt_toolkit", "matplotlib", "dataclasses", "difflib", "asyncio",
}  # fmt: skip


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def layer(of: str) -> int:
    return next(depth for depth, rooms in enumerate(LAYERS) if of in rooms)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Everything in a file but what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if is_for_type_checkers(child):
            assert isinstance(child, ast.If)
            for part in child.orelse:
                yield from nodes(part)
        else:
            yield child
            yield from nodes(child)


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, at its head or inside a function, in full."""
    for node in nodes(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: imports say the whole name"
            if node.module == "pronghorn":
                yield from (f"pronghorn.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def uses(path: Path) -> set[str]:
    """The rooms that a file imports from; the public names stand in none."""
    rooms = {each.split(".")[1] for each in imports(path) if each.startswith("pronghorn.")}
    return {each for each in rooms if (SOURCE / each).is_dir() or (SOURCE / f"{each}.py").is_file()}


def test_every_room_has_a_layer() -> None:
    known = set().union(*LAYERS) | ASIDE
    assert {room(path) for path in files()} <= known
    assert sum(len(rooms) for rooms in LAYERS) == len(set().union(*LAYERS)), "a room in two layers"


@pytest.mark.parametrize("path", files(), ids=name)
def test_imports_run_downward(path: Path) -> None:
    if room(path) in ASIDE:
        return
    above = {each for each in uses(path) - ASIDE if layer(each) < layer(room(path))}
    assert not above, f"{name(path)} imports {', '.join(sorted(above))}, which stands above it"


def test_no_circles() -> None:
    graph: dict[str, set[str]] = {}
    for path in files():
        graph.setdefault(room(path), set()).update(uses(path) - {room(path)})
    finished: set[str] = set()

    def visit(each: str, way: tuple[str, ...]) -> None:
        assert each not in way, " > ".join([*way, each])
        if each not in finished:
            for other in sorted(graph.get(each, ())):
                visit(other, (*way, each))
            finished.add(each)

    for each in graph:
        visit(each, ())


def test_observers_only_watch() -> None:
    for path in files():
        if room(path) == "observers":
            assert uses(path) <= OBSERVERS_MAY, name(path)
        elif "observers" in uses(path):
            assert room(path) == "server", f"{name(path)} imports an observer; only the server puts them together"


def test_the_kernel_is_asked_from_above_only() -> None:
    for path in files():
        if "kernel" in uses(path):
            assert room(path) in KERNEL_IS_FOR, name(path)
        if room(path) == "kernel":
            assert all(each == "kernel" or layer(each) >= layer("settings") for each in uses(path)), name(path)


@pytest.mark.parametrize("path", [each for each in files() if room(each) == "models"], ids=name)
def test_models_touch_no_bytes(path: Path) -> None:
    assert not {"errno", "logging"} & set(imports(path))
    calls = [node for node in nodes(tree(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    touching = [f"line {call.lineno}: .{call.func.attr}()" for call in calls if call.func.attr in BYTES]  # type: ignore
    assert not touching


def test_nothing_below_the_worker_touches_signals_or_logs() -> None:
    for path in files():
        below = room(path) not in ASIDE and layer(room(path)) > layer("worker")
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
    assert not loaded_by("import pronghorn.server, pronghorn.models.epoll, pronghorn.services") & NOT_IN_WORKERS


def test_what_every_fork_copies_is_little() -> None:
    """A fork copies the map of its process, and these bring shared libraries and half a megabyte along."""
    loaded = loaded_by("import pronghorn.server, pronghorn.models.fork, pronghorn.services")
    assert not loaded & {"subprocess", "tempfile", "random", "shutil", "lzma", "bz2", "hashlib", "ssl"}
