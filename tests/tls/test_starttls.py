"""TLS that begins in the middle of a conversation (STARTTLS), in every style, with certificates of the server's own."""

from __future__ import annotations

import pytest

from launch import pairs
from pronghorn.models import registry
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, until
from pronghorn.testing.tls import over_tls, throw_away_pair

HANDLERS = "starttls_under_test"
SPEAKS_FIRST = ("ByClass", "by_awaiting")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return throw_away_pair(str(tmp_path_factory.mktemp("certificate")))


def needs(model: str) -> None:
    if (missing := registry.page(model).missing()) is not None:
        pytest.skip(missing)


def becomes_tls(server: Served, *, speaks_first: bool) -> None:
    """A whole conversation, in the clear and over TLS; plain text that came in one packet with the command is lost."""
    with server.connect() as sock:
        assert exchange(sock, b"hello\n", expect=12) == b"clear HELLO\n"
        assert exchange(sock, b"starttls\ninjected\ninject", expect=3) == b"go\n"
        with over_tls(sock) as client:
            if speaks_first:
                assert exchange(client, expect=7) == b"sealed\n"
            assert exchange(client, b"over\n", expect=13) == b"TLSv1.3 OVER\n"
            assert exchange(client, b"a\nb\n", end=True) == b"TLSv1.3 A\nTLSv1.3 B\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("handler", "model"),
    pairs("by_message/epoll by_message/thread ByClass/uvloop by_async_message/asyncio by_awaiting/thread")
    + pairs("ByProtocol/select ByProtocol/fork ByAsyncioProtocol/uvloop by_streams/asyncio by_streams/thread")
    + pairs("by_blocking/gevent by_blocking/iterative ByRequestHandler/thread"),
)
def test_a_conversation_becomes_tls(handler: str, model: str, pair: dict[str, str]) -> None:
    """Also behind clients that break the handshake: each is one line of the log."""
    needs(model)
    with serving(f"{HANDLERS}:{handler}", model=model, workers=1, tls="starttls", **pair) as server:
        with server.connect() as sock:
            assert exchange(sock, b"starttls\n", expect=3) == b"go\n"
            exchange(sock, b"this is no TLS\r\n", end=True)
        until(lambda: "No TLS with" in server.log(), "the line of the log")
        becomes_tls(server, speaks_first=handler in SPEAKS_FIRST)
        assert "Traceback" not in server.log() and "ERROR" not in server.log(), server.log()
