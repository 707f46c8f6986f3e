"""One connection to a NATS server, through nats-py, from its first byte to its end: it never reconnects.

Law: whoever wants another one opens it, so that nothing of a lost connection is sent late by the next. Whatever is
sent goes through one bounded queue, in order; whatever comes is heard in the order in which it came, whichever subject
it came by. nats-py (2.9 to 2.16) hands the messages of each subject to a task of its own, which would lose that order
and cost five kilobytes for each name: so a subscription is given a sink in the place of its queue, which is one of
the attributes of nats-py's inside that are used here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error, StaleConnectionError, UnexpectedEOF

from pronghorn.bus.carrier import MOST_UNSENT, PATIENCE, Away
from pronghorn.bus.nats_url import Place

PING, PINGS = 0.75, 2  # seconds between two, and how many may be without an answer
MOST_IN_CLIENT = 256 * 1024  # bytes that nats-py takes before it waits for the server
NOBODY = "503"  # the status by which a server says that nobody has subscribed to a subject (no responders)

Hear = Callable[[str, str, bytes, bool], None]
"""What is called for what comes: the subject, the subject that an answer goes to, the data, and whether that is the
server's word that nobody was there."""


class NatsConnection:
    """A connection to one server. `dropped` counts what was not sent, since too much waited."""

    def __init__(self, hear: Hear) -> None:
        self._hear = hear
        self._client = Client()
        self._subscriptions: dict[str, Subscription] = {}
        self._waiting: deque[tuple[str, str | None, bytes | None]] = deque()  # subject, reply, data (None: subscribe)
        self._unsent = 0
        self._writes: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._open = False
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.why = ""
        """Why the connection has ended, for people."""
        self.dropped = 0
        self.server = ""

    async def open(self, place: Place, server: str) -> None:
        """Connect and log in. Raises Away, with the reason."""
        self.server = server
        if place.secured:
            vars(self._client)["_connect_command"] = self._secured(self._client._connect_command)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._client.connect([f"nats://{server}"], **self._options(place))
        except (Error, OSError, TimeoutError, ValueError, ImportError) as error:
            self.abandon()
            raise Away(reason(error, server)) from None
        except BaseException:
            self.abandon()
            raise
        if (task := asyncio.current_task()) is not None and task.cancelling():
            self.abandon()  # nats-py, and wait_for before Python 3.12, may lose a cancellation
            raise asyncio.CancelledError
        self._open = True
        self._writes = asyncio.create_task(self._write())

    def _secured(self, connect_command: Callable[[], bytes]) -> Callable[[], bytes]:
        """What nats-py says to log in; but not without TLS, where it would tell the password in the open."""

        def command() -> bytes:
            if not self._client._server_info.get("tls_required"):
                raise Error("it offers no TLS, or only to those who ask for it first")
            return connect_command()

        return command

    def _options(self, place: Place) -> dict[str, Any]:
        return {
            "name": "pronghorn",
            "allow_reconnect": False,
            "no_echo": True,
            "connect_timeout": 1,
            "ping_interval": PING,
            "max_outstanding_pings": PINGS,
            "pending_size": MOST_IN_CLIENT,
            "error_cb": self._failed,
            "closed_cb": self._closed,
            "tls": place.context(),
            "user": place.user,
            "password": place.password,
            "token": place.token,
            "user_credentials": place.creds or None,
            "nkeys_seed": place.nkey or None,
        }

    @property
    def longest(self) -> int:
        """Bytes of a message that the server takes."""
        return int(self._client.max_payload)

    @property
    def routed(self) -> bool:
        """Whether the server is one of a cluster: what one of its clients subscribes to takes a moment to be known to
        the others."""
        return bool(self._client._server_info.get("cluster"))

    @property
    def others(self) -> list[str]:
        """Servers of the same cluster, as `host:port`, which the server tells as they come."""
        return [each.netloc.rpartition("@")[2] for each in self._client.discovered_servers]

    def subscribe(self, subject: str) -> None:
        self._put(subject, None, None)

    def unsubscribe(self, subject: str) -> None:
        self._put(subject, "", None)

    def publish(self, subject: str, data: bytes, reply: str = "") -> bool:
        """Send behind what was sent before; whether there was room for it."""
        if self._unsent > MOST_UNSENT:
            self.dropped += 1
            return False
        self._unsent += len(data)
        self._put(subject, reply, data)
        return True

    async def room(self) -> None:
        """Waits until little waits to be sent, or the connection has ended."""
        while self._unsent > MOST_UNSENT // 8 and not self._ended.done():
            await asyncio.sleep(0.005)

    def _put(self, subject: str, reply: str | None, data: bytes | None) -> None:
        self._waiting.append((subject, reply, data))
        self._wake.set()

    async def ended(self) -> None:
        """Waits for the end of the connection: the server is gone, hangs, or has said no."""
        while self._client.is_connected and not self._ended.done():
            # nats-py does not tell each end before it has tried to send what was left.
            await asyncio.wait([self._ended], timeout=0.25)
        self.why = self.why or reason(self._client.last_error, self.server)

    async def retire(self) -> None:
        """Have the server send nothing more, within a second; what it had sent has been heard when this returns."""
        try:
            async with asyncio.timeout(1.0):
                while self._waiting:
                    await asyncio.sleep(0.005)
                for each in self._subscriptions.values():  # unsubscribe() would pass over what is on its way
                    await self._client._send_unsubscribe(each._id)
                for _ in range(2):  # nats-py sends a PING before what it has yet to write: the second is behind that
                    await self._client.flush(1)
        except (Error, OSError, TimeoutError):
            pass

    async def close(self) -> None:
        """Send what waits, within half a second, and close."""
        try:
            async with asyncio.timeout(0.5):
                while self._waiting:
                    await asyncio.sleep(0.005)
                await self._client.close()
        except (Error, OSError, TimeoutError):
            pass
        self.abandon()

    def abandon(self) -> None:
        """Close at once, whatever waits: a server that hangs would take nothing of it."""
        if self._writes is not None:
            self._writes.cancel()
        self._open = False
        transport = self._client._transport
        writer = getattr(transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        for task in (self._client._reading_task, self._client._ping_interval_task, self._client._flusher_task):
            if task is not None:
                task.cancel()

    async def _write(self) -> None:
        client, waiting = self._client, self._waiting
        try:
            while True:
                if not waiting:
                    self._wake.clear()
                    await self._wake.wait()
                subject, reply, data = waiting.popleft()
                if data is not None:
                    await client.publish(subject, data, reply or "")
                    self._unsent -= len(data)
                elif reply is None:
                    await self._subscribe(subject)
                else:
                    await self._unsubscribe(subject)
        except (Error, OSError) as error:
            self._end(reason(error, self.server))

    async def _subscribe(self, subject: str) -> None:
        subscription = await self._client.subscribe(subject, pending_bytes_limit=0)
        vars(subscription)["_pending_queue"] = Sink(self._hear, self._failed_to_hear)
        self._subscriptions[subject] = subscription

    async def _unsubscribe(self, subject: str) -> None:
        """Tell the server. What it has sent before is still heard, and answered: who waits for an answer would wait in
        vain, since for the server somebody was there; nats-py's own method would drop it."""
        subscription = self._subscriptions.pop(subject, None)
        if subscription is not None:
            await self._client._send_unsubscribe(subscription._id, limit=0)
            asyncio.get_running_loop().call_later(PATIENCE, self._client._remove_sub, subscription._id)

    async def _failed(self, error: Exception) -> None:
        """What nats-py reports. While it connects, an error raised here ends its attempts at once."""
        if not self._open:
            raise error
        self._end(reason(error, self.server))

    async def _closed(self) -> None:
        self._end("")

    def _failed_to_hear(self, error: Exception) -> None:
        """A fault of ours. What it leaves half done ends with the connection."""
        about = {"message": "The bus has failed on a message.", "exception": error}
        asyncio.get_running_loop().call_exception_handler(about)
        self._end(f"A message was not understood by a fault of the bus, which the log has: {type(error).__name__}.")

    def _end(self, why: str) -> None:
        self.why = self.why or why
        if not self._ended.done():
            self._ended.set_result(None)


class Sink:
    """What stands in the place of a subscription's queue: a message is heard at once."""

    __slots__ = ("_failed", "_hear")

    def __init__(self, hear: Hear, failed: Callable[[Exception], None]) -> None:
        self._hear, self._failed = hear, failed

    def put_nowait(self, message: Msg) -> None:
        nobody = (message.headers or {}).get("Status") == NOBODY
        try:
            self._hear(message.subject, message.reply, message.data, nobody)
        except Exception as error:
            self._failed(error)


def reason(error: BaseException | None, server: str) -> str:
    """What happened, in one sentence that holds no password."""
    text = str(error).removeprefix("nats: ").strip("'\" ").rstrip(".")
    if "authorization" in text.lower() or "authentication" in text.lower():
        return f"The NATS server at {server} does not admit this user, or its password or key is wrong."
    if "permissions violation" in text.lower():
        return f"The NATS server at {server} forbids a subject that the bus needs: {text}."
    if isinstance(error, ImportError):
        return f"Credentials and keys need a package: pip install 'nats-py[nkeys]' ({text})."
    if isinstance(error, ssl.SSLError):
        return f"TLS with the NATS server at {server} failed: {error.reason or text}."
    if isinstance(error, (TimeoutError, StaleConnectionError)) and not isinstance(error, UnexpectedEOF):
        return f"The NATS server at {server} does not answer."
    if isinstance(error, OSError):
        if error.filename:
            return f"{error.filename} cannot be read: {error.strerror}."
        # asyncio puts words of its own around what the system says.
        what = os.strerror(error.errno) if error.errno and error.errno > 0 else text
        return f"The NATS server at {server} cannot be reached: {what}."
    if isinstance(error, UnexpectedEOF) or not text:
        return f"The NATS server at {server} has ended the connection."
    return f"The NATS server at {server} has ended the connection: {text}."
