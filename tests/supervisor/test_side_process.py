"""The mechanism of side processes: real processes, under a poller of the test's own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from launch import PATIENCE, halt, wait_for
from pronghorn import events
from pronghorn.events import Event
from pronghorn.supervisor import side_process
from pronghorn.supervisor.poller import Poller
from pronghorn.supervisor.side_process import SideProcess, SideProcesses
from pronghorn.system.helper import Reaper
from pronghorn.system.processes import lives
from pronghorn.system.side_boot import LONGEST

MODULE = "side_under_test"
NOBODY = 65534


class Scene:
    """A poller that plays the supervisor for side processes, and what it heard and observed."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.observed: list[Event] = []
        self.heard: list[dict[str, Any]] = []
        self.sides = SideProcesses(self.poller, Reaper(), self.observed.append)

    def side(self, **about: Any) -> SideProcess:
        side = SideProcess("test", MODULE, hear=self.heard.append, **about)
        self.sides.add(side)
        return side

    def turn(self) -> None:
        self.sides.turn(time.monotonic())
        self.poller.wait(0.005)

    def until(self, condition: Callable[[], Any], what: str = "it") -> Any:
        def turned() -> Any:
            self.turn()
            return condition()

        return wait_for(turned, what)

    def said(self) -> list[str]:
        return [each.text for each in self.observed if isinstance(each, events.SideProcessSaid)]

    def ends(self) -> list[events.SideProcessEnded]:
        return [each for each in self.observed if isinstance(each, events.SideProcessEnded)]

    def up(self, side: SideProcess) -> dict[str, Any]:
        """Waits until a new process has introduced itself."""
        before = len(self.heard)
        return self.until(lambda: self.heard[before:] and side.ready and self.heard[-1], "its first words")  # type: ignore[no-any-return]


def is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setattr(side_process, "SHORTEST_PAUSE", 0.01)
    scene = Scene()
    yield scene
    for each in scene.sides:
        each.patience = 0.0
    scene.sides.close()


def test_it_is_started_talks_and_ends_with_its_line(scene: Scene, tmp_path: Path) -> None:
    inheritable = {int(each) for each in os.listdir("/proc/self/fd") if is_inheritable(int(each))}
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    side = scene.side(settings={"colour": "blue"}, descriptors={"file": fd})
    assert side.state()["state"] == "waiting" and scene.sides.descriptors() == [fd]
    first = scene.up(side)
    assert first["pid"] == side.pid and first["settings"] == {"colour": "blue"}
    ours = [each for each in first["fds"] if each > 2 and each not in inheritable]
    assert fd in ours and len(ours) == 2, "the file, the line, and nothing else"
    assert side.state() == {"name": "test", "state": "running", "pid": side.pid, "restarts": 0, "why": ""}
    assert side.send({"question": 1}) and side.send({"write": "written"}) and side.send({"say": "to\x1b[31mlog"})
    scene.until(lambda: {"echo": {"question": 1}} in scene.heard, "the echo")
    scene.until(scene.said, "a record")
    assert scene.said() == ["to\\x1b[31mlog"]
    side.patience = PATIENCE
    scene.sides.close()
    assert scene.heard[-1] == {"last": "words"} and not scene.ends()
    assert (tmp_path / "file").read_text() == "written"
    assert side.state()["state"] == "ended" and side.pid == 0
    os.close(fd)


@pytest.mark.slow
def test_one_that_dies_is_started_again_after_a_growing_pause(scene: Scene) -> None:
    side = scene.side()
    pauses = []
    for count in range(3):
        scene.up(side)
        side.send({"raise": "a fault"})
        scene.until(lambda count=count: len(scene.ends()) > count, "its death")  # type: ignore[misc]
        pauses.append(scene.ends()[-1].pause)
    assert pauses == [0.01, 0.02, 0.04]
    assert scene.ends()[-1].status == 1 and side.state()["why"] == "RuntimeError: a fault"
    assert any("Traceback" in each and "RuntimeError: a fault" in each for each in scene.said())
    scene.up(side)
    os.kill(side.pid, signal.SIGKILL)
    scene.up(side)
    assert side.restarts == 4


def test_signals_to_the_whole_group_do_not_end_it(scene: Scene) -> None:
    side = scene.side()
    scene.up(side)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1):
        os.kill(side.pid, number)
    side.send({"still": "here"})
    scene.until(lambda: {"echo": {"still": "here"}} in scene.heard, "the echo")
    assert side.restarts == 0


def test_one_that_sends_rubbish_is_killed(scene: Scene) -> None:
    side = scene.side()
    for count, rubbish in enumerate(("no json", "[1, 2]", '{"a": ' * 5000), 1):
        scene.up(side)
        side.send({"rubbish": rubbish})
        scene.until(lambda count=count: len(scene.ends()) == count, "its death")  # type: ignore[misc]
        assert scene.ends()[-1].status == -signal.SIGKILL


