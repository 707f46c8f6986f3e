"""The control socket: real sockets, commands that are written down, and peers of the worst sort."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch import launched, wait_for
from listeners import ended
from pronghorn.control import paths, server
from pronghorn.control.server import ControlServer, open_control
from pronghorn.errors import AlreadyRunning, BadHandler, BadSetting, CannotBind, PronghornError
from pronghorn.events import Observer
from pronghorn.settings import Settings
from pronghorn.supervisor import poller
from pronghorn.supervisor.poller import Poller

STATUS = b'{"command": "status"}\n'
Done = poller.Done


class Written:
    """Commands that answer `status`, `workers` and `resize` at once, and leave all others waiting."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.waiting: list[Done] = []

    def status(self, done: Done) -> None:
        self.asked.append("status")
        done({"state": "SERVING"})

    def workers(self, done: Done) -> None:
        done({"workers": [{"slot": slot, "words": "x" * 1000} for slot in range(1000)]})

    def reload(self, done: Done) -> None:
        self.asked.append("reload")
        self.waiting.append(done)

    upgrade = drain = stop = reload

    def resize(self, count: int, done: Done) -> None:
        if count > 100:
            raise BadHandler("There is no room.", "It is full.", "Wait.")
        if count == 13:
            raise ZeroDivisionError("unlucky")
        done({"workers": count})


class Desk:
    """A control socket in a loop that the test turns by hand."""

    def __init__(self, path: Path, group: str = "", observe: Observer = lambda event: None) -> None:
        self.path = str(path)
        self.poller = Poller()
        self.commands = Written()
        self.control = ControlServer.open("test", self.path, group, observe)
        self.control.serve(self.poller, self.commands)
        self.quiet = self.poller.descriptors()
        self.began = time.monotonic()

    def turn(self, seconds: float = 0.0) -> None:
        self.poller.wait(seconds)

    def soon(self, seconds: float) -> None:
        """As if no more time had gone since the beginning, however slow the machine is."""
        self.control.tick(self.began + seconds)

    def later(self, seconds: float) -> None:
        """As if so much time had gone."""
        self.control.tick(time.monotonic() + seconds)

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        client.connect(self.path)
        return client

    def reply(self, client: socket.socket) -> Any:
        """What a client gets, up to the end; {} when it gets nothing."""
        got = b""

        def ended() -> bool:
            nonlocal got
            self.turn(0.01)
            with contextlib.suppress(BlockingIOError):
                try:
                    more = client.recv(65536)
                except ConnectionResetError:
                    return True
                got += more
                return not more
            return False

        wait_for(ended, "the end of the reply")
        assert got == b"" or got.index(b"\n") == len(got) - 1
        return json.loads(got or b"{}")

    def ask(self, line: bytes) -> Any:
        with self.connect() as client:
            client.send(line)
            return self.reply(client)

    def well(self) -> bool:
        """Whether it serves others, and nothing is left over."""
        assert self.ask(STATUS) == {"ok": True, "result": {"state": "SERVING"}}
        return self.poller.descriptors() == self.quiet


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "c.sock")
    yield desk
    desk.control.close()
    assert list(tmp_path.iterdir()) == []


# Requests and replies


def test_a_request_gets_its_reply(desk: Desk) -> None:
    assert desk.well()
    assert desk.commands.asked == ["status"]


def test_who_half_closes_gets_the_reply_all_the_same(desk: Desk) -> None:
    with desk.connect() as client:
        client.send(b'{"command": "reload"}')
        client.shutdown(socket.SHUT_WR)
        wait_for(lambda: desk.turn(0.01) or desk.commands.waiting, "the command")
        desk.turn()
        desk.commands.waiting[0]({"generation": 2})
        assert desk.reply(client) == {"ok": True, "result": {"generation": 2}}
    assert desk.well()


