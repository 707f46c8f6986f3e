"""TLS under every model and in every style, with clients of several kinds: our own, ssl's, and openssl's."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch import pairs, script
from pauses import undisturbed
from pronghorn.errors import BadCertificate, BadSetting, HandshakeFailed, IncompatibleHandler, PronghornError
from pronghorn.models import registry
from pronghorn.settings import settle
from pronghorn.testing.forms import FORMS
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, until
from pronghorn.testing.tls import over_tls, trusting
from pronghorn.tls import contexts
from pronghorn.tls.blocking import TlsConnection
from pronghorn.tls.certificates import Certificates
from pronghorn.tls.records import Records
from tls_under_test import Authority

MODELS = [name for name in registry.MODELS if registry.page(name).missing() is None]
MISSING = [name for name in registry.MODELS if registry.page(name).missing() is not None]
STYLES = [form for form in FORMS if form.style != "program"]
ROTATIONS = 3  # each waits for a look at the files; proof/guards.py makes many
# One of each kind takes all styles: flows of control, processes, loops of ours, asyncio's. test_promises.py tries the
# others with two styles each.
EVERY_STYLE = ["fork", "thread", "gevent", "epoll", "asyncio", "uvloop"]
PATIENCE = 15.0
MIB = 1024 * 1024


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def pair(authority: Authority) -> dict[str, Any]:
    """Settings with a certificate for localhost."""
    certificate, key = authority.sign("server")
    return {"tls_cert": certificate, "tls_key": key}


def client(server: Served, ca: str = "", **options: Any) -> TlsConnection:
    return over_tls(server.connect(), ca, **options)


def ask(server: Served, question: bytes, ca: str = "", **options: Any) -> bytes:
    """One whole conversation, with half-close."""
    with client(server, ca, **options) as connection:
        return exchange(connection, question, end=True)


def clean(server: Served) -> bool:
    """Whether nothing in the log is a fault of a handler or the server."""
    return not any(word in server.log() for word in ("Traceback", "ERROR", "Handler failed"))


def serial(server: Served) -> str:
    """Of the certificate that a new handshake shows."""
    with client(server) as connection:
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return serial_of(ssl.DER_cert_to_PEM_cert(der))


def serial_of(pem: str) -> str:
    from pronghorn.tls.contexts import describe

    return describe(pem.encode()).serial


# Every model and style


def test_every_missing_model_is_told_of() -> None:
    for name in MISSING:
        print(f"not tested here: {registry.page(name).missing()}")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("model", [name for name in EVERY_STYLE if name in MODELS])
def test_every_style_is_served_and_half_close_loses_nothing(
    model: str, pair: dict[str, Any], authority: Authority
) -> None:
    forms = [each for each in STYLES if each.style in registry.styles(registry.page(model))]
    listeners: Any = [{"name": each.name, "bind": "127.0.0.1:0", "handler": each.source.name} for each in forms]
    with serving("upper", model=model, workers=1, listeners=listeners, **pair) as server:
        for index, form in enumerate(forms):
            question, answer = (form.framing.frame(each) for each in (b"a herd is watched", b"A HERD IS WATCHED"))
            for _ in range(3):
                with over_tls(server.connect(index), authority.path) as connection:
                    assert exchange(connection, question, end=True) == answer, form.name
        assert clean(server), server.log()


@pytest.mark.parametrize("model", ["thread", "epoll", "asyncio"])
def test_the_service_is_served(model: str, pair: dict[str, Any], authority: Authority) -> None:
    with serving("upper", model=model, **pair) as server:
        assert ask(server, b"hello", authority.path) == b"HELLO"


@pytest.mark.parametrize("model", ["thread", "gevent", "epoll", "select", "asyncio", "uvloop"])
def test_a_mebibyte_goes_both_ways(model: str, pair: dict[str, Any]) -> None:
    if model not in MODELS:
        pytest.skip(f"{registry.page(model).missing()}")
    with serving("upper", model=model, **pair) as server:
        data = b"abcdefghi\n" * (MIB // 10)
        assert ask(server, data) == data.upper()
        assert clean(server)


@pytest.mark.parametrize("model", ["thread", "epoll", "asyncio"])
def test_a_peer_that_reads_late_gets_all_of_it(model: str, pair: dict[str, Any]) -> None:
    with serving("tls_under_test:large", model=model, **pair) as server, client(server) as connection:
        connection.sendall(b"x" * 200_000)
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.3)  # not for luck: the server shall find its buffers full
        assert len(exchange(connection)) == 4_000_000


@pytest.mark.parametrize("model", ["iterative", "thread", "epoll", "asyncio"])
def test_records_that_come_byte_by_byte(model: str, pair: dict[str, Any]) -> None:
    with serving("upper", model=model, **pair) as server, client(server) as connection:
        records = connection.records
        assert records is not None
        for byte in records.seal(b"hello") + records.goodbye():
            socket.socket.send(connection, bytes([byte]))
        assert exchange(connection) == b"HELLO"


@pytest.mark.parametrize("model", ["thread", "epoll", "asyncio"])
def test_unread_input_does_not_cut_the_reply(model: str, pair: dict[str, Any]) -> None:
    with serving("daytime", model=model, **pair) as server:
        for _ in range(5):
            with client(server) as connection:
                with contextlib.suppress(OSError):
                    connection.sendall(b"x" * 100_000)
                assert exchange(connection).endswith(b"\r\n")
                assert connection.records is not None
                assert connection.records.ended, "no close_notify came"


@pytest.mark.parametrize("model", ["iterative", "thread", "epoll", "asyncio"])
def test_the_end_without_a_close_notify_is_told_apart(model: str, pair: dict[str, Any]) -> None:
    with serving("upper", model=model, log_level="debug", **pair) as server:
        with client(server) as connection:
            connection.sendall(b"hello")
            assert connection.recv(100) == b"HELLO"
            socket.socket.shutdown(connection, socket.SHUT_WR)
            assert exchange(connection) == b""
        until(lambda: "truncated" in server.log(), "the reason")
        assert ask(server, b"x") == b"X"
        until(lambda: ": done" in server.log(), "the other reason")
        assert clean(server)


@pytest.mark.parametrize("model", ["iterative", "fork", "thread", "pool", "gevent"])
def test_a_blocking_handler_has_a_socket_as_before(model: str, pair: dict[str, Any]) -> None:
    if model not in MODELS:
        pytest.skip(f"{registry.page(model).missing()}")
    with serving("tls_under_test:as_socket", model=model, **pair) as server, client(server) as connection:
        connection.sendall(b"first\n")
        assert exchange(connection, expect=6) == b"FIRST\n"
        connection.sendall(b"four")
        assert exchange(connection, expect=4) == b"FOUR"
        got = exchange(connection, b"r" * 1_000_000, end=True)
        this = (Path(__file__).parents[1] / "tls_under_test.py").read_bytes()
        assert (len(got), got == b"w" * 1_000_000 + this) == (1_000_000 + len(this), True), server.log()
        assert clean(server), server.log()


# Facts


@pytest.mark.parametrize(
    ("handler", "model"),
    pairs("by_message/epoll by_message/thread by_message/asyncio ByProtocol/poll ByProtocol/fork")
    + pairs("by_blocking/thread by_streams/asyncio by_streams/thread"),
)
def test_handlers_learn_of_version_cipher_alpn_name_and_certificate(
    handler: str, model: str, pair: dict[str, Any], authority: Authority
) -> None:
    mine = authority.sign("mine", "badger.example")
    context = ssl.create_default_context(cafile=authority.path)
    context.load_cert_chain(*mine)
    context.set_alpn_protocols(["other", "herd/1"])
    settings = {**pair, "tls_client_ca": authority.path, "tls_alpn": ["herd/2", "herd/1"]}
    with serving(f"tls_under_test:{handler}", model=model, **settings) as server:
        version, cipher, alpn, name, names = json.loads(ask(server, b"?\n", context=context))
        assert (version, alpn, name, names) == ("TLSv1.3", "herd/1", "localhost", ["badger.example"])
        assert cipher.startswith("TLS_")
    listeners: Any = [{"name": "tls", "bind": "127.0.0.1:0"}, {"name": "plain", "bind": "127.0.0.1:0", "tls": "off"}]
    with serving(f"tls_under_test:{handler}", model=model, listeners=listeners, **pair) as server:
        assert json.loads(ask(server, b"?\n"))[2:] == [None, "localhost", None]
        if handler != "by_streams":
            with server.connect(1) as plain:
                assert exchange(plain, b"?\n", end=True) == b"none\n"


@pytest.mark.parametrize("model", ["thread", "gevent", "epoll", "asyncio"])
def test_a_client_that_offers_other_protocols_only_is_refused(model: str, pair: dict[str, Any]) -> None:
    if model not in MODELS:
        pytest.skip(f"{registry.page(model).missing()}")
    with serving("upper", model=model, tls_alpn=["herd/2", "herd/1"], **pair) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = trusting()
            context.maximum_version = version
            assert ask(server, b"x", context=context) == b"X", "whoever offers none is served"
            context.set_alpn_protocols(["other", "herd/1"])
            assert ask(server, b"x", context=context) == b"X"
            context.set_alpn_protocols(["other"])
            with pytest.raises(HandshakeFailed, match="speaks no protocol that we offer"):
                client(server, context=context)
        until(lambda: "the client offers none of --tls-alpn" in server.log(), "the reason")
        assert clean(server), server.log()


def test_clients_get_the_certificate_that_they_ask_for(authority: Authority) -> None:
    pairs = [authority.sign("one", "one.example"), authority.sign("two", "two.example", "*.herd.example")]
    settings = {"tls_cert": [each[0] for each in pairs], "tls_key": [each[1] for each in pairs]}
    with serving("upper", **settings) as server:
        for name in ("one.example", "two.example", "calf.herd.example", "TWO.example"):
            assert ask(server, b"x", authority.path, name=name) == b"X", name
        assert ask(server, b"x", name="nobody.example") == b"X", "whoever asks for another name gets the first"
        with pytest.raises(HandshakeFailed, match="not trusted"):
            client(server, authority.path, name="nobody.example")


@pytest.mark.parametrize("order", ["ECDSA first", "RSA first"])
def test_each_client_gets_the_kind_of_certificate_that_it_can_verify(order: str, authority: Authority) -> None:
    """Two for one name, as haproxy#2392 has it: with SNI and without, under both versions."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    kinds = ("ECDSA", "RSA") if order == "ECDSA first" else ("RSA", "ECDSA")
    pairs = [authority.sign(kind, "herd.example", f"{kind}.example", f"{kind}.test", kind=kind) for kind in kinds]
    other = authority.sign("wild", "*.example", kind=kinds[1])
    settings = {
        "tls_cert": [*(each[0] for each in pairs), other[0]],
        "tls_key": [*(each[1] for each in pairs), other[1]],
    }
    old = ["-tls1_2", "-cipher"]
    both = ["-servername", "herd.example"]
    with serving("upper", **settings) as server:
        assert signature(server, *both, *old, "ECDHE-ECDSA-AES128-GCM-SHA256") == "ECDSA"
        assert signature(server, *both, *old, "ECDHE-RSA-AES128-GCM-SHA256") == "RSA"
        assert signature(server, *both, "-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256") == "RSA"
        assert signature(server, *both, "-tls1_3", "-sigalgs", "ecdsa_secp256r1_sha256") == "ECDSA"
        assert signature(server, *both) == "ECDSA", "the smaller one, for who can verify both"
        assert signature(server, "-noservername") == kinds[0], "no other has all names of the first"
        for kind in kinds:
            assert signature(server, "-servername", f"{kinds[0]}.example", *SIGNED[kind]) == kind, (
                "that of the wildcard"
            )
        assert server.log().count("; RSA, serial") == 2 - (kinds[1] == "ECDSA")
        assert clean(server), server.log()


