"""The PROXY header before the conversation: read in the connection's own time, from proxies and from nobody else."""

from __future__ import annotations

import contextlib
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from brokers import free_port
from pauses import undisturbed
from pronghorn.connection.interfaces import Watchable
from pronghorn.connection.proxy_protocol import SIGNATURE, ProxyHeader
from pronghorn.connection.proxy_wait import TOO_LATE, WRONG, HeaderWait, read_header
from pronghorn.connection.states import State
from pronghorn.errors import BadProxyHeader
from pronghorn.models import registry
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, until
from pronghorn.testing.tls import over_tls
from tls_under_test import Authority

PROXY, STRANGER, OTHER, OUTSIDER = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
LINE = b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 8000\r\n"
HEADER = ProxyHeader(1, ("192.0.2.7", 4711), ("192.0.2.8", 8000))
PATIENCE = 15.0
QUICK = ("epoll", "thread")
NAMES = [name for name in registry.MODELS if name not in ("kqueue", "prefork")]
MODELS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


def v2(source: str, *, command: int = 0x21) -> bytes:
    block = socket.inet_aton(source) + socket.inet_aton("192.0.2.8") + struct.pack("!HH", 4711, 8000)
    return SIGNATURE + struct.pack("!BBH", command, 0x11, len(block)) + block


def end_the_handshake_with_data(client: socket.socket) -> None:
    """As HAProxy has it: the server accepts the connection when the header is there (tcp(7))."""
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)


@contextlib.contextmanager
def connected(server: Served, source: str = PROXY) -> Iterator[socket.socket]:
    with socket.socket() as client:
        client.settimeout(PATIENCE)
        if source == OUTSIDER:
            end_the_handshake_with_data(client)
        client.bind((source, 0))
        client.connect(server.address)
        yield client


def told(client: socket.socket, data: bytes) -> bytes:
    """What the handler answers; with nothing in it the server has only ended."""
    return exchange(client, data, end=True)


@contextlib.contextmanager
def proxied(model: str, **settings: object) -> Iterator[Served]:
    missing = registry.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")
    with serving("handlers_under_test:whom", model=model, proxy_from=(PROXY,), **settings) as server:  # type: ignore[arg-type]
        yield server
        assert "Traceback" not in server.log()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        other.setblocking(False)
        yield one, other


def test_a_header_wait_reads_its_header_and_no_more(ends: tuple[socket.socket, socket.socket]) -> None:
    one, other = ends
    changes: list[Watchable] = []
    header_wait = HeaderWait(other, ("127.0.0.2", 1), 10.0)
    header_wait.tell(changes.append)
    for byte in LINE[:-1]:
        one.send(bytes([byte]))
        header_wait.on_readable()
    assert (header_wait.state, header_wait.wants_read, header_wait.header) == (State.OPENING, True, None)
    one.send(b"\nhello")
    header_wait.on_readable()
    assert (header_wait.header, header_wait.refusal, header_wait.is_closing(), header_wait.wants_read) == (
        HEADER,
        "",
        True,
        False,
    )
    assert changes == [header_wait] * 2  # when it is watched, and when it is over
    header_wait.late()
    header_wait.on_readable()
    assert (header_wait.refusal, changes) == ("", [header_wait] * 2)
    assert other.recv(100) == b"hello"


@pytest.mark.parametrize(("sent", "detail"), [(b"hello", "begins with b'hello'"), (b"PROXY TC", "ended before it")])
def test_a_header_wait_says_why_there_is_no_header(
    ends: tuple[socket.socket, socket.socket], sent: bytes, detail: str
) -> None:
    one, other = ends
    header_wait = HeaderWait(other, "", 10.0)
    one.sendall(sent)
    one.close()
    header_wait.on_readable()
    header_wait.on_readable()
    assert (header_wait.refusal, header_wait.is_closing()) == (WRONG, True)
    assert detail in header_wait.detail


def test_a_header_wait_that_is_late(ends: tuple[socket.socket, socket.socket]) -> None:
    header_wait = HeaderWait(ends[1], "", 10.0)
    header_wait.late()
    assert (header_wait.refusal, header_wait.is_closing()) == (TOO_LATE, True)


def test_reading_a_header_waits_for_it_and_no_longer(ends: tuple[socket.socket, socket.socket]) -> None:
    one, other = ends
    one.sendall(LINE + b"hello")
    assert read_header(other, 10) == HEADER
    assert other.recv(100) == b"hello"
    with pytest.raises(TimeoutError):
        read_header(other, 0.01)
    one.sendall(b"GET /")
    with pytest.raises(BadProxyHeader):
        read_header(other, 10)
    one.close()
    with pytest.raises(BadProxyHeader, match="ended before it"):
        read_header(other, 10)


