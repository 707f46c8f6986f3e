"""Whom workers serve as: names looked up, privileges dropped for good, and what a server does that may not."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from launch import launched, wait_for
from pronghorn.errors import BadSetting, WorkerFailedToStart
from pronghorn.settings.source import Source
from pronghorn.system import privileges
from pronghorn.system.privileges import Person, resolve

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

SPY = """
import os, pronghorn
@pronghorn.message(pronghorn.lines)
def reply(line):
    def way_back(call):
        try:
            call(0)
            return "open"
        except PermissionError:
            return "closed"
    return repr((os.getresuid(), os.getresgid(), os.getgroups(), os.environ["HOME"], os.environ.get("USER"),
                 way_back(os.setuid), way_back(os.setgid), os.getcwd())).encode()
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may read; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        (Path(folder) / "mine.py").write_text(SPY)
        yield Path(folder)


def in_child(what: Callable[[], object]) -> int:
    """Do it in a forked process; its exit code."""
    child = os.fork()
    if not child:
        try:
            what()
            os._exit(0)
        except WorkerFailedToStart:
            os._exit(3)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def credentials(pid: int) -> dict[str, list[int]]:
    """What /proc says of a process: Uid, Gid, Groups, CapEff."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    base = {"Uid:": 10, "Gid:": 10, "Groups:": 10, "CapEff:": 16, "CapPrm:": 16}
    return {name: [int(each, base[name]) for each in rest] for name, *rest in lines if name in base}


# Names


def test_nothing_asked_is_nobody_else() -> None:
    assert resolve("", "") is None


@as_root
def test_a_user_by_name_and_by_number() -> None:
    entry = pwd.getpwuid(NOBODY)
    person = resolve(entry.pw_name, "")
    assert person is not None
    assert (person.uid, person.gid, person.name, person.home) == (NOBODY, entry.pw_gid, entry.pw_name, entry.pw_dir)
    assert set(person.groups) == set(os.getgrouplist(entry.pw_name, entry.pw_gid))
    assert resolve(str(NOBODY), "") == person


@as_root
def test_numbers_need_no_names() -> None:
    assert resolve("54321", "") == Person(54321, 54321, (54321,), "", "/")
    assert resolve("54321", "54322") == Person(54321, 54322, (54322,), "", "/")


@as_root
def test_a_group_of_its_own_is_the_first_one() -> None:
    person = resolve(pwd.getpwuid(NOBODY).pw_name, "0")
    assert person is not None
    assert (person.uid, person.gid) == (NOBODY, 0)
    assert 0 in person.groups


@pytest.mark.parametrize(("user", "group"), [("no such user", ""), ("", "no such group"), (str(2**32 - 1), "")])
def test_names_that_are_nobodys(user: str, group: str) -> None:
    with pytest.raises(BadSetting, match="There is no such"):
        resolve(user, group)


def test_who_is_not_root_stays_what_he_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    monkeypatch.setattr(os, "getegid", lambda: pwd.getpwuid(NOBODY).pw_gid)
    assert resolve(str(NOBODY), "") is None
    for user, group in (("0", ""), ("", "54321")):
        with pytest.raises(BadSetting, match="Only root can become somebody else"):
            resolve(user, group)


# Dropping


def dropping(person: Person) -> Callable[[], None]:
    def drop() -> None:
        privileges.person = person
        privileges.drop()

    return drop


@as_root
def test_all_of_it_goes() -> None:
    def check() -> None:
        os.setgroups([0, 4, 5])
        dropping(Person(54321, 54322, (54322, 54323), "me", "/home/me"))()
        assert os.getresuid() == (54321,) * 3
        assert os.getresgid() == (54322,) * 3
        assert os.getgroups() == [54322, 54323]
        assert credentials(os.getpid())["CapEff:"] == credentials(os.getpid())["CapPrm:"] == [0]
        assert [os.environ[name] for name in ("HOME", "USER", "LOGNAME")] == ["/home/me", "me", "me"]

    assert in_child(check) == 0


@as_root
@pytest.mark.parametrize("call", ["setgroups", "setgid", "setuid"])
def test_a_step_that_does_nothing_is_noticed(call: str) -> None:
    def check() -> None:
        os.setgroups([0, 4])
        setattr(os, call, lambda value: None)
        dropping(Person(54321, 54322, (54322,), "", "/"))()

    assert in_child(check) == 3


@as_root
def test_a_way_back_is_noticed() -> None:
    def leaves_a_saved_user() -> None:
        os.setuid = lambda uid: os.setresuid(uid, uid, 0)  # type: ignore[assignment]
        dropping(Person(54321, 54322, (54322,), "", "/"))()

    assert in_child(leaves_a_saved_user) == 3


@as_root
def test_a_step_that_fails_ends_the_worker() -> None:
    def twice() -> None:
        dropping(Person(54321, 54322, (54322,), "", "/"))()
        dropping(Person(54324, 54322, (54322,), "", "/"))()

    assert in_child(twice) == 3


# Whole servers


@as_root
def test_workers_drop_and_the_supervisor_does_not(public: Path) -> None:
    with launched(public, "mine:reply", user="nobody", workers=2) as server:
        for pid in server.ready(2):
            assert credentials(pid)["Uid:"] == [NOBODY] * 4
            assert credentials(pid)["CapEff:"] == [0]
        assert credentials(server.pid)["Uid:"] == [0] * 4
        said = eval(server.ask(b"x\n"))
        home = pwd.getpwuid(NOBODY).pw_dir
        assert said[0] == (NOBODY,) * 3
        assert said[3:] == (home, "nobody", "closed", "closed", str(public))
        server.send(signal.SIGHUP)
        wait_for(lambda: "generation 2 serves" in server.log, "the reload")
        assert server.stop() == 0


@as_root
def test_the_handler_is_looked_at_without_privileges(public: Path) -> None:
    (public / "mine.py").chmod(0o600)
    with launched(public, "mine:reply", user="nobody") as server:
        assert server.exit() == 4
        assert "failed to import" in server.report["error"]["what"]


@pytest.mark.slow
@as_root
def test_workers_that_dropped_still_notice_the_supervisors_death(public: Path) -> None:
    with launched(public, "mine:reply", user="nobody") as server:
        (worker,) = server.ready()
        server.send(signal.SIGKILL)
        wait_for(lambda: not psutil.pid_exists(worker), "the worker's end")


@as_root
def test_a_worker_that_dropped_has_the_death_signal(public: Path) -> None:
    (public / "mine.py").write_text(
        "import ctypes, pronghorn\n@pronghorn.message(pronghorn.lines)\ndef reply(line):\n"
        "    number = ctypes.c_int()\n    ctypes.CDLL(None).prctl(2, ctypes.byref(number), 0, 0, 0)\n"
        "    return b'%d' % number.value\n"
    )
    with launched(public, "mine:reply", user="nobody") as server:
        assert int(server.ask(b"x\n")) == signal.SIGTERM


def test_a_user_that_does_not_exist_is_refused_before_anything_is_bound(tmp_path: Path) -> None:
    with launched(tmp_path, user="nobody-of-that-name") as server:
        assert server.exit() == 2
        assert server.report["error"]["what"] == "--user is 'nobody-of-that-name'."
        assert "Listening" not in server.log


# Folder, umask, memory


def test_umask_and_folder(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "mine.py").write_text(SPY)
    with launched(tmp_path, "mine:reply", chdir="there", umask="077", bind="unix:s", pid_file="p") as server:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(there / "s"))
            sock.sendall(b"x\n")
            assert str(there).encode() in sock.recv(1000)
        assert stat.S_IMODE((there / "s").stat().st_mode) == 0o700
        assert stat.S_IMODE((there / "p").stat().st_mode) == 0o600
        assert server.stop() == 0


@pytest.mark.parametrize("fault", [{"chdir": "nowhere"}, {"umask": "rwx"}, {"umask": "0o22"}, {"umask": "888"}])
def test_what_cannot_be_is_refused(fault: dict[str, str], tmp_path: Path) -> None:
    with launched(tmp_path, **fault) as server:
        assert server.exit() == 2
        assert next(iter(fault)) in server.report["error"]["what"]


def test_the_kernel_rather_ends_a_worker(tmp_path: Path) -> None:
    if not os.access("/proc/self/oom_score_adj", os.W_OK):
        pytest.skip("/proc/self/oom_score_adj cannot be written here")
    with launched(tmp_path) as server:

        def score(pid: int) -> int:
            return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

        (worker,) = server.ready()
        assert score(server.pid) < score(worker) <= 1000


# What a worker starts


GAINING = """
import os, pronghorn
def whoami():
    reader, writer = os.pipe()
    os.waitpid(os.posix_spawn("./whoami", ["id", "-u"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)]), 0)
    os.close(writer)
    return os.read(reader, 100).strip()
