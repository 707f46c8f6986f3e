"""What a library gives to `loop.create_server` is served on Pronghorn's listeners, or refused; never in another way."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

import pytest

import pronghorn
from brokers import free_port
from pronghorn.models import registry
from pronghorn.testing.served import serving
from pronghorn.testing.talk import exchange, until
from pronghorn.testing.tls import SealedClient, throw_away_pair, trusting

HANDLERS = "adopted_under_test"


def needs(model: str) -> None:
    if registry.page(model).missing() is not None:
        pytest.skip(f"{model} is not there")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["asyncio", "uvloop", "epoll"])
def test_a_librarys_server_is_served_and_closed_in_its_own_way(model: str) -> None:
    """Its sockets are the listeners'; a late reply comes before its own close, and that before the client's end."""
    needs(model)
    with serving(f"{HANDLERS}:protocol", model=model, workers=1, drain_quiet=0.2) as server:
        port = server.address[1]
        with server.connect() as idle, server.connect() as asks:
            assert exchange(idle, b"one\n", expect=4) == b"ONE\n"
            asks.sendall(b"late\n")
            until(lambda: "LATE IN HAND" in server.log(), "the question has come")
            server.send_signal(signal.SIGTERM)
            assert exchange(asks) == b"LATE\n1001\n"
            assert exchange(idle) == b"1001\n"
        assert server.wait() == 0
        assert f"SERVER [{port}] True True" in server.log()
        assert "CLOSED () False" in server.log()
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("model", ["asyncio", "uvloop"])
def test_start_server_with_a_socket_of_its_own_in_a_task(model: str) -> None:
    """Nobody listens at the port that the library has bound for itself."""
    needs(model)
    with serving(f"{HANDLERS}:streams_forever", model=model, workers=1, drain_quiet=0.2) as server:
        until(lambda: "OWN" in server.log(), "the library serves")
        own = re.search(r"OWN (\d+)", server.log())
        assert own
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(own[1])), 5)
        with server.connect() as client:
            assert exchange(client, b"one\n", expect=4) == b"ONE\n"
            client.sendall(b"late\n")
            until(lambda: "LATE IN HAND" in server.log(), "the question has come")
            server.send_signal(signal.SIGTERM)
            assert exchange(client) == b"LATE\n"
        assert server.wait() == 0
        assert "CLOSED True" in server.log()
        assert "Traceback" not in server.log()


def test_two_servers_have_the_listeners_with_their_port_and_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{tmp_path}/s"
    port = free_port()
    monkeypatch.setenv("PORT", str(port))
    monkeypatch.setenv("SOCKET", path)
    with serving(f"{HANDLERS}:two", model="asyncio", bind=[f"127.0.0.1:{port}", f"unix:{path}"], workers=1) as server:
        for index in (0, 1):
            with server.connect(index) as client:
                assert exchange(client, b"x", expect=2) == b"%d\n" % (index + 1)
    with (
        pytest.raises(pronghorn.PronghornError, match="made 2 servers, at"),
        serving(f"{HANDLERS}:two", model="asyncio", bind=[f"127.0.0.1:{port}"], workers=1),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("model", ["asyncio", "uvloop"])
def test_the_tls_of_a_library_is_honoured(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs(model)
    pair = throw_away_pair(str(tmp_path))
    for name, value in pair.items():
        monkeypatch.setenv(name.upper(), value)
    with serving(f"{HANDLERS}:own_tls", model=model, workers=1, drain_quiet=0.2) as server:
        with server.connect() as plain:
            assert b"NO TLS" not in exchange(plain, b"no tls\n" * 100)
        with server.connect() as sock, SealedClient(sock, trusting()) as client:
            assert exchange(client, b"one\n", expect=4) == b"ONE\n"
            client.sendall(b"late\n")
            until(lambda: "LATE IN HAND" in server.log(), "the question has come")
            server.send_signal(signal.SIGTERM)
            assert exchange(client) == b"LATE\n1001\n"
        assert server.wait() == 0
        assert "Traceback" not in server.log()
    with (
        pytest.raises(pronghorn.PronghornError, match="TLS within TLS"),
        serving(f"{HANDLERS}:own_tls", model=model, workers=1, **pair),
    ):
        pass


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        ("nothing", "Nothing called loop.create_server"),
        ("NotAdopted", "belongs into the lifespan"),
        ("raises", "no such database"),
    ],
)
def test_what_cannot_be_served_is_told_before_the_first_client(handler: str, why: str) -> None:
    with pytest.raises(pronghorn.PronghornError, match=why), serving(f"{HANDLERS}:{handler}", model="asyncio"):
        pass


@pytest.mark.parametrize("model", ["thread", "gevent"])
def test_models_without_one_loop_refuse_it(model: str) -> None:
    needs(model)
    with pytest.raises(pronghorn.PronghornError, match="async lifespan"), serving(f"{HANDLERS}:protocol", model=model):
        pass


def test_a_conversation_may_open_a_listener_of_its_own() -> None:
    with serving(f"{HANDLERS}:passive", model="asyncio", workers=1) as server, server.connect() as client:
        port = int(exchange(client, b"PASV\n", expect=6))
        with socket.create_connection(("127.0.0.1", port), 10) as data:
            assert exchange(data, b"data\n", expect=5) == b"DATA\n"


def test_it_wants_an_async_lifespan() -> None:
    def lifespan():  # type: ignore[no-untyped-def]
        yield

    with pytest.raises(TypeError, match="async def with one yield"):
        pronghorn.adopted(lifespan)