@pytest.mark.parametrize("model", MODELS)
def test_the_peer_is_the_client_for_whom_the_proxy_speaks(model: str) -> None:
    with proxied(model) as server:
        for header, version in ((LINE, 1), (v2("192.0.2.7"), 2)):
            with connected(server) as client:
                assert told(client, header + b"a\nb\n") == b"".join(
                    f"{each}: ('192.0.2.7', 4711) {version}\n".encode() for each in "ab"
                )
        with connected(server) as client:
            for byte in LINE:
                client.send(bytes([byte]))
            assert told(client, b"a\n") == b"a: ('192.0.2.7', 4711) 1\n"
        with connected(server) as client:
            own = client.getsockname()
            assert told(client, v2("192.0.2.7", command=0x20) + b"a\n") == f"a: {own} 2\n".encode()
        with connected(server, STRANGER) as client:
            own = client.getsockname()
            assert told(client, b"a\n") == f"a: {own} None\n".encode()


@pytest.mark.parametrize("model", MODELS)
def test_a_proxy_that_says_something_else_is_turned_away_and_a_stranger_is_not_believed(model: str) -> None:
    with proxied(model) as server:
        for wrong in (b"", b"a\n", b"PROXY TCP4 192.0.2.7", v2("192.0.2.7")[:20]):
            with connected(server) as client:
                assert told(client, wrong) == b""
            if wrong == b"a\n":  # of many alike the log has the first
                until(lambda: "the connection begins with b'a" in server.log())
        for _ in range(2):
            with connected(server, OUTSIDER) as client:
                assert told(client, LINE) == LINE.strip() + f": {client.getsockname()} None\n".encode()
        until(lambda: "sends a PROXY header (version 1)" in server.log())
        assert server.log().count(f"bytes: name that proxy, --proxy-from {OUTSIDER}") == 1
        found = re.findall(r"no PROXY header \(the PROXY header is wrong: the connection (\w+)", server.log())
        assert found[0] == "begins", "the one without a byte is no refusal: a health check's"


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_proxy_that_is_too_slow_loses_its_connection(model: str) -> None:
    with proxied(model, handshake_timeout=0.4) as server:

        def trial() -> None:
            begun = time.monotonic()
            with connected(server) as slow, connected(server) as slower, connected(server, STRANGER) as stranger:
                slow.sendall(LINE[:-1])
                if model != "iterative":
                    assert told(stranger, b"a\n").startswith(b"a: ")
                    assert not select.select([slow], [], [], 0)[0], "the stranger waited for the slow ones"
                for client in (slow, slower):
                    assert client.recv(100) == b""
                assert 0.35 < time.monotonic() - begun < PATIENCE / 3

        undisturbed(trial)
        until(lambda: TOO_LATE in server.log())
        assert server.stop() == 0


@pytest.mark.parametrize("model", MODELS)
def test_access_is_for_the_proxy_and_for_its_client(model: str) -> None:
    with proxied(model, deny=("192.0.2.0/24", OTHER), allow=("127.0.0.0/8", "192.0.2.9")) as server:
        for source, header, served in (
            (PROXY, v2("192.0.2.9"), True),
            (PROXY, v2("192.0.2.7"), False),
            (PROXY, v2("198.51.100.1"), False),
            (STRANGER, b"", True),
            (OTHER, b"", False),
            (OTHER, v2("192.0.2.9"), False),
        ):
            with connected(server, source) as client:
                assert bool(told(client, header + b"a\n")) is served, (source, header)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_draining_hears_a_header_that_comes_at_once_and_waits_for_no_other(model: str) -> None:
    undisturbed(lambda: header_comes_in_the_drain(model))  # it has a second


def header_comes_in_the_drain(model: str) -> None:
    with proxied(model, handshake_timeout=60) as server:
        with connected(server) as late, connected(server) as mute, connected(server, STRANGER) as talks:
            if model == "iterative":
                mute.close()
                talks.close()
            else:
                talks.sendall(b"a\n")
                assert talks.recv(100).startswith(b"a: ")
            server.send_signal(signal.SIGTERM)
            until(lambda: "Draining" in server.log())
            assert told(late, LINE + b"a\n") == b"a: ('192.0.2.7', 4711) 1\n"
            assert model == "iterative" or mute.recv(100) == b""
        assert server.wait() == 0


