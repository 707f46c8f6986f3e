"""`TlsFacts`: what a handler may know of the TLS below its connection.

Law: no I/O, and ssl is not imported here: a connection without TLS needs none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

if TYPE_CHECKING:
    import ssl

Name = tuple[tuple[tuple[str, str], ...], ...]
"""A distinguished name: `((("commonName", "device-7"),),)`."""


class PeerCertificate(TypedDict):
    """A certificate that was checked, as ssl.SSLSocket.getpeercert writes it."""

    subject: Name
    issuer: Name
    version: int
    serialNumber: str
    notBefore: str
    """As in `Jan  5 09:34:43 2018 GMT`: ssl.cert_time_to_seconds reads it."""
    notAfter: str
    subjectAltName: NotRequired[tuple[tuple[str, str], ...]]
    """`(("DNS", "device-7.example"),)`"""
    OCSP: NotRequired[tuple[str, ...]]
    caIssuers: NotRequired[tuple[str, ...]]
    crlDistributionPoints: NotRequired[tuple[str, ...]]


class TlsFacts:
    """What a handler may know of the TLS below its connection."""

    __slots__ = ("ssl_object",)

    def __init__(self, ssl_object: ssl.SSLObject) -> None:
        self.ssl_object: ssl.SSLObject = ssl_object
        """For what is not told here; to read or to write with it breaks the connection."""

    @property
    def version(self) -> str:
        """`TLSv1.3` or `TLSv1.2`."""
        return self.ssl_object.version() or ""

    @property
    def cipher(self) -> str:
        """The cipher's name, as OpenSSL writes it."""
        cipher = self.ssl_object.cipher()
        return cipher[0] if cipher else ""

    @property
    def alpn(self) -> str | None:
        """The protocol that both sides agreed on, of --tls-alpn; None if there is none."""
        return self.ssl_object.selected_alpn_protocol()

    @property
    def sni(self) -> str | None:
        """The name that the client asked for; None if for none."""
        return getattr(self.ssl_object, "asked_name", None)

    @property
    def peer_certificate(self) -> PeerCertificate | None:
        """The client's certificate, checked; None without --tls-client-ca."""
        return cast("PeerCertificate | None", self.ssl_object.getpeercert() or None)

    def extra(self, name: str, default: Any = None) -> Any:
        """What asyncio's get_extra_info answers for TLS: ssl_object, peercert, cipher, compression, sslcontext."""
        if name == "ssl_object":
            return self.ssl_object
        if name == "sslcontext":
            return self.ssl_object.context
        if name == "peercert":
            return self.ssl_object.getpeercert()
        return getattr(self.ssl_object, name)() if name in ("cipher", "compression") else default