def test_resize_has_a_count(desk: Desk) -> None:
    assert desk.ask(b'{"command": "resize", "count": 3}\n') == {"ok": True, "result": {"workers": 3}}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"hello", "That is no JSON."),
        (b"\xff\xfe\x00", "That is no JSON."),
        (b"[" * 60_000, "That is no JSON."),
        (b"", "That is no JSON."),
        (b"[]", "That is no request."),
        (b'{"command": 7}', "That is no request."),
        (b'{"command": "relode"}', "There is no command 'relode'.\nDid you mean 'reload'?"),
        (b'{"command": "__init__"}', "There is no command '__init__'.\nChoose one of: status, workers,"),
        (b'{"command": "' + b"x" * 60_000 + b'"}', f"There is no command '{'x' * 40}'."),
        (b'{"command": "stop", "now": true}', "stop takes no 'now'."),
        (b'{"command": "resize"}', "resize takes a count, a whole number from 1."),
        (b'{"command": "resize", "count": 0}', "resize takes a count, a whole number from 1."),
        (b'{"command": "resize", "count": true}', "resize takes a count, a whole number from 1."),
        (b'{"command": "resize", "count": 1e3}', "resize takes a count, a whole number from 1."),
    ],
)
def test_what_is_no_request_is_told(desk: Desk, line: bytes, said: str) -> None:
    with desk.connect() as client:
        wait_for(lambda: sent(client, line + b"\n", desk), "the request to be sent")
        reply = desk.reply(client)
    assert reply["ok"] is False
    error = reply["error"]
    assert sorted(error) == ["exit_code", "hint", "what", "why"]
    assert error["exit_code"] == 2
    assert "\n".join(filter(None, [error["what"], error["hint"]])).startswith(said)
    assert desk.well()


def sent(client: socket.socket, data: bytes, desk: Desk) -> bool:
    """Sends all, turning the loop meanwhile."""
    while data:
        try:
            data = data[client.send(data) :]
        except BlockingIOError:
            desk.turn()
    return True


def test_an_error_travels_whole(desk: Desk) -> None:
    assert desk.ask(b'{"command": "resize", "count": 101}\n') == {
        "ok": False,
        "error": {"what": "There is no room.", "why": "It is full.", "hint": "Wait.", "exit_code": 4},
    }


def test_a_command_that_breaks_hurts_nobody(desk: Desk) -> None:
    error = desk.ask(b'{"command": "resize", "count": 13}\n')["error"]
    assert (error["what"], error["why"]) == ("The server failed to do it.", "ZeroDivisionError: unlucky")
    assert desk.well()


def test_the_second_answer_is_dropped(desk: Desk) -> None:
    with desk.connect() as client:
        client.send(b'{"command": "drain"}\n')
        wait_for(lambda: desk.turn(0.01) or desk.commands.waiting, "the command")
        desk.commands.waiting[0](PronghornError("It failed."))
        desk.commands.waiting[0]({"late": True})
        assert desk.reply(client)["error"]["what"] == "It failed."
    desk.commands.waiting[0]({"later": True})
    assert desk.well()


def test_a_long_reply_waits_for_its_reader(desk: Desk) -> None:
    reply = desk.ask(b'{"command": "workers"}\n')
    assert len(reply["result"]["workers"]) == 1000
    assert desk.well()


# Peers of the worst sort


def test_a_request_may_come_in_pieces(desk: Desk) -> None:
    with desk.connect() as client:
        for byte in STATUS:
            client.send(bytes([byte]))
            desk.turn()
        assert desk.reply(client)["ok"]


def test_a_line_of_a_mebibyte_is_refused_long_before_its_end(desk: Desk) -> None:
    with desk.connect() as client:
        line, there = b"x" * 2**20, 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while there < len(line):
                with contextlib.suppress(BlockingIOError):
                    there += client.send(line[there : there + 4096])
                desk.turn()
        assert there < 2**19
        assert desk.reply(client)["error"]["what"] == "The request is longer than 65536 bytes."
    assert desk.well()


def test_who_says_nothing_has_five_seconds(desk: Desk) -> None:
    with desk.connect() as client, desk.connect() as other:
        client.send(b'{"comm')
        desk.turn()
        desk.soon(4.9)
        assert len(desk.poller.descriptors()) == 3
        desk.later(5.1)
        assert desk.reply(client)["error"]["what"] == "No request came within 5 s."
        assert desk.reply(other)["error"]["why"] == "It takes one line of JSON."
    assert desk.well()


def test_who_does_not_take_the_reply_has_five_seconds(desk: Desk) -> None:
    with desk.connect() as client:
        client.send(b'{"command": "workers"}\n')
        wait_for(lambda: desk.turn(0.01) or not sent_more(desk), "a full socket")
        assert len(desk.poller.descriptors()) == 2
        desk.soon(4.9)
        assert len(desk.poller.descriptors()) == 2
        desk.later(5.1)
        assert desk.poller.descriptors() == desk.quiet
    assert desk.well()


