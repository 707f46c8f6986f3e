"""The listener: a listening socket, accept(2) with all its errors, and how an upgrade hands it on.

Law: a listener is opened once, by one process, and shared by those it forks. It is never shut down: shutdown(2) works
on the socket, not on the descriptor, and would end it for everybody. It never blocks in accept(2), since readiness may
be gone by then (UNP volume 1, 16.6). What accept's errors mean is known here and nowhere else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from typing import Any

from pronghorn.listening import socket_options
from pronghorn.listening.addresses import Place, zoned
from pronghorn.listening.inherited import inherited_socket
from pronghorn.listening.socket_options import Option
from pronghorn.listening.unix_path import Claim
from pronghorn.peers import Peer, plain

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
GONE = {
    getattr(errno, name)
    for name in "ECONNABORTED ECONNRESET EPROTO EPERM ENETDOWN ENETUNREACH ENETRESET EHOSTDOWN EHOSTUNREACH ENONET "
    "ENOPROTOOPT EOPNOTSUPP ETIMEDOUT".split()
    if hasattr(errno, name)
}
"""accept(2) of Linux passes on the errors of the connection that it takes from the queue: that connection is gone."""

STEPS_OVER_GONE = 64
SO_ATTACH_FILTER = 26  # Linux; the socket module does not have it
NO_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
"""A classic BPF program (socket-filter.txt of the Linux documentation): a segment whose flags, of SYN and ACK, are SYN
alone is dropped, all others pass."""
HANDSHAKE = 0.2  # seconds that handshakes get that have begun: the round trip of a distant client
HANDSHAKE_HERE = 0.02  # the same within this machine
WILDCARDS = ("0.0.0.0", "::")
MANY = 65536  # more than a queue holds (SOMAXCONN)


class Exhausted(OSError):
    """accept(2) ran out of descriptors or memory; the client waits in the queue, and it is time for a pause."""


class Listener:
    """A bound, listening socket; `address` is written as `--bind` takes it back.

    Workers of several generations share one. An upgrade hands it on: `inherited` is the record with which the new
    program adopts it, which removes no path before `take_over`; this one's removes none after `hand_over`.
    """

    __slots__ = (
        "_accept",
        "_claim",
        "_prepare",
        "_shared",
        "_socket",
        "address",
        "bind",
        "family",
        "foreign",
        "name",
        "title",
    )

    def __init__(
        self, listening: socket.socket, address: str, claim: Claim | None = None, bind: str = "", name: str = ""
    ) -> None:
        """`bind` is the `--bind` that it came from, `name` what systemd calls it. It is `foreign` if another program
        has opened it, and may go on with it."""
        self._socket = listening
        self._accept = listening._accept  # type: ignore[attr-defined]  # accept() would make a socket object
        self._claim = claim
        self._prepare: list[Option] = []
        self._shared = False  # with another program of this server
        self.address = address
        self.bind = bind or address
        self.name = name
        self.title = ""
        """What the settings of the generation that serves call it; empty if they have no name for it."""
        self.foreign = self.bind.startswith("fd:")
        self.family = int(listening.family)

    def __repr__(self) -> str:
        return f"<Listener {self.address}>"

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def place(self) -> Place:
        return self.family, self._socket.getsockname()

    @property
    def sockname(self) -> Any:
        """Our own address of every connection that comes here, as getsockname(2) tells it of one; None where they may
        differ in that: the address is a wildcard, or another program has opened the socket, with options that are not
        known here (IP_TRANSPARENT, ip(7))."""
        name = self._socket.getsockname()
        unknown = self.foreign or (isinstance(name, tuple) and name[0] in WILDCARDS)
        return None if unknown else name

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
                    socket_options.apply_accepted(descriptor, self.family, self._prepare)
                return descriptor, peer if self.family == socket.AF_INET else _plain(peer)
        return None

    def waiting(self) -> Iterator[int]:
        """Takes whoever waits to be accepted from the queue: their descriptors, one by one. Nobody where another
        program has the listener as well, which may serve them."""
        if self.foreign or self._shared or self.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            for _ in range(MANY):
                if (got := self.accept()) is None:
                    return
                yield got[0]

    def queue(self) -> tuple[int, int] | None:
        """Connections that wait to be accepted, and how many the kernel lets wait: by TCP_INFO (Linux: of a listener,
        tcpi_unacked is the length of the queue and tcpi_sacked its bound), of a unix socket over netlink. None where
        the kernel does not tell."""
        if sys.platform != "linux":
            return None
        try:
            if self.family == socket.AF_UNIX:
                from pronghorn.listening.sock_diag import unix_socket  # the supervisor has imported it at its start

                found = unix_socket(os.fstat(self.fileno()).st_ino)
                return found.waiting, found.backlog
            return struct.unpack_from("=II", self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32), 24)
        except (OSError, struct.error):
            return None

    def queued(self) -> int:
        """Connections that wait to be accepted, of a TCP listener; a large number where the kernel does not tell."""
        found = self.queue() if self.family != socket.AF_UNIX else None
        return MANY if found is None else found[0]

    def close(self) -> None:
        """Close this process's descriptor; the process that bound a unix path removes it, if it is still its own."""
        if self._claim is not None:
            self._claim.release()
        self._socket.close()

    def turn_away(self) -> float:
        """No new connection begins from here on, whichever processes share the listener; those that have begun come to
        the queue as before, within the seconds that are returned. When the queue is emptied after that, and the last
        process closes it, nobody is left there whose connect(2) had succeeded, who would be reset. A client that is
        turned away sends its SYN again after a second, and is refused then.

        Left alone is a listener that another program has as well, as in an upgrade. A unix socket's path is gone once
        the socket is closed here; its clients need no more. Where the system has no such filter
        nothing happens.
        """
        if self.foreign or self._shared or self.fileno() < 0:
            return 0.0
        if self.family == socket.AF_UNIX:
            return HANDSHAKE_HERE
        if sys.platform != "linux":
            return 0.0
        program = array("B", b"".join(struct.pack("HBBI", *each) for each in NO_SYN))
        with contextlib.suppress(OSError):
            where = struct.pack("HP", len(NO_SYN), program.buffer_info()[0])
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, where)
        return HANDSHAKE_HERE if self.address.startswith(("127.", "[::1]")) else HANDSHAKE

    def listen(self, backlog: int) -> None:
        """Give the queue another length: listen(2) on a socket that listens changes nothing else."""
        self._socket.listen(backlog)

    @property
    def dead(self) -> bool:
        """No client can connect: the socket was shut down (SO_ACCEPTCONN, socket(7); the kernel does not tell that of a
        unix socket), or the path of a unix socket is gone."""
        if self._claim is not None:
            return self._claim.lost
        try:
            return not self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            return False

    def revive(self, bind: Callable[[Claim | None], socket.socket]) -> None:
        """Have another socket of the same address under the same descriptor: the one that `bind` makes, whose claim to
        a path is this one's, renewed. Raises as a new claim does, and what `bind` raises."""
        if self._claim is not None:
            self._claim.renew()
        with bind(self._claim) as other:
            os.dup2(other.fileno(), self.fileno(), inheritable=False)

    def become(self, record: dict[str, Any]) -> None:
        """The same as `revive`, with a socket that another process has made and handed on, as `inherited` says it."""
        with inherited_socket(record["fd"], record["bind"], 0) as other:
            os.dup2(other.fileno(), self.fileno(), inheritable=False)
        if record["claim"]:
            claim, self._claim = self._claim, Claim.adopt(record["claim"])
            self._claim.take_over()
            if claim is not None:
                claim.hand_over()
                claim.release()

    @property
    def identity(self) -> int:
        """What tells one socket from another under the same descriptor."""
        return os.fstat(self.fileno()).st_ino

    def prepare(self, wanted: list[Option]) -> None:
        """What options each TCP connection shall have from now on, however long the listener is open already."""
        if self.family != socket.AF_UNIX:
            socket_options.apply(self._socket, wanted)
            self.expect(wanted)

    def expect(self, wanted: list[Option]) -> None:
        """The same for this process alone, where a connection does not have them from its listener."""
        self._prepare = wanted if self.family != socket.AF_UNIX and not socket_options.ACCEPTED_INHERIT else []

    # Handing on.

    @classmethod
    def adopt(cls, record: dict[str, Any]) -> Listener:
        """The listener of the program that started this one. Raises CannotBind if its descriptor is none."""
        taken = inherited_socket(record["fd"], record["bind"], 0)
        claim = Claim.adopt(record["claim"]) if record["claim"] else None
        adopted = cls(taken, record["address"], claim, record["bind"], record["name"])
        adopted._shared = True
        adopted.title = record.get("title", "")
        adopted.foreign = record.get("foreign", adopted.foreign)
        return adopted

    def inherited(self) -> dict[str, Any]:
        """What `adopt` needs in a program that is started with `descriptors`, as plain values."""
        claim = self._claim.record() if self._claim is not None else None
        return {
            "fd": self.fileno(),
            "bind": self.bind,
            "name": self.name,
            "title": self.title,
            "address": self.address,
            "claim": claim,
            "foreign": self.foreign,
        }

    def descriptors(self) -> list[int]:
        """The socket's, and that of the lock of a unix path; none once it is closed."""
        ours = [self.fileno()] if self.fileno() >= 0 else []
        return ours + (self._claim.descriptors() if self._claim is not None else [])

    def take_over(self) -> None:
        """The upgrade has succeeded: from now on `close` removes the path of a unix socket here."""
        self._shared = False
        if self._claim is not None:
            self._claim.take_over()

    def hand_over(self) -> None:
        """The upgrade has succeeded: from now on the new program removes the path."""
        self._shared = True
        if self._claim is not None:
            self._claim.hand_over()


def _plain(peer: Any) -> Peer:
    if isinstance(peer, tuple):
        return plain(zoned(peer)), peer[1]
    if isinstance(peer, bytes):
        return "@" + os.fsdecode(peer[1:])
    return str(peer)
