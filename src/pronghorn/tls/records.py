"""`Records`, the TLS of one connection: sealed bytes in and plain bytes out, and the other way round; no I/O.

Law: who moves the bytes is the business of channel.py (never blocks) and blocking.py (may block). So half-close means
the same under every model: our close_notify ends what we say and nothing else (RFC 8446, 6.1).

Tried and dropped: ssl.SSLSocket. Its `unwrap` reads on behind our close_notify and breaks the connection if the peer
still speaks, its `shutdown` goes on in plain text, two threads may not share one, and it reads every record with two
system calls. This module is imported only where there is TLS: ssl is large.
"""

from __future__ import annotations

import ssl
from typing import NoReturn

from pronghorn.connection.tls_facts import TlsFacts
from pronghorn.errors import HandshakeFailed, TlsFailed
from pronghorn.tls.client_hello import Hello
from pronghorn.tls.words import told

HEAD = 5  # bytes of a record that tell its length (RFC 8446, 5.1)
RECORD = 16 * 1024  # the longest that a record holds (RFC 8446, 5.1)
MOST_UNASKED = 64 * 1024  # bytes that a peer can make us owe it without our saying a word (RFC 8446, 4.6.3)
MAX_HELLO = 64 * 1024  # bytes of a ClientHello, its records' heads counted
DECODE_ERROR = b"\x15\x03\x03\x00\x02\x02\x32"  # an alert, as a record (RFC 8446, 6.2)
FLOOD = "the peer asks for one new key after the other"


class Records:
    """The TLS of one connection: what came is fed and taken, what goes is sealed."""

    __slots__ = tuple(
        "_client _early _head _hello _incoming _left _max_hello _outgoing begun ended failed object "
        "said_goodbye shaken truncated waiting".split()
    )

    def __init__(self, context: ssl.SSLContext, server_name: str | None = None, *, client: bool = False) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=not client, server_hostname=server_name
        )
        self._client = client
        self._hello = None if client else Hello()
        self._max_hello = getattr(context, "max_hello", MAX_HELLO)
        self.object.hello = self._hello  # type: ignore[attr-defined]  # for `choose`
        self._early = b""  # opened before anybody asked for it
        self._head, self._left = b"", 0  # of the record that has begun: a part of its head, or what is to come of it
        self.waiting = False
        """Something was fed and has not been taken."""
        self.begun = False
        """Something has come from the peer."""
        self.shaken = False
        """The handshake is done."""
        self.failed: TlsFailed | None = None
        """What came cannot be opened, and nothing behind it."""
        self.ended = False
        """The peer has sent its close_notify."""
        self.truncated = False
        """Input ended without a close_notify: what came may not be all that was sent."""
        self.said_goodbye = False

    @property
    def facts(self) -> TlsFacts:
        return TlsFacts(self.object)

    @property
    def owes(self) -> bool:
        """There is something `unsent`: the peer has asked for it, and no data that goes takes it along."""
        return self._outgoing.pending > 0

    @property
    def unfinished(self) -> bool:
        """A record has begun, and the rest of it has not come."""
        return self._left > 0 or bool(self._head)

    def feed(self, sealed: bytes) -> None:
        self.begun = self.waiting = True
        if self._hello is not None and not self._hello.complete:
            self._hello.feed(sealed)
        if not self._too_long:
            self._incoming.write(sealed)
        if self._head:
            sealed, self._head = self._head + sealed, b""
        at, size = self._left, len(sealed)
        while at + HEAD <= size:
            at += HEAD + (sealed[at + 3] << 8) + sealed[at + 4]
        if at < size:
            self._head, self._left = sealed[at:], 0
        else:
            self._left = at - size

    @property
    def _too_long(self) -> bool:
        return self._hello is not None and self._hello.size > self._max_hello

    def end_input(self) -> None:
        """The connection below has ended."""
        self.truncated = not self.ended

    def shake(self) -> bool:
        """One step of the handshake; whether it is done. What is to be sent waits in `unsent`.

        Raises HandshakeFailed; the alert for the peer waits in `unsent` then.
        """
        if self._too_long:
            self._outgoing.write(DECODE_ERROR)
            raise HandshakeFailed(f"its ClientHello has more than {self._max_hello} bytes (--tls-max-hello)")
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except (ssl.SSLError, OSError, ValueError) as error:
            raise HandshakeFailed(told(error, self._client)) from None
        self.shaken = True
        self._hello = self.object.hello = None  # type: ignore[attr-defined]
        self.waiting = self._incoming.pending > 0
        return True

    def take(self) -> bytes:
        """All that can be read of what was fed; empty if that is nothing yet, or if the peer has `ended`.

        Raises TlsFailed for what the peer cannot have sealed, and from then on.
        """
        if self.failed is not None:
            raise self.failed
        first, more = self._early, []
        self.waiting, self._early = False, b""
        try:
            if not first:
                first = self.object.read(RECORD)
                self.ended = not first
            while self._incoming.pending and not self.ended:
                more.append(self.object.read(RECORD))
                self.ended = not more[-1]
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            self._fail(told(error, self._client))
        if self._outgoing.pending > MOST_UNASKED:
            self._fail(FLOOD)
        return b"".join([first, *more]) if more else first

    def _fail(self, what: str) -> NoReturn:
        self.failed = TlsFailed(what)
        raise self.failed from None

    def seal(self, data: bytes | bytearray | memoryview) -> bytes:
        """What to send for `data`, and for all that was owed before it."""
        try:
            self.object.write(data)
        except ssl.SSLError as error:
            raise TlsFailed(told(error, self._client)) from None
        return self._outgoing.read()

    def unsent(self) -> bytes:
        """What is owed to the peer beside data: the handshake's replies, alerts."""
        return self._outgoing.read()

    def goodbye(self) -> bytes:
        """Our close_notify, the first time: nothing can be sealed after it, and reading goes on."""
        if not self.said_goodbye and self.shaken:
            self.said_goodbye = True
            try:
                self._early = self.take()  # OpenSSL looks for their close_notify, and breaks off at anything else
                self.waiting = bool(self._early)
                self.object.unwrap()
            except (OSError, ValueError):
                pass  # it is in `unsent`; the peer's own is not waited for
        return self._outgoing.read()
