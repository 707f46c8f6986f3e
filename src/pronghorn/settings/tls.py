"""Settings of TLS: the server's certificates, and those that clients have to show."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.connections import Connections
from pronghorn.settings.fields import NOW, Option

TLS_WHEN = ("on", "off", "starttls")


class TLS(Connections, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TLS at every address that the server listens at; off without a certificate."""

    tls: Annotated[
        str,
        "When connections speak TLS by the server's certificate: on, from the first byte; starttls, from when the "
        "handler calls start_tls(); off, never.",
        Option(choices=TLS_WHEN),
    ] = "on"

    tls_cert: Annotated[
        tuple[str, ...],
        "File with the server's certificate and those between it and its authority, as PEM; turns TLS on. May be "
        "given more than once: clients get the one with the name that they ask for, else the first.",
        Option(metavar="FILE"),
    ] = ()
    tls_key: Annotated[
        tuple[str, ...],
        "File with the certificate's private key; once for each certificate, in the same order. Without this, the key "
        "stands in the certificate's file.",
        Option(metavar="FILE"),
    ] = ()
    tls_client_ca: Annotated[
        str,
        "File with the authorities of clients' certificates: a client must then show one that they signed.",
        Option(metavar="FILE"),
    ] = ""
    tls_alpn: Annotated[
        tuple[str, ...],
        "Protocol that is offered to clients who choose one in the handshake (ALPN); may be given more than once, the "
        "favourite first.",
        Option(metavar="NAME"),
    ] = ()
    tls_max_hello: Annotated[
        int,
        "Bytes that a client's first message (ClientHello) may have before its connection is ended.",
        Option(unit="size", ge=1024, le=2**24),
    ] = 64 * 1024
    tls_watch: Annotated[
        bool,
        "Look at the files each second: a new certificate and key are taken for the handshakes that follow, if they "
        "are good.",
        Option(at=NOW),
    ] = False

    @property
    def tls_at_once(self) -> bool:
        """Whether connections speak TLS from the first byte."""
        return bool(self.tls_cert) and self.tls == "on"
