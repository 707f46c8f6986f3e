"""Listening sockets: opened all or not at all, and accept(2) with all its errors.

Law: a listener is opened once, by one process, and shared by those it forks. It is never shut down: shutdown(2) works
on the socket, not on the descriptor, and would end it for everybody. It never blocks in accept(2), since readiness may
be gone by then (UNP volume 1, 16.6). An IPv6 listener takes IPv6 only, always (RFC 3493, 5.3): whether `[::]` may be
bound beside `0.0.0.0` would otherwise be the system's choice. What accept's errors mean is known here and nowhere else.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from pronghorn import socket_options
from pronghorn.addresses import Bind, Place, parse_bind, places, refuse_overlaps, spoken, zoned
from pronghorn.bind_errors import bind_error, kernel_number, lacks_address
from pronghorn.errors import AddressInUse, BadSetting, CannotBind
from pronghorn.events import ListenerOpened, ListenerSkipped, Observer
from pronghorn.networks import plain
from pronghorn.settings import Settings
from pronghorn.socket_options import Option
from pronghorn.unix_path import Claim, give

__all__ = [
    "Bind",
    "Drain",
    "Exhausted",
    "Listener",
    "Peer",
    "Wake",
    "effective_backlog",
    "open_listeners",
    "parse_bind",
]

Peer = tuple[str, int] | str
"""(host, port), or a unix peer's path, which is mostly empty."""

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
GONE = {
    getattr(errno, name)
    for name in "ECONNABORTED ECONNRESET EPROTO EPERM ENETDOWN ENETUNREACH ENETRESET EHOSTDOWN EHOSTUNREACH ENONET "
    "ENOPROTOOPT EOPNOTSUPP ETIMEDOUT".split()
    if hasattr(errno, name)
}
"""accept(2) of Linux hands on the errors of the connection it takes from the queue: that one is gone, no more."""

ONE = (1).to_bytes(8, sys.byteorder)
STEPS_OVER_GONE = 64
TRIES_FOR_ONE_PORT = 20


class Exhausted(OSError):
    """accept(2) ran out of descriptors or memory; the client waits in the queue, and it is time for a pause."""


class Wake:
    """A flag that wakes a loop: its descriptor is readable while it is set. Any thread may set it (eventfd(2))."""

    __slots__ = ("_read", "_write")

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)

    def fileno(self) -> int:
        return self._read

    def set(self) -> None:
        """Make the descriptor readable; nothing happens if it is already, or if it is closed."""
        if self._write >= 0:
            try:
                os.write(self._write, ONE)
            except BlockingIOError:
                pass

    def clear(self) -> None:
        """Make the descriptor unreadable again."""
        if self._read >= 0:
            try:
                while len(os.read(self._read, 4096)) == 4096:
                    pass
            except BlockingIOError:
                pass

    def close(self) -> None:
        descriptors, self._read, self._write = {self._read, self._write} - {-1}, -1, -1
        for descriptor in descriptors:
            os.close(descriptor)


class Drain:
    """A flag that is also a descriptor: whether this process stops accepting and lets its connections finish.

    Once begun, it stays so, and its descriptor stays readable for ever. It belongs to one process: a forked one
    shares the descriptor, and makes a Drain of its own.
    """

    __slots__ = ("_wake", "begun", "deadline", "then", "timeout", "why")

    def __init__(self, timeout: float) -> None:
        """`timeout` is what open connections get, in seconds."""
        self.timeout = timeout
        self.begun = False
        self.why = ""
        self.deadline = math.inf
        self.then: Callable[[], object] | None = None  # called once, when draining begins
        self._wake = Wake()

    def begin(self, why: str = "") -> None:
        """Start draining; the deadline (monotonic) runs from the first call, and a signal handler may make it."""
        if not self.begun:
            self.why = why
            self.deadline = time.monotonic() + self.timeout
            self.begun = True
            self._wake.set()
            if self.then is not None:
                self.then()

    def __bool__(self) -> bool:
        return self.begun

    def clear(self) -> None:
        """Make the descriptor unreadable again, if draining has not begun here: a forked process was told to drain
        before it had let go of its copy."""
        if not self.begun:
            self._wake.clear()

    def fileno(self) -> int:
        return self._wake.fileno()

    def close(self) -> None:
        self._wake.close()


