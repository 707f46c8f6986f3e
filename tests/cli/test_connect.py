"""The client: bytes untouched in a pipe, lines on a terminal, and one clear message when there is no server."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pronghorn.cli.connect.address import parse
from pronghorn.cli.connect.terminal import Screen
from pronghorn.errors import BadSetting

CLIENT = [sys.executable, "-m", "pronghorn.cli.main", "connect"]
Handle = Callable[[socket.socket], None]


@contextlib.contextmanager
def server(handle: Handle) -> Iterator[int]:
    """One listening socket, one connection, `handle` in a thread; yields the port."""

    def serve() -> None:
        with listener, contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                handle(connection)

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield port
    finally:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()  # wakes accept, when nobody came
        thread.join(10)
        assert not thread.is_alive()


def upper(connection: socket.socket) -> None:
    while piece := connection.recv(65536):
        connection.sendall(piece.upper())


def run(*arguments: str, input: bytes = b"", **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*CLIENT, *arguments], input=input, capture_output=True, timeout=30, **options)  # type: ignore


def test_a_pipe_gets_the_reply_and_exits_when_the_server_is_done() -> None:
    with server(upper) as port:
        done = run(str(port), input=b"hello\nno newline at the end")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"HELLO\nNO NEWLINE AT THE END", b"")


def test_bytes_pass_untouched() -> None:
    def echo(connection: socket.socket) -> None:
        while piece := connection.recv(65536):
            connection.sendall(piece)

    blob = bytes(range(256)) * 4096
    with server(echo) as port:
        assert run(f"localhost:{port}", input=blob).stdout == blob


def test_nobody_stands_still_when_both_sides_stream_much() -> None:
    """The server writes as it reads, and the client's own reader is slow to start."""
    blob = os.urandom(1024 * 1024) * 16
    with server(upper) as port:
        client = subprocess.Popen([*CLIENT, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert client.stdin and client.stdout
        feeder = threading.Thread(target=lambda: (client.stdin.write(blob), client.stdin.close()))  # type: ignore
        feeder.start()
        with client.stdout:
            assert client.stdout.read() == blob.upper()
        feeder.join(10)
        assert client.wait(10) == 0


def test_it_exits_when_the_server_is_done_though_the_input_goes_on() -> None:
    def goodbye(connection: socket.socket) -> None:
        connection.sendall(b"goodbye\n")

    with server(goodbye) as port:
        read_end, write_end = os.pipe()
        try:
            done = subprocess.run([*CLIENT, str(port)], stdin=read_end, capture_output=True, timeout=30)
        finally:
            os.close(read_end)
            os.close(write_end)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"goodbye\n", b"")


def test_a_reset_is_told_and_what_came_before_it_is_kept() -> None:
    def reset(connection: socket.socket) -> None:
        connection.sendall(b"so far")
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with server(reset) as port:
        client = subprocess.Popen(
            [*CLIENT, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert client.stdin and client.stdout
        assert os.read(client.stdout.fileno(), 100) == b"so far"
        client.stdin.write(b"x")
        _, errors = client.communicate(timeout=30)
    assert client.returncode == 1
    assert errors.decode().splitlines() == ["Error: The connection broke.", "Connection reset by peer."]


def test_a_reader_that_leaves_ends_it_without_a_word() -> None:
    def chatter(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"y\n" * 1000)

    with server(chatter) as port:
        client = subprocess.Popen(
            [*CLIENT, str(port)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert client.stdout and client.stderr
        assert client.stdout.read(4) == b"y\ny\n"
        client.stdout.close()
        with client.stderr:
            assert client.stderr.read() == b""
        assert client.wait(30) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("closed", [0, 1])
def test_a_closed_standard_stream_is_an_empty_one(closed: int) -> None:
    received: list[bytes] = []

    def keep(connection: socket.socket) -> None:
        while piece := connection.recv(100):
            received.append(piece)
        connection.sendall(b"reply")

    with server(keep) as port:
        redirection = "<&-" if closed == 0 else ">&-"
        command = f'printf hello | "$0" -m pronghorn.cli.main connect {port} {redirection}'
        done = subprocess.run(["/bin/sh", "-c", command, sys.executable], capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (b"reply" if closed == 0 else b"")
    assert b"".join(received) == (b"" if closed == 0 else b"hello")


def test_nobody_there_is_one_message() -> None:
    with socket.socket() as held:  # and does not listen
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        done = run(f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        f"Error: Cannot connect to 127.0.0.1:{port}.",
        "Nobody listens there.",
        f"To serve there: pronghorn serve --bind 127.0.0.1:{port}",
    ]


def test_a_unix_socket(tmp_path: object) -> None:
    path = f"{tmp_path}/socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        client = subprocess.Popen([*CLIENT, f"unix:{path}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"by path")
        assert client.communicate(timeout=30)[0] == b"by path"
    missing = run(f"unix:{path}.not")
    assert missing.returncode == 1
    assert b"There is no such path." in missing.stderr


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("8000", ("localhost", 8000)),
        (":8000", ("localhost", 8000)),
        ("example.org:1", ("example.org", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("unix:/run/x", "/run/x"),
    ],
)
def test_addresses(text: str, peer: object) -> None:
    assert parse(text) == peer


@pytest.mark.parametrize(
    "text", ["", "host", "host:", "host:0", "host:65536", "host:-1", "host:1_0", "::1:80", "unix:"]
)
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(BadSetting):
        parse(text)


def test_the_screen_shows_whole_lines_and_obeys_nothing() -> None:
    shown: list[str] = []
    screen = Screen(shown.append)
    screen.feed(b"one\r\ntwo\nthr\xc3")
    assert shown == ["one\ntwo\n"]
    screen.feed(b"\xa9\x1b[2J\xff\n")
    assert shown[1:] == ["thré\\x1b[2J\\xff\n"]
    screen.feed(b"half")
    screen.flush()
    screen.flush()
    assert shown[2:] == ["half\n"]
    assert screen.end() == 0
    assert shown[3:] == ["the other side has been closed\n"]


# Runs as the leader of a new session: the terminal that it opens becomes its own, and Ctrl-C reaches it.
ON_TERMINAL = """
import os, runpy, sys
os.close(os.open(os.ttyname(0), os.O_RDWR))
for missing in sys.argv[2:]:
    sys.modules[missing] = None
sys.argv = ["pronghorn", "connect", sys.argv[1]]
runpy.run_module("pronghorn.cli.main", run_name="__main__")
"""


class Terminal:
    """The client on a pseudo-terminal; `expect` waits for words, with a deadline."""

    def __init__(self, port: int, *missing: str) -> None:
        self.seen = ""
        self.place = 0
        self.fd, inside = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "XDG_STATE_HOME": "/nonexistent"}
        self.client = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL, str(port), *missing],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env=environment,
            start_new_session=True,
        )
        os.close(inside)

    def expect(self, words: str) -> None:
        """Wait until `words` follow what was expected before, whatever the colours and cursor movements between."""
        deadline = time.monotonic() + 20
        while (place := self.plain().find(words, self.place)) < 0:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {words!r} in {self.seen!r}"
            self.seen += os.read(self.fd, 65536).decode()
        self.place = place + len(words)

    def plain(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.seen)

    def is_edited(self) -> bool:
        return not termios.tcgetattr(self.fd)[3] & termios.ICANON

    def edited(self) -> None:
        """Wait until an editor reads the line: keys that come before are lost."""
        deadline = time.monotonic() + 20
        while not self.is_edited():
            assert time.monotonic() < deadline, f"no editor reads after {self.seen!r}"
            time.sleep(0.005)

    def type(self, keys: bytes) -> None:
        self.edited()
        os.write(self.fd, keys)

    def status(self) -> int:
        with contextlib.suppress(OSError):  # EIO: the client has gone
            while os.read(self.fd, 65536):
                pass
        os.close(self.fd)
        return self.client.wait(10)


@pytest.fixture
def opened() -> Iterator[type[Terminal]]:
    """Opens terminals, and ends what a failed test leaves behind."""
    terminals: list[Terminal] = []

    class Opened(Terminal):
        def __init__(self, port: int, *missing: str) -> None:
            super().__init__(port, *missing)
            terminals.append(self)

    yield Opened
    for terminal in terminals:
        if terminal.client.poll() is None:
            terminal.client.kill()
            terminal.client.wait()


EDITORS = [
    pytest.param(
        (),
        id="prompt_toolkit",
        marks=pytest.mark.skipif(not importlib.util.find_spec("prompt_toolkit"), reason="prompt_toolkit is missing"),
    ),
    pytest.param(("prompt_toolkit",), id="readline"),
]


@pytest.mark.parametrize("missing", EDITORS)
def test_a_terminal_sends_lines_and_shows_replies(opened: type[Terminal], missing: tuple[str, ...]) -> None:
    with server(upper) as port:
        terminal = opened(port, *missing)
        terminal.expect(">")
        terminal.type(b"hello\r")
        terminal.expect("HELLO")
        terminal.expect(">")
        terminal.type(b"\x1b[A!\r")  # the line before, from history, and a mark at its end
        terminal.expect("HELLO!")
        terminal.expect(">")
        terminal.type(b"\x04")
        terminal.expect("the other side has been closed")
        assert terminal.status() == 0


@pytest.mark.parametrize("missing", EDITORS)
def test_a_terminal_says_when_the_other_side_closes(opened: type[Terminal], missing: tuple[str, ...]) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"welcome; now type: ")
        connection.recv(100)
        connection.sendall(b"enough\n")

    with server(greet) as port:
        terminal = opened(port, *missing)
        terminal.expect("now type:")
        terminal.type(b"x\r")
        terminal.expect("enough")
        terminal.expect("the other side has been closed")
        assert terminal.status() == 0


@pytest.mark.parametrize("missing", EDITORS)
def test_end_of_input_waits_for_the_rest(opened: type[Terminal], missing: tuple[str, ...]) -> None:
    def last_word(connection: socket.socket) -> None:
        while connection.recv(100):
            pass
        connection.sendall(b"the rest\n")

    with server(last_word) as port:
        terminal = opened(port, *missing)
        terminal.expect(">")
        terminal.type(b"\x04")
        terminal.expect("the rest")
        terminal.expect("the other side has been closed")
        assert terminal.status() == 0


@pytest.mark.parametrize("missing", EDITORS)
def test_control_c_leaves(opened: type[Terminal], missing: tuple[str, ...]) -> None:
    with server(upper) as port:
        terminal = opened(port, *missing)
        terminal.expect(">")
        deadline = time.monotonic() + 20
        while terminal.client.poll() is None:  # readline overlooks a key that comes just before it waits
            assert time.monotonic() < deadline
            if terminal.is_edited():  # and not on its way out
                os.write(terminal.fd, b"\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                terminal.client.wait(0.5)
        assert terminal.status() == 130
