"""`pronghorn connect --tls`, in a pipe and on a terminal; and the certificates that `dev-cert` makes for it."""

from __future__ import annotations

import os
import pty
import select
import socket
import ssl
import stat
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from pronghorn.testing.served import serving
from pronghorn.testing.tls import over_tls
from pronghorn.tls.blocking import TlsConnection
from tls_under_test import Authority

PRONGHORN = [sys.executable, "-m", "pronghorn.cli.main"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def connect(address: object, *options: str, said: bytes = b"hello\n") -> subprocess.CompletedProcess[bytes]:
    command = [*PRONGHORN, "connect", str(address), *options]
    return subprocess.run(command, input=said, capture_output=True, timeout=30)


@pytest.mark.slow
def test_a_pipe_is_sealed_and_the_end_of_the_input_is_no_end_of_the_reply(authority: Authority) -> None:
    certificate, key = authority.sign("server")
    with serving("upper", tls_cert=certificate, tls_key=key) as server:
        port = str(server.address[1])
        done = connect(port, "--tls", "--tls-ca", authority.path)
        assert (done.stdout, done.stderr, done.returncode) == (b"HELLO\n", b"", 0)
        (told,) = (line for line in server.log().splitlines() if "Listening at: " in line)
        address = told.partition("Listening at: ")[2]
        assert address == f"tls://127.0.0.1:{port}"
        done = connect(address, "--insecure")
        assert (done.stdout, done.returncode) == (b"HELLO\n", 0), "the address as the log has it is no address"
        done = connect(address)
        assert (done.stdout, done.returncode) == (b"", 1)
        assert b"not trusted" in done.stderr
        large = b"much to say\n" * 300_000
        done = connect(port, "--insecure", said=large)
        assert (done.stdout == large.upper(), done.returncode) == (True, 0)
        done = connect(f"127.0.0.1:{port}", "--tls-ca", authority.path)
        assert done.returncode == 1
        assert b"mismatch" in done.stderr
        assert b"--tls-name" in done.stderr
        done = connect(f"127.0.0.1:{port}", "--tls-ca", authority.path, "--tls-name", "localhost")
        assert (done.stdout, done.returncode) == (b"HELLO\n", 0)


@pytest.mark.slow
def test_whoever_is_not_trusted_is_not_talked_to(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.sign("server")
    stranger = Authority(tmp_path)
    with serving("upper", tls_cert=certificate, tls_key=key) as server:
        done = connect(server.address[1], "--tls-ca", stranger.path)
        assert (done.stdout, done.returncode) == (b"", 1)
        assert b"not trusted" in done.stderr
        assert b"Traceback" not in done.stderr
    with serving("daytime") as plain:
        done = connect(plain.address[1], "--tls")
        assert done.returncode == 1
        assert b"The server does not speak TLS." in done.stderr
    done = connect(1, "--tls-ca", str(tmp_path / "none.pem"))
    assert done.returncode == 2
    assert b"cannot be used" in done.stderr


@pytest.mark.slow
def test_a_certificate_is_shown_where_one_is_wanted(authority: Authority) -> None:
    certificate, key = authority.sign("server")
    mine = authority.sign("mine", "badger.example")
    with serving("upper", tls_cert=certificate, tls_key=key, tls_client_ca=authority.path) as server:
        port = server.address[1]
        done = connect(port, "--tls-ca", authority.path, "--tls-cert", mine[0], "--tls-key", mine[1])
        assert (done.stdout, done.returncode) == (b"HELLO\n", 0)
        done = connect(port, "--tls-ca", authority.path)
        assert (done.stdout, done.returncode) == (b"", 1)
        assert b"wants to see a certificate" in done.stderr


@pytest.mark.parametrize("in_order", [True, False])
def test_an_end_without_a_close_notify_is_told(in_order: bool, authority: Authority) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.sign("server"))

    def serve() -> None:
        accepted, _ = listener.accept()
        connection = TlsConnection(accepted.family, accepted.type, 0, fileno=accepted.detach())
        connection.begin(1, "", None)
        connection.shake_hands(lambda: context, 10)
        connection.sendall(b"half of what I wanted to s")
        if in_order:
            connection.shutdown(socket.SHUT_WR)
        socket.socket.shutdown(connection, socket.SHUT_WR)
        while connection.recv(100):
            pass
        connection.end()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        done = connect(listener.getsockname()[1], "--tls-ca", authority.path)
        thread.join(10)
    assert done.stdout == b"half of what I wanted to s"
    assert done.returncode == (0 if in_order else 1)
    assert (b"close_notify" in done.stderr) is not in_order


@pytest.mark.slow
def test_a_terminal_speaks_tls(authority: Authority) -> None:
    certificate, key = authority.sign("server")
    with serving("upper", tls_cert=certificate, tls_key=key) as server:
        fd, inside = pty.openpty()
        command = [*PRONGHORN, "connect", str(server.address[1]), "--tls-ca", authority.path]
        block = "import sys, runpy; sys.modules['prompt_toolkit'] = None; sys.argv = sys.argv[1:]; "
        block += "runpy.run_module('pronghorn.cli.main', run_name='__main__')"
        with subprocess.Popen(
            [sys.executable, "-c", block, *command[2:]],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb"},
        ) as client:
            os.close(inside)
            seen = b""
            for words, keys in ((b"> ", b"hello\n"), (b"HELLO", b"\x04"), (b"has been closed", b"")):
                deadline = time.monotonic() + 20
                while words not in seen:
                    assert select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0], seen
                    seen += os.read(fd, 65536)
                while keys and termios.tcgetattr(fd)[3] & termios.ICANON:  # keys that come before are lost
                    assert time.monotonic() < deadline, f"no editor reads after {seen!r}"
                    time.sleep(0.005)
                os.write(fd, keys)
            assert client.wait(10) == 0
        os.close(fd)