imported = whoami()
@pronghorn.message(pronghorn.lines)
def reply(line):
    return imported + b" " + whoami()
"""


@pytest.fixture
def gaining(public: Path) -> Path:
    """A folder with `whoami`, which is id(1) with root's setuid bit, and a script that calls it."""
    (public / "mine.py").write_text(GAINING)
    (public / "script").write_text("#!/bin/sh\nexec ./whoami -u\n")
    (public / "script").chmod(0o755)
    shutil.copyfile(shutil.which("id") or "/usr/bin/id", public / "whoami")
    (public / "whoami").chmod(0o4755)
    if os.statvfs(public).f_flag & getattr(os, "ST_NOSUID", 0):
        pytest.skip("setuid bits count for nothing in the temporary folder")
    return public


@as_root
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no_new_privs is Linux's")
@pytest.mark.parametrize("model", ["epoll", "fork", "prefork", "thread"])
def test_what_a_worker_starts_gains_nothing(gaining: Path, model: str) -> None:
    with launched(gaining, "mine:reply", user="nobody", model=model) as server:
        assert server.ask(b"x\n") == b"%d %d\n" % (NOBODY, NOBODY)
        assert "NoNewPrivs:\t0" in Path(f"/proc/{server.pid}/status").read_text(), "an upgrade's program is another"


@pytest.mark.slow
@as_root
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no_new_privs is Linux's")
def test_it_gains_where_that_is_wanted(gaining: Path) -> None:
    with launched(gaining, "mine:reply", user="nobody", new_privileges=True) as server:
        assert server.ask(b"x\n") == b"0 0\n"
    for command, uid in ((("./script",), NOBODY), (("./whoami", "-u"), 0)):
        with launched(gaining, Source(command=command), user="nobody", model="thread") as server:
            assert server.ask(b"") == b"%d\n" % uid
