"""TLS, but for the files and the sockets: contexts made of bytes, and the records of one connection.

Law: no I/O here. `Records` takes sealed bytes and gives plain ones, and the other way round; who moves them is the
business of tls_channel.py (never blocks) and tls_connection.py (may block). So half-close means the same under every
model: our close_notify ends what we say and nothing else (RFC 8446, 6.1).

Tried and dropped: ssl.SSLSocket. Its `unwrap` reads on behind our close_notify and breaks the connection if the peer
still speaks, its `shutdown` goes on in plain text, two threads may not share one, and it reads every record with two
system calls. This module is imported only where there is TLS: ssl is large.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import msgspec

from pronghorn.client_hello import Hello
from pronghorn.errors import HandshakeFailed, TlsFailed
from pronghorn.pem import certificate_kind
from pronghorn.tls_words import told

HEAD = 5  # bytes of a record that tell its length (RFC 8446, 5.1)
RECORD = 16 * 1024  # the longest that a record holds (RFC 8446, 5.1)
MOST_UNASKED = 64 * 1024  # bytes that a peer can make us owe it without our saying a word (RFC 8446, 4.6.3)
MAX_HELLO = 64 * 1024  # bytes of a ClientHello, its records' heads counted
NO_APPLICATION_PROTOCOL = 120  # an alert (RFC 7301, 3.2); ssl has no name for it
DECODE_ERROR = b"\x15\x03\x03\x00\x02\x02\x32"  # an alert, as a record (RFC 8446, 6.2)
FLOOD = "the peer asks for one new key after the other"


class Pair(msgspec.Struct, frozen=True):
    """One certificate (with those between it and its authority) and its key, as PEM."""

    certificate: bytes
    key: bytes


class Material(msgspec.Struct, frozen=True):
    """All that a context is made of, as bytes: what the files held."""

    pairs: list[Pair]
    client_ca: bytes = b""
    alpn: tuple[str, ...] = ()
    max_hello: int = MAX_HELLO


class Described(msgspec.Struct, frozen=True):
    """What a certificate says of itself; `since` and `until` in seconds since 1970; the `kind` of its key as pem.py
    has it."""

    serial: str
    names: tuple[str, ...]
    since: float
    until: float
    kind: str = ""


# Contexts


def build(material: Material) -> ssl.SSLContext:
    """A new context for the server's side: that of the first pair, and by way of SNI those of the others.

    A context has one pair of each kind of key, where several are for the same names: OpenSSL takes the one that the
    client can verify. Raises ssl.SSLError or ValueError for what it cannot use. A context is never changed once it is
    in use: a pair that fails to load would leave it broken.
    """
    described = [describe(pair.certificate) for pair in material.pairs]
    made: dict[tuple[int, ...], ssl.SSLContext] = {}

    def context_of(places: tuple[int, ...]) -> ssl.SSLContext:
        if places not in made:
            made[places] = _context([material.pairs[place] for place in places], material)
        return made[places]

    named = {name: _one_of_each_kind(places, described) for name, places in _places(described).items()}
    first = context_of(_beside_the_first(described))
    by_name = {name: context_of(places) for name, places in named.items()}

    ours = {each.encode() for each in material.alpn}

    def choose(connection: Any, name: str | None, context: ssl.SSLContext) -> int | None:
        connection.asked_name = name
        if ours and (theirs := connection.hello.offered()) and ours.isdisjoint(theirs):
            return NO_APPLICATION_PROTOCOL  # OpenSSL is asked by Python to go on without one
        if name and len(made) > 1:
            name = name.lower()
            wild = "*." + name.partition(".")[2]
            connection.context = by_name.get(name) or by_name.get(wild) or first
        return None

    # gevent wraps callbacks for its own kind of socket, which is not used here: theirs is passed by.
    kind = next(each for each in reversed(type(first).__mro__) if "sni_callback" in vars(each))
    vars(kind)["sni_callback"].__set__(first, choose)
    return first


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
    """For who asks for no name, or for one that nobody has: the first, and of other kinds those for all its names."""
    named = _places(described)
    for_all = [set(named[name.lower()]) for name in described[0].names]
    return _one_of_each_kind([0, *sorted(set.intersection(*for_all))] if for_all else [0], described)


def _context(pairs: list[Pair], material: Material) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # not a subclass: gevent replaces the class
    context.max_hello = material.max_hello  # type: ignore[attr-defined]
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    for pair in pairs:
        with as_file(pair.certificate) as certificate, as_file(pair.key) as key:
            context.load_cert_chain(certificate, key, password=_no_pass_phrase)
    if material.client_ca:
        context.load_verify_locations(cadata=material.client_ca.decode("ascii"))
        context.verify_mode = ssl.CERT_REQUIRED
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


@contextlib.contextmanager
def as_file(content: bytes) -> Iterator[str]:
    """A path to read `content` from, for calls that take no bytes; in memory where that is possible, private anyway."""
    fd = os.memfd_create("pronghorn-pem") if hasattr(os, "memfd_create") else -1
    if fd >= 0 and os.path.exists(f"/proc/self/fd/{fd}"):
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{fd}"
        return
    if fd >= 0:
        os.close(fd)
    with tempfile.NamedTemporaryFile() as named:
        named.write(content)
        named.flush()
        yield named.name


# One connection


class TlsFacts:
    """What a handler may know of the TLS below its connection."""

    __slots__ = ("object",)

    def __init__(self, ssl_object: ssl.SSLObject) -> None:
        self.object = ssl_object

    @property
    def version(self) -> str:
        """`TLSv1.3` or `TLSv1.2`."""
        return self.object.version() or ""

    @property
    def cipher(self) -> str:
        """The cipher's name, as OpenSSL writes it."""
        cipher = self.object.cipher()
        return cipher[0] if cipher else ""

    @property
    def alpn(self) -> str | None:
        """The protocol that both sides agreed on, of --tls-alpn; None if there is none."""
        return self.object.selected_alpn_protocol()

    @property
    def sni(self) -> str | None:
        """The name that the client asked for; None if for none."""
        return getattr(self.object, "asked_name", None)

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """The client's certificate, checked, as ssl.SSLSocket.getpeercert writes it; None without --tls-client-ca."""
        return self.object.getpeercert() or None

    def extra(self, name: str, default: Any = None) -> Any:
        """What asyncio's get_extra_info answers for TLS: ssl_object, peercert, cipher, compression, sslcontext."""
        if name == "ssl_object":
            return self.object
        if name == "sslcontext":
            return self.object.context
        if name == "peercert":
            return self.object.getpeercert()
        return getattr(self.object, name)() if name in ("cipher", "compression") else default


