"""Clients of a server's bus in other processes: `connect("unix:PATH")` in a web application, a task queue, a script.

Law: a client joins nothing; it publishes and asks. It connects when it is first used, and again after the hub was away:
what was under way then is lost, and its caller is told so. It is for any number of threads, or, the async one, of tasks
of one loop; a forked process connects anew.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pronghorn.bus import requests
from pronghorn.bus.errors import BadBusMessage, BusUnavailable
from pronghorn.bus.link import Link
from pronghorn.bus.requests import PATIENCE, Name, Payload
from pronghorn.bus.wire import GROUPS, LONGEST_PAYLOAD

if TYPE_CHECKING:
    from typing import Self


def connect(url: str) -> Client:
    """A client of the bus of a server: `unix:PATH`, where PATH is that of its bus socket, which `pronghorn ctl status`
    tells. Nothing is connected yet. Raises BadBusMessage for what is no such address."""
    return Client(place_of(url))


def aconnect(url: str) -> AsyncClient:
    """The same for coroutines."""
    return AsyncClient(place_of(url))


def place_of(url: str) -> str:
    scheme, _, path = url.partition(":")
    if scheme != "unix" or not path:
        why = "An address is unix:PATH, with the path of a server's bus socket."
        raise BadBusMessage(f"{url!r} is no address of a bus.", why, "pronghorn ctl status tells the path.")
    return path


class AnyClient:
    """What both clients have: the path, and a link in each process that uses them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._link: Link | None = None
        self._pid = 0
        self._guard = threading.Lock()

    def _linked(self) -> Link:
        if self._pid != os.getpid():  # at first, and after a fork
            if self._pid:
                self._link, self._guard = None, threading.Lock()
            self._pid = os.getpid()
        with self._guard:
            if self._link is None:
                self._open().close()  # what is wrong shows here, and not as a timeout
                self._link = Link(self._open, tuple, _ignore)
            return self._link

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(self.path)
        except OSError as error:
            sock.close()
            why = f"unix:{self.path}: {error.strerror or error}."
            raise BusUnavailable(why, "Is the server running, and does its handler use the bus?") from None
        return sock

    def close(self) -> None:
        """End the connection. The client may be used again."""
        link, self._link = self._link, None
        if link is not None:
            link.close()


class Client(AnyClient):
    """A client for threads: see `connect`."""

    def publish(self, name: Name, payload: Payload, *, to: str = "all", timeout: float = PATIENCE) -> int:
        """See pronghorn.bus.publish."""
        return requests.publish(self._linked, LONGEST_PAYLOAD, name, payload, to, timeout)

    def ask(self, name: Name, payload: Payload, timeout: float = PATIENCE) -> bytes:
        """See pronghorn.bus.ask."""
        return requests.ask(self._linked, LONGEST_PAYLOAD, name, payload, timeout)

    def groups(self, prefix: Name = b"", limit: int = 1000) -> list[tuple[str, int]]:
        """Names that begin so and have members, with their numbers, in order; `limit` at most."""
        raw = prefix.encode() if isinstance(prefix, str) else bytes(prefix)
        (found,) = self._linked().request(PATIENCE, GROUPS, raw, limit)
        return [(bytes(name).decode("utf-8", "backslashreplace"), int(count)) for name, count in found]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncClient(AnyClient):
    """A client for coroutines: see `aconnect`."""

    async def publish(self, name: Name, payload: Payload, *, to: str = "all", timeout: float = PATIENCE) -> int:
        """See pronghorn.bus.publish."""
        return await requests.apublish(self._linked, LONGEST_PAYLOAD, name, payload, to, timeout)

    async def ask(self, name: Name, payload: Payload, timeout: float = PATIENCE) -> bytes:
        """See pronghorn.bus.ask."""
        return await requests.aask(self._linked, LONGEST_PAYLOAD, name, payload, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()


def _ignore(fields: Sequence[Any]) -> None:
    """The hub says nothing to a client that it has not asked for."""
