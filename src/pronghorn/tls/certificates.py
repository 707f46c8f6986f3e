"""Certificate and key files: read, checked and watched by the supervisor, published in memory that workers share.

Law: only the supervisor reads the files, so that a worker needs no right to a key; and what it publishes has been
checked, by making a context of it: the key belongs to its certificate, and today lies between its dates. A set that is
not good in every part changes nothing.

A new certificate takes no reload, which would replace the workers and so end long conversations. The supervisor
publishes the bytes whole, with a version in front; a worker looks at the version before each handshake, and makes a
context of its own when the version has changed. So a handshake that begins after the report shows the new certificate,
in every worker, and no worker has to confirm it. Connections that are open keep their certificate.
"""

from __future__ import annotations

import os
import ssl
import struct
import time
import weakref
from collections.abc import Callable

import msgspec

from pronghorn import events
from pronghorn.errors import BadCertificate, BadSetting
from pronghorn.events import Event
from pronghorn.settings import Settings
from pronghorn.system import trusted_paths
from pronghorn.system.memory import anonymous_file, readable, writers
from pronghorn.tls import contexts, pem
from pronghorn.tls.contexts import Described, Material, Pair
from pronghorn.tls.words import told

SOON = 14 * 86400.0
ROOM = 16 * 1024 * 1024  # bytes
HEADER = struct.Struct("QQ")  # version, odd while it is being written; length of what follows
BROKEN = {
    "EE_KEY_TOO_SMALL": "Its key is too short for TLS today.",
    "CA_KEY_TOO_SMALL": "The key of its authority is too short for TLS today.",
    "CA_MD_TOO_WEAK": "It is signed with a digest that is too weak for TLS today.",
    "BAD_DECRYPT": "The key is protected by a pass phrase, which nobody is there to type.",
}
OTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")  # the last: of another kind
DECRYPT = "To take off a pass phrase: openssl pkey -in FILE -out NEW-FILE"

Signature = list[tuple[int, int, int] | None]


class Loaded(msgspec.Struct):
    """What the files hold, all of it good, and by what a change of the files is noticed."""

    material: Material
    described: list[Described]
    seen: Signature


class News(msgspec.Struct):
    """What a look at the files found: another set, or why what is there now is none."""

    seen: Signature
    loaded: Loaded | None = None
    refused: str = ""


class Shelf:
    """Memory that the supervisor writes and workers, its forks, read: one content, and its version.

    Workers have a descriptor that cannot write, and nobody can cut the file short. The supervisor does not read there
    what it wrote. `room` is in bytes, of which only those that are used take memory.
    """

    __slots__ = ("_pid", "_reader", "_version", "_writer", "content", "room")

    def __init__(self, room: int = ROOM) -> None:
        self.room = room
        self.content = b""
        self._version = 0
        self._pid = os.getpid()
        self._writer = anonymous_file("certificates", size=HEADER.size + room)
        self._reader = readable(self._writer)
        if self._reader != self._writer:
            writers.add(self._writer)

    def publish(self, content: bytes) -> None:
        """Put `content` in the place of what was there; readers find one or the other, never a mixture. Raises
        BadCertificate if there is no room for it."""
        if len(content) > self.room:
            raise BadCertificate(
                "The certificates are too large to be given to workers that run.",
                f"They have {len(content):,} bytes, and there is room for {self.room:,}.",
                "Reload the server instead.",
            )
        os.pwrite(self._writer, HEADER.pack(self._version + 1, 0), 0)
        os.pwrite(self._writer, content, HEADER.size)
        self._version += 2
        os.pwrite(self._writer, HEADER.pack(self._version, len(content)), 0)
        self.content = content

    def version(self) -> int:
        version: int = HEADER.unpack(os.pread(self._reader, HEADER.size, 0))[0]
        return version

    def read(self) -> tuple[int, bytes] | None:
        """The version and the content; None while it is being written."""
        version, length = HEADER.unpack(os.pread(self._reader, HEADER.size, 0))
        content = os.pread(self._reader, min(length, self.room), HEADER.size)
        return None if version % 2 or version != self.version() else (version, content)

    def __del__(self) -> None:
        # With the plan that has it, which nobody closes: generations come and go, and so do candidates. A fork has
        # closed the writer already, and its number may be another's.
        if self._reader != self._writer:
            os.close(self._reader)
        if os.getpid() == self._pid:
            writers.discard(self._writer)
            os.close(self._writer)


