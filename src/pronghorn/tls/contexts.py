"""`ssl.SSLContext` objects, made of certificates and keys as bytes; which certificate a client is shown (SNI).

Law: no files and no connections. A context is never changed once it is in use.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from pronghorn.system.memory import as_file
from pronghorn.tls.pem import certificate_kind
from pronghorn.tls.records import MAX_HELLO

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
CLIENT_CERTIFICATE = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
Choose = Callable[[Any, "str | None", ssl.SSLContext], "int | None"]
NO_APPLICATION_PROTOCOL = 120  # an alert (RFC 7301, 3.2); ssl has no name for it


class Pair(msgspec.Struct, frozen=True):
    """One certificate (with those between it and its authority) and its key, as PEM; and the key's pass phrase, if it
    has one."""

    certificate: bytes
    key: bytes
    pass_phrase: bytes = b""


class Material(msgspec.Struct, frozen=True):
    """All that a context is made of, as bytes: what the files held."""

    pairs: list[Pair]
    client_ca: bytes = b""
    alpn: tuple[str, ...] = ()
    max_hello: int = MAX_HELLO
    min_version: str = "1.2"
    client_certificate: str = "required"


class Described(msgspec.Struct, frozen=True):
    """What a certificate says of itself; `since` and `until` in seconds since 1970; the `kind` of its key as pem.py
    has it."""

    serial: str
    names: tuple[str, ...]
    since: float
    until: float
    kind: str = ""


def build(material: Material) -> ssl.SSLContext:
    """A new context for the server's side: that of the first pair, and by way of SNI those of the others.

    A context has one pair of each kind of key, where several are for the same names: OpenSSL takes the one that the
    client can verify. Raises ssl.SSLError or ValueError for what it cannot use. A pair that failed to load would leave
    a context broken: so each build makes a new one.
    """
    described = [describe(pair.certificate) for pair in material.pairs]
    made: dict[tuple[int, ...], ssl.SSLContext] = {}

    def context_of(places: tuple[int, ...]) -> ssl.SSLContext:
        if places not in made:
            made[places] = _context([material.pairs[place] for place in places], material)
        return made[places]

    named = {name: _one_of_each_kind(places, described) for name, places in _places(described).items()}
    first = context_of(_beside_the_first(described))
    first.material = material  # type: ignore[attr-defined]
    by_name = {name: context_of(places) for name, places in named.items()}

    ours = {each.encode() for each in material.alpn}

    def choose(connection: Any, name: str | None, context: ssl.SSLContext) -> int | None:
        connection.asked_name = name
        hello = getattr(connection, "hello", None)  # of TLS that is not ours it is not known
        if ours and hello and (theirs := hello.offered()) and ours.isdisjoint(theirs):
            return NO_APPLICATION_PROTOCOL  # OpenSSL is asked by Python to go on without one
        if name and len(made) > 1:
            name = name.lower()
            wild = "*." + name.partition(".")[2]
            connection.context = by_name.get(name) or by_name.get(wild) or first
        return None

    first.choose = choose  # type: ignore[attr-defined]  # for `following`
    _ask(first, choose)
    return first


def following(newest: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """A context that shows each client the certificate that the `newest` context of `build` would: also for TLS that is
    not ours, and that keeps a context for long."""
    material: Material = newest().material  # type: ignore[attr-defined]
    described = [describe(pair.certificate) for pair in material.pairs]
    made = _context([material.pairs[place] for place in _beside_the_first(described)], material)

    def choose(connection: Any, name: str | None, context: ssl.SSLContext) -> int | None:
        now = newest()
        connection.context = now
        refusal: int | None = now.choose(connection, name, now)  # type: ignore[attr-defined]
        return refusal

    _ask(made, choose)
    return made


def _ask(context: ssl.SSLContext, choose: Choose) -> None:
    """Have `choose` called for each ClientHello."""
    # gevent wraps callbacks for its own kind of socket, which is not used here: theirs is passed by.
    kind = next(each for each in reversed(type(context).__mro__) if "sni_callback" in vars(each))
    vars(kind)["sni_callback"].__set__(context, choose)


def _places(described: list[Described]) -> dict[str, list[int]]:
    """For each name the places of its certificates: those that have it as it is, and behind them those that have it by
    a wildcard."""
    found: dict[str, list[int]] = {}
    for place, each in enumerate(described):
        for name in each.names:
            found.setdefault(name.lower(), []).append(place)
    return {name: [*places, *found.get("*." + name.partition(".")[2], ())] for name, places in found.items()}


def _one_of_each_kind(places: Iterable[int], described: list[Described]) -> tuple[int, ...]:
    found: dict[str, int] = {}
    for place in places:
        found.setdefault(described[place].kind, place)
    return tuple(found.values())


def _beside_the_first(described: list[Described]) -> tuple[int, ...]:
    """For clients that ask for no name, or for one that has no certificate: the first, and of other kinds those for all
    its names."""
    named = _places(described)
    for_all = [set(named[name.lower()]) for name in described[0].names]
    return _one_of_each_kind([0, *sorted(set.intersection(*for_all))] if for_all else [0], described)


def _context(pairs: list[Pair], material: Material) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # not a subclass: gevent replaces the class
    context.max_hello = material.max_hello  # type: ignore[attr-defined]
    context.minimum_version = VERSIONS[material.min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    for pair in pairs:
        with as_file(pair.certificate) as certificate, as_file(pair.key) as key:
            context.load_cert_chain(certificate, key, password=pair.pass_phrase or _no_pass_phrase)
    if material.client_ca:
        context.load_verify_locations(cadata=material.client_ca.decode("ascii"))
        context.verify_mode = CLIENT_CERTIFICATE[material.client_certificate]
    if material.alpn:
        context.set_alpn_protocols(list(material.alpn))
    return context


def _no_pass_phrase() -> str:
    raise ValueError("the key is protected by a pass phrase, which nobody is there to type")


def describe(certificate: bytes) -> Described:
    """The first certificate of a PEM file. Raises ssl.SSLError for what is none."""
    with as_file(certificate) as path:
        told: dict[str, Any] = ssl._ssl._test_decode_cert(path)  # type: ignore[attr-defined]
    names = [name for kind, name in told.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    if not names:
        names = [value for part in told.get("subject", ()) for key, value in part if key == "commonName"]
    since, until = (float(ssl.cert_time_to_seconds(told[key])) for key in ("notBefore", "notAfter"))
    return Described(told["serialNumber"], tuple(names), since, until, certificate_kind(certificate))
