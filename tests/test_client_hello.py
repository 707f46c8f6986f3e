"""What a client offers, read from ClientHellos that OpenSSL made, from pieces of them, and from noise."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronghorn.client_hello import offered


def hello(names: list[str], version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = version
    if names:
        context.set_alpn_protocols(names)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="herd.example").do_handshake()
    return outgoing.read()


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


def test_half_of_it_offers_nothing() -> None:
    came = hello(["herd/1"])
    assert {tuple(offered(came[:size])) for size in range(len(came))} == {()}


@given(st.binary(max_size=400), st.integers(0, 600), st.binary(max_size=8))
def test_noise_raises_nothing(noise: bytes, at: int, more: bytes) -> None:
    offered(noise)
    came = hello(["herd/1", "herd/2"])
    offered(came[:at] + more + came[at + len(more) :])
