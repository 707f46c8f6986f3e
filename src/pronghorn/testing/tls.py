"""A client's side of TLS, for tests: a client that can half-close and go on reading.

Law: ssl.SSLSocket cannot half-close, and tests of half-close need that; so the client is a `TlsConnection`, as in the
server. Where a test needs a plain socket, which takes bytes before the handshake is over, there is a relay on a thread
of its own: `SealedClient`.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct

from pronghorn.cli.connect.pipe import ConversationBroken
from pronghorn.cli.connect.tls import Relay
from pronghorn.testing.talk import PATIENCE
from pronghorn.tls.blocking import TlsConnection


def over_tls(
    sock: socket.socket, ca: str = "", *, name: str = "localhost", context: ssl.SSLContext | None = None
) -> TlsConnection:
    """The connection with TLS that takes over a connected socket, after the handshake; `sock` is detached.

    `ca` is a file with the authority that signed the server's certificate; without one any certificate will do. `name`
    is the one that the certificate must be for. A `context` takes the place of both. `shutdown(SHUT_WR)` sends a
    close_notify, and what the server says can still be read. Raises HandshakeFailed, TimeoutError, ConnectionError.
    """
    context = trusting(ca) if context is None else context
    connection = TlsConnection(sock.family, sock.type, sock.proto, fileno=sock.detach())
    connection.begin(0, "", None)
    try:
        connection.shake_hands(lambda: context, PATIENCE, client=True, server_name=name)
    except BaseException:
        connection.end()
        raise
    connection.settimeout(PATIENCE)
    return connection


def trusting(ca: str = "") -> ssl.SSLContext:
    """A context that takes the certificates of one authority; without one, any."""
    if ca:
        return ssl.create_default_context(cafile=ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def throw_away_pair(folder: str) -> dict[str, str]:
    """Settings with a certificate for localhost that is made in `folder`. Raises MissingExtra without trustme."""
    from pronghorn.cli.dev_cert import issued, write

    certificate, key, _ = issued(("localhost",), days=1)
    paths = {name: os.path.join(folder, f"{name}.pem") for name in ("tls_cert", "tls_key")}
    write(paths["tls_cert"], certificate, 0o600)
    write(paths["tls_key"], key, 0o600)
    return paths


class SealedClient(socket.socket):
    """A plain socket whose bytes are encrypted, and sent on over a connection with TLS.

    At the end recv() raises ConnectionResetError if the handshake failed, the connection was reset, or there was no
    close_notify.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str = "localhost") -> None:
        self._relay = _Relay(sock, context, name)
        super().__init__(fileno=self._relay.plain.detach())
        self.settimeout(sock.gettimeout())
        self._relay.start()

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        try:
            data = super().recv(bufsize, flags)
        except ConnectionResetError:  # the relay has ended before it had read all
            data = b""
        if not data and self._relay.failure is not None:
            raise ConnectionResetError(str(self._relay.failure))
        return data

    def abort(self) -> None:
        """Close with a reset."""
        self._relay.aborting = True
        self.close()
        self._relay.join(PATIENCE)


class _Relay(Relay):
    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        wire = TlsConnection(sock.family, sock.type, sock.proto, fileno=sock.detach())
        wire.begin(0, "", None)
        super().__init__(wire)
        self._handshake = context, name
        self.aborting = False

    def run(self) -> None:
        context, name = self._handshake
        try:
            self.wire.shake_hands(lambda: context, PATIENCE, client=True, server_name=name)
        except OSError as error:
            self.failure = ConversationBroken("No TLS.", str(error))
        else:
            super().run()
        if self.aborting:
            self.wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wire.end()
        self.inner.close()

    def read_inner(self) -> None:
        super().read_inner()
        if self.aborting:
            raise ConnectionAbortedError