@pytest.mark.parametrize(
    ("handler", "model"),
    [("whom_blocking", "thread"), ("whom_streams", "asyncio"), ("whom_streams", "thread"), ("whom_streams", "epoll")],
)
def test_every_style_is_told(handler: str, model: str) -> None:
    name = f"handlers_under_test:{handler}"
    with serving(name, model=model, proxy_from=("127.0.0.0/8",)) as server, server.connect() as client:
        assert told(client, LINE + b"a\n") == b"a: ('192.0.2.7', 4711) 1\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("handler", "model"),
    [
        (("cat",), "fork"),
        ("handlers_under_test:whom_streams", "uvloop"),
        ("handlers_under_test:whom_blocking", "gevent"),
    ],
)
def test_a_header_that_nothing_has_asked_for_is_told_once_at_each_listener(handler: str, model: str) -> None:
    if (missing := registry.page(model).missing()) is not None:
        pytest.skip(f"{model}: {missing}")
    with serving(handler, model=model, workers=2, bind=("127.0.0.1:0", "127.0.0.1:0")) as server:
        for address in server.addresses:
            for _ in range(8):
                with socket.socket() as client:
                    end_the_handshake_with_data(client)
                    client.connect(address)
                    told(client, v2("192.0.2.7") + b"a\n")
        until(lambda: server.log().count("sends a PROXY header (version 2)") == 2)
        assert all(f"PROXY header (version 2) at 127.0.0.1:{port}," in server.log() for _, port in server.addresses)


def test_proxies_at_a_unix_socket(tmp_path: Path) -> None:
    bind = f"unix:{tmp_path}/s"
    with serving("handlers_under_test:whom", bind=bind, proxy_from=("unix",)) as server:
        with server.connect() as client:
            assert told(client, LINE + b"a\n") == b"a: ('192.0.2.7', 4711) 1\n"
        with server.connect() as client:
            assert told(client, b"a\n") == b""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Settings with a certificate."""
    certificate, key = Authority(tmp_path_factory.mktemp("authority")).sign("server")
    return {"tls_cert": certificate, "tls_key": key}


@pytest.mark.slow
@pytest.mark.parametrize("model", NAMES)
def test_tls_comes_after_the_header(model: str, pair: dict[str, object]) -> None:
    with proxied(model, **pair) as server:
        for header in (LINE, v2("192.0.2.7")):
            with connected(server) as client:
                client.sendall(header)
                with over_tls(client) as secure:
                    assert exchange(secure, b"a\n", end=True).startswith(b"a: ('192.0.2.7', 4711) ")
        with connected(server, STRANGER) as client, over_tls(client) as secure:
            assert exchange(secure, b"a\n", end=True).endswith(b" None\n")
        with connected(server) as client:
            assert told(client, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" * 10) == b""


# A real proxy.

HAPROXY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 5s
    timeout server 5s
listen one
    bind 127.0.0.1:{port} name one
    server one {server} {how}
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id,crc32c"])
@pytest.mark.parametrize("model", ["epoll", "thread", "asyncio", "fork"])
def test_haproxy(tmp_path: Path, model: str, how: str) -> None:
    port = free_port()
    with serving("handlers_under_test:whom", model=model, proxy_from=("127.0.0.1",)) as server:
        host, there = server.address
        (tmp_path / "cfg").write_text(HAPROXY.format(port=port, server=f"{host}:{there}", how=how))
        with open(tmp_path / "log", "wb") as log:
            proxy = subprocess.Popen(
                ["haproxy", "-db", "-f", str(tmp_path / "cfg")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:

            def reachable() -> bool:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    return True
                assert proxy.poll() is None, (tmp_path / "log").read_text()
                return False

            until(reachable)
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                    own = client.getsockname()
                    assert told(client, b"a\n") == f"a: {own} {2 if 'v2' in how else 1}\n".encode()
        finally:
            proxy.terminate()
            proxy.wait()


@pytest.mark.parametrize("model", ["asyncio", "uvloop"])
def test_a_clients_ipv6_address_has_two_parts(model: str) -> None:
    """asyncio tells four of an IPv6 socket's; a header has neither flow nor scope."""
    header = b"PROXY TCP6 2001:db8::7 2001:db8::9 51234 8000\r\n"
    with (
        serving("handlers_under_test:whom_streams", model=model, proxy_from=(PROXY,)) as server,
        connected(server) as it,
    ):
        assert told(it, header + b"x\n") == b"x: ('2001:db8::7', 51234) 1\n"
