"""Servers as their users start them: a process of their own, in a group of their own, ended by its id."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import psutil

from pronghorn.boot import Boot
from pronghorn.control import client
from pronghorn.settings.layers import Layers
from pronghorn.settings.source import Source
from pronghorn.system.processes import death_signal

PATIENCE = 25.0
"""For what takes moments; less than the drain timeout (30 s): a server that needlessly waits for that one is found."""
T = TypeVar("T")


def pairs(words: str) -> list[tuple[str, str]]:
    """What a test is parametrized by: `handler/model` and so on, between spaces."""
    return [(first, second) for first, _, second in (each.partition("/") for each in words.split())]


def wait_for(condition: Callable[[], T | Literal[False]], what: str = "the condition", seconds: float = PATIENCE) -> T:
    """The first true value of `condition`; AssertionError when the time is over."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds:g} s"
        time.sleep(0.005)
    return value


def ends_with_the_tests() -> Callable[[], object] | None:
    """What a child does before its program begins (Popen's `preexec_fn`), so that it is killed when this process ends
    in whatever way. None in another thread than the main one: the kernel takes the end of a thread for its parent's."""
    if threading.current_thread() is not threading.main_thread():
        return None
    ask = death_signal()
    return lambda: ask(signal.SIGKILL)


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def gone(pid: int) -> bool:
    """Whether a process has ended; nobody may have waited for it yet."""
    try:
        return not lives(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


def halt(pid: int) -> None:
    """Stops a process; the signal alone leaves it a moment, in which it may find out what is done next."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "the stop")


def held_by(pid: int, sort: str = "") -> set[str]:
    """What the descriptors of a process are, or those of one sort; nothing of those that it closes meanwhile."""
    names = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                names.add(os.readlink(entry.path))
    return {name for name in names if name.startswith(sort)}


def text_of(path: Path) -> str:
    """What a file holds that may be there later."""
    return path.read_text() if path.exists() else ""


def ctl(folder: Path, command: str, seconds: float = PATIENCE, **arguments: Any) -> Any:
    """What a server answers whose control socket is `control` in this folder."""
    return client.ask(str(folder / "control"), {"command": command, **arguments}, seconds)


class Launched:
    """A server process, what it reported, and what it wrote to standard error."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.folder = folder
        self.errors = folder / "stderr"
        self.report: dict[str, Any] = {}

    @property
    def log(self) -> str:
        return self.errors.read_text()

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.report["listening"][0].rpartition(":")
        return host, int(port)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE)

    def refuses(self) -> bool:
        """Whether a client that says nothing finds the end: what it said would come too late, and be answered by a
        reset."""
        with self.connect() as sock:
            return sock.recv(100) == b""

    def ask(self, question: bytes) -> bytes:
        """One whole conversation: send, half-close, and read to the end."""
        with self.connect() as sock:
            sock.sendall(question)
            sock.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: sock.recv(65536), b""))

    def workers(self) -> list[int]:
        """The living children of the supervisor."""
        try:
            found = psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []
        return [each.pid for each in found if lives(each)]

    def ready(self, count: int = 1) -> list[int]:
        """The living workers, once the log has counted so many as ready."""
        wait_for(lambda: self.log.count("is ready, process id") >= count, f"{count} times a ready worker")
        return self.workers()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit(self, seconds: float = PATIENCE) -> int:
        """Waits for the end of the server; its exit status."""
        return self.process.wait(seconds)

    def stop(self) -> int:
        self.send(signal.SIGTERM)
        return self.exit()

    def end(self) -> None:
        """Whatever is left of the group goes."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


@contextmanager
def started(
    folder: Path,
    arguments: list[str],
    descriptors: list[int],
    *,
    terminal: bool = False,
    inside: Sequence[str] = (),
) -> Iterator[Launched]:
    with open(folder / "stderr", "wb") as errors, open(os.devnull, "rb") as nothing:
        master, slave = pty.openpty() if terminal else (-1, -1)
        streams = {"stdin": slave if terminal else nothing, "stdout": subprocess.DEVNULL, "stderr": errors}
        command = [*inside, sys.executable, *arguments]
        process = subprocess.Popen(command, cwd=folder, start_new_session=True, pass_fds=descriptors, **streams)
    for fd in descriptors:
        os.close(fd)
    server = Launched(process, folder)
    try:
        yield server
    finally:
        server.end()
        if terminal:
            os.close(master)
            os.close(slave)


@contextmanager
def launched(
    folder: Path,
    source: str | Source | None = "upper",
    *,
    terminal: bool = False,
    config: str = "",
    inside: Sequence[str] = (),
    **settings: Any,
) -> Iterator[Launched]:
    """A server that has said how its start went; `folder` is its working folder, and takes its standard error. With a
    `terminal` its standard input is one; `config` is a settings file; `inside` is a command that becomes the server,
    such as nsenter(1). A setting that is None is not given."""
    source = Source(name=source) if isinstance(source, str) else source
    given = {name: value for name, value in {"bind": "127.0.0.1:0", **settings}.items() if value is not None}
    reader, writer = os.pipe()
    boot = Boot(Layers(given, {}, source, config), report_fd=writer)
    (folder / "boot.json").write_bytes(msgspec.json.encode(boot))
    fd = os.open(folder / "boot.json", os.O_RDONLY)
    with (
        open(reader, "rb") as reports,
        started(
            folder, ["-P", "-m", "pronghorn.server", str(fd)], [fd, writer], terminal=terminal, inside=inside
        ) as server,
    ):
        line = reports.readline()
        reports.read()  # to the end: the server has let go of it
        server.report = json.loads(line) if line else {}
        yield server


@contextmanager
def launched_code(folder: Path, code: str, name: str = "handler", **settings: Any) -> Iterator[Launched]:
    """A server of a handler in a module with this code, mine.py, that is ready."""
    (folder / "mine.py").write_text(code)
    with launched(folder, f"mine:{name}", **settings) as server:
        server.ready()
        yield server


@contextmanager
def logged(folder: Path, *arguments: str) -> Iterator[Launched]:
    """An interpreter with `arguments` that serves, and has said in its log where it listens, or ended."""
    with started(folder, list(arguments), []) as server:
        wait_for(lambda: " Serving " in server.log or server.process.poll() is not None, "the start")
        server.report = {"listening": re.findall(r"Listening at: t(?:cp|ls)://(\S+)", server.log)}
        yield server


@contextmanager
def script(folder: Path, text: str) -> Iterator[Launched]:
    """A script that calls serve()."""
    (folder / "script.py").write_text(text)
    with logged(folder, "script.py") as server:
        yield server
