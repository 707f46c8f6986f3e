"""TLS for a client: a thread that encrypts and decrypts between a plain socket and the server.

Law: pipe.py and terminal.py hold a plain socket and know nothing of TLS; a relay on a thread of its own stands between
that socket and the server. Each direction ends by itself, so that a client that has sent all can still read. A server
that ends without a close_notify may not have sent all, and that is an error.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading

from pronghorn.cli.connect.pipe import BACKLOG, CHUNK, ConversationBroken
from pronghorn.errors import BadSetting, HandshakeFailed, PronghornError
from pronghorn.tls.blocking import TlsConnection

PATIENCE = 2.0  # seconds for the last bytes to go to the server


class NoTls(PronghornError):
    """The server is connected, but the TLS handshake failed."""


def context(authority: str, insecure: bool, certificate: str, key: str) -> ssl.SSLContext:
    """The authorities that a client trusts, and its certificate. Raises BadSetting for a file that cannot be used."""
    try:
        made = ssl.create_default_context(cafile=authority or None)
    except (OSError, ssl.SSLError) as error:
        raise _bad("--tls-ca", authority, error) from None
    if insecure:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if certificate:
        try:
            made.load_cert_chain(certificate, key or None)
        except (OSError, ssl.SSLError) as error:
            raise _bad("--tls-cert", certificate, error) from None
    return made


def _bad(flag: str, path: str, error: OSError) -> BadSetting:
    why = error.strerror if not isinstance(error, ssl.SSLError) else "It holds nothing of that kind as PEM"
    return BadSetting(f"{flag}: {path} cannot be used.", f"{why}.")


class Relay(threading.Thread):
    """A thread between `plain`, the socket that a client uses, and the server; `failure` is what broke."""

    def __init__(self, wire: TlsConnection) -> None:
        super().__init__(daemon=True)
        self.plain, self.inner = socket.socketpair()
        self.failure: ConversationBroken | None = None
        self.wire = wire
        self._to_wire, self._to_inner = bytearray(), bytearray()
        self._reading = self._sending = True  # from the server; and from the client

    def run(self) -> None:
        assert self.wire.records is not None
        self._records = self.wire.records
        self.wire.setblocking(False)
        self.inner.setblocking(False)
        try:
            self._take()
            while self._reading or self._to_inner or self._sending or self._to_wire:
                self._turn()
        except OSError as error:
            self.failure = self.failure or ConversationBroken("The connection broke.", f"{error.strerror or error}.")
        try:
            self.inner.shutdown(socket.SHUT_WR)  # closed with something unread, it would end as by a reset
        except OSError:
            pass

    def finish(self) -> None:
        """The client has finished: send what is left, and close. Raises ConversationBroken for what went wrong."""
        self.plain.close()
        self.join(PATIENCE)
        self.inner.close()
        self.wire.end()
        if self.failure is not None:
            raise self.failure

    def _turn(self) -> None:
        readers = [self.wire] if self._reading and len(self._to_inner) < BACKLOG else []
        readers += [self.inner] if self._sending and len(self._to_wire) < BACKLOG else []  # type: ignore[list-item]
        writers = [self.wire] if self._to_wire else []
        writers += [self.inner] if self._to_inner else []  # type: ignore[list-item]
        readable, writable, _ = select.select(readers, writers, [])
        if self.inner in writable:
            self._write_inner()
        if self.wire in readable:
            self._read_wire()
        if self.inner in readable:
            self.read_inner()
        if self.wire in writable:
            self._write_wire()

    def _write_wire(self) -> None:
        try:
            del self._to_wire[: socket.socket.send(self.wire, self._to_wire)]
        except BlockingIOError:
            return
        except OSError:  # the server takes no more: read what it has sent before, and why it ended
            self._sending = False
            self._to_wire.clear()

    def _read_wire(self) -> None:
        try:
            sealed = socket.socket.recv(self.wire, CHUNK)
        except BlockingIOError:
            return
        if sealed:
            self._records.feed(sealed)
        else:
            self._records.end_input()
            why = "The server ended it without TLS's close_notify: there may be something missing."
            self.failure = ConversationBroken("The connection broke.", why) if self._records.truncated else None
            self._reading = False
        self._take()

    def _take(self) -> None:
        self._to_inner += self._records.take()
        if self._records.ended or not self._reading:
            self._reading = False
            self._write_inner()

    def _write_inner(self) -> None:
        try:
            if self._to_inner:
                del self._to_inner[: self.inner.send(self._to_inner)]
            if not self._reading and not self._to_inner:
                self.inner.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self._to_inner.clear()  # the client has closed
            self._reading = False

    def read_inner(self) -> None:
        try:
            data = self.inner.recv(CHUNK)
        except BlockingIOError:
            return
        if data:
            self._to_wire += self._records.seal(data)
        else:
            self._sending = False
            self._to_wire += self._records.goodbye()


def secured(connection: socket.socket, address: str, made: ssl.SSLContext, name: str, seconds: float) -> Relay:
    """A relay over a connected socket, which it takes over, after the handshake. Raises NoTls."""
    wire = TlsConnection(connection.family, connection.type, connection.proto, fileno=connection.detach())
    wire.begin(0, "", None)
    try:
        wire.shake_hands(lambda: made, seconds, client=True, server_name=name or None)
    except (OSError, ValueError) as error:
        wire.end()
        why = error.what if isinstance(error, HandshakeFailed) else "The server left in the middle of the handshake"
        raise NoTls(f"No TLS with {address}.", f"{why[:1].upper()}{why[1:].rstrip('.')}.", _hint(why)) from None
    relay = Relay(wire)
    relay.start()
    return relay


def _hint(why: str) -> str:
    if "mismatch" in why or "not valid for" in why:
        return "Say with --tls-name for whom it should be, or --insecure to talk to it all the same."
    if "trusted" in why:
        return "Name the authority with --tls-ca FILE, or say --insecure to talk to it all the same."
    return "Leave out --tls to talk to it as it is." if "not speak TLS" in why else ""
