"""A transport of ours answers as asyncio's own does: the same protocol under both, the same observations."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parity_under_test import Noting
from pronghorn.models import registry
from pronghorn.testing.served import Address, serving
from pronghorn.testing.talk import exchange, until
from pronghorn.testing.tls import SealedClient, throw_away_pair, trusting

MODELS = ("asyncio", "uvloop", "thread")
SCENARIOS = "state limits writes aborts throttled limits_later eof_that_stays eof_that_ends another raises".split()


@pytest.fixture(scope="module")
def reference() -> Iterator[Address]:
    """asyncio's own server, in a thread of this process."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Noting, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server.sockets[0].getsockname()
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(server.wait_closed())
    loop.close()
    logging.getLogger("asyncio").setLevel(logging.NOTSET)


def observed(address: Address, scenario: str, path: Path) -> list[Any]:
    """One conversation; what the client has read comes last."""
    with socket.create_connection(address, timeout=20) as client:  # type: ignore[arg-type]
        client.sendall(f"{scenario} {path}".encode())
        got: list[Any] = []
        if scenario in ("eof_that_stays", "eof_that_ends", "another", "raises"):
            got.append(client.recv(5).decode())
            if scenario == "another":
                client.sendall(b"12345678")
            if scenario != "raises":
                client.shutdown(socket.SHUT_WR)
        if scenario in ("throttled", "limits_later"):
            until(Path(f"{path}.written").exists, "more than the kernel takes is written")
        count, rest = 0, b""
        try:
            while data := client.recv(1 << 20):
                count += len(data)
                rest = (rest + data)[-20:]
        except ConnectionResetError:
            count = -1
        if scenario not in ("aborts", "raises"):
            got.append([count, rest.decode()])
    until(path.exists, "the protocol has written its notes")
    return [*json.loads(path.read_text()), got]


@pytest.mark.parametrize("model", MODELS)
def test_the_transport_answers_as_asyncios(model: str, reference: Address, tmp_path: Path) -> None:
    if registry.page(model).missing() is not None:
        pytest.skip(f"{model} is not there")
    with serving("parity_under_test:Noting", model=model, workers=1) as server:
        for scenario in SCENARIOS:
            ours = observed(server.address, scenario, tmp_path / f"{scenario}.ours")
            theirs = observed(reference, scenario, tmp_path / f"{scenario}.theirs")
            assert ours == theirs, scenario


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    pair = throw_away_pair(str(tmp_path_factory.mktemp("certificate")))
    before = dict(os.environ)
    os.environ.update({name.upper(): path for name, path in pair.items()})
    yield pair
    os.environ.clear()
    os.environ.update(before)


def sent(sock: Any, order: str) -> tuple[bytes, Any]:
    """What came of a file, and the notes behind it."""
    sock.sendall(f"{order}\n".encode())
    got = b""
    while not got.endswith(b"]\n"):
        data = sock.recv(1 << 20)
        assert data, got[-100:]
        got += data
    file, _, note = got[:-1].rpartition(b"\n")
    return file.removeprefix(b"ahead:"), json.loads(note)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_loop_sends_files(model: str, certificate: dict[str, str], tmp_path: Path) -> None:
    """By sendfile(2) and without, from a file and from memory, behind unsent bytes, and above asyncio's own TLS."""
    if registry.page(model).missing() is not None:
        pytest.skip(f"{model} is not there")
    path = tmp_path / "file"
    path.write_bytes(whole := os.urandom(3_000_001))
    size = len(whole)
    with serving("parity_under_test:sends_files", model=model, workers=1) as server, server.connect() as sock:
        assert sent(sock, f"{path} 0 0 yes plain") == (whole, [size, size, True])
        assert sent(sock, f"{path} 7 100 yes plain") == (whole[7:107], [100, 107, True])
        assert sent(sock, f"{path} 9 0 yes memory") == (whole[9:], [size - 9, size, True])
        assert sent(sock, f"{path} 0 0 yes behind") == (b"x" * 3_000_000 + whole, [size, size, True])
        assert sent(sock, f"{path} 0 10 no memory") == (b"", ["SendfileNotAvailableError", 0, True])
        assert sent(sock, f"{path} -1 0 yes plain")[1][0] == "ValueError"
        assert sent(sock, f"{path} 0 -1 yes plain")[1][0] == "ValueError"
        sock.sendall(f"{path} 5 0 yes tls\n".encode())  # what goes on before is lost to the client
        assert exchange(sock, expect=4) == b"now\n"
        with SealedClient(sock, trusting()) as client:
            assert sent(client, f"{path} 9 0 yes plain") == (whole[9:], [size - 9, size, True])
            assert sent(client, f"{path} 0 0 no plain")[1][0] == "RuntimeError"
    assert "Traceback" not in server.log()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("handler", "model"),
    [("upgrades", "asyncio"), ("upgrades", "uvloop"), ("upgrades", "thread"), ("UpgradesItself", "uvloop")],
)
def test_a_conversation_becomes_tls(model: str, handler: str, certificate: dict[str, str]) -> None:
    """And a client that breaks the handshake is no news."""
    if registry.page(model).missing() is not None:
        pytest.skip(f"{model} is not there")
    with serving(f"parity_under_test:{handler}", model=model, workers=1) as server:
        for broken in (b"this is no TLS\r\n" * 10, b"", b"\x16\x03\x01\x00\x05"):
            with server.connect() as sock:
                assert exchange(sock, b"starttls\n", expect=4) == b"now\n"
                sock.sendall(broken)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1000):
                    pass
        with server.connect() as sock:
            assert exchange(sock, b"starttls\n", expect=4) == b"now\n"
            with SealedClient(sock, trusting()) as client:
                assert exchange(client, expect=20) == b"SSLObject 127.0.0.1\n"
                assert exchange(client, b"hello\n", expect=6) == b"HELLO\n"
        with server.connect() as sock:  # nobody was hurt
            assert exchange(sock, b"starttls\n", expect=4) == b"now\n"
        log = server.log()
    assert "Traceback" not in log and "rror" not in log and "has no effect" not in log, log
