"""Clients of the bus in other processes: `connect("unix:PATH")` in a web application, a task queue, a script.

Law: a client joins nothing; it publishes and asks: at one server, by its bus socket, or at all hosts of a broker. It
connects when it is first used, and again after the hub or the broker was away: what was under way then is lost, and its
caller is told so. It is for any number of threads, or, the async one, of tasks; a forked process connects anew.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from pronghorn.bus import requests
from pronghorn.bus.carriers import carrier_for, is_broker
from pronghorn.bus.errors import BadBusMessage, BusError, BusUnavailable
from pronghorn.bus.link import Link
from pronghorn.bus.requests import (
    PATIENCE,
    Name,
    Payload,
    To,
    answer_of,
    limit_of,
    listing_of,
    name_of,
    one_of,
    payload_of,
    seconds_of,
)
from pronghorn.bus.wire import GROUPS, LONGEST_PAYLOAD, MEMBERS
from pronghorn.settings import broker_url

if TYPE_CHECKING:
    from typing import Self

    from pronghorn.bus.broker_client import BrokerClient


def connect(url: str) -> Client:
    """A client of the bus: of one server by `unix:PATH`, where PATH is that of its bus socket, which `pronghorn ctl
    status` tells; of all servers that have the same `--bus` by that URL, redis://... or nats://... Nothing is connected
    yet, but the package of a broker is imported. Raises BadBusMessage for what is no such address, and where that
    package is not installed."""
    return Client(checked_url(url))


def aconnect(url: str) -> AsyncClient:
    """The same for coroutines."""
    return AsyncClient(checked_url(url))


def checked_url(url: str) -> str:
    """Raises BadBusMessage, without the password that may stand in it; TypeError."""
    if not hasattr(url, "encode"):  # such as what os.environ.get() gives where a variable is not set
        kind = type(url).__name__
        raise TypeError(f"the address of a bus is a str, such as unix:PATH or redis://HOST, not {kind}")
    scheme, _, rest = url.partition(":")
    if not is_broker(url) and (scheme != "unix" or not rest):
        why = "An address is unix:PATH, with the path of a server's bus socket, or the URL of a broker, redis://... or nats://..."
        shown = repr(url) if "@" not in url else f"{scheme}:..."
        raise BadBusMessage(f"{shown} is no address of a bus.", why, "pronghorn ctl status tells the path.")
    if scheme != "unix":
        try:
            broker_url.parse(url)
        except ValueError as error:
            raise BadBusMessage("The URL of the bus is wrong.", f"{error}.", "Take the one of the server.") from None
        carrier_for(url)  # imports its package: a fork while another thread does would leave the child half of it
    return url


class AnyClient:
    """What both clients have: the address, and a link to a hub or a broker in each process that uses them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.path = url.partition(":")[2] if not is_broker(url) else ""
        self._link: Link | None = None
        self._broker: BrokerClient | None = None
        self._pid = 0
        self._guard = threading.Lock()

    def _here(self) -> None:
        """At first, and after a fork."""
        if self._pid != os.getpid():
            if self._pid:
                self._link, self._broker, self._guard = None, None, threading.Lock()
            self._pid = os.getpid()

    def _linked(self) -> Link:
        self._here()
        with self._guard:
            if self._link is None:
                self._open().close()  # what is wrong shows here, and not as a timeout
                self._link = Link(self._open, tuple, _ignore)
            return self._link

    def _brokered(self) -> BrokerClient:
        from pronghorn.bus.broker_client import BrokerClient  # here: asyncio is not for everybody

        self._here()
        with self._guard:
            if self._broker is None or self._broker.is_over:
                self._broker = BrokerClient(self._url)
            return self._broker

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(self.path)
        except OSError as error:
            sock.close()
            why = f"unix:{self.path}: {error.strerror or error}."
            raise BusUnavailable(why, "Is the server running, and does its handler use the bus?") from None
        return sock

    def _end(self) -> BrokerClient | None:
        """Begin to end what there is; that of a broker takes a moment."""
        link, self._link = self._link, None
        broker, self._broker = self._broker, None
        if link is not None:
            link.close()
        if broker is not None:
            broker.end()
        return broker

    def _close(self) -> None:
        if (broker := self._end()) is not None:
            broker.join()