class Listener:
    """A bound, listening socket; `address` is written as `--bind` takes it back."""

    __slots__ = ("_accept", "_claim", "_prepare", "_socket", "address", "family")

    def __init__(
        self, listening: socket.socket, address: str, claim: Claim | None = None, wanted: list[Option] | None = None
    ) -> None:
        """`wanted` are the options that each connection shall have: the listener gets them, and where that is not
        enough, whatever is accepted."""
        socket_options.apply(listening, wanted or [])
        self._prepare = wanted if not socket_options.ACCEPTED_INHERIT else None
        self._socket = listening
        self._accept = listening._accept  # type: ignore[attr-defined]  # accept() would make a socket object
        self._claim = claim
        self.address = address
        self.family = int(listening.family)

    def __repr__(self) -> str:
        return f"<Listener {self.address}>"

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> tuple[int, Peer] | None:
        """The descriptor and the peer of one new connection, or None if there is nothing to accept now.

        The descriptor is close-on-exec; a TCP one has the options of socket_options.py. A peer of IPv4 is told as one,
        however it came. Raises Exhausted when descriptors or memory ran out; any other OSError means that the listener
        is dead.
        """
        for _ in range(STEPS_OVER_GONE):
            try:
                descriptor, peer = self._accept()
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in EXHAUSTED:
                    raise Exhausted(error.errno, error.strerror) from None
                if error.errno not in GONE:
                    raise
            else:
                if self._prepare:
                    socket_options.prepare(descriptor, self.family, self._prepare)
                return descriptor, peer if self.family == socket.AF_INET else _plain(peer)
        return None

    def close(self) -> None:
        """Close this process's descriptor; the process that bound a unix path removes it, if it is still its own."""
        if self._claim is not None:
            self._claim.release()
        self._socket.close()


def _plain(peer: Any) -> Peer:
    if isinstance(peer, tuple):
        return plain(zoned(peer)), peer[1]
    if isinstance(peer, bytes):
        return "@" + os.fsdecode(peer[1:])
    return str(peer)


def open_listeners(settings: Settings, observe: Observer) -> list[Listener]:
    """Open every `--bind`, all or none, in their order; a ListenerOpened for each tells the observer.

    A name is bound at all its addresses; an IPv6 one that this host lacks is skipped (ListenerSkipped) if another one
    binds. Port 0 becomes one free port, the same on all addresses of a name. Raises BadSetting for an address that
    cannot be read or is given twice, AddressInUse if another socket holds one, CannotBind if it fails otherwise.
    """
    if not settings.bind:
        raise BadSetting("--bind is empty.", "A server needs an address.", "Write --bind 127.0.0.1:8000.")
    groups = [(bind, places(bind)) for bind in map(parse_bind, settings.bind)]
    refuse_overlaps(groups)
    opened: list[Listener] = []
    skipped: list[ListenerSkipped] = []
    try:
        for bind, group in groups:
            _open_group(bind, group, settings, opened, skipped)
    except BaseException:
        _close_all(opened)
        raise
    for event in [*skipped, *(ListenerOpened(listener.address) for listener in opened)]:
        observe(event)
    return opened


def _close_all(listeners: list[Listener]) -> None:
    for listener in listeners:
        listener.close()


def _open_group(
    bind: Bind, group: list[Place], settings: Settings, opened: list[Listener], skipped: list[ListenerSkipped]
) -> None:
    """Open the addresses of one `--bind`; a free port that is not free on all of them is given back."""
    for left in reversed(range(TRIES_FOR_ONE_PORT)):
        here: list[Listener] = []
        lacking: list[CannotBind] = []
        try:
            for place in group:
                port = bind.port or (int(here[0].address.rpartition(":")[2]) if here else 0)
                _open_or_skip(_with_port(place, port), settings, here, lacking)
            if not here:
                raise lacking[0]
        except AddressInUse:
            _close_all(here)
            if bind.port or not here or not left:
                raise
        except BaseException:
            _close_all(here)
            raise
        else:
            opened += here
            skipped += [ListenerSkipped(error.address, error.why) for error in lacking]
            return


def _with_port(place: Place, port: int) -> Place:
    family, address = place
    return place if family == socket.AF_UNIX else (family, (address[0], port, *address[2:]))


def _open_or_skip(place: Place, settings: Settings, here: list[Listener], lacking: list[CannotBind]) -> None:
    family, address = place
    try:
        here.append(_open_unix(address, settings) if family == socket.AF_UNIX else _open_tcp(place, settings))
    except OSError as error:
        refusal = bind_error(error, place, settings)
        if family != socket.AF_INET6 or not lacks_address(error):
            raise refusal from None
        lacking.append(refusal)


def _open_unix(path: str, settings: Settings) -> Listener:
    claim = Claim(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(path)
        claim.bound()
        give(path, settings.unix_mode, settings.unix_owner)  # nobody can connect before it listens
        return Listener(_listening(listening, settings), f"unix:{path}", claim)
    except BaseException:
        listening.close()
        claim.release()
        raise


def _open_tcp(place: Place, settings: Settings) -> Listener:
    family, address = place
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if settings.reuse_address:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        wanted = socket_options.options(settings)
        return Listener(_listening(listening, settings), spoken((family, listening.getsockname())), wanted=wanted)
    except BaseException:
        listening.close()
        raise


def _listening(bound: socket.socket, settings: Settings) -> socket.socket:
    """With SO_REUSEADDR two sockets may bind one address: the second fails here, with EADDRINUSE."""
    bound.listen(effective_backlog(settings.backlog))
    bound.setblocking(False)
    return bound


def effective_backlog(asked: int) -> int:
    """The accept queue's real length for the setting: the system cuts it at somaxconn (listen(2)); 0 asks for that."""
    most = kernel_number("core/somaxconn", socket.SOMAXCONN)
    return min(asked or most, most)
