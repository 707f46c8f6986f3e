"""`TlsStarts`: which certificates and which timeout a handshake in the middle of a conversation gets (STARTTLS).

Law: what needs ssl is imported at the first such handshake; how it is held is the business of tls/starttls.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pronghorn.connection.base import AnyConnection
from pronghorn.connection.blocking import Connection
from pronghorn.connection.channel import AnyChannel
from pronghorn.connection.transport import Bytes
from pronghorn.errors import BadSetting
from pronghorn.serving.context import Context

if TYPE_CHECKING:
    import ssl

    from pronghorn.tls.starttls import TlsStart


def _nothing(channel: AnyChannel) -> None:
    return None


class TlsStarts:
    """How connections that are open become connections with TLS; `drains` is called with each channel for which
    draining has begun during its handshake."""

    def __init__(self, context: Context, drains: Callable[[AnyChannel], None] = _nothing) -> None:
        self._context = context
        self._drains = drains
        self.any = False
        """There was such a handshake."""

    def check(self, conn: AnyConnection, context: ssl.SSLContext | None) -> None:
        """Raise BadSetting if the server has no certificate, and there is no `context`; RuntimeError if the connection
        speaks TLS already."""
        if conn.tls is not None:
            raise RuntimeError("start_tls() of a connection that speaks TLS already")
        if context is None and self._context.offer_of(conn).service.certificates is None:
            raise BadSetting(
                "start_tls() without a context: the listener has no certificate.",
                "Without an ssl.SSLContext of the handler's own, the listener's certificates are used.",
                "Serve with --tls-cert FILE --tls-key FILE --tls starttls.",
            )

    def start(
        self, channel: AnyChannel, context: ssl.SSLContext | None, after: Bytes, timeout: float | None
    ) -> TlsStart:
        """Have a channel send `after`, and begin the handshake; at once. Raises what `check` does."""
        from pronghorn.tls import starttls

        self.check(channel, context)
        self.any = True
        drained = channel.draining

        def done() -> None:
            self._context.note_handshake()
            if channel.draining and not drained:
                self._drains(channel)

        return starttls.start(channel, self._contexts(channel, context), after, self._seconds(channel, timeout), done)

    def hold(self, conn: Connection, context: ssl.SSLContext | None, after: Bytes, timeout: float | None) -> None:
        """Have a blocking connection send `after`, and hold the handshake. Raises what `check` does, HandshakeFailed,
        and the connection's own errors."""
        from pronghorn.tls import starttls

        self.check(conn, context)
        starttls.hold(conn, self._contexts(conn, context), after, self._seconds(conn, timeout))
        self._context.note_handshake()

    def _contexts(self, conn: AnyConnection, given: ssl.SSLContext | None) -> Callable[[], ssl.SSLContext]:
        if given is not None:
            return lambda: given
        certificates = self._context.offer_of(conn).service.certificates
        assert certificates is not None
        return certificates.context

    def _seconds(self, conn: AnyConnection, timeout: float | None) -> float:
        return self._context.offer_of(conn).service.settings.handshake_timeout if timeout is None else timeout