def test_a_certificate_of_another_kind_with_all_names_of_the_first_is_for_who_asks_for_none(
    authority: Authority,
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    pairs = [authority.sign("first"), authority.sign("device", "localhost", "device.example", kind="RSA")]
    with serving("upper", tls_cert=[each[0] for each in pairs], tls_key=[each[1] for each in pairs]) as server:
        for kind, flags in SIGNED.items():
            assert signature(server, "-noservername", *flags) == kind
            assert signature(server, "-servername", "nobody.example", *flags) == kind


SIGNED = {
    "ECDSA": ("-tls1_3", "-sigalgs", "ecdsa_secp256r1_sha256"),
    "RSA": ("-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"),
}


def signature(server: Served, *flags: str) -> str:
    """Of which kind the certificate is that openssl's client gets."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.address[1]}", *flags]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
    said = [line for line in done.stdout.decode().splitlines() if line.startswith("Peer signature type")]
    assert said, done.stdout.decode() + done.stderr.decode()
    return "ECDSA" if "ecdsa" in said[0].lower() else "RSA"


# Those who do not get through


@pytest.mark.parametrize("model", ["thread", "epoll", "asyncio"])
def test_whoever_fails_the_handshake_is_told_of_in_one_line(model: str, pair: dict[str, Any], tmp_path: Path) -> None:
    stranger = Authority(tmp_path)
    with serving("upper", model=model, **pair) as server:
        with pytest.raises(HandshakeFailed):
            client(server, stranger.path)
        until(lambda: "No TLS with 127.0.0.1" in server.log(), "a record of the refusal")
        with server.connect() as plain:
            exchange(plain, b"GET / HTTP/1.0\r\n\r\n", reset_ends=True)
        until(lambda: "HTTP without TLS" in server.log(), "a record of the plain one")
        for _ in range(20):
            with server.connect() as plain:
                exchange(plain, b"hello, are you there?", reset_ends=True)
        until(lambda: "does not speak TLS" in server.log(), "a record of the others")
        assert ask(server, b"x") == b"X"
        assert server.log().count("does not speak TLS") == 1, "twenty in a moment are one line"
        assert clean(server)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions_are_refused(pair: dict[str, Any]) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with serving("upper", **pair) as server:
        with pytest.raises(HandshakeFailed):
            client(server, context=old)
        until(lambda: "no TLS version from 1.2 on" in server.log(), "the reason")
        middle = ssl.create_default_context()
        middle.check_hostname, middle.verify_mode = False, ssl.CERT_NONE
        middle.maximum_version = ssl.TLSVersion.TLSv1_2
        assert ask(server, b"x", context=middle) == b"X"


@pytest.mark.parametrize("model", ["thread", "epoll"])
def test_a_client_without_a_certificate_is_refused_where_one_is_demanded(
    model: str, pair: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    with serving("upper", model=model, tls_client_ca=authority.path, **pair) as server:
        for wrong in (None, stranger.sign("other", "other.example")):
            context = ssl.create_default_context(cafile=authority.path)
            if wrong:
                context.load_cert_chain(*wrong)
            with pytest.raises((HandshakeFailed, ConnectionError)):  # in TLS 1.3 the refusal comes with the first read
                ask(server, b"x", context=context)
        until(lambda: "shows no certificate" in server.log(), "the first reason")
        until(lambda: "not trusted" in server.log(), "the second reason")
        assert clean(server)


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_mute_clients_disturb_nobody_and_are_cut_in_time(pair: dict[str, Any], many_descriptors: int) -> None:
    """Under each kind of model at the same time: what it takes is the wait."""
    kinds = ["iterative", "fork", "thread", "pool", "gevent", "select", "epoll", "asyncio", "uvloop"]
    with contextlib.ExitStack() as stack:
        held = []
        for model in (each for each in kinds if each in MODELS):
            server = stack.enter_context(serving("upper", model=model, handshake_timeout=2, **pair))

            def trial(model: str = model, server: Served = server) -> None:
                before, began = server.log().count("within 2 s"), time.monotonic()
                mute = [stack.enter_context(server.connect()) for _ in range(100)]
                for _ in range(10):
                    assert ask(server, b"x") == b"X", model
                assert server.log().count("within 2 s") == before, f"{model}: the good ones waited for the mute ones"
                held.append((model, server, began, mute))

            undisturbed(trial)
        for model, server, began, mute in held:
            for each in mute:
                assert each.recv(100) == b"", model
            assert time.monotonic() - began > 1.5, model
            until(lambda server=server: "within 2 s" in server.log(), f"the reason under {model}")  # type: ignore[misc]
            assert clean(server), server.log()


@pytest.mark.parametrize("model", ["thread", "fork", "epoll", "asyncio"])
def test_who_stops_in_the_middle_of_the_handshake_is_cut(model: str, pair: dict[str, Any]) -> None:
    with serving("upper", model=model, handshake_timeout=0.5, **pair) as server:

        def trial() -> None:
            began = time.monotonic()
            with server.connect() as connection:
                connection.sendall(b"\x16\x03\x01")
                assert exchange(connection) == b""
                assert time.monotonic() - began > 0.3

        undisturbed(trial)
        until(lambda: "within 0.5 s" in server.log(), "the reason")


@pytest.mark.parametrize("model", ["thread", "epoll"])
def test_renegotiation_is_refused(model: str, pair: dict[str, Any]) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    with serving("upper", model=model, **pair) as server:
        host, port = server.address  # type: ignore[misc]
        command = [openssl, "s_client", "-connect", f"{host}:{port}", "-tls1_2"]
        done = subprocess.run(command, input=b"R\n", capture_output=True, timeout=PATIENCE)
        assert b"RENEGOTIATING" in done.stdout + done.stderr
        assert done.returncode != 0 or b"no renegotiation" in done.stderr
        assert ask(server, b"x") == b"X"
        assert clean(server), server.log()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("model", ["thread", "epoll", "uvloop"])
def test_openssl_is_answered_behind_its_close_notify(
    model: str, version: str, pair: dict[str, Any], authority: Authority
) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    if model not in MODELS:
        pytest.skip(f"{registry.page(model).missing()}")
    with serving("upper", model=model, **pair) as server:
        host, port = server.address  # type: ignore[misc]
        command = [
            openssl,
            "s_client",
            "-connect",
            f"{host}:{port}",
            "-quiet",
            "-no_ign_eof",
            "-CAfile",
            authority.path,
        ]
        command += ["-verify_return_error", "-servername", "localhost", version]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as done:
            assert done.stdin is not None
            assert done.stdout is not None
            done.stdin.write(b"hello\n")
            done.stdin.flush()
            assert done.stdout.readline() == b"HELLO\n"
            done.stdin.close()
            assert done.wait(PATIENCE) == 0


@pytest.mark.parametrize("model", ["thread", "epoll", "asyncio"])
def test_ssl_s_own_client_is_served(model: str, pair: dict[str, Any], authority: Authority) -> None:
    context = ssl.create_default_context(cafile=authority.path)
    with serving("upper", model=model, **pair) as server:
        with context.wrap_socket(server.connect(), server_hostname="localhost") as connection:
            connection.sendall(b"hello")
            assert connection.recv(100) == b"HELLO"
            connection.unwrap().close()
        assert clean(server)


@pytest.mark.parametrize("model", ["iterative", "fork", "thread", "epoll", "asyncio"])
def test_a_proxy_speaks_before_the_handshake(model: str, pair: dict[str, Any]) -> None:
    with serving("handlers_under_test:whom", model=model, proxy_from=("127.0.0.1",), **pair) as server:
        with server.connect() as plain:
            plain.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 8000\r\n")
            with over_tls(plain) as connection:
                assert b"192.0.2.7" in exchange(connection, b"whom?\n", end=True)
        with pytest.raises((HandshakeFailed, ConnectionError)):
            client(server)
        assert clean(server), server.log()


@pytest.mark.parametrize("model", ["iterative", "fork", "thread", "gevent", "epoll", "asyncio"])
def test_an_idle_client_is_told_goodbye(model: str, pair: dict[str, Any]) -> None:
    if model not in MODELS:
        pytest.skip(f"{registry.page(model).missing()}")
    with serving("upper", model=model, idle_timeout=0.5, **pair) as server, client(server) as connection:
        assert exchange(connection) == b""
        assert connection.records is not None
        assert connection.records.ended, "no close_notify came"


# Draining


@pytest.mark.parametrize("model", ["iterative", "fork", "thread", "gevent", "epoll", "asyncio"])
def test_an_idle_conversation_ends_in_order_when_draining(model: str, pair: dict[str, Any]) -> None:
    if model not in MODELS:
        pytest.skip(f"{registry.page(model).missing()}")
    with serving("upper", model=model, **pair) as server, server.connect() as mute, client(server) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"HELLO"
        server.send_signal(signal.SIGTERM)
        assert exchange(connection) == b""
        assert connection.records is not None
        assert connection.records.ended, "no close_notify came"
        connection.close()
        assert mute.recv(100) == b""
        assert server.wait() == 0


@pytest.mark.parametrize("model", ["iterative", "fork", "thread", "pool", "gevent"])
def test_what_nobody_can_have_sealed_ends_its_own_connection_only_while_draining(
    model: str, pair: dict[str, Any]
) -> None:
    if model not in MODELS:
        pytest.skip(f"{registry.page(model).missing()}")
    with serving("tls_under_test:says_goodbye", model=model, workers=1, **pair) as server, server.connect() as bad:
        records = Records(trusting(), "localhost", client=True)
        while not records.shake():
            bad.sendall(records.unsent())
            records.feed(bad.recv(65536))
        # In one piece with the end of the handshake, so that the server has it and its handler has not asked for it.
        bad.sendall(records.unsent() + b"\x17\x03\x03\x00\x20" + b"?" * 32)
        with contextlib.ExitStack() as stack:
            other = stack.enter_context(client(server)) if model != "iterative" else None
            until(lambda: server.log().count("HELD") == (2 if other else 1), "each conversation is held")
            server.send_signal(signal.SIGTERM)
            assert other is None or exchange(other) == b"goodbye"
        assert server.wait() == 0, server.log()
        assert clean(server), server.log()


RAISES = """
import msgspec, pronghorn
from pronghorn.errors import TlsFailed
from pronghorn.models import epoll

def serve(context):
    raise TlsFailed("of a peer, and nobody caught it")

epoll.MODEL = msgspec.structs.replace(epoll.MODEL, serve=serve)
pronghorn.serve("upper", model="epoll", bind="127.0.0.1:0")
"""


def test_an_error_of_a_peer_that_leaves_a_model_is_a_fault_of_the_server_and_ends_no_supervisor(tmp_path: Path) -> None:
    with script(tmp_path, RAISES) as server:
        assert server.process.wait(PATIENCE) == 3
        assert "TlsFailed: of a peer, and nobody caught it" in server.log
        assert "TypeError" not in server.log


# Certificates


@pytest.mark.parametrize("model", ["thread", "pool", "fork", "epoll"])
def test_who_has_just_come_when_draining_begins_gets_its_handshake(model: str, pair: dict[str, Any]) -> None:
    undisturbed(lambda: comes_just_before_the_drain(model, pair))  # it has a second for its first word


def comes_just_before_the_drain(model: str, pair: dict[str, Any]) -> None:
    with serving("upper", model=model, **pair) as server, server.connect() as sock:
        assert ask(server, b"x") == b"X"  # who came before it has been accepted
        server.send_signal(signal.SIGTERM)
        until(lambda: "raining" in server.log(), "the drain")
        with over_tls(sock) as connection:
            assert exchange(connection, b"hello", end=True) == b"HELLO"
        assert server.wait() == 0


def test_flows_that_take_over_side_by_side_see_no_old_certificate(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = authority.sign("shared")
    settings = settle({"tls_cert": certificate, "tls_key": key})
    mine = Certificates(settings)
    old = mine.context()
    mine.follow(Certificates(settings))
    building, go_on, build = threading.Event(), threading.Event(), contexts.build

    def slow(material: Any) -> ssl.SSLContext:
        if not building.is_set():
            building.set()
            assert go_on.wait(PATIENCE)
        return build(material)

    monkeypatch.setattr(contexts, "build", slow)
    first = threading.Thread(target=mine.context)
    first.start()
    assert building.wait(PATIENCE)
    assert mine.context() is not old
    go_on.set()
    first.join(PATIENCE)


def test_a_program_is_refused_before_anything_is_bound(pair: dict[str, Any]) -> None:
    with pytest.raises(PronghornError, match="program style") as caught, serving(["cat"], **pair):
        pass
    assert caught.value.exit_code == IncompatibleHandler.exit_code


@pytest.mark.parametrize(
    "problem",
    [
        "missing",
        "empty",
        "no key",
        "another key",
        "another kind",
        "swapped",
        "order",
        "later",
        "request",
        "binary",
        "expired",
        "not yet",
        "protected",
        "count",
        "no certificate",
        "bad ca",
    ],
)
def test_a_bad_pair_is_refused_with_its_reason(problem: str, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.sign("good")
    other = authority.sign("other")
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    protected = tmp_path / "protected.key"
    if problem == "protected":
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        command = ["openssl", "pkey", "-in", key, "-aes128", "-passout", "pass:secret", "-out", str(protected)]
        subprocess.run(command, check=True, timeout=PATIENCE)
    device = authority.sign("device", kind="RSA")
    chain, request, binary = tmp_path / "chain.pem", tmp_path / "request.pem", tmp_path / "certificate.der"
    chain.write_text(Path(other[0]).read_text() + Path(certificate).read_text())
    request.write_text("-----BEGIN CERTIFICATE REQUEST-----\nMA==\n-----END CERTIFICATE REQUEST-----\n")
    binary.write_bytes(ssl.PEM_cert_to_DER_cert(Path(certificate).read_text()))
    settings, words = {
        "missing": ({"tls_cert": str(tmp_path / "none.pem")}, "cannot be read"),
        "empty": ({"tls_cert": str(empty)}, "holds no certificate"),
        "no key": ({"tls_cert": certificate}, "holds no private key"),
        "another key": ({"tls_cert": certificate, "tls_key": other[1]}, "not the one of this certificate"),
        "another kind": ({"tls_cert": certificate, "tls_key": device[1]}, "of kind ECDSA, and the key is of kind RSA"),
        "swapped": ({"tls_cert": key, "tls_key": certificate}, "holds a private key(.|\n)*certificate with --tls-cert"),
        "order": (
            {"tls_cert": [certificate, device[0]], "tls_key": [device[1], key]},
            f"belongs to {device[0]}: give the keys in the order",
        ),
        "later": ({"tls_cert": str(chain), "tls_key": key}, "a later certificate of that file"),
        "request": ({"tls_cert": str(request), "tls_key": key}, "holds a request for a certificate"),
        "binary": ({"tls_cert": str(binary), "tls_key": key}, "is binary, and not PEM"),
        "expired": (dict(zip(("tls_cert", "tls_key"), authority.sign("old", days=-0.5), strict=True)), "has expired"),
        "not yet": (dict(zip(("tls_cert", "tls_key"), authority.sign("new", since=1), strict=True)), "not valid yet"),
        "protected": ({"tls_cert": certificate, "tls_key": str(protected)}, "pass phrase"),
        "count": ({"tls_cert": [certificate, other[0]], "tls_key": key}, "2 of --tls-cert and 1 of --tls-key"),
        "no certificate": ({"tls_key": key}, "without --tls-cert"),
        "bad ca": ({"tls_cert": certificate, "tls_key": key, "tls_client_ca": key}, "holds no certificate"),
    }[problem]
    with pytest.raises(PronghornError, match=words) as caught, serving("upper", **settings):
        pass
    assert caught.value.exit_code == BadCertificate.exit_code == BadSetting.exit_code == 2


def test_a_certificate_that_expires_soon_is_told_of(authority: Authority) -> None:
    certificate, key = authority.sign("soon", days=5, since=-95)
    with serving("upper", tls_cert=certificate, tls_key=key) as server:
        until(lambda: "expires on" in server.log(), "the warning")


@contextlib.contextmanager
def load(server: Served) -> Iterator[list[BaseException]]:
    """Clients who come and go, one after the other, on two threads; what went wrong."""
    wrong: list[BaseException] = []
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            try:
                assert ask(server, b"x") == b"X"
            except BaseException as error:
                wrong.append(error)
                return

    threads = [threading.Thread(target=come_and_go) for _ in range(2)]
    for each in threads:
        each.start()
    try:
        yield wrong
    finally:
        stop.set()
        for each in threads:
            each.join(PATIENCE)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("model", ["fork", "thread", "epoll", "asyncio"])
def test_rotations_under_load_lose_nobody(model: str, authority: Authority) -> None:
    certificate, key = authority.sign(f"rotated-{model}")
    settings = {"tls_cert": certificate, "tls_key": key, "tls_watch": True}
    with serving("upper", model=model, workers=2, **settings) as server, client(server) as old:
        with load(server) as wrong:
            for turn in range(ROTATIONS):
                authority.sign(f"rotated-{model}")
                fresh = serial_of(Path(certificate).read_text())
                until(lambda fresh=fresh: f"serial {fresh}" in server.log(), f"report {turn}")  # type: ignore[misc]
                assert [serial(server) for _ in range(4)] == [fresh] * 4
            assert not wrong
        assert exchange(old, b"still here", end=True) == b"STILL HERE"
        assert server.log().count("New certificate") == ROTATIONS
        assert clean(server), server.log()


def put(path: str, text: bytes) -> None:
    """Write a file in one step: nobody finds it empty meanwhile."""
    Path(f"{path}.new").write_bytes(text)
    Path(f"{path}.new").replace(path)


def test_a_bad_pair_changes_nothing_and_says_why_once(authority: Authority) -> None:
    certificate, key = authority.sign("watched")
    with serving("upper", tls_cert=certificate, tls_key=key, tls_watch=True) as server:
        first = serial(server)
        good = Path(key).read_bytes()
        put(key, Path(authority.sign("unrelated")[1]).read_bytes())
        until(lambda: "not the one of this certificate" in server.log(), "the reason")
        assert serial(server) == first
        put(key, b"")
        until(lambda: "holds no private key" in server.log(), "the other reason")
        assert serial(server) == first
        put(key, good)
        until(lambda: "New certificate" in server.log(), "its return")
        assert serial(server) == first
        assert server.log().count("is not taken") == 2


@pytest.mark.parametrize("model", ["thread", "fork", "gevent", "select", "epoll", "asyncio", "uvloop"])
def test_who_came_before_the_report_and_speaks_after_it_gets_the_new_certificate(
    model: str, authority: Authority
) -> None:
    if model not in MODELS:
        pytest.skip(f"{registry.page(model).missing()}")
    certificate, key = authority.sign(f"early-{model}")
    with serving("upper", model=model, tls_cert=certificate, tls_key=key, tls_watch=True, workers=1) as server:
        with server.connect() as early:
            serial(server)  # who came before this one has been accepted
            authority.sign(f"early-{model}")
            fresh = serial_of(Path(certificate).read_text())
            until(lambda: f"serial {fresh}" in server.log(), "the report")
            with over_tls(early) as connection:
                der = connection.getpeercert(binary_form=True)
        assert serial_of(ssl.DER_cert_to_PEM_cert(der)) == fresh


def test_workers_of_all_older_generations_take_the_newest_certificate(authority: Authority) -> None:
    certificate, key = authority.sign("generations")
    settings = settle({"tls_cert": certificate, "tls_key": key, "tls_watch": True})
    generations = [Certificates(settings) for _ in range(3)]
    for before, after in itertools.pairwise(generations):
        before.follow(after)
    contexts = [each.context() for each in generations]
    authority.sign("generations")
    assert generations[-1].take(generations[-1].look()), "the new pair is taken"
    for each, old in zip(generations, contexts, strict=True):
        assert each.context() is not old
    gone = generations.pop(0)
    del gone, each
    generations.append(Certificates(settings))
    generations[-2].follow(generations[-1])  # whoever has left is followed by nobody
    with serving("upper", model="pool", tls_cert=certificate, tls_key=key, workers=1) as server:
        early, fresh = server.connect(), ""
        serial(server)
        for _ in range(2):
            authority.sign("generations")
            fresh = serial_of(Path(certificate).read_text())
            server.send_signal(signal.SIGHUP)
            until(lambda fresh=fresh: f"serial {fresh}" in server.log(), "the report")  # type: ignore[misc]
        with early, over_tls(early) as connection:
            der = connection.getpeercert(binary_form=True)
        assert serial_of(ssl.DER_cert_to_PEM_cert(der)) == fresh


@pytest.mark.slow
def test_a_reload_takes_the_new_certificate_or_changes_nothing(authority: Authority) -> None:
    certificate, key = authority.sign("reloaded")
    with serving("upper", tls_cert=certificate, tls_key=key, workers=2) as server:
        first = serial(server)
        with load(server) as wrong:
            authority.sign("reloaded")
            fresh = serial_of(Path(certificate).read_text())
            server.send_signal(signal.SIGHUP)
            until(lambda: f"serial {fresh}" in server.log(), "the report")
            assert [serial(server) for _ in range(4)] == [fresh] * 4 != [first] * 4
            assert not wrong
        Path(certificate).write_text("")
        server.send_signal(signal.SIGHUP)
        until(lambda: "holds no certificate" in server.log(), "the refusal")
        assert serial(server) == fresh
