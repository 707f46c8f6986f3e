"""Where the NATS servers are, and how to log in there: `nats://USER:PASSWORD@HOST:PORT,...?prefix=PREFIX`.

Law: nothing here connects, and no text that is made here holds a password, a token or a key.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pronghorn.bus.errors import BadBusMessage

PORT = 4222
QUERY = "prefix creds nkey ca cert key".split()
HINT = "For instance nats://127.0.0.1:4222, or nats://USER:PASSWORD@HOST:4222,OTHER:4222?prefix=shop."


@dataclass(frozen=True)
class Place:
    """The servers, as `host:port`, and what a URL says besides; files are named by their paths."""

    servers: tuple[str, ...]
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    prefix: str = "pronghorn"
    creds: str = ""
    nkey: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext | None:
        """The TLS that the URL asks for; None if it asks for none. Raises OSError, and ssl.SSLError among them."""
        if not (self.tls or self.ca or self.cert):
            return None
        context = ssl.create_default_context(cafile=self.ca or None)
        if self.cert:
            context.load_cert_chain(self.cert, self.key or None)
        return context


def place_of(url: str) -> Place:
    """What the URL says. Raises BadBusMessage, whose text does not show the URL, since that may hold a password."""
    try:
        first, *others = _parts(url)
        query = dict(parse_qsl(first.query, keep_blank_values=True, strict_parsing=bool(first.query)))
        servers = tuple(_server(each) for each in (first, *others))
    except ValueError:
        raise _bad("It is no address of NATS servers.") from None
    if first.path not in ("", "/") or first.fragment:
        raise _bad("What follows the servers is no part of an address; a password needs / # ? @ , as %2F %23 %3F ...")
    if unknown := [each for each in query if each not in QUERY]:
        raise _bad(f"It sets {unknown[0]!r}; what can be set there is {', '.join(QUERY)}.")
    if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", query.get("prefix", "pronghorn")):
        raise _bad("A prefix is letters, digits, _ and -, in parts that are divided by dots.")
    user, password = (None if each is None else unquote(each) for each in (first.username, first.password))
    tls = any(each.scheme == "tls" for each in (first, *others))
    if user is not None and password is None:
        return Place(servers, tls, token=user, **query)
    return Place(servers, tls, user, password, **query)


def _parts(url: str) -> list[SplitResult]:
    """One URL for each server: the scheme, and who logs in, stand before the first of them only, as a rule."""
    before, mark, query = url.partition("?")
    scheme = before.partition("://")[0]
    hosts = [each if "://" in each else f"{scheme}://{each}" for each in before.split(",")]
    return [urlsplit(each + mark + query) for each in hosts]


def _server(part: SplitResult) -> str:
    if part.scheme not in ("nats", "tls") or not part.hostname or part.port == 0:
        raise ValueError
    host = f"[{part.hostname}]" if ":" in part.hostname else part.hostname
    return f"{host}:{part.port or PORT}"


def _bad(why: str) -> BadBusMessage:
    return BadBusMessage("The URL of the bus is wrong.", why, HINT)