# dev-cert


def dev_cert(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*PRONGHORN, "dev-cert", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30)


@pytest.mark.slow
def test_the_lines_that_dev_cert_prints_work(tmp_path: Path) -> None:
    done = dev_cert(tmp_path)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE((tmp_path / "dev-key.pem").stat().st_mode) == 0o600
    serve, talk = (line.split() for line in done.stdout.splitlines() if line.startswith("  pronghorn"))
    settings = dict(zip([each.strip("-").replace("-", "_") for each in serve[2::2]], serve[3::2], strict=True))
    with serving("upper", **{name: str(tmp_path / value) for name, value in settings.items()}) as server:
        words = [each.replace("8000", str(server.address[1])) for each in talk[2:]]
        command = [*PRONGHORN, "connect", *words]
        said = subprocess.run(command, cwd=tmp_path, input=b"hello\n", capture_output=True, timeout=30)
        assert (said.stdout, said.returncode) == (b"HELLO\n", 0), said.stderr
        for name in ("localhost", "127.0.0.1", "::1"):
            over_tls(server.connect(), str(tmp_path / "dev-ca.pem"), name=name).close()


@pytest.mark.slow
def test_dev_cert_replaces_nothing_without_being_told(tmp_path: Path) -> None:
    (tmp_path / "dev-key.pem").write_text("mine")
    done = dev_cert(tmp_path, "badger.example")
    assert done.returncode == 1
    assert "dev-key.pem is there already" in done.stderr
    assert (tmp_path / "dev-key.pem").read_text() == "mine"
    assert not (tmp_path / "dev-cert.pem").exists()
    done = dev_cert(tmp_path, "badger.example", "--force")
    assert done.returncode == 0
    assert "--tls-name badger.example" in done.stdout
    assert stat.S_IMODE((tmp_path / "dev-key.pem").stat().st_mode) == 0o600
    assert dev_cert(tmp_path, "a b", "--force").returncode == 2
