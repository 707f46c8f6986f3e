"""The process that watches files: every way to change one is seen, once, with watchfiles and without."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from select import POLLIN, poll

import psutil
import pytest

from launch import PATIENCE, gone, halt, launched, wait_for
from pronghorn.settings.source import Source
from pronghorn.supervisor.autoreload import FileWatcher, places
from pronghorn.supervisor.file_watcher import Look, Parent, watch

NO_WATCHFILES = "raise ImportError('not installed')\n"
NO_MORE_WATCHES = "def watch(*folders, **options):\n    raise OSError('no space left on device')\n    yield\n"


@pytest.fixture(params=["watchfiles", "without", "failing"])
def means(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the watcher learns of a change: it is told, or has to look, since watchfiles is not there or fails."""
    if request.param == "watchfiles":
        if importlib.util.find_spec("watchfiles") is None:
            pytest.skip("watchfiles is not installed")
    else:
        stand_in = tmp_path / "stand-in"
        stand_in.mkdir()
        (stand_in / "watchfiles.py").write_text(NO_WATCHFILES if request.param == "without" else NO_MORE_WATCHES)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(stand_in), os.environ.get("PYTHONPATH", "")]))
    return str(request.param)


@contextmanager
def watching(*places: Path) -> Iterator[FileWatcher]:
    watcher = FileWatcher(map(str, places))
    try:
        wait_for(lambda: watcher.read() == [] and watcher.ready, "the first look")
        yield watcher
    finally:
        watcher.close()


@contextmanager
def at_once(watcher: FileWatcher) -> Iterator[None]:
    """What is done in the block lies between two looks, however slow this process is."""
    halt(watcher.pid)
    yield
    os.kill(watcher.pid, signal.SIGCONT)


def batch(watcher: FileWatcher) -> list[str]:
    """What is read when the descriptor says that there is something; the watcher has then looked again."""
    poller = poll()
    poller.register(watcher, POLLIN)
    assert poller.poll(PATIENCE * 1000), "no change was told"
    return watcher.read()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "package").mkdir(parents=True)
    for name in ("mine.py", "package/__init__.py"):
        (folder / name).write_text("one = 1\n")
    return folder


