"""Errors of TLS in plain words, as the server sees them or the client; OpenSSL's own where none are listed."""

from __future__ import annotations

import ssl

WORDS = {
    "HTTP_REQUEST": "the client speaks HTTP without TLS",
    "HTTPS_PROXY_REQUEST": "the client speaks HTTP without TLS",
    "WRONG_VERSION_NUMBER": "the client does not speak TLS",
    "UNSUPPORTED_PROTOCOL": "the client offers no TLS version from 1.2 on",
    "VERSION_TOO_LOW": "the client offers no TLS version from 1.2 on",
    "CALLBACK_FAILED": "the client offers none of --tls-alpn",
    "NO_SHARED_CIPHER": "there is no cipher that both sides know",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client shows no certificate, and --tls-client-ca demands one",
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not know the authority of our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the client refuses our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the client says that our certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the client refuses our certificate",
}
WORDS_OF_CLIENT = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the server offers no TLS version that we speak",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": "the server speaks no protocol that we offer",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server wants to see a certificate of ours",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the server refuses; perhaps it wants to see a certificate of ours",
    "TLSV1_ALERT_UNKNOWN_CA": "the server does not know the authority of our certificate",
}


def told(error: BaseException, client: bool = False) -> str:
    """An error of TLS in a few words, as the server sees it or the client."""
    words = WORDS_OF_CLIENT if client else WORDS
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    text = str(error.args[-1]) if error.args else type(error).__name__
    text = text.partition("] ")[2].partition(" (_ssl")[0] or text
    reason = getattr(error, "reason", None) or text.upper().replace(" ", "_")  # None: Python does not know it
    return words.get(reason) or text
