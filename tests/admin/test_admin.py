"""The admin process of a running server: probes, status, its listeners, and how it lives and dies."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from launch import Launched, ctl, held_by, launched, wait_for

pytest.importorskip("h11")
BUSY = b"HTTP/1.1 503"
"""The answer where the supervisor has no time for one: on a machine that is busy, asking again is the way."""


class Admin:
    """The admin port of a launched server."""

    def __init__(self, server: Launched) -> None:
        self.server = server
        host, _, port = server.report["admin"][0].rpartition(":")
        self.place = host, int(port)

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
        status, body, _ = self.ask(path, method, **headers)
        return status, body

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection(*self.place, timeout=15)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            response = connection.getresponse()
            return response.status, response.read(), {name.lower(): value for name, value in response.getheaders()}
        finally:
            connection.close()

    def raw(self, data: bytes) -> bytes:
        """What comes back for bytes that may be no HTTP, to the end."""
        with socket.create_connection(self.place, timeout=15) as sock:
            sock.sendall(data)
            return b"".join(iter(lambda: sock.recv(65536), b""))

    def agent(self) -> str:
        host, _, port = self.server.report["agent_check"][0].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=15) as sock:
            return b"".join(iter(lambda: sock.recv(65536), b"")).decode()

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200


def side_of(folder: Path) -> dict[str, Any]:
    (side,) = ctl(folder, "status")["side_processes"]
    return side  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("admin")


@pytest.fixture(scope="module")
def admin(folder: Path) -> Iterator[Admin]:
    """One server that all tests share which leave it as it was."""
    (folder / "settings.toml").write_text("drain_timeout = 7.0\n")
    about = {"admin": "127.0.0.1:0", "agent_check": "127.0.0.1:0", "control_socket": str(folder / "control")}
    with launched(folder, config=str(folder / "settings.toml"), workers=2, max_connections=10, **about) as server:
        server.ready(2)
        admin = Admin(server)
        wait_for(admin.ready)
        yield admin


def test_probes_and_status(admin: Admin, folder: Path) -> None:
    wait_for(lambda: admin.get("/livez") == (200, b"ok\n") == admin.get("/readyz"))
    wait_for(lambda: b"[+]workers 2 of 2 ready" in admin.get("/readyz?verbose")[1])
    wait_for(lambda: admin.get("/livez", "HEAD") == (200, b""))
    wait_for(lambda: admin.get("/status.json")[0] == 200)
    status, body, headers = admin.ask("/status.json", Accept_Encoding="gzip, br")
    assert status == 200 and headers["content-encoding"] == "gzip" and headers["content-type"] == "application/json"
    told = json.loads(gzip.decompress(body))
    assert told["status"]["state"] == "SERVING" and len(told["workers"]) == 2
    assert json.loads(admin.get("/status.json")[1])["status"]["pid"] == admin.server.pid
    side = side_of(folder)
    assert side["name"] == "admin" and side["state"] == "running" and side["admin"] == admin.server.report["admin"]


def test_the_page_shows_the_settings_of_the_last_reload(admin: Admin, folder: Path) -> None:
    for seconds in (b"11", b"7"):
        (folder / "settings.toml").write_text(f"drain_timeout = {seconds.decode()}.0\n")
        ctl(folder, "reload")
        wait_for(lambda seconds=seconds: b"<dt>--drain-timeout</dt><dd>%s" % seconds in admin.get("/")[1])  # type: ignore[misc]
    wait_for(admin.ready)


def test_what_is_safe_in_a_browser(admin: Admin) -> None:
    _, _, headers = admin.ask("/readyz")
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]


def test_the_agent_check_tells_the_free_part(admin: Admin) -> None:
    wait_for(lambda: admin.agent() == "up 100%\n", "the end of clients of other tests")
    clients = [admin.server.connect() for _ in range(4)]
    try:
        wait_for(lambda: admin.agent() == "up 60%\n")
    finally:
        for each in clients:
            each.close()
    wait_for(lambda: admin.agent() == "up 100%\n")


@pytest.mark.parametrize(
    "request_line, more, status",
    [
        ("GET /livez HTTP/1.1", "", 200),
        ("GET /nothing HTTP/1.1", "", 404),
        ("GET /status.json/../livez HTTP/1.1", "", 404),
        ("GET /%6civez HTTP/1.1", "", 404),
        ("GET /%2e%2e/livez HTTP/1.1", "", 404),
        ("GET //livez HTTP/1.1", "", 400),
        ("GET http://127.0.0.1/livez HTTP/1.1", "", 400),
        ("GET /live\0z HTTP/1.1", "", 400),
        ("POST /livez HTTP/1.1", "Content-Length: 0\r\n", 405),
        ("DELETE /livez HTTP/1.1", "", 405),
        ("CONNECT 127.0.0.1:22 HTTP/1.1", "", 400),
        ("GET /livez HTTP/1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        ("GET /livez HTTP/1.1", "Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        ("POST /livez HTTP/1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        ("POST /livez HTTP/1.1", "Transfer-Encoding: chunked, identity\r\n", 501),
        ("POST /livez HTTP/1.0", "Transfer-Encoding: chunked\r\n", 400),
        ("POST /livez HTTP/1.1", "Content-Length: 99999999999\r\n", 413),
        ("GET /livez HTTP/1.1", "Content-Length: 10\r\n", 400),
        ("GET /livez HTTP/1.1", "Host: other\r\n", 400),
        ("GET /livez HTTP/1.1", "A : b\r\n", 400),
        ("GET /livez HTTP/1.1", "".join(f"X{n}: y\r\n" for n in range(100)), 431),
        ("GET /livez HTTP/1.1", f"X: {'y' * 10_000}\r\n", 431),
        ("GET /livez", "", 400),
        ("\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "", 400),
    ],
)
def test_what_is_not_clearly_right_is_refused(admin: Admin, request_line: str, more: str, status: int) -> None:
    close = "Connection: close\r\n" * (status in (200, 404, 405))
    request = f"{request_line}\r\nHost: x\r\n{more}{close}\r\n".encode("latin-1")
    answer = wait_for(lambda: (found := admin.raw(request))[:12] != BUSY and found, "a supervisor that has time")
    assert answer.startswith(b"HTTP/1.1 %d " % status)


def test_one_connection_takes_many_requests_in_their_order(admin: Admin) -> None:
    one = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    many = one * 50 + b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = wait_for(lambda: BUSY not in (found := admin.raw(many)) and found, "a supervisor that has time")
    assert answer.count(b"HTTP/1.1 200 ") == 50 and answer.rindex(b"HTTP/1.1 404 ") > answer.rindex(b"HTTP/1.1 200 ")


@pytest.mark.slow
def test_one_that_is_killed_comes_back_at_the_same_port(admin: Admin, folder: Path) -> None:
    before = side_of(folder)
    os.kill(before["pid"], signal.SIGKILL)
    assert admin.get("/livez")[1]  # who connects meanwhile waits in the queue
    wait_for(lambda: admin.get("/livez") == (200, b"ok\n"))
    after = wait_for(lambda: (side := side_of(folder))["state"] == "running" and side, "the new one")
    assert after["pid"] != before["pid"] and after["restarts"] == before["restarts"] + 1
    assert admin.server.ask(b"still\n") == b"STILL\n"


@pytest.mark.slow
def test_a_supervisor_that_does_not_answer_is_not_alive(admin: Admin) -> None:
    admin.server.send(signal.SIGSTOP)
    try:
        wait_for(lambda: admin.get("/livez")[0] == 503)
        wait_for(lambda: admin.agent().startswith("down"))
    finally:
        admin.server.send(signal.SIGCONT)
    wait_for(lambda: admin.get("/livez")[0] == 200)


def test_what_the_admin_process_may_not_ask_is_refused(admin: Admin, folder: Path) -> None:
    """It is asked by hand here, as by whoever has broken into it."""
    from pronghorn.control.admin_process import MOST_QUESTIONS, AdminProcess

    class Side:
        pid = 1
        sent: list[dict[str, Any]] = []  # noqa: RUF012

        def send(self, message: dict[str, Any]) -> None:
            self.sent.append(message)

    side: Any = Side()
    process: Any = object.__new__(AdminProcess)
    process._token, process._second, process._questions = "", 0.0, 0
    for command in ("stop", "drain", "reload", "resize", "nonsense", "__class__", ""):
        process._answer({"id": 1, "command": command, "count": 3}, side, None, None)
        process._answer({"id": 1, "command": command}, side, None, None)
    process._answer({"command": "status"}, side, None, None)
    process._token = "with --admin-write"
    for command in ("stop", "upgrade", "log-level", "nonsense", ""):
        process._answer({"id": 1, "command": command}, side, None, None)
    assert len(side.sent) == 19 and not any(each["ok"] for each in side.sent)
    process._second, process._questions = time.monotonic() + 60.0, MOST_QUESTIONS
    process._answer({"id": 1, "command": "health"}, side, None, None)
    assert "asks too much" in side.sent[-1]["error"]["what"]


@pytest.mark.slow
def test_a_thousand_connections_keep_no_probe_out(admin: Admin) -> None:
    clients = []
    try:
        for number in range(1000):
            sock = socket.create_connection(admin.place, timeout=15)
            sock.sendall(
                (b"GET /livez HT", b"", b"\x00\xff garbage", b"GET /status.json HTTP/1.1\r\nHost: x\r\n\r\n")[
                    number % 4
                ]
            )
            clients.append(sock)
        wait_for(lambda: admin.get("/readyz") == (200, b"ok\n"))
        assert admin.server.ask(b"serving\n") == b"SERVING\n"
        (side,) = [each for each in psutil.Process(admin.server.pid).children() if "admin" in " ".join(each.cmdline())]
        assert side.num_fds() < 300
    finally:
        for each in clients:
            each.close()


@pytest.mark.slow
def test_it_ends_with_the_server_and_leaves_no_path(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    about = {"admin": f"unix:{path}", "agent_check": "127.0.0.1:0", "control_socket": str(tmp_path / "control")}
    with launched(tmp_path, **about) as server:
        side = side_of(tmp_path)
        assert path.exists() and server.report["admin"] == [f"unix:{path}"]
        assert server.stop() == 0
        assert not psutil.pid_exists(side["pid"])
        assert not path.exists()


@pytest.mark.slow
def test_an_upgrade_to_settings_without_it_leaves_no_address(tmp_path: Path) -> None:
    path, file, word = (
        tmp_path / "admin.sock",
        tmp_path / "settings.toml",
        {"control_socket": str(tmp_path / "control")},
    )
    file.write_text(f'admin = ["unix:{path}"]\nstatsd = "127.0.0.1:9"\n')
    with launched(tmp_path, config=str(file), **word) as server:
        wait_for(lambda: side_of(tmp_path)["state"] == "running")
        file.write_text("")
        ctl(tmp_path, "upgrade", 30.0)
        wait_for(lambda: not path.exists(), "the end of its path")
        status = wait_for(lambda: (now := ctl(tmp_path, "status"))["pid"] != server.pid and now, "the new program")
        assert not status["side_processes"]
        for process in (new := psutil.Process(status["pid"]), *new.children()):
            with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended, as the helpers of a start do
                assert not [each for each in process.net_connections("unix") if each.laddr == str(path)]
                assert "statsd" not in "".join(held_by(process.pid))


@pytest.mark.slow
def test_no_probe_fails_while_a_reload_or_an_upgrade_goes_on(tmp_path: Path) -> None:
    about = {"admin": "127.0.0.1:0", "control_socket": str(tmp_path / "control")}
    with launched(tmp_path, **about) as server:
        admin = Admin(server)
        wait_for(admin.ready)
        before = side_of(tmp_path)
        seen = list[tuple[int, bytes]]()

        def changed(command: str) -> bool:
            """False where the supervisor got no processor for longer than a probe waits."""
            with ThreadPoolExecutor() as pool:
                changing = pool.submit(ctl, tmp_path, command, 30.0)
                while not changing.done():
                    seen.append(admin.get("/readyz"))
                changing.result()
            busy = [each for each in seen if b"does not answer" in each[1]]
            assert set(seen) - set(busy) == {(200, b"ok\n")}
            seen.clear()
            return not busy

        for command in ("reload", "upgrade"):
            wait_for(lambda command=command: changed(command), f"the {command} on a machine that has time", 40)  # type: ignore[misc]
        after = wait_for(lambda: (side := side_of(tmp_path))["pid"] not in (0, None, before["pid"]) and side, "the new")
        assert after["admin"] == before["admin"]
        wait_for(admin.ready)
        wait_for(lambda: not psutil.pid_exists(before["pid"]), "the end of the old one")


def test_a_port_that_is_taken_is_refused_by_its_own_name(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with launched(tmp_path, admin=address) as server:
            assert server.exit() == 5
            error = server.report["error"]
            assert address in error["what"] and "--bind" not in json.dumps(error)
            assert str(os.getpid()) in error["why"], "who holds it"


@pytest.mark.parametrize(
    "admin, agent, words",
    [
        ("http://127.0.0.1:9901", (), "an address alone"),
        ("127.0.0.1:0,tls=on", (), "an address alone"),
        ("127.0.0.1", (), "It has no port"),
        ("127.0.0.1:9901", "127.0.0.1:9901", "--admin and --agent-check are both at 127.0.0.1:9901"),
        ("127.0.0.1:8000", (), "--bind :8000 is at :8000, and --admin at 127.0.0.1:8000"),
        ("unix:/nowhere/sock", (), "/nowhere"),
    ],
)
def test_an_address_that_cannot_be_is_told_of_by_its_setting(admin: str, agent: str, words: str) -> None:
    from pronghorn.control.admin_process import check
    from pronghorn.errors import PronghornError
    from pronghorn.settings import settle

    with pytest.raises(PronghornError, match=words) as raised:
        check(settle({"admin": (admin,), "agent_check": agent, "bind": ":8000"}))
    assert "--bind is" not in str(raised.value)


def test_a_missing_extra_is_told_before_anything_is_bound(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['h11'] = None\n")
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        with launched(tmp_path, admin="127.0.0.1:0") as server:
            assert server.exit() == 2
    finally:
        del os.environ["PYTHONPATH"]
    assert "pip install 'pronghorn[admin]'" in server.report["error"]["hint"] and "Listening" not in server.log


@pytest.mark.slow
def test_it_is_the_workers_user(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with launched(tmp_path, admin="127.0.0.1:0", user="65534", control_socket=str(tmp_path / "control")) as server:
        admin = Admin(server)
        wait_for(lambda: admin.get("/readyz")[0] == 200 and admin.get("/status.json")[0] == 200)
        assert psutil.Process(side_of(tmp_path)["pid"]).uids().real == 65534


def test_a_public_address_is_warned_of(tmp_path: Path) -> None:
    with launched(tmp_path, admin="0.0.0.0:0") as server:
        server.ready()
        assert "[WARNING] The admin port is at: http://0.0.0.0:" in server.log


def test_settings_are_plain_values() -> None:
    from pronghorn.settings import settle

    settled = settle({"admin": "127.0.0.1:9901,[::1]:9901", "drain_delay": "5s"})
    assert settled.admin == ("127.0.0.1:9901", "[::1]:9901") and settled.drain_delay == 5.0
    assert msgspec.structs.asdict(settle({}))["admin"] == ()
