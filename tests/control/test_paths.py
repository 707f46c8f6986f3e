"""Where control sockets are: names that fit, and folders that can be trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pronghorn.control import paths
from pronghorn.errors import CannotBind

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty world: a runtime folder, a /run and a temporary folder of its own."""
    for name in ("xdg", "tmp"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(paths, "RUN", str(tmp_path / "run" / "pronghorn"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        ("[::1]:8000", "[::1]:8000"),
        ("unix:/run/app/s", "unix:run-app-s"),
        ("my shop", "my-shop"),
        ("../../etc/passwd", "-..-etc-passwd"),
        ("..", "-"),
        (".hidden\n\0", "hidden--"),
    ],
)
def test_names_become_file_names(name: str, file: str) -> None:
    assert paths.file_name(name) == file


@pytest.mark.parametrize("name", ["x" * 200, "ü" * 30, "unix:/" + "d/" * 50])
def test_long_and_foreign_names_stay_apart_and_short(name: str) -> None:
    names = {paths.file_name(name), paths.file_name(name + "x"), paths.file_name("y" + name)}
    assert len(names) == 3
    for each in names:
        assert len(os.fsencode(each)) <= paths.LONGEST_NAME
        assert "/" not in each


def test_the_folder_is_made_for_us_alone(runtime: Path) -> None:
    assert paths.server_folder() == f"{runtime}/xdg/pronghorn"
    assert (runtime / "xdg" / "pronghorn").stat().st_mode & 0o777 == 0o700
    assert paths.server_folder() == f"{runtime}/xdg/pronghorn"


def test_without_a_runtime_folder_it_is_run(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    (runtime / "run").mkdir()
    assert paths.server_folder() == f"{runtime}/run/pronghorn"


def test_without_run_it_is_the_temporary_one(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert paths.server_folder() == f"{runtime}/tmp/pronghorn-{os.geteuid()}"


@AS_ROOT
def test_a_runtime_folder_that_is_not_ours_is_left_alone(runtime: Path) -> None:
    os.chown(runtime / "xdg", 12345, -1)
    assert paths.server_folder() == f"{runtime}/tmp/pronghorn-0"
    assert list((runtime / "xdg").iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: folder.write_text(""), "is no folder"),
        (lambda folder: folder.symlink_to(folder.parent), "is no folder"),
        (lambda folder: (folder.mkdir(), folder.chmod(0o777)), "can be written to by others"),
        pytest.param(
            lambda folder: (folder.mkdir(), os.chown(folder, 12345, -1)), "belongs to user 12345", marks=AS_ROOT
        ),
    ],
)
def test_a_folder_that_others_may_have_made_is_not_used(runtime: Path, spoil: object, said: str) -> None:
    assert callable(spoil)
    spoil(runtime / "xdg" / "pronghorn")
    assert paths.server_folder() == f"{runtime}/tmp/pronghorn-{os.geteuid()}"
    found, wrong = paths.sockets()
    assert found == []
    assert [f"{runtime}/xdg/pronghorn {said}."] == wrong


def test_no_folder_at_all_is_explained(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    (runtime / "tmp" / f"pronghorn-{os.geteuid()}").write_text("")
    with pytest.raises(CannotBind) as caught:
        paths.server_folder()
    assert "run/pronghorn: No such file or directory." in caught.value.why
    assert "is no folder." in caught.value.why
    assert "--control-socket off" in caught.value.hint


def test_ctl_looks_into_all(runtime: Path) -> None:
    for folder in paths.folders():
        os.makedirs(folder, 0o700)
        (Path(folder) / "shop.sock").touch()
        (Path(folder) / "shop.sock.lock").touch()
    assert paths.sockets() == ([f"{folder}/shop.sock" for folder in paths.folders()], [])
