"""The server's certificates while it serves: watched and published by the supervisor, taken over by its workers.

Law: only the supervisor reads the files, so that a worker needs no right to a key; and what it publishes has been
checked (key_files.py): a set that is not good in every part changes nothing.

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
from collections.abc import Container

import msgspec

from pronghorn import events
from pronghorn.errors import BadCertificate, BadSetting
from pronghorn.events import Event
from pronghorn.lifespans import serving_at
from pronghorn.settings import Settings
from pronghorn.system.memory import anonymous_file, readable, writers
from pronghorn.tls import contexts
from pronghorn.tls.contexts import Material
from pronghorn.tls.key_files import Loaded, Signature, load, signature

SOON = 14 * 86400.0
ROOM = 16 * 1024 * 1024  # bytes
HEADER = struct.Struct("QQ")  # version, odd while it is being written; length of what follows


_current: dict[str, Certificates] = {}


def become_current(certificates: dict[str, Certificates]) -> None:
    """In a worker: those of each listener, by its name, for `current_tls`."""
    _current.update(certificates)


def current_tls(listener: str = "") -> ssl.SSLContext:
    """An ssl.SSLContext with the certificates of a listener, for a library that begins TLS by itself (STARTTLS): by
    default of the one whose connection is being served, or of the only one that has any.

    It follows the certificates: each handshake shows the newest (`--tls-watch`). To be called by code that runs in a
    worker: a handler, its lifespan, or a factory, and not while the handler's module is imported. Raises BadSetting
    where there is no certificate. Our own `start_tls()` uses the certificates without being told.
    """
    found = _current.get(listener or serving_at.get())
    if found is None and not listener and len({id(each) for each in _current.values()}) == 1:
        found = next(iter(_current.values()))
    if found is None:
        raise BadSetting(
            f"current_tls({listener!r}) finds no certificate." if listener else "current_tls() finds no certificate.",
            "The listener has none, or this is not called by a handler, its lifespan or a factory, in a worker.",
            "Serve with --tls-cert FILE --tls-key FILE --tls starttls.",
        )
    return found.following()


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
        # Its plan is never closed: generations come and go, and so do candidates. A fork has closed the writer already,
        # and its number may be another's.
        if self._reader != self._writer:
            os.close(self._reader)
        if os.getpid() == self._pid:
            writers.discard(self._writer)
            os.close(self._writer)


class Certificates:
    """The server's certificates: made by the supervisor before it forks, and asked by workers for a `context`."""

    __slots__ = tuple("__weakref__ _current _followers _following _seen _settings _shelf _warned described".split())

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

        self._following: ssl.SSLContext | None = None

    # What workers call.

    def following(self) -> ssl.SSLContext:
        """One context that shows each client the certificate of now."""
        if self._following is None:
            self._following = contexts.following(self.context)
        return self._following

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

    def events(self, known: Container[str] | None = None, now: float | None = None) -> list[Event]:
        """What there is to say of the set in use: each certificate, and those that expire soon. While the server runs,
        those are new whose serials are not `known`."""
        told: list[Event] = [
            events.CertificateLoaded(
                path, each.names, each.serial, each.until, known is not None and each.serial not in known, each.kind
            )
            for path, each in zip(self._settings.tls_cert, self.described, strict=True)
        ]
        return [*told, *self.expiring(now)]

    def watched(self) -> bool:
        """Whether the files are looked at while the server runs."""
        return self._settings.tls_watch

    def look(self) -> News | None:
        """What is new in the files, if anything is. It may block: the files may be on a server that does not answer."""
        seen = signature(self._settings)
        if seen == self._seen:
            return None
        try:
            news = News(seen, load(self._settings))
        except BadSetting as error:
            news = News(seen, refused=" ".join(str(error).splitlines()))
        return news if signature(self._settings) == seen else None  # it changed while we read: at the next look

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
        return self.events((), now)

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
