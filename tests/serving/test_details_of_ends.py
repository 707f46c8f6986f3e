"""What is counted of handshakes and refusals where somebody reads metrics, under a loop and with flows of control."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from boards import details_of
from launch import launched, wait_for

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("model", ["epoll", "fork"])
def test_handshakes_by_how_they_end(model: str, tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "pair.pem"))
    knows, does_not = ssl.create_default_context(), ssl.create_default_context()
    authority.configure_trust(knows)
    pair = str(tmp_path / "pair.pem")
    hasty = {"name": "hasty", "bind": ["127.0.0.1:0"], "handshake_timeout": "300ms"}  # the others need a moment
    settings = {"tls_cert": [pair], "tls_key": [pair], "listeners": [hasty], "statsd": "127.0.0.1:9"}
    with launched(tmp_path, model=model, workers=1, **settings) as server:
        with (
            socket.create_connection(server.address) as plain,
            knows.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"hello\n")
            assert tls.recv(100) == b"HELLO\n"
        with socket.create_connection(server.address) as plain, pytest.raises(ssl.SSLError):
            does_not.wrap_socket(plain, server_hostname="localhost")
        with socket.create_connection(server.address) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            plain.recv(100)
        host, _, port = server.report["listening"][1].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=15) as silent:
            silent.recv(100)
        wait_for(lambda: details_of(server)["handshake_timeout"] == 1)
        names = ("done", "untrusted", "no_tls", "timeout", "failed")
        wait_for(lambda: [details_of(server)[f"handshake_{each}"] for each in names] == [1, 1, 1, 1, 0])


def test_refusals_by_their_limit(tmp_path: Path) -> None:
    with launched(tmp_path, workers=1, deny=["127.0.0.1"], statsd="127.0.0.1:9") as server:
        for _ in range(3):
            assert server.refuses()
        wait_for(lambda: details_of(server)["refused_access"] == 3)
