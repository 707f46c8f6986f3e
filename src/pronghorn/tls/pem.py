"""What a PEM file holds: its certificates, their kinds of key, the kind of a private key, or what else it is.

Law: bytes in, words out; no files, and no ssl. Whether a certificate or a key is good is not judged; what cannot be
read is of kind "".

Sources: RFC 7468 (PEM), RFC 5280, 4.1 (certificates), RFC 5958 (private keys), RFC 8410 (Ed25519, Ed448).
"""

from __future__ import annotations

import binascii
import re

CERTIFICATE = b"CERTIFICATE"
KEY = b"PRIVATE KEY"
SEQUENCE = 0x30
OID = 0x06
VERSION = 0xA0  # [0], the optional first part of a certificate
KINDS = {
    bytes.fromhex("2a864886f70d010101"): "RSA",
    bytes.fromhex("2a864886f70d01010a"): "RSA-PSS",
    bytes.fromhex("2a8648ce3d0201"): "ECDSA",
    bytes.fromhex("2a8648ce380401"): "DSA",
    bytes.fromhex("2b6570"): "Ed25519",
    bytes.fromhex("2b6571"): "Ed448",
}
EACH = "Give the certificate with --tls-cert, and its key with --tls-key."
BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s*?\n(.*?)-----END \1-----", re.DOTALL)


def certificates(content: bytes) -> list[bytes]:
    """The certificates of a file, each as a PEM block."""
    return [found[0] + b"\n" for found in BLOCK.finditer(content) if found[1] == CERTIFICATE]


def certificate_kind(content: bytes) -> str:
    """The kind of key that the first certificate of a file is for: `RSA`, `ECDSA`, `Ed25519`; unknown ones in hex."""
    for label, body in BLOCK.findall(content):
        if label == CERTIFICATE:
            parts = _inside(_inside(_decoded(body))[:1])
            about = 6 if parts and parts[0][0] == VERSION else 5
            return _algorithm(_inside(parts[about : about + 1])[:1])
    return ""


def key_kind(content: bytes) -> str:
    """The kind of the first private key of a file, as `certificate_kind` has it; "" for one with a pass phrase."""
    for label, body in BLOCK.findall(content):
        if label.endswith(KEY):
            named = {b"RSA PRIVATE KEY": "RSA", b"EC PRIVATE KEY": "ECDSA", b"DSA PRIVATE KEY": "DSA"}.get(label)
            return named or _algorithm(_inside(_decoded(body))[1:2])
    return ""


def instead(content: bytes, what: str) -> tuple[str, str]:
    """Why there is no PEM block of `what` ("certificate", "private key") in a file, and what to do."""
    if what == "certificate" and KEY + b"-----" in content:
        return "It holds a private key.", EACH
    if what != "certificate" and b"BEGIN CERTIFICATE-----" in content:
        return "It holds a certificate.", EACH
    if b"CERTIFICATE REQUEST-----" in content:
        return "It holds a request for a certificate.", "Give what the authority made of it."
    if b"PUBLIC KEY-----" in content:
        return "It holds a public key.", "Give the private one." if what != "certificate" else ""
    if content[:1] == bytes([SEQUENCE]):
        tool = "x509" if what == "certificate" else "pkey"
        how = f"openssl {tool} -in FILE -out NEW-FILE", "openssl pkcs12 -in FILE -out NEW-FILE -nodes"
        return "It is binary, and not PEM.", f"Of DER make PEM by {how[0]}\nof PKCS 12 (.p12, .pfx) by {how[1]}"
    return f"There is no PEM block of a {what} in it.", ""


Part = tuple[int, bytes]  # tag, content


def _decoded(body: bytes) -> list[Part]:
    try:
        return _parts(binascii.a2b_base64(body))
    except binascii.Error:
        return []


def _inside(parts: list[Part]) -> list[Part]:
    return _parts(parts[0][1]) if parts and parts[0][0] == SEQUENCE else []


def _parts(der: bytes) -> list[Part]:
    """The parts that stand one behind the other (X.690, 8.1.2 to 8.1.5)."""
    found: list[Part] = []
    at = 0
    while at + 2 <= len(der):
        tag, size, at = der[at], der[at + 1], at + 2
        if size & 0x80:
            more = size & 0x7F
            size, at = int.from_bytes(der[at : at + more], "big"), at + more
        found.append((tag, der[at : at + size]))
        at += size
    return found


def _algorithm(parts: list[Part]) -> str:
    """Of an AlgorithmIdentifier."""
    inside = _inside(parts)
    return KINDS.get(inside[0][1], inside[0][1].hex()) if inside and inside[0][0] == OID else ""
