"""What another user can make of a path that root acts on: nothing, however fast links and names are swapped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from launch import launched, wait_for
from pronghorn.control.server import ControlServer
from pronghorn.errors import BadSetting, CannotBind, PronghornError
from pronghorn.listening.binding import open_listeners
from pronghorn.settings import Settings
from pronghorn.system import log_config, log_file, privileges, trusted_paths
from pronghorn.system.act_as import act_as
from pronghorn.system.log_file import LogFile
from pronghorn.system.pid_file import PidFile
from pronghorn.system.privileges import Person
from pronghorn.system.trusted_paths import Place

Link = Callable[[Path, Path], None]
NOBODY = 65534
MALLORY = 54321
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has anything that another user could misuse")


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A folder of Mallory's, in one that is root's."""
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        folder = Path(top) / "theirs"
        folder.mkdir()
        os.chown(folder, MALLORY, MALLORY)
        yield folder


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of root's that nobody else may touch."""
    path = tmp_path / "precious"
    path.write_text("secret\n")
    path.chmod(0o600)
    return path


def untouched(path: Path) -> bool:
    status = path.stat()
    kept = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o600)
    return kept and path.read_text() == "secret\n"


@contextlib.contextmanager
def swapping(step: Callable[[], None]) -> Iterator[None]:
    """Does `step` again and again, as Mallory and in a process of her own; one that comes too late does no harm."""
    mallory = os.fork()
    if not mallory:
        try:
            os.setgroups([])
            os.setgid(MALLORY)
            os.setuid(MALLORY)
            while os.getppid() != 1:
                with contextlib.suppress(OSError):
                    step()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(mallory, signal.SIGKILL)
        os.waitpid(mallory, 0)


def replace(path: Path, target: Path) -> None:
    """Puts a symbolic link in the place of what is there, in one step, if anything is."""
    link = path.with_name("link")
    with contextlib.suppress(FileExistsError):
        os.symlink(target, link)
    os.lstat(path)
    os.rename(link, path)


# The log file


@pytest.mark.parametrize("user", [None, Person(MALLORY, MALLORY, (MALLORY,), "", "/")])
@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_no_link_in_anothers_folder_is_followed_by_the_log(
    theirs: Path, precious: Path, user: Person | None, make: Link, monkeypatch: pytest.MonkeyPatch, standard_error: None
) -> None:
    monkeypatch.setattr(privileges, "person", user)
    make(precious, theirs / "log")
    with pytest.raises(BadSetting):
        LogFile(str(theirs / "log"))
    assert untouched(precious)


def test_a_log_that_is_roots_in_the_users_folder_is_told_of(
    theirs: Path, monkeypatch: pytest.MonkeyPatch, standard_error: None
) -> None:
    monkeypatch.setattr(privileges, "person", Person(MALLORY, MALLORY, (MALLORY,), "mallory", "/"))
    (theirs / "log").touch(0o600)
    with pytest.raises(BadSetting, match=r"Permission denied.\nIt is opened as user mallory, .* or remove it"):
        LogFile(str(theirs / "log"))


def test_a_folder_on_the_way_that_became_a_link_is_not_entered(
    theirs: Path, tmp_path: Path, standard_error: None
) -> None:
    (theirs / "logs").symlink_to(tmp_path)
    with pytest.raises(BadSetting, match="logs is a symbolic link, and user 54321 may change its folder"):
        LogFile(str(theirs / "logs" / "log"))
    assert os.listdir(tmp_path) == []


def test_the_log_in_the_users_own_folder_is_the_users(
    theirs: Path, monkeypatch: pytest.MonkeyPatch, standard_error: None
) -> None:
    monkeypatch.setattr(privileges, "person", Person(MALLORY, MALLORY, (MALLORY,), "", "/"))
    file = LogFile(str(theirs / "log"))
    os.write(2, b"one\n")
    (theirs / "log").rename(theirs / "log.1")
    file.reopen(lambda event: None)
    os.write(2, b"two\n")
    file.close()
    assert [(theirs / name).read_text() for name in ("log.1", "log")] == ["one\n", "two\n"]
    assert {each.stat().st_uid for each in theirs.iterdir()} == {MALLORY}
    assert os.getresuid() == (0, 0, 0)


