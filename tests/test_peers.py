"""Networks: what is in them, and who may connect. The standard library's own arithmetic is the judge."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronghorn.peers import Access, Networks, network, packed, plain

V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)
ANY = st.ip_addresses()


@st.composite
def networks(draw: st.DrawFn) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Few distinct prefixes, so that addresses fall into some of them."""
    if draw(st.booleans()):
        return ipaddress.ip_network((draw(st.integers(0, 3)) << 30, draw(st.integers(0, 4))), strict=False)
    return ipaddress.ip_network((draw(st.integers(4, 7)) << 125, draw(st.integers(0, 5))), strict=False)


def judged(address: ipaddress.IPv4Address | ipaddress.IPv6Address, allow: list[object], deny: list[object]) -> bool:
    def longest(among: list[object]) -> int:
        return max((each.prefixlen for each in among if address in each), default=-1)  # type: ignore[attr-defined, operator]

    if longest(allow) < 0 and longest(deny) < 0:
        return not allow
    return longest(allow) > longest(deny)


@given(
    ANY.filter(lambda each: each.version == 4 or each.ipv4_mapped is None), st.lists(networks()), st.lists(networks())
)
def test_the_narrowest_network_decides(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, allow: list[object], deny: list[object]
) -> None:
    access = Access(map(str, allow), map(str, deny))
    assert access.permits((str(address), 1)) is judged(address, allow, deny)


@given(V4)
def test_ipv4_in_clothes_of_ipv6_is_ipv4(address: ipaddress.IPv4Address) -> None:
    value = int(address)
    spellings = [f"::ffff:{address}", f"::FFFF:{value >> 16:x}:{value & 0xFFFF:x}", f"0:0:0:0:0:ffff:{address}"]
    for each in spellings:
        assert plain(each) == plain(f"{each}%eth0") == str(address)
        assert packed(each) == address.packed
        assert not Access(deny=[str(address)]).permits((each, 1))
        assert network(f"{each}/128") == network(str(address)) == (address.packed, 32)
    assert network("::ffff:0:0/96") == (bytes(4), 0)


@given(V6)
def test_a_zone_is_no_part_of_an_address(address: ipaddress.IPv6Address) -> None:
    if address.ipv4_mapped is None:
        assert packed(f"{address}%eth0") == address.packed
        assert plain(f"{address}%eth0") == f"{address}%eth0"


@given(st.text())
def test_whatever_is_given_is_read_or_refused(text: str) -> None:
    assert plain(text) == text or ":" in text
    try:
        first, length = network(text)
    except ValueError:
        return
    assert len(first) in (4, 16) and 0 <= length <= len(first) * 8


@given(networks())
def test_networks_are_read_as_the_standard_library_reads_them(one: ipaddress.IPv4Network) -> None:
    assert network(str(one)) == (one.network_address.packed, one.prefixlen)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.1/8", "'10.0.0.1/8' has bits beyond its prefix: write 10.0.0.0/8"),
        ("::ffff:10.0.0.1/104", "'::ffff:10.0.0.1/104' has bits beyond its prefix: write 10.0.0.0/8"),
        ("2001:db8::1/32", "'2001:db8::1/32' has bits beyond its prefix: write 2001:db8::/32"),
        ("10.0.0.0/33", "'10.0.0.0/33' has no prefix length from 0 to 32"),
        ("10.0.0.0/", "'10.0.0.0/' has no prefix length from 0 to 32"),
        ("10.0.0.0/٣", "'10.0.0.0/٣' has no prefix length from 0 to 32"),
        ("::/-1", "'::/-1' has no prefix length from 0 to 128"),
        ("::ffff:0:0/95", "'::ffff:0:0/95' is partly IPv4 and partly not: write the IPv4 network"),
        ("fe80::%eth0/64", "'fe80::%eth0/64' has a zone, which is no part of a network"),
        ("10.1/16", "'10.1' is no address in figures"),
        ("010.0.0.1", "'010.0.0.1' is no address in figures"),
        ("localhost", "'localhost' is no address in figures"),
        ("", "'' is no address in figures"),
    ],
)
def test_what_is_no_network_is_told_why(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        network(text)
    assert str(caught.value) == why


@pytest.mark.parametrize(
    ("allow", "deny", "peer", "may"),
    [
        ([], [], "192.0.2.1", True),
        (["10.0.0.0/8"], [], "10.1.2.3", True),
        (["10.0.0.0/8"], [], "192.0.2.1", False),
        ([], ["10.0.0.0/8"], "192.0.2.1", True),
        ([], ["10.0.0.0/8"], "10.1.2.3", False),
        (["10.1.0.0/16"], ["10.0.0.0/8"], "10.1.2.3", True),
        (["10.1.0.0/16"], ["10.0.0.0/8"], "10.2.2.3", False),
        (["10.0.0.0/8"], ["10.0.0.0/8"], "10.1.2.3", False),
        (["10.0.0.0/8"], [], "::1", False),
        (["0.0.0.0/0", "::/0"], ["2001:db8::/32"], "2001:db8::1", False),
        ([], ["::/0"], "192.0.2.1", True),
        (["fe80::/10"], [], "fe80::1%eth0", True),
    ],
)
def test_access(allow: list[str], deny: list[str], peer: str, may: bool) -> None:
    assert Access(allow, deny).permits((peer, 1)) is may


def test_unix_peers_are_for_the_permissions_of_the_file() -> None:
    assert Access(["10.0.0.0/8"], []).permits("")
    assert Networks(["unix"]).holds("") and Networks(["unix"]).holds("/run/peer")
    assert not Networks(["0.0.0.0/0"]).holds("")
    assert not Networks(["unix"]).holds(("192.0.2.1", 1))
    assert Networks(["unix", "192.0.2.0/24"]).holds(("::ffff:192.0.2.1", 1))
    assert not Networks()