class Certificates:
    """The server's certificates: made by the supervisor before it forks, and asked by workers for a `context`."""

    __slots__ = (
        "__weakref__",
        "_current",
        "_followers",
        "_seen",
        "_settings",
        "_shelf",
        "_warned",
        "described",
    )

    def __init__(self, settings: Settings, loaded: Loaded | None = None) -> None:
        """Takes what was `loaded`, or loads it. Raises BadCertificate, or BadSetting if the settings do not fit
        together."""
        loaded = loaded if loaded is not None else load(settings)
        self._settings = settings
        self._seen = loaded.seen
        self.described = loaded.described
        content = msgspec.msgpack.encode(loaded.material)
        self._shelf = Shelf(max(ROOM, 2 * len(content)))
        self._shelf.publish(content)
        self._current = self._shelf.version(), contexts.build(loaded.material)  # as one: many flows of control ask
        self._followers: weakref.WeakSet[Certificates] = weakref.WeakSet()  # of older generations, while they drain
        self._warned: set[str] = set()

    # What workers call.

    def context(self) -> ssl.SSLContext:
        """The context for the next handshake: made anew when the supervisor has published another set."""
        version, context = self._current
        return context if self._shelf.version() == version else self._take_over()

    def _take_over(self) -> ssl.SSLContext:
        found = self._shelf.read()
        if found is None:
            return self._current[1]
        context = contexts.build(msgspec.msgpack.decode(found[1], type=Material))
        self._current = found[0], context
        return context

    # What the supervisor calls.

    def events(self, *, replaced: bool = False, now: float | None = None) -> list[Event]:
        """What there is to say of the set in use: each certificate, and those that expire soon."""
        told: list[Event] = [
            events.CertificateLoaded(path, each.names, each.serial, each.until, replaced, each.kind)
            for path, each in zip(self._settings.tls_cert, self.described, strict=True)
        ]
        return [*told, *self.expiring(now)]

    def watched(self) -> bool:
        """Whether the files are looked at while the server runs."""
        return self._settings.tls_watch

    def look(self) -> News | None:
        """In a helper, for the files may be where nobody answers: what is new in them, if anything is."""
        seen = _signature(self._settings)
        if seen == self._seen:
            return None
        try:
            news = News(seen, load(self._settings))
        except BadSetting as error:
            news = News(seen, refused=" ".join(str(error).splitlines()))
        return news if _signature(self._settings) == seen else None  # it changed while we read: at the next look

    def take(self, news: News | None, now: float | None = None) -> list[Event]:
        """Have what a look found. What happened is returned, as events; that a set is bad is told once for each time
        that a file changes."""
        if news is None:
            return self.expiring(now)
        self._seen = news.seen
        if news.loaded is None:
            return [events.CertificateRefused(news.refused)]
        try:
            self._publish(msgspec.msgpack.encode(news.loaded.material))
        except BadCertificate as error:
            return [events.CertificateRefused(" ".join(str(error).splitlines()))]
        self._current = self._shelf.version(), contexts.build(news.loaded.material)
        self.described = news.loaded.described
        self._warned.clear()
        return self.events(replaced=True, now=now)

    def follow(self, others: Certificates) -> None:
        """Workers that have these take the `others` for the handshakes that they still hold, while they drain; and
        so on, whatever the `others` become."""
        others._followers |= self._followers
        others._followers.add(self)
        self._publish(others._shelf.content)

    def _publish(self, content: bytes) -> None:
        self._shelf.publish(content)
        for each in self._followers:
            each._shelf.publish(content)

    def expiring(self, now: float | None = None) -> list[Event]:
        """Those that expire soon, each told once."""
        now = time.time() if now is None else now
        told: list[Event] = []
        for path, each in zip(self._settings.tls_cert, self.described, strict=True):
            left, lifetime = each.until - now, each.until - each.since
            if left < min(SOON, lifetime / 10) and path not in self._warned:
                self._warned.add(path)
                told.append(events.CertificateExpires(path, each.until))
        return told


def check(settings: Settings) -> None:
    """Raises BadSetting unless the settings of TLS fit together."""
    certificates, keys = len(settings.tls_cert), len(settings.tls_key)
    if not certificates:
        for name in ("tls_key", "tls_client_ca", "tls_alpn", "tls_watch"):
            if getattr(settings, name):
                flag = "--" + name.replace("_", "-")
                raise BadSetting(f"{flag} is given without --tls-cert.", "There is no TLS without a certificate.")
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
    seen = _signature(settings)
    material = read(settings)
    return Loaded(material, checked(material, settings, now()), seen)


def read(settings: Settings) -> Material:
    """What the files hold. Raises BadCertificate for one that cannot be read, or that does not hold what it should."""
    pairs = []
    for place, path in enumerate(settings.tls_cert):
        certificate = _content("--tls-cert", path, b"BEGIN CERTIFICATE-----", "certificate")
        key_path = settings.tls_key[place] if settings.tls_key else path
        flag = "--tls-key" if settings.tls_key else "--tls-cert"
        pairs.append(Pair(certificate, _content(flag, key_path, b"PRIVATE KEY-----", "private key")))
    authorities = b""
    if settings.tls_client_ca:
        authorities = _content("--tls-client-ca", settings.tls_client_ca, b"BEGIN CERTIFICATE-----", "certificate")
    return Material(pairs, authorities, settings.tls_alpn, settings.tls_max_hello)


def _content(flag: str, path: str, mark: bytes, what: str) -> bytes:
    try:
        content = trusted_paths.read(path)
    except OSError as error:
        hint = "Check its permissions; the supervisor reads it." if isinstance(error, PermissionError) else ""
        raise BadCertificate(f"{flag}: {path} cannot be read.", f"{error.strerror}.", hint) from None
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


def _signature(settings: Settings) -> Signature:
    """What changes when a file changes, is replaced, or comes to be."""
    found: Signature = []
    for path in (*settings.tls_cert, *settings.tls_key, settings.tls_client_ca):
        try:
            told = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((told.st_mtime_ns, told.st_ino, told.st_size))
    return found