class Client(AnyClient):
    """A client for threads: see `connect`."""

    def publish(self, name: Name, payload: Payload, *, to: To = "all", timeout: float = PATIENCE) -> int:
        """See pronghorn.bus.publish."""
        if self.path:
            return requests.publish(self._linked, LONGEST_PAYLOAD, name, payload, to, timeout)
        fields = name_of(name), payload_of(payload, LONGEST_PAYLOAD), one_of(to)
        return self._brokered().publish(seconds_of(timeout), *fields).result()

    def ask(self, name: Name, payload: Payload, timeout: float = PATIENCE) -> bytes:
        """See pronghorn.bus.ask."""
        if self.path:
            return requests.ask(self._linked, LONGEST_PAYLOAD, name, payload, timeout)
        fields = raw, _ = name_of(name), payload_of(payload, LONGEST_PAYLOAD)
        seconds = seconds_of(timeout)
        return answer_of(raw, *self._brokered().ask(seconds, *fields).result(), seconds)

    def groups(self, prefix: Name = b"", limit: int = 1000) -> list[tuple[str, int]]:
        """Names of one server that begin so and have members, with their numbers, in order; `limit` at most. Raises
        BusError for a client of a broker, which has no list of them."""
        if not self.path:
            raise _no_list()
        fields = listing_of(prefix, limit)
        (found,) = self._linked().request(PATIENCE, GROUPS, *fields)
        return [(bytes(name).decode("utf-8", "backslashreplace"), int(count)) for name, count in found]

    def members(self, name: Name, limit: int = 1000) -> list[tuple[int, int, float]]:
        """Which connections of the server have joined a name, the latest last: of each the worker's process id, its
        number there, and for how many seconds it is a member; the `limit` latest at most. Raises BusError for a
        client of a broker."""
        if not self.path:
            raise _no_list()
        fields = name_of(name), limit_of(limit)
        (found,) = self._linked().request(PATIENCE, MEMBERS, *fields)
        return [(int(pid), int(number), float(seconds)) for pid, number, seconds in found]

    def close(self) -> None:
        """End the connection. The client may be used again."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()


class AsyncClient(AnyClient):
    """A client for coroutines: see `aconnect`."""

    async def publish(self, name: Name, payload: Payload, *, to: To = "all", timeout: float = PATIENCE) -> int:
        """See pronghorn.bus.publish."""
        if self.path:
            return await requests.apublish(self._linked, LONGEST_PAYLOAD, name, payload, to, timeout)
        fields = name_of(name), payload_of(payload, LONGEST_PAYLOAD), one_of(to)
        return await asyncio.wrap_future(self._brokered().publish(seconds_of(timeout), *fields))

    async def ask(self, name: Name, payload: Payload, timeout: float = PATIENCE) -> bytes:
        """See pronghorn.bus.ask."""
        if self.path:
            return await requests.aask(self._linked, LONGEST_PAYLOAD, name, payload, timeout)
        fields = raw, _ = name_of(name), payload_of(payload, LONGEST_PAYLOAD)
        seconds = seconds_of(timeout)
        status, answer = await asyncio.wrap_future(self._brokered().ask(seconds, *fields))
        return answer_of(raw, status, answer, seconds)

    def close(self) -> Ending:
        """End the connection; whoever awaits this goes on when it has ended. The client may be used again."""
        return Ending(self._end())

    async def aclose(self) -> None:
        """The same, as asyncio's own generators have it."""
        await self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


class Ending:
    """The end of an AsyncClient's connection, which needs not be awaited."""

    def __init__(self, broker: BrokerClient | None) -> None:
        self._broker = broker

    def __await__(self) -> Generator[Any, None, None]:
        if self._broker is not None:
            yield from asyncio.to_thread(self._broker.join).__await__()


def _no_list() -> BusError:
    why = "Each server knows the names of its own connections."
    return BusError("A broker has no list of the groups.", why, "Take connect('unix:PATH'), or ctl groups.")


def _ignore(fields: Sequence[Any]) -> None:
    """The hub says nothing to a client that it has not asked for."""
