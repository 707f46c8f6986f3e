"""What a client offers, read from ClientHellos that OpenSSL made, from pieces of them, and from noise."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronghorn.errors import HandshakeFailed
from pronghorn.tls.client_hello import Hello
from pronghorn.tls.records import DECODE_ERROR, Records


def hello(names: list[str], version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = version
    if names:
        context.set_alpn_protocols(names)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="herd.example").do_handshake()
    return outgoing.read()


def offered(came: bytes, size: int = 0) -> list[bytes]:
    """What is offered by all that came, at once or in reads of `size` bytes."""
    said = Hello()
    for at in range(0, len(came), size or len(came) or 1):
        said.feed(came[at : at + (size or len(came))])
    return said.offered()


def cut(came: bytes, size: int) -> bytes:
    """The same message in records of at most `size` bytes (RFC 8446, 5.1)."""
    body = came[5:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(came[:3] + len(piece).to_bytes(2) + piece for piece in pieces)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("names", [[], ["herd/1"], ["other", "herd/2", "x" * 255]])
def test_names_are_read(names: list[str], version: ssl.TLSVersion) -> None:
    came = hello(names, version)
    assert offered(came) == [each.encode() for each in names]
    assert offered(cut(came, 7)) == offered(came + b"what comes behind it") == offered(came)
    assert offered(cut(came, 1), 1) == offered(cut(came, 2), 3) == offered(came)


def test_half_of_it_offers_nothing() -> None:
    came = hello(["herd/1"])
    assert {tuple(offered(came[:size])) for size in range(len(came))} == {()}


@given(st.binary(max_size=400), st.integers(0, 600), st.binary(max_size=8))
def test_noise_raises_nothing(noise: bytes, at: int, more: bytes) -> None:
    offered(noise)
    came = hello(["herd/1", "herd/2"])
    offered(came[:at] + more + came[at + len(more) :])


def endless(size: int) -> bytes:
    """A ClientHello that says it has 131,000 bytes, in records of one byte."""
    body = b"\x01" + (131_000).to_bytes(3) + b"\x03\x03" + bytes(size // 6)
    return cut(b"\x16\x03\x01\x00\x00" + body, 1)


def test_each_byte_is_looked_at_once_and_no_more_is_kept() -> None:
    came, kept = endless(600_000), Hello()
    kept.feed(came)
    assert not kept.complete
    assert kept.size == len(came)
    assert len(kept._message) == len(came) // 6
    before = len(kept._message)
    whole = Hello()
    whole.feed(hello(["herd/1"]) + came)
    assert whole.complete
    assert len(whole._message) < before // 10


def test_one_that_is_too_long_ends_its_handshake() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.max_hello = 2048  # type: ignore[attr-defined]
    records = Records(context)
    came = endless(4096)
    for at in range(0, 2040, 60):
        records.feed(came[at : at + 60])
        assert not records.shake()
    records.feed(came[2040:])
    with pytest.raises(HandshakeFailed, match=r"more than 2048 bytes \(--tls-max-hello\)"):
        records.shake()
    assert records.unsent() == DECODE_ERROR