def sent_more(desk: Desk) -> bool:
    """Whether any reply still makes progress."""
    (open_one,) = desk.control._calls or (None,)
    if open_one is None or not open_one._answered:
        return True
    before = len(open_one._output)
    desk.turn(0.01)
    return len(open_one._output) != before


def test_who_waits_for_a_long_command_may_wait(desk: Desk) -> None:
    with desk.connect() as client:
        client.send(b'{"command": "drain"}\n')
        wait_for(lambda: desk.turn(0.01) or desk.commands.waiting, "the command")
        desk.later(3600)
        desk.commands.waiting[0]({})
        assert desk.reply(client) == {"ok": True, "result": {}}


@pytest.mark.parametrize("before", [b"", b'{"comm', b'{"command": "reload"}\n', b'{"command": "workers"}\n'])
def test_who_leaves_early_is_forgotten(desk: Desk, before: bytes) -> None:
    client = desk.connect()
    client.send(before)
    desk.turn()
    desk.turn()
    client.close()
    wait_for(lambda: desk.turn(0.01) or desk.poller.descriptors() == desk.quiet, "the end of the call")
    for done in desk.commands.waiting:
        done({})
    assert desk.well()


@pytest.mark.slow
def test_fifty_at_once(desk: Desk) -> None:
    """Sixteen wait for their answers, the others are told so, and then it goes on."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(desk.connect()) for _ in range(50)]
        for client in clients:
            client.send(b'{"command": "reload"}\n')
        wait_for(lambda: desk.turn(0.01) or len(desk.commands.waiting) == server.MOST_CALLS, "the commands")
        late = [desk.reply(client) for client in clients[server.MOST_CALLS :]]
        assert {reply["error"]["what"] for reply in late} == {"There are 16 control connections already."}
        for done in desk.commands.waiting:
            done({"generation": 2})
        early = [desk.reply(client) for client in clients[: server.MOST_CALLS]]
        assert early == [{"ok": True, "result": {"generation": 2}}] * server.MOST_CALLS
    assert desk.well()


def test_the_silent_make_room(desk: Desk) -> None:
    """Those who are over their time are sent away when somebody comes."""
    with contextlib.ExitStack() as stack:
        for _ in range(server.MOST_CALLS):
            stack.enter_context(desk.connect())
        desk.turn()
        assert len(desk.poller.descriptors()) == 1 + server.MOST_CALLS
        for each in desk.control._calls:
            each.deadline = 0.0
        assert desk.well()


def test_without_descriptors_it_rests_and_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted:
        def __init__(self, real: socket.socket) -> None:
            self.real = real

        def accept(self) -> None:
            raise OSError(24, "Too many open files")

        def fileno(self) -> int:
            return self.real.fileno()

    real = desk.control._listener
    with desk.connect() as client:
        client.send(STATUS)
        desk.control._listener = Exhausted(real)  # type: ignore[assignment]
        desk.turn()
        assert desk.poller.descriptors() == [], "poll(2) would tell of the caller without end"
        desk.control._listener = real
        desk.soon(0.5)
        assert desk.poller.descriptors() == []
        desk.later(1.5)
        assert desk.reply(client)["ok"]
    assert desk.well()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("request_of", [20, 60_000])
def test_another_user_is_not_heard_and_gets_the_whole_answer(desk: Desk, request_of: int) -> None:
    """However slowly it sends its request."""
    os.chmod(desk.path, 0o666)
    os.chmod(os.path.dirname(desk.path), 0o711)
    asking, ask = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(ask)
            os.chdir(os.path.dirname(desk.path))  # the folders above let nobody through
            os.setgroups([])
            os.setgid(12345)
            os.setuid(12345)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect("c.sock")
                os.read(asking, 1)
                for _ in range(4):
                    client.sendall(b" " * (request_of // 4))
                client.sendall(b'{"command": "stop"}\n')
                with client.makefile("rb") as replies:
                    got = json.loads(replies.read())
                os._exit(7 if got["error"]["what"] == "User 12345 may not control this server." else 8)
        finally:
            os._exit(9)
    status = 0

    def ended() -> bool:
        nonlocal status
        desk.turn(0.01)
        done, status = os.waitpid(child, os.WNOHANG)
        return bool(done)

    os.close(asking)
    try:
        wait_for(lambda: desk.turn(0.01) or desk.control._refused, "the refusal")
    finally:
        os.close(ask)
    wait_for(ended, "the end of the other user")
    assert os.waitstatus_to_exitcode(status) == 7
    assert desk.commands.asked == []
    assert desk.well()


@pytest.mark.slow
def test_those_who_are_refused_are_bounded_and_let_go(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "peer_uid", lambda sock: 12345)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(desk.connect()) for _ in range(40)]
        wait_for(lambda: desk.turn(0.01) or len(desk.control._refused) == server.MOST_CALLS, "the refusals")
        assert all("may not control" in desk.reply(client)["error"]["what"] for client in clients)
        assert len(desk.poller.descriptors()) <= 1 + server.MOST_CALLS
        desk.later(6)
        assert desk.poller.descriptors() == desk.quiet


def test_root_and_our_user_are_heard() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert server.peer_uid(one) == os.geteuid()
    with socket.socket() as stranger:
        assert server.peer_uid(stranger) in (-1, 2**32 - 1, 65534), "the kernel knows of nobody"


# The group


def asked_as(desk: Desk, groups: list[int], *requests: bytes) -> list[str]:
    """What a user of these groups, and of nothing else, is answered to each request by a Desk that turns meanwhile."""
    result, told = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.chdir(os.path.dirname(desk.path))  # the folders above let nobody through
            os.setgroups(groups)
            os.setgid(54321)
            os.setuid(54321)
            for request in requests:
                with socket.socket(socket.AF_UNIX) as client:
                    try:
                        client.connect("c.sock")
                        client.sendall(request)
                        reply = json.loads(client.makefile("rb").readline())
                        answer = "ok" if reply["ok"] else reply["error"]["what"]
                    except OSError as error:
                        answer = error.strerror
                    os.write(told, f"{answer}\n".encode())
        finally:
            os._exit(0)
    os.close(told)
    wait_for(lambda: desk.turn(0.01) or os.waitpid(child, os.WNOHANG)[0], "the end of the other user")
    with open(result) as answers:
        return answers.read().splitlines()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_members_of_the_group_may_do_all_but_stop_it(tmp_path: Path) -> None:
    folder = tempfile.mkdtemp(prefix="c-")
    told: list[Any] = []
    desk = Desk(Path(folder) / "c.sock", "12345", told.append)
    try:
        os.chmod(folder, 0o755)
        status = os.stat(desk.path)
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o660, os.geteuid(), 12345)
        asked = [b'{"command": "%s"}\n' % each for each in (b"status", b"workers", b"stop")]
        no = "Members of group 12345 may not stop this server."
        resize = b'{"command": "resize", "count": 3}\n'
        assert asked_as(desk, [7, 12345], *asked, resize) == ["ok", "ok", no, "ok"]
        assert [(each.command, each.uid, each.group) for each in told] == [("resize", 54321, "12345")], "who changes it"
        assert asked_as(desk, [7], *asked) == ["Permission denied"] * 3
        os.chmod(desk.path, 0o666)  # whatever the permissions of the path are
        assert asked_as(desk, [7], *asked) == ["User 54321 may not control this server."] * 3
        assert "stop" not in desk.commands.asked and "reload" not in desk.commands.asked
    finally:
        desk.control.close()
        os.rmdir(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives to any group")
def test_an_upgrade_takes_another_group(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "c.sock", "12345")
    fd, lock = (os.dup(each) for each in desk.control.descriptors())
    settings = Settings(control_group="23456")
    adopted = open_control(settings, "here", lambda event: None, (fd, lock))
    assert adopted is not None
    desk.control.hand_over()
    assert os.stat(desk.path).st_gid == 12345, "not before the new program serves"
    adopted.serve(Poller(), Written())
    assert (os.stat(desk.path).st_gid, stat.S_IMODE(os.stat(desk.path).st_mode)) == (23456, 0o660)
    adopted.close()
    assert not os.path.exists(desk.path)


def test_with_a_group_it_stands_where_others_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "RUN", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert paths.server_folder(shared=True) == str(tmp_path / "run")
    assert stat.S_IMODE(os.stat(tmp_path / "run").st_mode) == 0o755
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(CannotBind, match="can be written to by others"):
        open_control(Settings(control_group=str(os.getegid())), "here", lambda event: None)


def test_a_group_that_is_none_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="--control-group is 'no-such-group'"):
        open_control(
            Settings(control_group="no-such-group", control_socket=str(tmp_path / "c.sock")), "here", lambda event: None
        )
    assert os.listdir(tmp_path) == []


# The path and its lock


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_run_at_the_start_serves_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Path(tempfile.mkdtemp(prefix="run-"))  # the path of a unix socket is short
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "none", str(small)], check=False).returncode:
        small.rmdir()
        pytest.skip("this root may not mount a file system")
    try:
        with contextlib.suppress(OSError), open(small / "fill", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(small))
        with launched(tmp_path) as server:
            assert server.ask(b"x") == b"X"
            assert re.search(r"WARNING.*Cannot open the control socket .*No space left on device", server.log)
            assert server.stop() == 0
        with launched(tmp_path, control_socket=str(small / "c")) as server:
            assert server.exit() == 5
        assert [str(each.relative_to(small)) for each in small.rglob("*")] in (
            ["fill", "pronghorn"],
            ["pronghorn", "fill"],
        )
    finally:
        subprocess.run(["umount", str(small)], check=True)
        small.rmdir()


def test_the_socket_is_ours_alone(desk: Desk) -> None:
    status = os.stat(desk.path)
    assert stat.S_ISSOCK(status.st_mode)
    assert status.st_mode & 0o777 == 0o600
    assert Path(f"{desk.path}.lock").read_text() == f"{os.getpid()}\n"


def test_a_second_copy_is_told_of_the_first(desk: Desk) -> None:
    with pytest.raises(AlreadyRunning) as caught:
        ControlServer.open("test", desk.path)
    error = caught.value
    assert error.what == "A server named test is running already."
    assert error.why == f"It is process {os.getpid()}, and has the control socket {desk.path}."
    assert f"pronghorn ctl status --socket {desk.path}" in error.hint
    assert error.exit_code == 5
    assert desk.well()


def test_a_second_copy_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "folders", lambda: [str(tmp_path / "pronghorn")])
    one = ControlServer.open("127.0.0.1:8000")
    assert one.path == f"{tmp_path}/pronghorn/127.0.0.1:8000.sock"
    with pytest.raises(AlreadyRunning) as caught:
        open_control(Settings(), "127.0.0.1:8000", lambda event: None)
    assert "pronghorn ctl status --name 127.0.0.1:8000" in caught.value.hint
    assert "--name of its own" in caught.value.hint
    other = open_control(Settings(name="other"), "127.0.0.1:8000", lambda event: None)
    assert other is not None
    assert other.path == f"{tmp_path}/pronghorn/other.sock"
    one.close()
    other.close()
    assert list((tmp_path / "pronghorn").iterdir()) == []


def test_those_who_share_an_address_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())  # short: a path has 107 bytes at most
        monkeypatch.setattr(paths, "folders", lambda: [f"{folder}/pronghorn"])
        for name in ("127.0.0.1:8000", f"127.0.0.1:8000@{os.getpid()}"):
            one = open_control(Settings(reuse_port=True), "127.0.0.1:8000", lambda event: None)
            assert one is not None
            stack.callback(one.close)
            assert os.path.basename(one.path) == f"{name}.sock"
        stack.callback(ControlServer.open("shop").close)
        with pytest.raises(AlreadyRunning):
            open_control(Settings(reuse_port=True, name="shop"), "127.0.0.1:8000", lambda event: None)


def test_what_a_killed_server_left_is_taken_over(tmp_path: Path) -> None:
    path = str(tmp_path / "c.sock")
    assert ended(lambda: ControlServer.open("test", path)) == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["c.sock", "c.sock.lock"]
    ControlServer.open("test", path).close()
    assert list(tmp_path.iterdir()) == []


def test_the_next_server_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is live, and what is no socket, stays."""
    folder = tmp_path / "pronghorn"
    monkeypatch.setattr(paths, "folders", lambda: [str(folder)])
    assert ended(lambda: ControlServer.open("dead")) == 0
    assert ended(lambda: ControlServer.open("other dead")) == 0
    (folder / "notes.sock").write_text("precious")
    live = ControlServer.open("live")
    ControlServer.open("new").close()
    assert sorted(each.name for each in folder.iterdir()) == ["live.sock", "live.sock.lock", "notes.sock"]
    live.close()