def write_aside_and_rename(path: Path) -> None:
    """As editors save."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text("two = 2\n")
    os.replace(aside, path)


def rename_over_and_keep_the_time(path: Path) -> None:
    aside = path.with_name("aside")
    shutil.copy2(path, aside)
    os.replace(aside, path)


def replace_by_a_link(path: Path) -> None:
    aside = path.with_name("aside")
    aside.symlink_to("package/__init__.py")
    os.replace(aside, path)


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "change": ("mine.py", lambda path: path.write_text("two = 2\n")),
    "append": ("package/__init__.py", lambda path: path.write_text(path.read_text() + "two = 2\n")),
    "touch": ("mine.py", lambda path: os.utime(path, ns=(1, 1))),
    "create": ("new.py", lambda path: path.write_text("")),
    "rename over": ("mine.py", write_aside_and_rename),
    "rename over, same size and time": ("mine.py", rename_over_and_keep_the_time),
    "delete": ("package/__init__.py", lambda path: path.unlink()),
    "move away": ("mine.py", lambda path: path.rename(path.with_suffix(".txt"))),
    "replace by a link": ("mine.py", replace_by_a_link),
}


@pytest.mark.slow
def test_every_way_to_change_a_file_is_told_once(project: Path, means: str) -> None:
    with watching(project) as watcher:
        for what, (name, change) in CHANGES.items():
            path = project / name
            if not path.exists() and what != "create":
                with at_once(watcher):
                    path.write_text("one = 1\n")
                assert batch(watcher) == [str(path)], what
            with at_once(watcher):
                change(path)
            assert batch(watcher) == [str(path)], what


@pytest.mark.slow
def test_folders_that_come_later_are_watched(project: Path, means: str) -> None:
    with watching(project) as watcher:
        with at_once(watcher):
            (project / "later").mkdir()
            (project / "later" / "deep").mkdir()
            (project / "later" / "deep" / "one.py").write_text("")
        assert batch(watcher) == [str(project / "later" / "deep" / "one.py")]
        with at_once(watcher):
            (project / "later" / "deep" / "one.py").write_text("two = 2\n")
        assert batch(watcher) == [str(project / "later" / "deep" / "one.py")]
        with at_once(watcher):
            shutil.rmtree(project / "later")
        assert batch(watcher) == [str(project / "later" / "deep" / "one.py")]


@pytest.mark.slow
def test_a_burst_is_one_line(project: Path, means: str) -> None:
    with watching(project) as watcher:
        with at_once(watcher):
            for number in range(300):
                (project / f"new{number}.py").write_text("one = 1\n")
        assert batch(watcher) == [str(project / "new0.py")]
        (project / "mine.py").unlink()
        assert batch(watcher) == [str(project / "mine.py")], "nothing of the burst was left over"


@pytest.mark.slow
def test_what_is_no_code_of_the_handler_is_passed_over(project: Path, means: str) -> None:
    (project / "venv").mkdir()
    (project / "venv" / "pyvenv.cfg").touch()
    with watching(project) as watcher:
        with at_once(watcher):
            for name in (".git/x.py", "__pycache__/x.py", "node_modules/x.py", "venv/x.py", "notes.txt", ".#mine.py"):
                (project / name).parent.mkdir(exist_ok=True)
                (project / name).write_text("")
            (project / "zzz.py").write_text("")
        assert batch(watcher) == [str(project / "zzz.py")]


@pytest.mark.slow
def test_a_single_file_may_be_any_and_may_come_later(tmp_path: Path, project: Path, means: str) -> None:
    file = tmp_path / "pronghorn.toml"
    with watching(project, file) as watcher:
        with at_once(watcher):
            (tmp_path / "beside.py").write_text("")
            file.write_text("workers = 2\n")
        assert batch(watcher) == [str(file)]
        with at_once(watcher):
            write_aside_and_rename(file)
        assert batch(watcher) == [str(file)]
        file.unlink()
        assert batch(watcher) == [str(file)]


class Moments(Parent):
    """A parent that lets something happen at each wait, and is gone when there is nothing more."""

    def __init__(self, *happen: Callable[[], object]) -> None:
        self._rest = list(happen)
        self._asked = 0

    def is_gone(self, seconds: float = 0) -> bool:
        if seconds and self._rest:
            self._rest.pop(0)()
        self._asked += not self._rest
        assert self._asked < 5, "it goes on without its parent"
        return not self._rest


def test_files_that_go_on_changing_are_one_batch_and_it_ends_with_its_parent(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pronghorn.supervisor.file_watcher._notices", lambda: None)
    first = [lambda name=name: (project / name).touch() for name in ("b.py", "a.py", "c.py")]
    later = lambda: (project / "d.py").touch()  # noqa: E731
    said: list[str] = []
    watch([str(project)], 2**63, said.append, Moments(*first, int, int, later, int, int))
    assert said == ["", str(project / "b.py"), str(project / "d.py")]


def test_what_changes_before_the_first_look_is_told(project: Path) -> None:
    watcher = FileWatcher([str(project)])
    try:
        (project / "mine.py").write_text("two = 2\n")
        os.utime(project / "mine.py")
        told: list[str] = []
        wait_for(lambda: told.extend(watcher.read()) or told, "the change")
        assert told == [str(project / "mine.py")]
    finally:
        watcher.close()


def test_names_that_are_no_text_come_through(project: Path) -> None:
    name = os.fsencode(project) + b"/\xff.py"
    with watching(project) as watcher:
        try:
            open(name, "w").close()
        except OSError:
            pytest.skip("this file system takes no such name")
        assert batch(watcher) == [os.fsdecode(name)]


@pytest.mark.slow
def test_what_it_leaves_out_of_its_line_is_the_end_of_the_line(project: Path) -> None:
    with watching(project) as watcher:
        (project / "two\nlines.py").touch()
        assert batch(watcher) == [str(project / "two?lines.py")]


PARENT = """
import os, sys
from pronghorn.supervisor.autoreload import FileWatcher
watcher = FileWatcher([sys.argv[1]])
print(watcher.pid, flush=True)
sys.stdin.read()
os._exit(0)
"""


def test_it_ends_with_its_parent(project: Path, means: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(project)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        watcher = psutil.Process(int(parent.stdout.readline()))
        assert watcher.is_running()
        parent.kill()
    wait_for(lambda: gone(watcher.pid), "the watcher's end")


def test_its_end_is_noticed_and_closing_leaves_no_process(project: Path) -> None:
    with watching(project) as watcher:
        psutil.Process(watcher.pid).kill()
        assert batch(watcher) == [] and watcher.ended
    assert not psutil.pid_exists(watcher.pid)
    with watching(project) as watcher:
        pass
    assert not psutil.pid_exists(watcher.pid)


def test_a_terminal_does_not_reach_it(project: Path) -> None:
    with watching(project) as watcher:
        assert os.getsid(watcher.pid) != os.getsid(0)


def test_a_look_by_itself(project: Path) -> None:
    before = Look([str(project)])
    assert before.stamps.keys() == {str(project / "mine.py"), str(project / "package" / "__init__.py")}
    assert before.folders == {str(project), str(project / "package")}
    assert before.cost > 0
    assert Look([str(project)]).changes(before) == set()
    (project / "loop").symlink_to(project)
    (project / "broken.py").symlink_to("nowhere")
    assert Look([str(project), str(project)]).changes(before) == set()
    assert Look([str(project / "gone"), "/no/such/place"]).stamps == {}


def test_what_is_watched_for_a_handler(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    here = str(project)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.py").touch()
    (tmp_path / "elsewhere" / "spaces").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    assert places(Source("mine:handle")) == [here]
    assert places(Source("mine.py:handle"), ["", "/x.toml"]) == [here, "/x.toml"]
    assert places(Source("../elsewhere/far.py:handle")) == [str(tmp_path / "elsewhere"), here]
    assert places(Source("far:handle")) == [str(tmp_path / "elsewhere"), here]
    assert places(Source("spaces.inner:handle")) == [str(tmp_path / "elsewhere" / "spaces"), here]
    assert places(Source("package.inner:handle")) == [str(project / "package"), here]
    for name in ("json:loads", "pytest:main", "sys:exit", "nothing.of.this:name", ":x", ".:x"):
        assert places(Source(name)) == [here], name
    assert places(Source("echo"), ["", "/x.toml"]) == places(Source(command=("cat",)), ["", "/x.toml"]) == ["/x.toml"]
    assert places(print) == []
    assert "inner" not in sys.modules


def test_the_watcher_imports_no_server() -> None:
    command = "import sys, pronghorn.supervisor.file_watcher; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=30, check=True)
    heavy = textwrap.dedent(
        "pronghorn.server pronghorn.supervisor.supervisor pronghorn.worker_process.worker click asyncio watchfiles"
    ).split()
    assert not set(heavy) & set(done.stdout.split())


HANDLER = """
import pronghorn
@pronghorn.message(pronghorn.lines)
def reply(line):
    return b"%s"
