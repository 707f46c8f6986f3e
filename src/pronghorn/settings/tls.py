"""Settings of TLS: the server's certificates, and those that clients have to show."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.connections import Connections
from pronghorn.settings.fields import NOW, Option

TLS_WHEN = ("on", "off", "starttls")
TLS_VERSIONS = ("1.2", "1.3")
CLIENT_CERTIFICATES = ("required", "optional", "none")


class TLS(Connections, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TLS at the addresses that the server listens at; off without a certificate."""

    tls: Annotated[
        str,
        "When connections speak TLS by the server's certificate: on, from the first byte; starttls, from when the "
        "handler calls start_tls(); off, never.",
        Option(choices=TLS_WHEN, own=True),
    ] = "on"
    tls_cert: Annotated[
        tuple[str, ...],
        "File with the server's certificate and those between it and its authority, as PEM; turns TLS on. May be "
        "given more than once: clients get the one with the name that they ask for, else the first.",
        Option(metavar="FILE", own=True),
    ] = ()
    tls_key: Annotated[
        tuple[str, ...],
        "File with the certificate's private key; once for each certificate, in the same order. Without this, the key "
        "stands in the certificate's file.",
        Option(metavar="FILE", own=True),
    ] = ()
    tls_key_pass_file: Annotated[
        str,
        "File whose first line is the pass phrase of the private keys; the supervisor reads it.",
        Option(metavar="FILE", own=True),
    ] = ""
    tls_key_pass_env: Annotated[
        str,
        "Environment variable that holds the pass phrase of the private keys.",
        Option(metavar="VARIABLE", own=True),
    ] = ""
    tls_min_version: Annotated[
        str, "Lowest version of TLS that clients may speak.", Option(choices=TLS_VERSIONS, own=True)
    ] = "1.2"
    tls_client_ca: Annotated[
        str,
        "File with the authorities of clients' certificates: a client must then show one that they signed, unless "
        "--tls-client-cert says otherwise.",
        Option(metavar="FILE", own=True),
    ] = ""
    tls_client_cert: Annotated[
        str,
        "Whether a client has to show a certificate, with --tls-client-ca: required, optional (one that is shown has "
        "to be good), or none (nobody is asked).",
        Option(choices=CLIENT_CERTIFICATES, own=True),
    ] = "required"
    tls_alpn: Annotated[
        tuple[str, ...],
        "Protocol that is offered to clients who choose one in the handshake (ALPN); may be given more than once, the "
        "favourite first.",
        Option(metavar="NAME", own=True),
    ] = ()
    tls_max_hello: Annotated[
        int,
        "Bytes that a client's first message (ClientHello) may have before its connection is ended.",
        Option(unit="size", ge=1024, le=2**24, own=True),
    ] = 64 * 1024
    tls_watch: Annotated[
        bool,
        "Look at the files each second: a new certificate and key are taken for the handshakes that follow, if they "
        "are good.",
        Option(at=NOW, own=True),
    ] = False

    @property
    def tls_at_once(self) -> bool:
        """Whether connections speak TLS from the first byte."""
        return self.tls_when == "on"

    @property
    def tls_when(self) -> str:
        """When connections speak TLS, as `tls` says; off without a certificate."""
        return self.tls if self.tls_cert else "off"
