"""`MessageConnection`: the connection as a message handler sees it."""

from __future__ import annotations

from typing import Any, Generic

from pronghorn.connection.proxy_protocol import ProxyHeader
from pronghorn.connection.tls_facts import TlsFacts
from pronghorn.framing.rule import M
from pronghorn.handlers.message_protocol import MessageProtocol
from pronghorn.peers import Peer
from pronghorn.system.drain import Drain


class MessageConnection(Generic[M]):
    """The connection as a message function sees it, when it takes it as its second argument: `send` takes
    messages of type M, which are bytes unless said otherwise."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: MessageProtocol) -> None:
        self._protocol = protocol

    @property
    def peer(self) -> Peer:
        """The other end's address: host and port, or a string for a unix socket."""
        return self._protocol.transport.peer

    @property
    def proxy(self) -> ProxyHeader | None:
        """The header of the proxy that made the connection for its client (`peer` is the client's address then)."""
        return self._protocol.transport.proxy

    @property
    def number(self) -> int:
        """The connection's number in its worker, as the log writes it."""
        return self._protocol.transport.number

    @property
    def tls(self) -> TlsFacts | None:
        """Version, cipher, alpn, sni and peer_certificate of the TLS below; None where there is none."""
        return self._protocol.transport.tls

    def stay(self) -> None:
        """Keep the connection open although the server drains: until `close`, or until the drain deadline."""
        self._protocol.transport.stay()

    @property
    def drain(self) -> Drain:
        """Begins when the server wants to stop: true then, and it can be waited for (`pronghorn.current_drain`)."""
        return self._protocol.transport.drain

    @property
    def draining(self) -> bool:
        """True once the server wants to stop."""
        return self._protocol.transport.draining

    @property
    def lifespan(self) -> Any:
        """What the handler's lifespan yielded in this worker."""
        return self._protocol.transport.lifespan

    def send(self, message: M) -> None:
        """Send one more message, framed as a reply is."""
        self.write(self._protocol.style.frame(message))

    def write(self, raw: bytes) -> None:
        """Send bytes as they are."""
        self._protocol.send(raw)

    def close(self) -> None:
        """End the connection, after the reply that is being made; messages that came behind are not answered."""
        self._protocol.close()