"""


@pytest.mark.slow
def test_a_syntax_error_never_stops_the_server(tmp_path: Path) -> None:
    mine, file = tmp_path / "mine.py", tmp_path / "pronghorn.toml"
    mine.write_text(HANDLER % "one")
    file.write_text("workers = 1\n")
    with launched(tmp_path, "mine:reply", config=str(file), reload=True) as server:
        mine.write_text(HANDLER % "two")
        wait_for(lambda: server.ask(b"x\n") == b"two\n", "the reload")
        mine.write_text("def reply(:\n")
        wait_for(lambda: "Reload failed" in server.log and "SyntaxError" in server.log, "the failure")
        assert server.ask(b"x\n") == b"two\n"
        mine.write_text(HANDLER % "three")
        wait_for(lambda: server.ask(b"x\n") == b"three\n", "the mended handler")
        file.write_text("workers = 2\n")
        wait_for(lambda: "Reloading (pronghorn.toml changed)" in server.log, "another reload")
        wait_for(lambda: len(server.workers()) == 3, "two workers and the watcher")
        assert "Reloading (mine.py changed)" in server.log
        assert server.stop() == 0


@pytest.mark.slow
def test_code_that_is_as_long_and_as_old_as_what_was_compiled_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after two changes within a second: by size and seconds Python tells whether __pycache__ is right."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE")
    mine = tmp_path / "mine.py"

    def put(word: str, nanoseconds: int) -> None:
        (tmp_path / "new").write_text(HANDLER % word)
        os.utime(tmp_path / "new", ns=(nanoseconds, nanoseconds))
        os.replace(tmp_path / "new", mine)

    put("one", 1_700_000_000_000_000_000)
    with launched(tmp_path, "mine:reply", reload=True) as server:
        assert server.ask(b"x\n") == b"one\n"
        put("two", 1_700_000_000_500_000_000)
        server.send(signal.SIGHUP)  # the watcher may not have looked yet, and takes the change for an old one
        wait_for(lambda: "Reloaded in" in server.log, "the reload")
        assert server.ask(b"x\n") == b"two\n"


@pytest.mark.slow
def test_handlers_of_a_later_reload_are_watched(tmp_path: Path) -> None:
    work, other, file = tmp_path / "work", tmp_path / "other" / "late.py", tmp_path / "work" / "pronghorn.toml"
    work.mkdir()
    other.parent.mkdir()
    other.write_text("def reply(:\n")
    table = '[[listener]]\nname = "a"\nhandler = "{}:reply"\nbind = "127.0.0.1:0"\n'
    (work / "mine.py").write_text(HANDLER % "one")
    file.write_text(table.format("mine.py"))
    with launched(work, None, bind=None, config=str(file), reload=True) as server:
        file.write_text(table.format(other))
        wait_for(lambda: "Reload failed" in server.log and "SyntaxError" in server.log, "the failure")
        for word in (b"two", b"three"):
            other.write_text(HANDLER % word.decode())
            wait_for(lambda word=word: server.ask(b"x\n") == word + b"\n", "the reload")
        wait_for(lambda: len(server.workers()) == 2, "one worker and one watcher")


@pytest.mark.slow
def test_a_server_goes_on_without_its_watcher(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HANDLER % "one")
    with launched(tmp_path, "mine:reply", reload=True) as server:

        def watchers() -> list[psutil.Process]:  # a process has no command line for a moment in exec(2)
            found = []
            for each in psutil.Process(server.pid).children():
                with suppress(psutil.Error):
                    if "pronghorn.supervisor.file_watcher" in each.cmdline():
                        found.append(each)
            return found

        (watcher,) = wait_for(watchers, "the watcher")
        watcher.kill()
        wait_for(lambda: not watcher.is_running(), "the watcher's end, reaped")
        wait_for(
            lambda: "Changes are not noticed from now on. The process that watches for them has ended" in server.log,
            "a word of it",
        )
        assert server.ask(b"x\n") == b"one\n"
        assert server.stop() == 0
