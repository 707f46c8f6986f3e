"""URLs of Redis: one server, a cluster or a service of sentinels; where to connect to, and why that fails, in words.

Law: no text that leaves here holds a password.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import unquote, urlencode

from redis import exceptions
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)

from pronghorn.bus.carrier import PATIENCE
from pronghorn.bus.errors import BadBusMessage
from pronghorn.settings.broker_url import BrokerURL, parse

PORT, SENTINEL_PORT = 6379, 26379
SILENT = "does not answer"
MOST_PATIENCE = 3600
MOST_NODES = 100
CONNECTING = 1.5
"""Seconds: a first packet that a firewall dropped is sent again after one."""
HINT = "It is redis://[USER:PASSWORD@]HOST[:PORT][/DB][?prefix=NAME]; in a password @ : / ? # % stand as %40 and so on."
FIXED: dict[str, Any] = {"socket_timeout": None, "health_check_interval": 0, "protocol": 2, "decode_responses": False}
"""Of connections: what is sent and waited for is the business of redis_pipe.py."""


class Lost(Exception):
    """The connection is of no use any more. Its text is why, said of Redis."""


class Place:
    """What a URL says. Raises BadBusMessage for what is none."""

    def __init__(self, url: str) -> None:
        try:
            given = parse(url)
            options = dict(given.options)
            tls, _, self._kind = given.scheme.partition("+")
            if options.pop("cluster", "0").lower() in ("1", "true", "yes"):
                self._kind = "cluster"
            self.prefix = options.pop("prefix", "pronghorn")
            if not re.fullmatch(r"[\w.:-]{1,64}", self.prefix, re.ASCII):
                raise ValueError("A prefix has letters, digits and . : _ - only")
            port = SENTINEL_PORT if self._kind == "sentinel" else PORT
            self._hosts = [(host, at or port) for host, at in given.hosts]
            self.shown = ",".join(f"{host}:{at}" for host, at in self._hosts) or given.path
            self._parse(given, tls == "rediss", options)
        except (ValueError, TypeError, AttributeError, exceptions.RedisError) as error:
            raise BadBusMessage("This is not a URL of Redis.", _wrong(error), HINT) from None

    def _parse(self, given: BrokerURL, tls: bool, options: dict[str, str]) -> None:
        own = {each: options.pop(f"sentinel_{each}", None) for each in ("username", "password")}
        database = given.path.strip("/")
        if self._kind == "sentinel":
            self._service, _, database = unquote(database).partition("/")
            if not self._service:
                raise ValueError("It names no service: redis+sentinel://HOST[,HOST...]/SERVICE[/DB]")
        elif len(self._hosts) > 1 and self._kind != "cluster":
            raise ValueError("It names several hosts, which with ?cluster=1 are nodes of a cluster")
        arguments: dict[str, Any] = {**parse_url(f"redis://host/?{urlencode(options)}")}  # with numbers for numbers
        del arguments["host"]
        self._class: type[AbstractConnection] = SSLConnection if tls else Connection
        if self._kind == "unix":
            self._class, arguments["path"] = UnixDomainSocketConnection, unquote(given.path)
        elif database:
            if not re.fullmatch("[0-9]{1,9}", database):
                raise ValueError("A database is a number, as in redis://HOST/0")
            arguments["db"] = int(database)
        self.patience = float(arguments.get("socket_timeout", PATIENCE))
        if not 0 < self.patience <= MOST_PATIENCE:
            raise ValueError(f"socket_timeout has more than 0 seconds, and {MOST_PATIENCE} at most")
        arguments.setdefault("socket_connect_timeout", min(CONNECTING, self.patience))
        self._connecting = float(arguments["socket_connect_timeout"])
        self._arguments = {**arguments, **FIXED, "username": given.user or None, "password": given.password or None}
        self._sentinel = {**self._arguments, "db": 0, **own}
        self._tls = tls
        self._class(**self._arguments)
        self._secrets = [each for each in (given.password, own["password"]) if each]

    async def connect(self) -> tuple[AbstractConnection, AbstractConnection]:
        """Two connections to the server that has the directory, connected. Raises what redis-py raises, and OSError."""
        where = {}
        if self._kind == "sentinel":
            where = await self._ask_each(self._sentinel, self._master)
        elif self._kind == "cluster":
            where = await self._ask_each(self._arguments, self._owner)
        elif self._hosts:
            where = dict(zip(("host", "port"), self._hosts[0], strict=True))
        made = [self._class(**{**self._arguments, **where}) for _ in range(2)]
        try:
            async with asyncio.timeout(self._connecting + self.patience):
                for each in made:
                    await each.connect()
        except BaseException:
            for each in made:
                await each.disconnect(nowait=True)
            raise
        return made[0], made[1]

    async def _ask_each(
        self, arguments: dict[str, Any], question: Callable[[AbstractConnection, str], Awaitable[tuple[str, int]]]
    ) -> dict[str, Any]:
        """Ask one after the other until one knows; the error is the last one's."""
        failed: Exception = exceptions.ConnectionError("nobody to ask")
        for host, port in list(self._hosts):
            connection = self._class(**{**arguments, "host": host, "port": port})
            try:
                async with asyncio.timeout(self._connecting):
                    await connection.connect()
                    found = await question(connection, host)
                return {"host": found[0], "port": found[1]}
            except (exceptions.RedisError, OSError) as error:
                failed = error
            finally:
                await connection.disconnect(nowait=True)
            self._hosts.append(self._hosts.pop(0))  # the next first, the next time
        raise failed

    async def _master(self, connection: AbstractConnection, host: str) -> tuple[str, int]:
        await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service, check_health=False)
        answer = await connection.read_response(disable_decoding=True)
        if not answer:
            raise exceptions.ResponseError(f"The sentinels know no service {self._service!r}")
        return answer[0].decode(), int(answer[1])

    async def _owner(self, connection: AbstractConnection, host: str) -> tuple[str, int]:
        await connection.send_command("CLUSTER", "KEYSLOT", f"{{{self.prefix}}}", check_health=False)
        slot = await connection.read_response(disable_decoding=True)
        await connection.send_command("CLUSTER", "SLOTS", check_health=False)
        owner = None
        for first, last, *nodes in await connection.read_response(disable_decoding=True):
            found = [(each[0].decode() or host, int(each[1])) for each in nodes if each[0] is not None]
            if first <= slot <= last and found:
                owner = found[0]
            for each in found:  # whom to ask when those that the URL names are gone
                if each not in self._hosts and len(self._hosts) < MOST_NODES:
                    self._hosts.append(each)
        if owner is None:
            raise exceptions.ResponseError(f"No node of the cluster has slot {slot}")
        return owner

    def why(self, error: BaseException) -> str:
        """Why Redis cannot be used, as one sentence."""
        text = _words(error, self._kind == "cluster")
        if self._tls and text == SILENT:
            text += ", or has no TLS there"
        for secret in self._secrets:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
        return f"Redis at {self.shown} {text}."


