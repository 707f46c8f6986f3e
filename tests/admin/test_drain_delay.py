"""`--drain-delay`: not ready at once, accepting for a while, then the drain; and what ends the delay early."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_admin import Admin

from launch import Launched, ctl, launched, launched_code, wait_for

LONG = 30.0


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    about = {"admin": "127.0.0.1:0", "agent_check": "127.0.0.1:0", "control_socket": str(tmp_path / "control")}
    with launched(tmp_path, drain_delay=LONG, **about) as server:
        admin = Admin(server)
        wait_for(admin.ready)
        yield admin


def delayed(server: Launched) -> bool:
    return "Draining in 30 s (" in server.log


@pytest.mark.slow
def test_a_second_signal_ends_the_delay(admin: Admin, tmp_path: Path) -> None:
    admin.server.send(signal.SIGTERM)
    wait_for(lambda: delayed(admin.server))
    body = wait_for(lambda: (answer := admin.get("/readyz"))[0] == 503 and answer[1])
    assert b"the server is about to drain" in body and b"SIGTERM" in body
    assert b"[-]stays" in admin.get("/readyz?verbose")[1] and b"readyz check failed" in admin.get("/readyz?verbose")[1]
    wait_for(lambda: admin.get("/livez")[0] == 200)
    wait_for(lambda: admin.agent().startswith("up 0% #the server is about to drain"))
    assert admin.server.ask(b"new\n") == b"NEW\n"
    told = ctl(tmp_path, "status")
    assert told["state"] == "STOPPING" and 0 < told["drains_in"] <= LONG
    began = time.monotonic()
    assert admin.server.stop() == 0
    assert time.monotonic() - began < LONG / 2


@pytest.mark.slow
def test_ctl_stop_is_delayed_too_and_nothing_is_changed_meanwhile(admin: Admin, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        stopped = pool.submit(ctl, tmp_path, "stop", 60.0)
        wait_for(lambda: delayed(admin.server))
        for command in ("reload", "upgrade", "drain"):
            with pytest.raises(Exception, match="stopping"):
                ctl(tmp_path, command)
        admin.server.send(signal.SIGINT)
        assert stopped.result(60)["status"] == 0
    assert admin.server.exit() == 0


@pytest.mark.slow
def test_a_signal_to_the_whole_group_leaves_established_connections_alone(admin: Admin) -> None:
    """As systemd's default KillMode= sends it, timeout(1), and a shell that ends its job."""
    with admin.server.connect() as sock:
        sock.sendall(b"before\n")
        assert sock.recv(100) == b"BEFORE\n"
        os.killpg(admin.server.pid, signal.SIGTERM)
        wait_for(lambda: delayed(admin.server))
        sock.settimeout(1.0)  # longer than a quiet connection of a worker that drains would last
        with pytest.raises(TimeoutError):
            sock.recv(100)
        sock.settimeout(LONG)
        sock.sendall(b"during\n")
        assert sock.recv(100) == b"DURING\n"
    os.killpg(admin.server.pid, signal.SIGTERM)
    assert admin.server.exit() == 0
    said = [each for each in admin.server.log.splitlines() if " up this worker's" not in each]  # on a busy machine
    assert "WARNING" not in "".join(said)


@pytest.mark.slow
def test_a_signal_that_ends_at_once_does(admin: Admin) -> None:
    admin.server.send(signal.SIGTERM)
    wait_for(lambda: delayed(admin.server))
    admin.server.send(signal.SIGQUIT)
    assert admin.server.exit() == 128 + signal.SIGQUIT


@pytest.mark.slow
def test_ctrl_c_is_not_delayed(admin: Admin) -> None:
    admin.server.send(signal.SIGINT)
    assert admin.server.exit(LONG / 2) == 0
    assert not delayed(admin.server)


@pytest.mark.slow
def test_ctl_drain_is_delayed_too_and_resize_takes_it_back(admin: Admin, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ctl, tmp_path, "drain", 60.0)
        wait_for(lambda: delayed(admin.server))
        wait_for(lambda: admin.get("/readyz")[0] == 503)
        assert admin.server.ask(b"new\n") == b"NEW\n"
        ctl(tmp_path, "resize", count=1)
        wait_for(admin.ready)
        assert not asked.done(), "it is asked for no longer, and the answer does not come"
        admin.server.send(signal.SIGINT)
        assert admin.server.exit() == 0


