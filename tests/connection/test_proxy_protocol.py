"""The PROXY header: every split, every fault, and what another implementation makes of the same bytes."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pronghorn.connection.proxy_protocol import LONGEST_V1, SHORTEST, SIGNATURE, HeaderReader, ProxyHeader, crc32c
from pronghorn.errors import BadProxyHeader
from pronghorn.peers import plain

PORTS = st.integers(0, 65535)
FIELDS = st.lists(st.tuples(st.integers(0, 255).filter(lambda kind: kind != 3), st.binary(max_size=300)), max_size=4)


def written(address: object) -> str:
    """An address as inet_ntop(3) writes it, and so accept(2): `::1.0.0.0`, where ipaddress writes `::100:0`."""
    raw = ip_address(str(address)).packed
    return plain(socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw))


def v1(family: str, source: str, destination: str, ports: tuple[int, int]) -> bytes:
    return f"PROXY {family} {source} {destination} {ports[0]} {ports[1]}\r\n".encode()


def v2(block: bytes, *, command: int = 0x21, family: int = 0x11) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


def fields(pairs: list[tuple[int, bytes]]) -> bytes:
    return b"".join(struct.pack("!BH", kind, len(value)) + value for kind, value in pairs)


def read(data: bytes, sizes: list[int] | None = None) -> tuple[ProxyHeader, int]:
    """The header at the head of `data`, in pieces of at most these sizes, and how many bytes it took."""
    reader, taken, sizes = HeaderReader(), 0, list(sizes or [])
    assert reader.needs == SHORTEST
    while True:
        size = min(reader.needs, sizes.pop() if sizes else reader.needs)
        piece = data[taken : taken + size]
        assert piece, f"more is asked for than there is, after {taken} bytes of {len(data)}"
        taken += len(piece)
        header = reader.feed(piece)
        if header is not None:
            assert reader.needs == 0
            return header, taken
        assert reader.needs > 0


@st.composite
def lines(draw: st.DrawFn) -> tuple[bytes, ProxyHeader]:
    version = draw(st.sampled_from([4, 6]))
    one, other = (draw(st.ip_addresses(v=version)) for _ in range(2))  # type: ignore[arg-type]
    ports = draw(PORTS), draw(PORTS)
    texts = [each.packed.hex(":", 2) if version == 6 and draw(st.booleans()) else str(each) for each in (one, other)]
    header = ProxyHeader(1, (written(one), ports[0]), (written(other), ports[1]))
    return v1(f"TCP{version}", texts[0], texts[1], ports), header


@st.composite
def blocks(draw: st.DrawFn) -> tuple[bytes, ProxyHeader]:
    version = draw(st.sampled_from([4, 6]))
    one, other = (draw(st.ip_addresses(v=version)) for _ in range(2))  # type: ignore[arg-type]
    ports, extensions = (draw(PORTS), draw(PORTS)), fields(draw(FIELDS))
    block = one.packed + other.packed + struct.pack("!HH", *ports) + extensions
    header = ProxyHeader(2, (written(one), ports[0]), (written(other), ports[1]), extensions)
    return v2(block, family=0x11 if version == 4 else 0x21), header


@given(lines() | blocks(), st.binary(max_size=20), st.lists(st.integers(1, 40), max_size=120))
def test_every_split_gives_the_same_and_nothing_beyond_is_taken(
    case: tuple[bytes, ProxyHeader], rest: bytes, sizes: list[int]
) -> None:
    data, header = case
    assert read(data + rest, sizes) == (header, len(data))


@given(lines() | blocks())
def test_few_reads_are_enough(case: tuple[bytes, ProxyHeader]) -> None:
    reader, data, reads = HeaderReader(), case[0], 0
    while reader.needs:
        data, piece, reads = data[reader.needs :], data[: reader.needs], reads + 1
        reader.feed(piece)
    assert reads <= (3 if case[1].version == 2 else 24)


def test_more_than_was_asked_for_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError):
        HeaderReader().feed(b"x" * 16)


@given(
    st.binary(max_size=300)
    | st.binary(max_size=60).map(lambda each: b"PROXY TCP4 " + each)
    | st.binary(max_size=60).map(lambda each: SIGNATURE + each)
)
def test_whatever_comes_is_a_header_or_is_refused_or_goes_on(data: bytes) -> None:
    reader = HeaderReader()
    while data and reader.needs:
        taken = reader.needs
        try:
            header = reader.feed(data[:taken])
        except BadProxyHeader as error:
            assert str(error).isprintable()
            return
        data = data[taken:]
        assert (header is None) is (reader.needs > 0)


@pytest.mark.parametrize(
    "text", ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ff:: ff:: 1 2\r\n", f"PROXY UNKNOWN {'x' * 91}\r\n"]
)
def test_unknown_is_honoured(text: str) -> None:
    assert read(text.encode() + b"hello") == (ProxyHeader(1), len(text))


@pytest.mark.parametrize("block", [b"", b"\0" * 12, b"\x04", b"whatever" * 100])
@pytest.mark.parametrize("family", [0x00, 0x11, 0x21, 0x31, 0xFF])
def test_local_is_honoured_and_its_block_passed_over(block: bytes, family: int) -> None:
    data = v2(block, command=0x20, family=family)
    assert read(data + b"hello") == (ProxyHeader(2), len(data))


def test_an_unspecified_family_is_taken_for_the_connections_own_addresses() -> None:
    assert read(v2(b"", family=0))[0] == ProxyHeader(2)
    assert read(v2(fields([(5, b"id")]), family=0))[0].field(5) == b"id"


def test_unix_addresses() -> None:
    def header(source: bytes, destination: bytes) -> ProxyHeader:
        return read(v2(source.ljust(108, b"\0") + destination.ljust(108, b"\0"), family=0x31))[0]

    assert header(b"/run/one", b"\0two") == ProxyHeader(2, "/run/one", "@two")
    assert header(b"", b"/" * 108) == ProxyHeader(2, "", "/" * 108)


def test_extensions_are_read_when_asked_for() -> None:
    pairs = [(1, b"h2"), (2, b"example.org"), (0x20, b"\x07" + b"\0" * 4), (2, b"second"), (0x30, b"")]
    header = read(v2(b"\x7f\0\0\x01" * 2 + b"\0\x01\0\x02" + fields(pairs)))[0]
    assert list(header.fields()) == pairs
    assert (header.field(2), header.field(0x30), header.field(9)) == (b"example.org", b"", None)


def test_a_mapped_address_is_the_ipv4_address() -> None:
    assert read(v1("TCP6", "::ffff:192.0.2.1", "::FFFF:c000:202", (1, 2)))[0].source == ("192.0.2.1", 1)
    mapped = bytes(10) + b"\xff\xff\xc0\x00\x02\x01"
    assert read(v2(mapped * 2 + b"\0\x01\0\x02", family=0x21))[0].destination == ("192.0.2.1", 2)


def summed(data: bytes, place: int) -> bytes:
    return data[:place] + struct.pack("!I", crc32c(data)) + data[place + 4 :]


def test_a_checksum_is_checked() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the catalogue of CRCs
    blank = v2(b"\x7f\0\0\x01" * 2 + b"\0\x01\0\x02" + fields([(3, bytes(4)), (1, b"h2")]))
    right = summed(blank, 31)
    assert read(right)[0].field(1) == b"h2"
    for place in (16, 31, len(right) - 1):
        with pytest.raises(BadProxyHeader, match="checksum"):
            read(right[:place] + bytes([right[place] ^ 1]) + right[place + 1 :])
    with pytest.raises(BadProxyHeader, match="checksum"):
        read(v2(bytes(12) + fields([(3, b"123")])))


GOOD = ("192.0.2.1", "192.0.2.2", (1, 2))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"PROXX TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
        b"proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY\tTCP4 1.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY TCP4  1.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1 \r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 -1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1_1 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r 1\r\n",
        b"PROXY TCP4 01.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY TCP4 1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY TCP4 ::1 ::1 1 1\r\n",
        b"PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY TCP6 fe80::1%lo ::1 1 1\r\n",
        b"PROXY TCP6 ::\xff ::1 1 1\r\n",
        b"PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY UNKNOWN " + b"x" * LONGEST_V1,
        b"PROXY UNKNOWN" + b"\n" * 10,
        b"PROXY TCP4 " + b"1" * LONGEST_V1,
        b"PROXY \r\n" + b" " * 20,
        SIGNATURE[:11] + b"\r" + bytes(40),
        v2(bytes(12), command=0x11),
        v2(bytes(12), command=0x22),
        v2(bytes(11)),
        v2(bytes(35), family=0x21),
        v2(bytes(215), family=0x31),
        v2(bytes(216), family=0x41),
        v2(bytes(12), family=0x13),
        v2(bytes(12) + b"\x01\0"),
        v2(bytes(12) + b"\x01\0\x02x"),
        v2(bytes(12) + fields([(1, b"h2")]) + b"\x02\xff\xff"),
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(BadProxyHeader):
        read(data)


def test_the_longest_line_of_version_1_fits_and_no_longer_one() -> None:
    data = f"PROXY UNKNOWN {'x' * (LONGEST_V1 - 16)}\r\n".encode()
    assert len(data) == LONGEST_V1
    assert read(data)[1] == LONGEST_V1
    with pytest.raises(BadProxyHeader):
        read(data[:-2] + b"x\r\n")


def test_a_refusal_comes_with_the_first_byte_that_is_wrong() -> None:
    for data in (b"G", b"PROXY_", b"\r\n\r\n\0\r\nQUIT\r"):
        with pytest.raises(BadProxyHeader):
            HeaderReader().feed(data)


# Against the package proxy-protocol: what both read, both read alike; we are the stricter ones.


def theirs(data: bytes) -> tuple[object, object] | None:
    """What the other implementation finds; None if nothing is said of addresses."""
    from proxyprotocol.v1 import ProxyProtocolV1
    from proxyprotocol.v2 import ProxyProtocolV2

    result = (ProxyProtocolV1() if data.startswith(b"P") else ProxyProtocolV2()).unpack(data)
    if getattr(result, "source", None) is None or isinstance(result.source, str):
        return None
    (one, first), (other, second) = result.source, result.dest
    return (written(one), first), (written(other), second)


@given(lines() | blocks())
def test_both_read_what_is_right(case: tuple[bytes, ProxyHeader]) -> None:
    assert theirs(case[0]) == (case[1].source, case[1].destination)


@pytest.mark.slow
@given(lines() | blocks(), st.integers(0, 400), st.binary(max_size=3), st.integers(0, 3))
@example((v2(bytes(36), family=0x21), ProxyHeader(2, ("::", 0), ("::", 0))), len(SIGNATURE) + 4 + 16 + 12, b"\x01", 1)
def test_what_we_read_they_read_alike(case: tuple[bytes, ProxyHeader], place: int, new: bytes, gone: int) -> None:
    place %= len(case[0])
    data = case[0][:place] + new + case[0][place + gone :]
    try:
        header, taken = read(data + b"\r\n" * 60)
    except (BadProxyHeader, AssertionError):
        return
    assert theirs(data[:taken] if taken <= len(data) else (data + b"\r\n" * 60)[:taken]) == (
        None if header.source is None else (header.source, header.destination)
    )


@given(st.sampled_from([4, 6]), st.data(), PORTS, PORTS)
def test_what_they_write_we_read(version: int, data: st.DataObject, first: int, second: int) -> None:
    from proxyprotocol.result import ProxyResultIPv4, ProxyResultIPv6
    from proxyprotocol.tlv import ProxyProtocolTLV
    from proxyprotocol.v2 import ProxyProtocolV2

    one, other = (data.draw(st.ip_addresses(v=version)) for _ in range(2))  # type: ignore[arg-type]
    kind = ProxyResultIPv4 if version == 4 else ProxyResultIPv6
    tlv = ProxyProtocolTLV(authority="example.org", unique_id=b"7")
    block = ProxyProtocolV2().pack(kind((one, first), (other, second), protocol=socket.SOCK_STREAM, tlv=tlv))  # type: ignore[arg-type]
    header, taken = read(block)
    assert taken == len(block)
    assert (header.source, header.destination) == ((written(one), first), (written(other), second))
    assert (header.field(2), header.field(5)) == (b"example.org", b"7")