def _wrong(error: Exception) -> str:
    known = re.search(r"argument '(\w+)'|[Ii]nvalid value for [`']?(\w+)", str(error))
    if known:
        return f"It has a wrong parameter: {known[1] or known[2]}."
    return f"{error}." if type(error) is ValueError and "invalid literal" not in str(error) else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _words(error: BaseException, cluster: bool) -> str:
    text = " ".join(str(error).split()).rstrip(".")[:300]
    low = text.lower()
    if "wrongpass" in low or "invalid username-password" in low or "invalid password" in low or "auth failed" in low:
        return "refuses the user or the password"
    if "noauth" in low or "authentication required" in low:
        return "wants a password, and the URL has none"
    if "without any password configured" in low:
        return "has no password set, and the URL has one"
    if isinstance(error, exceptions.MovedError) or text.startswith("MOVED "):
        return "has given the slot away" if cluster else "is a node of a cluster: the URL needs ?cluster=1"
    if isinstance(error, Lost):
        return text
    for code, words in _CODES.items():
        if code in text or isinstance(error, _KINDS[code]):
            return words
    if isinstance(error, exceptions.NoPermissionError) or "can't run this command" in text:
        return f"does not let its user do what is needed: {re.sub(r' script: [0-9a-f]{40}.*', '', text)}"
    if isinstance(error, exceptions.InvalidResponse):  # its text is what came
        return "does not answer as Redis does: something else listens there"
    if isinstance(error, exceptions.ResponseError):
        return f"says: {text}"
    for each in _chain(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"has a certificate that is not trusted: {each.verify_message}"
        if isinstance(each, ssl.SSLError):
            return f"is not reached over TLS: {(each.reason or str(each)).replace('_', ' ').lower()}"
        if isinstance(each, OSError) and each.strerror:
            known = (each.errno or 0) > 0  # asyncio has texts of its own, and looking up a host numbers of its own
            return f"is not reached: {os.strerror(each.errno or 0) if known else each.strerror}"
    if number := re.search(r"\[Errno (\d+)\]", text):  # of several addresses
        return f"is not reached: {os.strerror(int(number[1]))}"
    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return SILENT
    return "has closed the connection" if "closed" in low else f"is not reached: {text or type(error).__name__}"


_CODES = {
    "LOADING": "is loading its data",
    "READONLY": "is a replica, to which nothing is written",
    "OOM": "has no memory left (maxmemory)",
    "MASTERDOWN": "is a replica whose master is away",
}
_KINDS: dict[str, type[BaseException]] = {
    "LOADING": exceptions.BusyLoadingError,
    "READONLY": exceptions.ReadOnlyError,
    "OOM": exceptions.OutOfMemoryError,
    "MASTERDOWN": exceptions.MasterDownError,
}