def test_the_lock_of_the_dead_is_waited_for(tmp_path: Path) -> None:
    """A process that the dead server had just forked holds it a moment longer."""
    path = str(tmp_path / "c.sock")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            ControlServer.open("test", path)
            if not os.fork():
                os.close(writer)
                time.sleep(0.3)
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    ControlServer.open("test", path).close()
    os.read(reader, 1)
    os.close(reader)


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(CannotBind) as caught:
        ControlServer.open("test", f"{tmp_path}/{'x' * 108}")
    assert "at most" in caught.value.why
    assert "--control-socket" in caught.value.hint


@pytest.mark.parametrize(("path", "said"), [("no/c.sock", "No such file"), ("file", "no socket"), ("a\0b", "NUL")])
def test_a_path_that_cannot_be_had(tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotBind) as caught:
        ControlServer.open("test", f"{tmp_path}/{path}")
    assert said in caught.value.why
    assert "--bind" not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_server_can_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(paths, "folders", lambda: [str(tmp_path / "no" / "pronghorn")])
    assert open_control(Settings(control_socket="off"), "127.0.0.1:8000", told.append) is None
    assert told == []
    assert open_control(Settings(), "127.0.0.1:8000", told.append) is None
    (event,) = told
    assert event.what == "There is no folder for the control socket."
    with pytest.raises(CannotBind):
        open_control(Settings(control_socket=f"{tmp_path}/no/c.sock"), "127.0.0.1:8000", told.append)