def test_a_log_that_was_there_keeps_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standard_error: None
) -> None:
    monkeypatch.setattr(privileges, "person", Person(MALLORY, MALLORY, (MALLORY,), "", "/"))
    (tmp_path / "log").touch()
    LogFile(str(tmp_path / "log")).close()
    assert (tmp_path / "log").stat().st_uid == 0


def test_a_link_of_roots_own_is_followed(tmp_path: Path, standard_error: None) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "real" / "log").symlink_to("log.today")
    LogFile(str(tmp_path / "folder" / "log")).close()
    assert (tmp_path / "real" / "log.today").exists()
    LogFile("/dev/stderr").close()


@pytest.mark.slow
def test_no_race_wins_a_file_by_the_log(
    theirs: Path, precious: Path, monkeypatch: pytest.MonkeyPatch, standard_error: None
) -> None:
    monkeypatch.setattr(privileges, "person", Person(MALLORY, MALLORY, (MALLORY,), "", "/"))
    path = theirs / "log"

    def swap() -> None:
        replace(path, precious)
        os.unlink(path)

    with swapping(swap):
        for _ in range(50):
            with contextlib.suppress(OSError):
                os.close(log_file._opened(str(path)))
    assert untouched(precious)


def test_a_whole_server_does_not_give_a_file_away(precious: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        logs = Path(folder) / "logs"
        logs.mkdir()
        os.chown(logs, NOBODY, NOBODY)
        with launched(Path(folder), user="nobody", log_file="logs/log") as server:
            assert (logs / "log").stat().st_uid == NOBODY
            wait_for(lambda: "is ready, process id" in (logs / "log").read_text(), "the worker")
            replace(logs / "log", precious)
            server.send(signal.SIGUSR1)
            with open(f"/proc/{server.pid}/fd/2", "rb") as log:  # its name is the link's now
                text = b""

                def told() -> bool:
                    nonlocal text
                    text += log.read()
                    return text.count(b"cannot be opened anew") == 2

                wait_for(told, "the complaints of the supervisor and of its worker")
            assert server.stop() == 0
        assert untouched(precious)


# Unix sockets and their locks


def test_no_race_wins_a_file_by_owner_and_mode(theirs: Path, precious: Path) -> None:
    """Whoever swaps the socket right after bind(2) finds that the socket itself was given, and nothing else."""
    path = theirs / "s"
    settings = Settings(bind=(f"unix:{path}",), unix_mode="666", unix_owner=f"{MALLORY}")
    with swapping(lambda: replace(path, precious)):
        for _ in range(200):
            with contextlib.suppress(PronghornError):
                open_listeners(settings, lambda event: None)[0].close()
            with contextlib.suppress(OSError):
                os.unlink(path)
            if not untouched(precious):
                break
    assert untouched(precious)


def test_something_else_at_a_sockets_place_is_not_given_away(
    theirs: Path, precious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = theirs / "s"
    monkeypatch.setattr(socket.socket, "bind", lambda self, where: os.link(precious, where))
    settings = Settings(bind=(f"unix:{path}",), unix_mode="666", unix_owner=f"{MALLORY}")
    with pytest.raises(CannotBind, match="Something else has taken its place"):
        open_listeners(settings, lambda event: None)
    monkeypatch.undo()
    assert untouched(precious)


def test_a_socket_has_its_mode_from_the_first_moment(theirs: Path) -> None:
    path, seen = theirs / "s", theirs / "seen"

    def look() -> None:
        if stat.S_IMODE(os.lstat(path).st_mode) != 0o620:
            seen.touch()

    before = os.umask(0o022)
    try:
        with swapping(look):
            for _ in range(200):
                open_listeners(Settings(bind=(f"unix:{path}",), unix_mode="620"), lambda event: None)[0].close()
    finally:
        os.umask(before)
    assert not seen.exists()


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_lock_is_no_way_to_a_file(theirs: Path, precious: Path, make: Link) -> None:
    make(precious, theirs / "s.lock")
    with pytest.raises(CannotBind):
        open_listeners(Settings(bind=(f"unix:{theirs}/s",)), lambda event: None)
    with pytest.raises(CannotBind):
        ControlServer.open("mine", str(theirs / "s"))
    assert untouched(precious)


def test_where_a_folder_may_be_swapped_its_owner_binds(theirs: Path) -> None:
    run = theirs / "run"
    run.mkdir()
    os.chown(run, MALLORY, MALLORY)
    with contextlib.closing(open_listeners(Settings(bind=(f"unix:{run}/s",)), lambda event: None)[0]):
        assert (run / "s").stat().st_uid == MALLORY
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(run / "s"))
            assert client.getpeername() == str(run / "s")
    assert os.listdir(run) == []
    os.chmod(theirs, 0o777)
    with pytest.raises(CannotBind, match="Others may put another folder in the place of one on the way"):
        open_listeners(Settings(bind=(f"unix:{run}/s",)), lambda event: None)
    assert os.listdir(run) == []


# The process id file, and what is read


def test_a_process_id_file_goes_into_no_swapped_folder(theirs: Path, tmp_path: Path) -> None:
    (theirs / "run").symlink_to(tmp_path)
    with pytest.raises(BadSetting):
        PidFile(str(theirs / "run" / "p")).write()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_key_is_not_read_by_a_link_of_anothers(theirs: Path, precious: Path, make: Link) -> None:
    make(precious, theirs / "key.pem")
    with pytest.raises(PermissionError, match="Permission denied"):
        trusted_paths.read(str(theirs / "key.pem"))
    os.chmod(theirs, 0o777)
    with pytest.raises(PermissionError, match=r"key\.pem .*, and others may change its folder"):
        trusted_paths.read(str(theirs / "key.pem"))
    (precious.parent / "link").symlink_to("precious")
    assert trusted_paths.read(str(precious.parent / "link")) == b"secret\n"


def test_by_a_link_of_ones_own_one_reads_what_is_ones_own(theirs: Path) -> None:
    """As programs lay out certificates that a user has got."""
    (theirs / "archive").mkdir()
    (theirs / "archive" / "key1.pem").write_text("mine\n")
    (theirs / "key.pem").symlink_to("archive/key1.pem")
    for each in (theirs / "archive", theirs / "archive" / "key1.pem"):
        os.chown(each, MALLORY, MALLORY)
        os.chmod(each, 0o700)
    assert trusted_paths.read(str(theirs / "key.pem")) == b"mine\n"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cert.pem")
    assert trusted_paths.read(str(tmp_path / "cert.pem")) == b""


@pytest.mark.slow
def test_files_that_workers_could_change_are_warned_of(precious: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        run = Path(folder) / "run"
        run.mkdir()
        (run / "log.json").write_text('{"version": 1}')
        (run / "pronghorn.toml").write_text(f"log-config = '{run}/log.json'\n")
        with launched(Path(folder), user="nobody", pid_file="run/p", config=str(run / "pronghorn.toml")) as server:
            server.ready()
            assert "may change" not in server.log
        os.chown(run, NOBODY, NOBODY)
        with launched(Path(folder), user="nobody", pid_file="run/p", config=str(run / "pronghorn.toml")) as server:
            server.ready()
            for name, why in (
                ("pronghorn.toml", "it decides what root does"),
                ("log.json", "what root imports"),
                ("p", "send signals to the number"),
            ):
                assert re.search(rf"WARNING\] User {NOBODY}, .* may change \S*run/{name}: .*{why}", server.log)
            assert server.stop() == 0


def log_config_for(file: Path, folder: Path) -> str:
    handler = {"class": "logging.FileHandler", "filename": str(file)}
    config = {"version": 1, "handlers": {"file": handler}, "root": {"handlers": ["file"]}}
    (folder / "log.json").write_text(json.dumps(config))
    return str(folder / "log.json")


def test_no_log_of_ones_own_leads_root_by_a_link_of_anothers(precious: Path, theirs: Path, tmp_path: Path) -> None:
    (theirs / "x.log").symlink_to(precious)
    with pytest.raises(BadSetting, match=r"x\.log is a symbolic link"):
        log_config.apply(log_config_for(theirs / "x.log", tmp_path))
    for file in (theirs / "new.log", theirs / "sub" / "deep.log"):
        file.parent.mkdir(exist_ok=True)
        with pytest.raises(BadSetting, match=rf"user {MALLORY} may change the folder {theirs}"):
            log_config.apply(log_config_for(file, tmp_path))
        assert not file.exists()
    assert precious.read_text() == "secret\n"


def test_a_log_of_ones_own_may_be_where_only_root_and_a_strange_group_write(
    theirs: Path,
) -> None:
    folder = theirs.parent / "log"
    folder.mkdir()
    folder.chmod(0o775)
    os.chown(folder, 0, MALLORY)  # as syslog's /var/log is
    trusted_paths.refuse_shared(str(folder / "x.log"), (NOBODY,))
    with pytest.raises(PermissionError, match="others may change"):
        trusted_paths.refuse_shared(str(folder / "x.log"), (NOBODY, MALLORY))
    folder.chmod(0o1777)
    trusted_paths.refuse_shared(str(folder / "x.log"), (MALLORY,))
    assert (folder / "x.log").stat().st_uid == 0, "nobody else can put one there any more"
    os.chown(folder / "x.log", MALLORY, MALLORY)
    with pytest.raises(PermissionError, match="others may change"):
        trusted_paths.refuse_shared(str(folder / "x.log"))


def test_who_may_change_a_file(theirs: Path) -> None:
    file = theirs / "f"
    file.touch()
    path = str(file)
    assert trusted_paths.may_change(path, MALLORY, ())
    assert not trusted_paths.may_change(path, NOBODY, (NOBODY,))
    file.chmod(0o666)
    assert trusted_paths.may_change(path, NOBODY, ())
    file.chmod(0o660)
    os.chown(file, 0, NOBODY)
    assert trusted_paths.may_change(path, 4242, (NOBODY,))
    os.chown(theirs, 0, 0)
    os.chmod(theirs, 0o1777)
    file.chmod(0o600)
    assert not trusted_paths.may_change(path, NOBODY, ())
    assert not trusted_paths.may_change(str(theirs / "nothing"), NOBODY, ())


def test_who_is_not_root_follows_the_kernels_rules(theirs: Path, standard_error: None) -> None:
    def as_mallory() -> int:
        (theirs / "real").mkdir()
        (theirs / "way").symlink_to("real")
        (theirs / "way" / "log").symlink_to("log.today")
        LogFile(str(theirs / "way" / "log")).close()
        PidFile(str(theirs / "way" / "p")).write()
        os.chdir(theirs / "way")
        with contextlib.closing(open_listeners(Settings(bind=("unix:s",), unix_mode="600"), lambda event: None)[0]):
            return os.open("log.today", os.O_RDONLY)

    fd = act_as(MALLORY, MALLORY, (), as_mallory)
    os.close(fd)
    assert sorted(os.listdir(theirs / "real")) == ["log", "log.today", "p"]


def test_in_a_sticky_folder_what_is_roots_is_safe(theirs: Path) -> None:
    os.chown(theirs, 0, 0)
    os.chmod(theirs, 0o1777)
    (theirs / "run").mkdir()
    with Place(str(theirs / "run" / "s")) as place:
        assert (place.shared, place.above) == (None, None)
    os.chown(theirs / "run", MALLORY, MALLORY)
    with Place(str(theirs / "run" / "s")) as place:
        assert place.shared == MALLORY
        assert place.above == (trusted_paths.ANYBODY, 0)


# Acting as somebody else


def test_the_kernel_refuses_what_the_user_may_not(precious: Path) -> None:
    with pytest.raises(PermissionError):
        act_as(MALLORY, MALLORY, (), lambda: os.open(precious, os.O_RDONLY))
    assert os.getresuid() == (0, 0, 0)


def test_a_descriptor_comes_back(theirs: Path) -> None:
    fd = act_as(MALLORY, MALLORY, (), lambda: os.open(theirs / "f", os.O_WRONLY | os.O_CREAT))
    try:
        assert os.fstat(fd).st_uid == MALLORY
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)
    assert act_as(MALLORY, MALLORY, (), lambda: -1) == -1


def test_an_act_that_dies_or_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(psutil.Process().children())
    with pytest.raises(OSError, match="was killed"):
        act_as(MALLORY, MALLORY, (), lambda: os.kill(os.getpid(), 9) or -1)
    monkeypatch.setattr("pronghorn.system.act_as.PATIENCE", 0.1)
    with pytest.raises(TimeoutError, match="longer than"):
        act_as(MALLORY, MALLORY, (), lambda: os.read(os.pipe()[0], 1) and -1)
    assert set(psutil.Process().children()) <= before, "the process was waited for"
