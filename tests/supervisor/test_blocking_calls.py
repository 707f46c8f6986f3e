"""The supervisor makes no system call that may wait without a deadline, whatever it is asked to do; under strace."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from blocking_calls import O_NONBLOCK, Trace, able, traced
from launch import Launched, launched, wait_for
from pronghorn.system import wait_channel
from tls_under_test import Authority

pytestmark = pytest.mark.slow

GOOD = """
import pronghorn
@pronghorn.message(pronghorn.lines)
def reply(line):
    return line.upper()
"""
BAD = "import sys\nprint('x' * 30000, file=sys.stderr)\nraise ValueError('bad')\n"

BLOCKING = [
    'openat(AT_FDCWD</srv>, "/srv/cert.pem", O_RDONLY|O_CLOEXEC) = 5</srv/cert.pem>',
    'newfstatat(AT_FDCWD</srv>, "/srv/cert.pem", {st_mode=S_IFREG|0644, ...}, 0) = 0',
    'read(5</srv/cert.pem>, "x", 8192) = 1',
    'read(6<pipe:[1]>, "x", 8192) = 1',
    'write(2<pipe:[2]>, "x"..., 16384) = 16384',
    "connect(5<UDP:[1]>, {sa_family=AF_INET, sin_port=htons(53)}, 16) = 0",
    "wait4(77, [{WIFEXITED(s) && WEXITSTATUS(s) == 0}], 0, NULL) = 77",
    "poll([{fd=5<pipe:[2]>, events=POLLIN}], 1, -1) = 1 ([{fd=5, revents=POLLIN}])",
    "fcntl(3</memfd:x>(deleted), F_SETLKW, {l_type=F_WRLCK, l_whence=SEEK_SET, l_start=0, l_len=0}) = 0",
    "flock(5</run/x.lock>, LOCK_EX) = 0",
    "futex(0x7f, FUTEX_WAIT_PRIVATE, 2, NULL) = 0",
    "clone(child_stack=0x7f, flags=CLONE_VM|CLONE_VFORK|SIGCHLD) = 99",
    "clock_nanosleep_of_the_future(1) = 0",
]


@pytest.mark.parametrize("line", BLOCKING)
def test_the_detector_sees_what_may_block(line: str) -> None:
    trace = Trace({2: 0, 3: 0, 5: 0, 6: 0})
    trace.take(line)
    assert trace.faults == [line]


def test_the_detector_lets_pass_what_cannot_block() -> None:
    trace = Trace({7: O_NONBLOCK})
    for line in (
        'openat(AT_FDCWD</srv>, "/proc/self/statm", O_RDONLY|O_CLOEXEC) = 5</proc/1/statm>',
        'read(5</proc/1/statm>, "1", 8192) = 1',
        "read(7<pipe:[1]>, 0x7ff, 8192) = -1 EAGAIN (Resource temporarily unavailable)",
        "poll([{fd=6<pipe:[2]>, events=POLLIN}], 1, 1000) = 1 ([{fd=6<pipe:[2]>, revents=POLLIN}])",
        'read(6<pipe:[2]>, "x", 8192) = 1',
        'recvfrom(9<UNIX-STREAM:[3]>, "x", 65536, MSG_DONTWAIT, NULL, NULL) = 1',
        "wait4(77, 0x7f, WNOHANG, NULL) = 0",
        "--- SIGCHLD {si_signo=SIGCHLD} ---",
    ):
        trace.take(line)
    assert trace.faults == []


@contextmanager
def read_on(path: Path) -> Iterator[list[bytes]]:
    """Reads a FIFO to its end, as a log's reader does."""
    said: list[bytes] = []
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                if more := os.read(reader, 65536):
                    said.append(more)
            except BlockingIOError:
                pass
            time.sleep(0.005)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield said
    finally:
        over.set()
        thread.join()
        os.close(reader)


def ask(control: Path, command: str, **more: Any) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(15)
        sock.connect(str(control))
        sock.sendall(json.dumps({"command": command, **more}).encode() + b"\n")
        reply: dict[str, Any] = json.loads(b"".join(iter(lambda: sock.recv(65536), b"")))
        return reply