def test_one_that_prints_a_line_without_an_end_does_not_stand_still(scene: Scene) -> None:
    side = scene.side()
    scene.up(side)
    side.send({"dots": 2 * LONGEST})
    scene.until(scene.ends, "its death")
    assert scene.ends()[0].status == -signal.SIGKILL
    assert any("printed more than" in each for each in scene.said())


def test_one_that_the_kernel_holds_costs_the_supervisor_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    side = scene.side(patience=0.0)
    scene.up(side)
    monkeypatch.setattr(side_process, "AGAIN", 100.0)
    signals: list[int] = []
    with monkeypatch.context() as held:
        held.setattr(side_process, "kill", lambda pid, number: signals.append(pid))
        os.kill(side.pid, signal.SIGSTOP)
        side.end()
        scene.until(lambda: signals, "the signal")
        assert side.due() > time.monotonic() + side_process.AGAIN / 2
    os.kill(side.pid, signal.SIGKILL)


def test_what_floods_the_log_is_bounded(scene: Scene) -> None:
    side = scene.side()
    scene.up(side)
    for number in range(200):
        side.send({"print": f"line {number}"} if number % 2 else {"say": f"record {number}"})
    side.send({"done": 1})
    scene.until(lambda: {"echo": {"done": 1}} in scene.heard, "the echo")
    scene.sides.close()
    assert len(scene.said()) == side_process.MOST_RECORDS
    assert "more of it is left out" in scene.said()[-1]


def test_one_that_does_not_read_holds_nobody_up_and_is_killed_at_the_end(scene: Scene) -> None:
    side = scene.side(patience=0.05)
    scene.up(side)
    side.send({"hang": 60})
    began = time.monotonic()
    while side.send({"x": "y" * 10_000}):
        assert time.monotonic() < began + PATIENCE
    assert side.dropped == 1
    pid = side.pid
    scene.sides.close()
    assert not lives(pid)


def test_one_that_hangs_is_killed_and_a_sign_of_life_counts(scene: Scene) -> None:
    beats = scene.side(settings={"beats": True})
    scene.until(lambda: beats.ready)
    hangs, heard = scene.side(silence=0.3), beats._heard_at
    scene.until(scene.ends, "the end of the one that hangs")
    assert (hangs.restarts, beats.restarts) == (1, 0) and scene.ends()[0].status == -signal.SIGKILL
    assert any("has said nothing for 0.3 s" in each for each in scene.said())
    scene.until(lambda: beats._heard_at > heard, "a sign of life")


@pytest.mark.slow
def test_one_that_hangs_and_dies_late_is_told_of_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def killed(pid: int, number: int) -> None:
        asked.append(number)
        if len(asked) > 2:
            os.kill(pid, number)

    monkeypatch.setattr(side_process, "kill", killed)
    monkeypatch.setattr(side_process, "AGAIN", 0.2)
    hangs = scene.side()
    scene.until(lambda: hangs.ready)
    halt(hangs.pid)
    hangs._silence = 0.3
    scene.until(scene.ends, "the end of the one that hangs")
    assert sum("has said nothing for 0.3 s" in each for each in scene.said()) == 1


def test_what_is_sent_before_the_start_is_held_if_it_is_to_be(scene: Scene) -> None:
    one, other = scene.side(holds=True), scene.side()
    assert one.send({"held": 1}) and not other.send({"lost": 1})
    scene.until(lambda: {"echo": {"held": 1}} in scene.heard, "the echo")


def test_what_belongs_to_the_old_program_ends_at_an_upgrade_unless_it_stays(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "busy").touch()
    goes = scene.side(settings={"while": str(tmp_path / "busy")}, patience=PATIENCE)
    stays = scene.side(stays=True)
    scene.until(lambda: goes.ready and stays.ready)
    gone = goes.pid
    scene.sides.hand_over()
    assert [*scene.sides] == [stays] and lives(gone)  # nobody waited for it
    (tmp_path / "busy").unlink()
    scene.until(lambda: not lives(gone), "its end")
    assert stays.pid and not scene.ends()


def test_a_program_that_cannot_be_started_is_told_of(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    side = scene.side()
    scene.until(scene.ends, "its death")
    assert scene.said() == ["cannot be started: No such file or directory: /nowhere/python"]
    assert "/nowhere/python" in side.state()["why"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_has_the_privileges_of_the_workers(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from pronghorn.system import privileges

    monkeypatch.setattr(privileges, "person", privileges.resolve(str(NOBODY), ""))
    side = scene.side()
    assert scene.up(side)["uid"] == NOBODY
    assert psutil.Process(side.pid).gids().real != 0
