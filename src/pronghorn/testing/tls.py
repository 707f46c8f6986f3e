"""A client's side of TLS, for tests: one that can say its last word and go on reading.

Law: what ssl.SSLSocket cannot do, a test of half-close needs; so the client is a `TlsConnection`, the server's own.
"""

from __future__ import annotations

import socket
import ssl

from pronghorn.testing.talk import PATIENCE
from pronghorn.tls_connection import TlsConnection


def over_tls(
    sock: socket.socket, ca: str = "", *, name: str = "localhost", context: ssl.SSLContext | None = None
) -> TlsConnection:
    """Hold the handshake over a connected socket, which must not be used any more; a socket as before, otherwise.

    `ca` is a file with the authority that signed the server's certificate; without one any certificate will do. `name`
    is the one that the certificate must be for. A `context` takes the place of both. `shutdown(SHUT_WR)` sends a
    close_notify, and what the server says can still be read. Raises HandshakeFailed, TimeoutError, ConnectionError.
    """
    if context is None:
        context = ssl.create_default_context(cafile=ca or None)
        if not ca:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    connection = TlsConnection(sock.family, sock.type, sock.proto, fileno=sock.detach())
    connection.begin(0, "", None)
    try:
        connection.shake_hands(context, PATIENCE, client=True, server_name=name)
    except BaseException:
        connection.end()
        raise
    connection.settimeout(PATIENCE)
    return connection
