"""The files of --tls-cert, --tls-key and --tls-client-ca: read, and checked by making a context of what they hold.

Law: a set that is not good in every part is refused whole, with the file, the reason and what to do: each key belongs
to its certificate, and each certificate is valid today.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable

import msgspec

from pronghorn.errors import BadCertificate, BadSetting
from pronghorn.settings import Settings, unreadable
from pronghorn.system import trusted_paths
from pronghorn.tls import contexts, pem
from pronghorn.tls.contexts import Described, Material, Pair
from pronghorn.tls.words import told

BROKEN = {
    "EE_KEY_TOO_SMALL": "Its key is too short for TLS today.",
    "CA_KEY_TOO_SMALL": "The key of its authority is too short for TLS today.",
    "CA_MD_TOO_WEAK": "It is signed with a digest that is too weak for TLS today.",
    "BAD_DECRYPT": "The key is protected by a pass phrase, which nobody is there to type.",
}
OTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")  # the last: of another kind
DECRYPT = "Give it with --tls-key-pass-file or --tls-key-pass-env; or take it off: openssl pkey -in FILE -out NEW-FILE"
WRONG_PHRASE = {"BAD_DECRYPT", "PKCS12_CIPHERFINAL_ERROR", "PEM_LIB"}


Signature = list[tuple[int, int, int] | None]


class Loaded(msgspec.Struct):
    """What the files hold, all of it good, and by what a change of the files is noticed."""

    material: Material
    described: list[Described]
    seen: Signature


def check(settings: Settings) -> None:
    """Raises BadSetting unless the settings of TLS fit together."""
    certificates, keys = len(settings.tls_cert), len(settings.tls_key)
    if not certificates:
        if settings.tls == "starttls":
            raise BadSetting("--tls is starttls, without --tls-cert.", "There is no TLS without a certificate.")
        for name in ("tls_key", "tls_key_pass_file", "tls_key_pass_env", "tls_client_ca", "tls_alpn", "tls_watch"):
            if getattr(settings, name):
                flag = "--" + name.replace("_", "-")
                raise BadSetting(f"{flag} is given without --tls-cert.", "There is no TLS without a certificate.")
    elif settings.tls_key_pass_file and settings.tls_key_pass_env:
        why = "There is one pass phrase for all keys."
        raise BadSetting("--tls-key-pass-file and --tls-key-pass-env are given.", why, "Leave one of them out.")
    elif keys not in (0, certificates):
        raise BadSetting(
            f"There are {certificates} of --tls-cert and {keys} of --tls-key.",
            "Each certificate has a key: the first of these belongs to the first of those.",
            "Give as many keys, or none if each certificate's file holds its key too.",
        )
    for name in settings.tls_alpn:
        if not name.isascii() or not 0 < len(name) < 256:
            raise BadSetting(f"--tls-alpn cannot be {name!r}.", "A name has 1 to 255 ASCII characters (RFC 7301, 3.1).")


def load(settings: Settings, now: Callable[[], float] = time.time) -> Loaded:
    """What the settings name, read and checked. Raises BadCertificate, or BadSetting if they do not fit together."""
    check(settings)
    seen = signature(settings)
    material = read(settings)
    return Loaded(material, checked(material, settings, now()), seen)


def read(settings: Settings) -> Material:
    """What the files hold. Raises BadCertificate for one that cannot be read, or that does not hold what it should."""
    pairs, phrase = [], pass_phrase(settings)
    for place, path in enumerate(settings.tls_cert):
        certificate = _content("--tls-cert", path, b"BEGIN CERTIFICATE-----", "certificate")
        key_path = settings.tls_key[place] if settings.tls_key else path
        flag = "--tls-key" if settings.tls_key else "--tls-cert"
        key = _content(flag, key_path, b"PRIVATE KEY-----", "private key")
        pairs.append(Pair(certificate, key, phrase if b"ENCRYPTED" in key else b""))
    authorities = b""
    if settings.tls_client_ca:
        authorities = _content("--tls-client-ca", settings.tls_client_ca, b"BEGIN CERTIFICATE-----", "certificate")
    about = settings.tls_alpn, settings.tls_max_hello, settings.tls_min_version, settings.tls_client_cert
    return Material(pairs, authorities, *about)


def pass_phrase(settings: Settings) -> bytes:
    """The pass phrase of the private keys; empty if none is given. Raises BadCertificate."""
    if name := settings.tls_key_pass_env:
        if name not in os.environ:
            raise BadCertificate(
                f"--tls-key-pass-env: there is no variable {name}.", "", "Set it where the server starts."
            )
        return os.environb[name.encode()]
    path = settings.tls_key_pass_file
    if not path:
        return b""
    try:
        phrase = trusted_paths.read(path).partition(b"\n")[0].rstrip(b"\r")
    except OSError as error:
        raise BadCertificate(f"--tls-key-pass-file: {path} cannot be read.", unreadable.why(path, error)) from None
    if not phrase:
        raise BadCertificate(f"--tls-key-pass-file: {path} holds no pass phrase.", "Its first line is empty.")
    return phrase


def _content(flag: str, path: str, mark: bytes, what: str) -> bytes:
    try:
        content = trusted_paths.read(path)
    except OSError as error:
        hint = "Check its permissions; the supervisor reads it." if isinstance(error, PermissionError) else ""
        raise BadCertificate(f"{flag}: {path} cannot be read.", unreadable.why(path, error), hint) from None
    if mark not in content:
        why, hint = pem.instead(content, what)
        if flag == "--tls-cert" and b"KEY" in mark:
            why, hint = f"There is no PEM block of a {what} in it.", "Give its key with --tls-key."
        raise BadCertificate(f"{flag}: {path} holds no {what}.", why, hint)
    return content


def checked(material: Material, settings: Settings, now: float) -> list[Described]:
    """What the certificates say of themselves. Raises BadCertificate if any part of the material is bad."""
    described = []
    for path, pair in zip(settings.tls_cert, material.pairs, strict=True):
        try:
            one = contexts.describe(pair.certificate)
            contexts.build(Material([pair]))
        except (ssl.SSLError, ValueError) as error:
            raise _broken(path, pair, error, settings, material) from None
        _check_dates(path, one, now)
        described.append(one)
    try:
        contexts.build(material)
        return described
    except (ssl.SSLError, ValueError) as error:
        raise BadCertificate(f"--tls-client-ca: {settings.tls_client_ca} cannot be used.", f"{error}.") from None


def _broken(
    path: str, pair: Pair, error: ssl.SSLError | ValueError, settings: Settings, material: Material
) -> BadCertificate:
    reason = getattr(error, "reason", None) or ""
    words = told(error)
    why = BROKEN.get(reason) or f"{words[:1].upper()}{words[1:]}."
    hint = DECRYPT if "pass phrase" in why else ""
    if pair.pass_phrase and (reason in WRONG_PHRASE or words == "PEM lib"):
        why, hint = "The pass phrase is not the one of the key.", "Check --tls-key-pass-file or --tls-key-pass-env."
    if reason in OTHER_KEY:
        needed, given = pem.certificate_kind(pair.certificate), pem.key_kind(pair.key)
        why = "The key is not the one of this certificate."
        if needed and given and needed != given:
            why = f"The certificate is for a key of kind {needed}, and the key is of kind {given}."
        hint = _owner(pair, settings, material)
    return BadCertificate(f"--tls-cert: {path} cannot be used with its key.", why, hint)


def _owner(pair: Pair, settings: Settings, material: Material) -> str:
    """Where the certificate stands that the key of a pair belongs to, if it is among those that are given."""
    if any(_fits(each, pair.key) for each in pem.certificates(pair.certificate)[1:]):
        return "It belongs to a later certificate of that file: put the server's own certificate first."
    for path, other in zip(settings.tls_cert, material.pairs, strict=True):
        if _fits(other.certificate, pair.key):
            return f"It belongs to {path}: give the keys in the order of their certificates."
    return ""


def _fits(certificate: bytes, key: bytes) -> bool:
    try:
        contexts.build(Material([Pair(certificate, key)]))
    except (ssl.SSLError, ValueError):
        return False
    return True


def _check_dates(path: str, described: Described, now: float) -> None:
    if described.until <= now:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(described.until))
        raise BadCertificate(f"--tls-cert: {path} has expired.", f"It was good until {when}.", "Renew it.")
    if described.since > now:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(described.since))
        why = f"It is good from {when} on."
        raise BadCertificate(f"--tls-cert: {path} is not valid yet.", why, "Wait, or set this machine's clock right.")


def signature(settings: Settings) -> Signature:
    """What changes when a file changes, is replaced, or comes to be."""
    found: Signature = []
    for path in (*settings.tls_cert, *settings.tls_key, settings.tls_client_ca, settings.tls_key_pass_file):
        try:
            told = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((told.st_mtime_ns, told.st_ino, told.st_size))
    return found
