"""TLS that begins in the middle of a conversation (STARTTLS), in every style, with certificates of the server's own."""

from __future__ import annotations

import signal
import smtplib
import socket
import subprocess
from pathlib import Path

import pytest

from launch import pairs
from pronghorn.connection.blocking import Connection
from pronghorn.models import registry
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, until
from pronghorn.testing.tls import over_tls, throw_away_pair, trusting

HANDLERS = "starttls_under_test"
SPEAKS_FIRST = ("ByClass", "by_awaiting")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return throw_away_pair(str(tmp_path_factory.mktemp("certificate")))


def needs(model: str) -> None:
    if (missing := registry.page(model).missing()) is not None:
        pytest.skip(missing)


def becomes_tls(server: Served, place: int = 0, *, speaks_first: bool = False) -> None:
    """A whole conversation, in the clear and over TLS; plain text that came in one packet with the command is lost."""
    with server.connect(place) as sock:
        assert exchange(sock, b"hello\n", expect=12) == b"clear HELLO\n"
        assert exchange(sock, b"starttls\ninjected\ninject", expect=3) == b"go\n"
        with over_tls(sock) as client:
            if speaks_first:
                assert exchange(client, expect=7) == b"sealed\n"
            assert exchange(client, b"over\n", expect=13) == b"TLSv1.3 OVER\n"
            assert exchange(client, b"a\nb\n", end=True) == b"TLSv1.3 A\nTLSv1.3 B\n"


STYLES = {
    "message": ["by_message", "ByClass", "ByProtocol"],
    "asyncio": ["by_async_message", "by_awaiting", "ByAsyncioProtocol", "by_streams"],
    "blocking": ["by_blocking", "ByRequestHandler"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "styles"),
    pairs(
        "thread/message,asyncio,blocking fork/message,asyncio,blocking asyncio/message,asyncio uvloop/message,asyncio"
    )
    + pairs("select/message poll/asyncio gevent/message,blocking"),
)
def test_a_conversation_becomes_tls(model: str, styles: str, pair: dict[str, str]) -> None:
    """In every style; also behind clients that break the handshake: each is one line of the log."""
    needs(model)
    handlers = [each for style in styles.split(",") for each in STYLES[style]]
    listeners = [
        {"name": each, "bind": "127.0.0.1:0", "handler": f"{HANDLERS}:{each}", "tls": "starttls"} for each in handlers
    ]
    with serving(f"{HANDLERS}:{handlers[0]}", model=model, workers=1, listeners=listeners, **pair) as server:
        for place, handler in enumerate(handlers):
            with server.connect(place) as sock:
                assert exchange(sock, b"starttls\n", expect=3) == b"go\n"
                exchange(sock, b"this is no TLS\r\n", end=True)
            becomes_tls(server, place, speaks_first=handler in SPEAKS_FIRST)
        until(lambda: "No TLS with" in server.log(), "the line of the log")
        assert "Traceback" not in server.log() and "ERROR" not in server.log(), server.log()


def refuses(server: Served) -> bool:
    try:
        server.connect().close()
    except OSError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize(("handler", "model"), pairs("by_bytes/thread by_message/uvloop"))
def test_what_is_in_the_way_of_a_handshake(handler: str, model: str, pair: dict[str, str]) -> None:
    """A client that does not begin it, one that leaves, and a server that drains meanwhile."""
    needs(model)
    with serving(f"{HANDLERS}:{handler}", model=model, workers=1, tls="starttls", **pair) as server:
        with server.connect() as sock:
            assert exchange(sock, b"impatient\n", expect=3) == b"go\n"
            assert exchange(sock) == b""
            until(lambda: "did not finish the handshake within 0.2 s" in server.log(), "the deadline")
        with server.connect() as sock:
            assert exchange(sock, b"starttls\n", expect=3) == b"go\n"
            sock.shutdown(socket.SHUT_WR)
            assert exchange(sock) == b""
        with server.connect() as sock:
            assert exchange(sock, b"starttls\n", expect=3) == b"go\n"
            server.send_signal(signal.SIGTERM)
            until(lambda: refuses(server), "the drain")
            with over_tls(sock) as client:
                assert exchange(client) == b""
                assert client.records is not None and client.records.ended
        assert "Traceback" not in server.log(), server.log()


@pytest.mark.slow
def test_plain_bytes_in_the_kernel_never_pass_for_tls(pair: dict[str, str]) -> None:
    """Behind the command they are thrown away, where we say ourselves that TLS may begin; else the handshake fails."""
    with serving(f"{HANDLERS}:by_bytes", model="thread", tls="starttls", **pair) as server:
        becomes_tls(server)
        with server.connect() as sock:
            assert exchange(sock, b"early\ninjected\n", expect=3) == b"go\n"
            with pytest.raises(OSError):
                over_tls(sock)
        until(lambda: "No TLS with" in server.log(), "the line of the log")
        assert "INJECTED" not in server.log()


@pytest.mark.slow
@pytest.mark.parametrize(("handler", "protocol"), pairs("Smtp/smtp Postgres/postgres ldap/ldap"))
def test_openssl_speaks_starttls(handler: str, protocol: str, pair: dict[str, str]) -> None:
    with serving(f"{HANDLERS}:{handler}", model="epoll", tls="starttls", **pair) as server:
        host, port = server.address[:2]
        command = ["openssl", "s_client", "-connect", f"{host}:{port}", "-starttls", protocol, "-brief"]
        said = subprocess.run(command, input=b"", capture_output=True, timeout=30)
        assert b"TLSv1.3" in said.stderr, said.stderr
        if protocol == "smtp":
            with smtplib.SMTP(str(host), int(port), timeout=10) as client:
                client.starttls(context=trusting())
                assert client.ehlo("me")[1] == b"hello over TLSv1.3"


@pytest.mark.slow
@pytest.mark.parametrize(("handler", "model"), pairs("by_blocking/fork LikeALibrary/epoll"))
def test_a_new_certificate_is_shown(handler: str, model: str, tmp_path: Path) -> None:
    """Also by a context that was asked for before: current_tls() follows the certificates."""
    pair = throw_away_pair(str(tmp_path))

    def shown(server: Served) -> bytes:
        with server.connect() as sock:
            assert exchange(sock, b"starttls\n", expect=3) == b"go\n"
            with over_tls(sock) as client:
                certificate = client.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate

    with serving(f"{HANDLERS}:{handler}", model=model, workers=1, tls="starttls", tls_watch=True, **pair) as server:
        before = shown(server)
        throw_away_pair(str(tmp_path))
        until(lambda: shown(server) != before, "the new certificate")
        assert "Traceback" not in server.log(), server.log()


def test_a_copy_of_a_connection_makes_files_and_begins_no_tls() -> None:
    ours, theirs = socket.socketpair()
    with theirs, Connection(fileno=ours.detach()) as conn:
        conn.begin(1, "", None)
        with conn.dup() as copy, copy.makefile("rb") as file:
            theirs.sendall(b"line\n")
            assert file.readline() == b"line\n"
            with pytest.raises(RuntimeError, match="no server holds"):
                copy.start_tls()


@pytest.mark.slow
def test_without_a_certificate_it_is_said_what_to_do() -> None:
    with serving(f"{HANDLERS}:by_message", model="epoll") as server:
        with server.connect() as sock:
            assert exchange(sock, b"starttls\n") == b""
        until(lambda: "Serve with --tls-cert FILE --tls-key FILE --tls starttls" in server.log(), "the hint")