def everything(server: Launched, folder: Path, said: list[bytes], renew: Authority) -> None:
    """Whatever a supervisor is asked to do while it serves."""
    control, file = folder / "control", folder / "pronghorn.toml"

    def told(text: str, times: int = 1) -> None:
        wait_for(lambda: b"".join(said).decode().count(text) >= times, text, 30)

    def workers() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask(control, "workers")["result"]["workers"]
        return found

    assert ask(control, "status")["ok"] and ask(control, "workers")["ok"]
    server.send(signal.SIGHUP)
    told("Reloaded in")
    (folder / "mine.py").write_text(BAD)
    server.send(signal.SIGHUP)
    told("Reload failed")
    assert not ask(control, "reload")["ok"]
    (folder / "mine.py").write_text(GOOD)
    file.write_text(file.read_text().replace('"127.0.0.1:0"]', '"127.0.0.1:0", "localhost:0"]'))
    assert ask(control, "reload")["ok"]
    renew.sign("traced")
    told("New certificate")
    server.send(signal.SIGUSR1)
    server.send(signal.SIGTTIN)
    told("Resizing")
    assert ask(control, "resize", count=1)["ok"]
    wait_for(lambda: len(workers()) == 1, "the end of the other workers")
    ready = b"".join(said).decode().count("is ready")
    os.kill(workers()[0]["pid"], signal.SIGKILL)
    told("is ready", ready + 1)


@pytest.mark.parametrize("end", ["stop", "upgrade"])
def test_the_supervisor_never_waits(tmp_path: Path, end: str) -> None:
    if not able(os.getpid()) and not able(1):
        pytest.skip("strace is not there, or may not trace")
    authority = Authority(tmp_path)
    certificate, key = authority.sign("traced")
    (tmp_path / "mine.py").write_text(GOOD)
    own = [str(tmp_path / name) for name in ("control", "control.lock", "listener", "listener.lock")]
    binds = f'bind = ["unix:{tmp_path}/listener", "127.0.0.1:0"]\n'
    (tmp_path / "pronghorn.toml").write_text(
        binds + f'tls_cert = "{certificate}"\ntls_key = "{key}"\ntls_watch = true\n'
    )
    os.mkfifo(tmp_path / "log")
    settings = {"control_socket": own[0], "log_file": str(tmp_path / "log"), "bind": None}
    with (
        read_on(tmp_path / "log") as said,
        launched(tmp_path, "mine:reply", config=str(tmp_path / "pronghorn.toml"), **settings) as server,
    ):
        with traced(server.pid, tmp_path / "trace", own) as trace:
            everything(server, tmp_path, said, authority)
            server.send(signal.SIGTERM if end == "stop" else signal.SIGUSR2)
            assert server.exit(30) == 0
        text = b"".join(said).decode()
        for pid in re.findall(r"Upgraded: process (\d+)", text):
            os.kill(int(pid), signal.SIGTERM)
    assert not trace.faults, "\n".join(trace.faults)
    assert {"poll", "clone", "wait4", "recvmsg"} <= trace.names.keys(), "it has seen something"


@pytest.mark.skipif(not wait_channel.MACHINE, reason="the kernel tells where a thread is on Linux only")
def test_a_loop_that_waits_for_room_in_another_connection_sends_something() -> None:
    client, data = socket.socketpair(), socket.socketpair()
    threads: list[int] = []
    with contextlib.ExitStack() as stack:
        for sock in (*client, *data):
            stack.enter_context(sock)
        poller = stack.enter_context(select.epoll())
        poller.register(client[0], select.EPOLLIN)

        def wait() -> None:
            threads.append(threading.get_native_id())
            poller.poll()

        data[0].setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while data[0].send(bytes(65536)):
                pass
        waiter = threading.Thread(target=wait)
        waiter.start()
        wait_for(lambda: bool(threads) and place(threads[0], client[0]) is wait_channel.UNKNOWN, "a thread that waits")
        poller.register(data[0], select.EPOLLOUT)
        assert place(threads[0], client[0]) is wait_channel.ELSEWHERE
        client[1].send(b"x")
        waiter.join()


def place(thread: int, client: socket.socket) -> wait_channel.WaitsFor:
    return wait_channel.of_thread(thread, client.fileno())