@pytest.mark.slow
def test_a_drained_server_is_not_ready_and_one_that_comes_back_is(tmp_path: Path) -> None:
    with launched(tmp_path, admin="127.0.0.1:0", control_socket=str(tmp_path / "control")) as server:
        admin = Admin(server)
        wait_for(admin.ready)
        ctl(tmp_path, "drain")
        body = wait_for(lambda: (answer := admin.get("/readyz"))[0] == 503 and answer[1])
        assert b"ctl drain" in body
        wait_for(lambda: admin.get("/livez")[0] == 200)
        ctl(tmp_path, "resize", count=2)
        wait_for(admin.ready)


@pytest.mark.slow
def test_who_waits_for_a_drained_server_reads_an_end_when_it_stops(tmp_path: Path) -> None:
    """In order, and not a reset, although no worker is left to turn clients away."""
    about = {"bind": ["127.0.0.1:0", f"unix:{tmp_path}/sock"], "control_socket": str(tmp_path / "control")}
    with launched(tmp_path, **about) as server, socket.socket(socket.AF_UNIX) as local:
        server.ready()
        ctl(tmp_path, "drain")
        local.settimeout(15)
        local.connect(str(tmp_path / "sock"))
        with server.connect() as sock:
            for each in (sock, local):
                each.sendall(b"late\n")
            assert server.stop() == 0
            assert sock.recv(100) == local.recv(100) == b""


@pytest.mark.slow
def test_when_the_delay_is_over_the_server_drains(tmp_path: Path) -> None:
    """And under a stream of new clients each is answered until listeners close."""
    about = {"admin": "127.0.0.1:0", "drain_delay": 0.3}
    with launched(tmp_path, **about) as server:
        admin = Admin(server)
        wait_for(admin.ready)
        server.send(signal.SIGTERM)
        answered = 0
        try:
            while True:
                with server.connect() as sock:
                    sock.sendall(b"new\n")
                    sock.shutdown(socket.SHUT_WR)
                    assert b"".join(iter(lambda: sock.recv(100), b"")) == b"NEW\n"
                    answered += 1
        except ConnectionRefusedError:
            pass
        assert answered > 0 and server.exit() == 0
    log = server.log
    assert log.index("Draining in 0.3 s (SIGTERM)") < log.index("Draining (SIGTERM)")


SLOW = """
import os, time, pronghorn
while os.path.exists("admin") and not os.path.exists("go"):  # it is there in the worker, and not in the probe
    time.sleep(0.01)
@pronghorn.message(pronghorn.lines)
def handler(line): return line
"""


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


@pytest.mark.slow
def test_a_server_that_starts_is_alive_and_not_ready(tmp_path: Path) -> None:
    path = tmp_path / "admin"

    def asked(what: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(15)
            sock.connect(str(path))
            sock.sendall(f"GET {what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            return b"".join(iter(lambda: sock.recv(65536), b""))

    with ThreadPoolExecutor() as pool:

        def serve() -> None:
            with launched_code(tmp_path, SLOW, admin=f"unix:{path}"):
                wait_for(lambda: asked("/readyz").startswith(b"HTTP/1.1 200"))

        served = pool.submit(serve)
        try:
            wait_for(lambda: listens(path))
            answer = asked("/readyz")
            assert answer.startswith(b"HTTP/1.1 503") and b"the server starts" in answer
            wait_for(lambda: asked("/livez").startswith(b"HTTP/1.1 200"))
        finally:
            (tmp_path / "go").touch()
        served.result()


def test_systemd_hears_of_the_delay_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(15)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with launched(tmp_path, drain_delay=LONG) as server:
            server.send(signal.SIGTERM)
            while not (said := notified.recv(4096)).startswith(b"STOPPING=1"):
                pass
            assert b"STATUS=Draining in 30 s (SIGTERM)" in said
