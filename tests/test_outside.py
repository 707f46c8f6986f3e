"""Tried from outside: clients that others wrote, and handlers that know nothing of Pronghorn."""

from __future__ import annotations

import asyncio
import os
import re
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pronghorn.models import registry
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange

PATIENCE = 30
OWN_FLOW = ["iterative", "fork", "prefork", "thread", "pool", "gevent"]
WEB = "http.server:SimpleHTTPRequestHandler"


def available(model: str) -> str:
    missing = registry.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")
    return model


def command(*words: str) -> list[str]:
    """The command, or a skip where its program is not installed."""
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed here; .ci/run installs it")
    return [*words]


def port(server: Served) -> str:
    assert isinstance(server.address, tuple)
    return str(server.address[1])


def run(words: list[str], given: bytes = b"", folder: Path | None = None) -> bytes:
    """What a program that is given some input writes until it ends, in order and without complaint."""
    done = subprocess.run(words, input=given, capture_output=True, timeout=PATIENCE, cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


# Clients.


def netcat() -> list[str]:
    """OpenBSD's: -N half-closes at the end of the input."""
    nc = command("nc")
    usage = subprocess.run([*nc, "-h"], capture_output=True, timeout=PATIENCE)
    if not re.search(rb"\[-\w*N", usage.stdout + usage.stderr):
        pytest.skip("this nc has no -N")
    return [*nc, "-N", "127.0.0.1"]


@pytest.mark.parametrize("model", ["iterative", "fork", "thread", "select", "epoll", "asyncio"])
def test_netcat(model: str) -> None:
    nc = netcat()
    with serving("upper", model=model) as server:
        assert run([*nc, port(server)], b"hello\n") == b"HELLO\n"


def test_netcat_and_a_unix_socket(tmp_path: Path) -> None:
    nc = netcat()
    with serving("upper", bind=f"unix:{tmp_path}/sock"):
        assert run([*nc[:-1], "-U", "sock"], b"hello\n", tmp_path) == b"HELLO\n"


@pytest.mark.parametrize("model", ["fork", "thread", "epoll"])
def test_socat(model: str) -> None:
    socat = command("socat")
    with serving("upper", model=model) as server:
        assert run([*socat, "-", f"TCP:127.0.0.1:{port(server)}"], b"hello\n") == b"HELLO\n"


def test_socat_takes_a_million_bytes_through(tmp_path: Path) -> None:
    socat = command("socat")
    question = os.urandom(1_000_000)
    with serving("echo") as server:
        # -t: how long socat waits for the rest after it has half-closed.
        words = [*socat, "-t", str(PATIENCE), "-", f"TCP:127.0.0.1:{port(server)}"]
        assert run(words, question) == question


@pytest.mark.parametrize("model", ["fork", "thread", "epoll"])
def test_curl_as_a_telnet(model: str) -> None:
    """curl never half-closes: it leaves when the server does."""
    curl = command("curl")
    with serving("upper", model=model) as server:
        words = [*curl, "--silent", "--show-error", "--no-buffer", f"telnet://127.0.0.1:{port(server)}"]
        with talking(words) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(b"hello\n")
            process.stdin.close()  # while this pipe is open and empty, curl waits for it and for nothing else
            assert read(process.stdout.fileno(), 6) == b"HELLO\n"
            assert server.stop() == 0, "nothing was cut: an idle client does not hold up a drain"
            assert process.wait(PATIENCE) == 0


@contextmanager
def talking(words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def read(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        assert select.select([fd], [], [], PATIENCE)[0], f"no more than {data!r} came"
        more = os.read(fd, count - len(data))
        assert more, f"an end after {data!r}"
        data += more
    return data


def test_curl_sends_a_letter(tmp_path: Path) -> None:
    """A real client of SMTP and the server of examples/smtp.py."""
    curl = command("curl")
    (tmp_path / "letter").write_text("Subject: hello\n\n.a dot in front\nthe end\n")
    example = Path(__file__).parent.parent / "examples" / "smtp.py"
    with serving(f"{example}:handler") as server:
        url = f"smtp://127.0.0.1:{port(server)}/me"
        addresses = ["--mail-from", "one@example.org", "--mail-rcpt", "two@example.org"]
        run([*curl, "--silent", "--show-error", url, *addresses, "--upload-file", "letter"], folder=tmp_path)
        assert "bytes from <one@example.org> to <two@example.org>" in server.log()


# Handlers.


@pytest.mark.parametrize("model", OWN_FLOW)
def test_the_web_server_of_the_standard_library_unmodified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    curl = command("curl", "--silent", "--show-error", "--fail", "--max-time", str(PATIENCE))
    (tmp_path / "big").write_bytes(os.urandom(1024 * 1024 + 500_000))
    (tmp_path / "small").write_bytes(b"small\n")
    monkeypatch.chdir(tmp_path)  # it serves the working folder
    with serving(WEB, model=available(model)) as server:
        url = f"http://127.0.0.1:{port(server)}"
        run([*curl, "--output", "got", f"{url}/big"], folder=tmp_path)
        assert (tmp_path / "got").read_bytes() == (tmp_path / "big").read_bytes()
        assert run([*curl, *[f"{url}/small"] * 3]) == b"small\n" * 3
        assert b"small" in run([*curl, f"{url}/"]), "the folder as a page"
        missing = subprocess.run([*curl, f"{url}/nothing"], capture_output=True, timeout=PATIENCE)
        assert b"404" in missing.stderr
        assert server.log().count('"GET /small HTTP/1.1" 200') == 3, "its own log goes to standard error, as ever"


@pytest.mark.parametrize("model", OWN_FLOW)
def test_a_program_of_unix(model: str) -> None:
    command("tr")
    with serving(["tr", "a-z", "A-Z"], model=available(model)) as server, server.connect() as client:
        assert exchange(client, b"hello\nworld\n", end=True) == b"HELLO\nWORLD\n"


# The two echo servers that asyncio's manual begins with, in our words.


async def echo_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read once, answer, and close."""
    message = await reader.read(100)
    host, _ = writer.get_extra_info("peername")
    assert host == "127.0.0.1"
    writer.write(message)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


class EchoProtocol(asyncio.Protocol):
    """Answer what arrives first, and close."""

    def connection_made(self, transport: Any) -> None:
        host, _ = transport.get_extra_info("peername")
        assert host == "127.0.0.1"
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.close()


@pytest.mark.parametrize("model", [model for model in registry.MODELS if registry.page(model).runs_asyncio])
@pytest.mark.parametrize("echo", [echo_streams, EchoProtocol])
def test_asyncios_own_echo_servers(model: str, echo: object) -> None:
    with serving(echo, model=available(model)) as server:
        for text in (b"Hello World!", b"and once more"):
            with server.connect() as client:
                assert exchange(client, text) == text  # to the server's end: it is the one that closes
        assert "Handler failed" not in server.log()
