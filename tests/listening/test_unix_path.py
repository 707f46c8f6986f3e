"""A unix path: bound, kept, taken over from the dead, and removed by nobody but its owner."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from listeners import ended
from pronghorn.errors import AddressInUse, BadSetting, CannotBind
from pronghorn.listening import addresses
from pronghorn.listening.binding import open_listeners
from pronghorn.listening.listener import Listener
from pronghorn.settings import Settings

Open = Callable[[str], Listener]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens one listener, and closes it at the end."""
    with contextlib.ExitStack() as stack:

        def opener(bind: str) -> Listener:
            (one,) = open_listeners(Settings(bind=(bind,)), lambda event: None)
            stack.callback(one.close)
            return one

        yield opener


def test_a_unix_path_is_bound_and_removed(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "s"
    one = opened(f"unix:{path}")
    assert one.address == f"unix:{path}"
    assert stat.S_ISSOCK(path.stat().st_mode)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert select.select([one], [], [], 5)[0]
        descriptor, peer = one.accept() or (-1, None)
        os.close(descriptor)
        assert peer == ""
    one.close()
    one.close()
    assert list(tmp_path.iterdir()) == []


def test_the_longest_path_there_can_be(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened("unix:" + "x" * addresses.LONGEST_PATH)


def test_a_relative_path_is_removed_from_where_it_was_made(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = opened("unix:s")
    monkeypatch.chdir("/")
    one.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("full", [False, True])
def test_a_live_path_is_never_stolen(opened: Open, tmp_path: Path, full: bool) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other, contextlib.ExitStack() as stack:
        other.bind(str(path))
        other.listen(0)
        while full:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(str(path)):
                break
        before = path.stat().st_ino
        with pytest.raises(AddressInUse) as caught:
            opened(f"unix:{path}")
        assert "Another server listens there" in caught.value.why
        assert path.stat().st_ino == before
        assert list(tmp_path.iterdir()) == [path]


def test_our_own_live_path_is_kept_by_its_lock(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "s"
    one = opened(f"unix:{path}")
    with pytest.raises(AddressInUse) as caught:
        opened(f"unix:{path}")
    assert "Another Pronghorn server" in caught.value.why
    assert one.accept() is None  # it was not even probed
    assert sorted(each.name for each in tmp_path.iterdir()) == ["s", "s.lock"]


def test_a_stale_path_is_replaced(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    (tmp_path / "s.lock").touch()
    one = opened(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    one.close()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_meanwhile_guards_nothing(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock = tmp_path / "s", tmp_path / "s.lock"
    rounds: list[int] = []

    def flock(descriptor: int, operation: int) -> None:
        rounds.append(descriptor)
        if len(rounds) == 1:
            lock.unlink()  # by the server that held it until now
        elif len(rounds) == 2:
            lock.unlink()
            lock.touch()  # and another one has made its own
        real(descriptor, operation)

    real = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    opened(f"unix:{path}")
    assert len(rounds) == 3
    assert lock.exists()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text("precious"), "and no socket"),
        (lambda path: path.symlink_to("elsewhere"), "and no socket"),
        (lambda path: path.mkdir(), "and no socket"),
    ],
)
def test_what_is_no_socket_is_never_removed(
    opened: Open, tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    path = tmp_path / "s"
    make(path)
    with pytest.raises(CannotBind) as caught:
        opened(f"unix:{path}")
    assert said in caught.value.why
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there(opened: Open, tmp_path: Path) -> None:
    with pytest.raises(CannotBind) as caught:
        opened(f"unix:{tmp_path}/no/s")
    assert "No such file or directory" in caught.value.why
    assert "folder" in caught.value.hint


def test_a_socket_of_another_sort_is_left_alone(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(AddressInUse) as caught:
            opened(f"unix:{path}")
        assert "may be in use" in caught.value.why
        assert path.exists()


def test_a_path_that_is_no_longer_ours_stays(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "s"
    one = opened(f"unix:{path}")
    path.rename(tmp_path / "moved")
    with socket.socket(socket.AF_UNIX) as thief:
        thief.bind(str(path))
        one.close()
        assert path.exists()


def test_a_forked_process_removes_nothing_and_keeps_the_lock(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "s"
    one = opened(f"unix:{path}")
    assert ended(one.close) == 0
    assert path.exists()
    with pytest.raises(AddressInUse):
        opened(f"unix:{path}")


def test_a_path_whose_server_was_killed_is_taken_over(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert ended(lambda: opened(f"unix:{path}")) == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["s", "s.lock"]
    opened(f"unix:{path}")


def test_mode_and_owner_are_given_before_anybody_can_connect(tmp_path: Path) -> None:
    group = os.getgroups()[0] if os.getgroups() else os.getgid()
    path = str(tmp_path / "s")
    settings = Settings(bind=(f"unix:{path}",), unix_mode="640", unix_owner=f"{os.getuid()}:{group}")
    with contextlib.closing(open_listeners(settings, lambda event: None)[0]):
        status = os.stat(path)
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o640, os.getuid(), group)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("owner", "said"),
    [
        ("nobody-of-that-name", "--unix-owner names 'nobody-of-that-name'.\nThere is no such user."),
        (":nobody-of-that-name", "--unix-owner names 'nobody-of-that-name'.\nThere is no such group."),
    ],
)
def test_an_owner_that_is_not_there_is_refused(tmp_path: Path, owner: str, said: str) -> None:
    with pytest.raises(BadSetting) as caught:
        open_listeners(Settings(bind=(f"unix:{tmp_path}/s",), unix_owner=owner), lambda event: None)
    assert str(caught.value) == said
    assert os.listdir(tmp_path) == []


def test_an_owner_that_may_not_be_given_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chown(path: str, uid: int, gid: int) -> None:
        assert (uid, gid) == (12345, -1)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", chown)
    with pytest.raises(CannotBind, match="It cannot be given to 12345: Operation not permitted"):
        open_listeners(Settings(bind=(f"unix:{tmp_path}/s",), unix_owner="12345"), lambda event: None)
    assert os.listdir(tmp_path) == []