class Records:
    """The TLS of one connection: what came is fed and taken, what goes is sealed."""

    __slots__ = (
        "_client",
        "_early",
        "_head",
        "_hello",
        "_incoming",
        "_left",
        "_max_hello",
        "_outgoing",
        "begun",
        "ended",
        "failed",
        "object",
        "said_goodbye",
        "shaken",
        "truncated",
        "waiting",
    )

    def __init__(self, context: ssl.SSLContext, server_name: str | None = None, *, client: bool = False) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=not client, server_hostname=server_name
        )
        self._client = client
        self._hello = None if client else Hello()
        self._max_hello = getattr(context, "max_hello", MAX_HELLO)
        self.object.hello = self._hello  # type: ignore[attr-defined]  # for `choose`
        self._early = b""  # opened before anybody asked for it
        self._head, self._left = b"", 0  # of the record that has begun: a part of its head, or what is to come of it
        self.waiting = False
        """Something was fed and has not been taken."""
        self.begun = False
        """Something has come from the peer."""
        self.shaken = False
        """The handshake is done."""
        self.failed: TlsFailed | None = None
        """What came cannot be opened, and nothing behind it."""
        self.ended = False
        """The peer has sent its close_notify."""
        self.truncated = False
        """Input ended without a close_notify: what came may not be all that was sent."""
        self.said_goodbye = False

    @property
    def facts(self) -> TlsFacts:
        return TlsFacts(self.object)

    @property
    def owes(self) -> bool:
        """There is something `unsent`: the peer has asked for it, and no data that goes takes it along."""
        return self._outgoing.pending > 0

    @property
    def unfinished(self) -> bool:
        """A record has begun, and the rest of it has not come."""
        return self._left > 0 or bool(self._head)

    def feed(self, sealed: bytes) -> None:
        self.begun = self.waiting = True
        if self._hello is not None and not self._hello.complete:
            self._hello.feed(sealed)
        if not self._too_long:
            self._incoming.write(sealed)
        if self._head:
            sealed, self._head = self._head + sealed, b""
        at, size = self._left, len(sealed)
        while at + HEAD <= size:
            at += HEAD + (sealed[at + 3] << 8) + sealed[at + 4]
        if at < size:
            self._head, self._left = sealed[at:], 0
        else:
            self._left = at - size

    @property
    def _too_long(self) -> bool:
        return self._hello is not None and self._hello.size > self._max_hello

    def end_input(self) -> None:
        """The connection below has ended."""
        self.truncated = not self.ended

    def shake(self) -> bool:
        """One step of the handshake; whether it is done. What is to be sent waits in `unsent`.

        Raises HandshakeFailed; the alert for the peer waits in `unsent` then.
        """
        if self._too_long:
            self._outgoing.write(DECODE_ERROR)
            raise HandshakeFailed(f"its ClientHello has more than {self._max_hello} bytes (--tls-max-hello)")
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except (ssl.SSLError, OSError, ValueError) as error:
            raise HandshakeFailed(told(error, self._client)) from None
        self.shaken = True
        self._hello = self.object.hello = None  # type: ignore[attr-defined]
        self.waiting = self._incoming.pending > 0
        return True

    def take(self) -> bytes:
        """All that can be read of what was fed; empty if that is nothing yet, or if the peer has `ended`.

        Raises TlsFailed for what the peer cannot have sealed, and from then on.
        """
        if self.failed is not None:
            raise self.failed
        first, more = self._early, []
        self.waiting, self._early = False, b""
        try:
            if not first:
                first = self.object.read(RECORD)
                self.ended = not first
            while self._incoming.pending and not self.ended:
                more.append(self.object.read(RECORD))
                self.ended = not more[-1]
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            self._fail(told(error, self._client))
        if self._outgoing.pending > MOST_UNASKED:
            self._fail(FLOOD)
        return b"".join([first, *more]) if more else first

    def _fail(self, what: str) -> NoReturn:
        self.failed = TlsFailed(what)
        raise self.failed from None

    def seal(self, data: bytes | bytearray | memoryview) -> bytes:
        """What to send for `data`, and for all that was owed before it."""
        try:
            self.object.write(data)
        except ssl.SSLError as error:
            raise TlsFailed(told(error, self._client)) from None
        return self._outgoing.read()

    def unsent(self) -> bytes:
        """What is owed to the peer beside data: the handshake's replies, alerts."""
        return self._outgoing.read()

    def goodbye(self) -> bytes:
        """Our close_notify, the first time: nothing can be sealed after it, and reading goes on."""
        if not self.said_goodbye and self.shaken:
            self.said_goodbye = True
            try:
                self._early = self.take()  # OpenSSL looks for their close_notify, and breaks off at anything else
                self.waiting = bool(self._early)
                self.object.unwrap()
            except (OSError, ValueError):
                pass  # it is in `unsent`; the peer's own is not waited for
        return self._outgoing.read()
