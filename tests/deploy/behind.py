"""Two servers with the settings of deploy/haproxy/pronghorn.toml, and the balancers that tests put before them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from launch import PATIENCE, Launched, launched, lives, wait_for
from pronghorn.testing.tls import throw_away_pair, trusting

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
PLACES = {"one": "10.0.0.11", "two": "10.0.0.12"}  # as the samples have them
WHO = """
import pronghorn
@pronghorn.message(pronghorn.lines(encoding="utf-8"))
def handler(line, conn):
    host, port = conn.peer
    name = (conn.proxy.field(2) or b"none").decode()
    return f"NAME {host} {port} v{conn.proxy.version} {name} {bool(conn.tls)}"
"""


def balancer(name: str, hint: str, *places: str) -> str:
    """The path of a balancer's program, in PATH or one of these places. Skips the calling file where there is none, or
    no package that the servers behind it need."""
    for package in ("h11", "trustme"):
        pytest.importorskip(package)
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *places]))
    if found is None:
        pytest.skip(f"{name} is not installed ({hint})", allow_module_level=True)
    return found


class Answer(NamedTuple):
    """What a server says of a client: its own name, who the client is and who told it, and its own TLS."""

    server: str
    peer: tuple[str, int]
    version: str
    name: str
    """What the PROXY header says that the client asked TLS for."""
    tls: bool


class Host:
    """A server that runs, and its folder."""

    def __init__(self, folder: Path, server: Launched) -> None:
        self.folder, self.server = folder, server
        self.plain, self.tls = server.report["listening"]
        self.admin, self.agent = (server.report[each][0].rpartition(":")[2] for each in ("admin", "agent_check"))


@contextmanager
def host(folder: Path, name: str, **settings: object) -> Iterator[Host]:
    folder.mkdir()
    (folder / "mine.py").write_text(WHO.replace("NAME", name))
    here = {
        "bind": ["127.0.0.1:0,name=plain,tls=off", "127.0.0.1:0,name=tls"],
        "admin": "127.0.0.1:0",
        "agent_check": "127.0.0.1:0",
        "proxy_from": "127.0.0.1",
        "control_socket": str(folder / "control"),
        **throw_away_pair(str(folder)),
    }
    sample = str(DEPLOY / "haproxy" / "pronghorn.toml")
    with launched(folder, None, config=sample, **{**here, **settings}) as server:
        yield Host(folder, server)


@contextmanager
def hosts(
    folder: Path, own: dict[str, dict[str, object]] | None = None, **settings: object
) -> Iterator[dict[str, Host]]:
    """Both of them, each with settings of its `own`."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(host(folder / name, name, **{**settings, **(own or {}).get(name, {})}))
            for name in PLACES
        }


@contextmanager
def running(command: list[str], folder: Path, descriptors: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """A balancer in a process group of its own, whose log is `log` in the folder."""
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, pass_fds=descriptors, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def killed(server: Launched) -> None:
    """The whole of a server is killed, unless it has ended already, and is gone."""
    if server.process.poll() is not None:
        return
    processes = psutil.Process(server.pid).children(recursive=True)
    server.end()
    wait_for(lambda: not any(lives(each) for each in processes), "the end of a server")
    wait_for(lambda: closed(server), "the end of all of its threads")


def closed(server: Launched) -> bool:
    """Whether its listener is closed. A process counts as ended when its first thread has, and others may have its
    descriptors for a moment more."""
    try:
        server.connect().close()
    except OSError:
        return True
    return False


def changed(text: str, changes: dict[str, str]) -> str:
    """A sample for this machine: each of the changes has to find what it is for."""
    for old, new in changes.items():
        assert old in text, f"the sample has no {old!r}"
        text = text.replace(old, new)
    return text


def connect(port: int, name: str = "") -> socket.socket:
    """A client, with TLS if it asks for a name."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    try:
        return trusting().wrap_socket(sock, server_hostname=name) if name else sock
    except BaseException:
        sock.close()
        raise


def said(sock: socket.socket) -> Answer:
    """What the server says of a client that has connected. Raises OSError when there is no answer."""
    sock.sendall(b"who?\n")
    line = b""
    while not line.endswith(b"\n"):
        if not (more := sock.recv(1024)):
            raise ConnectionError("the client got no answer")
        line += more
    server, host, port, version, name, tls = line.decode().split()
    return Answer(server, (host, int(port)), version, name, tls == "True")


def ask(port: int, name: str = "") -> Answer:
    with connect(port, name) as sock:
        answer = said(sock)
        assert answer.peer == sock.getsockname()
        return answer


def answers_a_last_word(port: int) -> bool:
    """Whether a client that half-closes behind its question gets the answer."""
    with connect(port) as sock:
        sock.sendall(b"who?\n")
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(1024), b"")).endswith(b"False\n")


def turns_away(port: int) -> bool:
    """Whether a client finds the end, since there is nobody to serve it."""
    with connect(port) as sock:
        sock.settimeout(2)
        try:
            return sock.recv(100) == b""
        except OSError:
            return False


def serves(port: int, *names: str) -> bool:
    """Whether these servers, and no other, answer new clients; False when a client gets no answer."""
    try:
        return {ask(port).server for _ in range(2 * len(names) + 2)} == set(names)
    except OSError:
        return False


class Clients:
    """Clients without a pause, four at a time: what they were told, and what went wrong."""

    def __init__(self, port: int, question: Callable[[int], str] = lambda port: ask(port).server) -> None:
        self._question = question
        self.answers: list[tuple[float, str]] = []  # when the client began, and who answered
        self.failures: list[tuple[float, OSError]] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(port,)) for _ in range(4)]

    def _run(self, port: int) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            try:
                self.answers.append((began, self._question(port)))
            except OSError as error:
                self.failures.append((began, error))

    def __enter__(self) -> Clients:
        for each in self._threads:
            each.start()
        self.more(20)
        return self

    def more(self, count: int) -> list[str]:
        """So many answers to clients that begin from now on."""
        now, seen = time.monotonic(), len(self.answers)

        def later() -> list[str]:
            return [server for began, server in self.answers[seen:] if began > now]

        wait_for(lambda: len(later()) >= count, "more answers")
        return later()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join()
