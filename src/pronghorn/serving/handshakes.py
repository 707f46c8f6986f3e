"""TLS handshakes in a loop: which channels are shaking hands, and since when.

Law: nothing waits for a handshake. A channel shakes hands as its bytes come, and gets a protocol when it is through.
There is no timer for each: one timer looks at the oldest from time to time.
"""

from __future__ import annotations

import _socket
import time
from collections.abc import Callable

from pronghorn.connection.channel import OPENING, AnyChannel
from pronghorn.serving.context import Context
from pronghorn.serving.service import Service
from pronghorn.tls.channel import AnyTlsChannel, SealedSocket
from pronghorn.tls.records import Records

LOOKS = 20  # in the time that a handshake may take


class Handshakes:
    """The channels of one listener that are shaking hands in a loop: `begin` is given each that is through."""

    def __init__(
        self,
        context: Context,
        service: Service,
        begin: Callable[[AnyChannel], None],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._context, self._begin, self._call_later = context, begin, call_later
        assert service.certificates is not None
        self._certificates = service.certificates
        self._timeout = service.settings.handshake_timeout
        self._shaking: dict[int, AnyTlsChannel] = {}  # by number, so the oldest first
        self._looking = False

    @staticmethod
    def sealed(sock: _socket.socket) -> SealedSocket:
        """The same socket, to be read through records."""
        return SealedSocket(sock.family, sock.detach())

    def start(self, channel: AnyChannel) -> None:
        """Begin the handshake of a channel."""
        assert isinstance(channel, AnyTlsChannel)
        try:
            channel.seal(Records(self._certificates.context()))
        except BaseException as error:  # there is no memory for it, say
            self._context.failed(channel, error)
            channel.abort()
            return
        channel.shake_hands(self._begins, self._done)
        self._shaking[channel.number] = channel
        if not self._looking:
            self._looking = True
            self._call_later(min(1.0, self._timeout / LOOKS), self._look)

    def _begins(self, channel: AnyTlsChannel) -> None:
        """The client speaks: it gets the certificate of now, not the one of when it connected."""
        context = self._certificates.context()
        if context is not channel.records.object.context:
            channel.seal(Records(context))

    def _done(self, channel: AnyTlsChannel) -> None:
        self._shaking.pop(channel.number, None)
        self._context.note_handshake()
        self._begin(channel)

    def _look(self) -> None:
        now = time.monotonic()
        for number, channel in list(self._shaking.items()):
            if channel.state is OPENING:
                if now - channel.opened < self._timeout:
                    break
                channel.late(self._timeout)
            del self._shaking[number]
        self._looking = bool(self._shaking)
        if self._looking:
            self._call_later(min(1.0, self._timeout / LOOKS), self._look)