# Endings


def test_who_waits_hears_of_the_end(desk: Desk) -> None:
    with desk.connect() as client:
        client.send(b'{"command": "drain"}\n')
        wait_for(lambda: desk.turn(0.01) or desk.commands.waiting, "the command")
        desk.control.close()
        assert desk.reply(client)["error"]["what"] == "The server has ended before it could answer."
    assert desk.poller.descriptors() == []
    assert not os.path.exists(desk.path)


def test_the_last_answer_arrives(desk: Desk) -> None:
    with desk.connect() as client:
        client.send(b'{"command": "stop"}\n')
        wait_for(lambda: desk.turn(0.01) or desk.commands.waiting, "the command")
        desk.commands.waiting[0]({"status": 0, "cut": 0})
        desk.control.close()
        assert desk.reply(client) == {"ok": True, "result": {"status": 0, "cut": 0}}


def test_a_forked_process_removes_nothing(desk: Desk) -> None:
    assert ended(desk.control._let_go) == 0
    assert os.path.exists(desk.path)
    with pytest.raises(AlreadyRunning):
        ControlServer.open("test", desk.path)
    assert desk.well()


def test_an_upgrade_hands_over(tmp_path: Path) -> None:
    """The old one answers who waits, the new one answers everybody else, and the lock is never free."""
    desk = Desk(tmp_path / "c.sock")
    with desk.connect() as waits:
        waits.send(b'{"command": "upgrade"}\n')
        wait_for(lambda: desk.turn(0.01) or desk.commands.waiting, "the command")
        fd, lock = map(os.dup, desk.control.descriptors())
        new = ControlServer.adopt(fd, lock)
        assert new.path == desk.path
        desk.control.hand_over()
        assert desk.control.descriptors() == []
        new.serve(desk.poller, desk.commands)
        with pytest.raises(AlreadyRunning):
            ControlServer.open("test", desk.path)
        assert desk.ask(STATUS)["ok"]
        desk.commands.waiting[0]({"pid": 4})
        assert desk.reply(waits) == {"ok": True, "result": {"pid": 4}}
    desk.control.close()
    assert os.path.exists(desk.path)
    new.close()
    assert list(tmp_path.iterdir()) == []


def test_an_upgrade_that_fails_leaves_everything(desk: Desk) -> None:
    fd, lock = map(os.dup, desk.control.descriptors())
    ControlServer.adopt(fd, lock, desk.path).close()
    assert os.path.exists(desk.path)
    with pytest.raises(AlreadyRunning):
        ControlServer.open("test", desk.path)
    assert desk.well()
