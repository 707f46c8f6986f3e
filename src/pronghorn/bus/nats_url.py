"""Where the NATS servers are, and how to log in there: `nats://USER:PASSWORD@HOST:PORT,...?prefix=PREFIX`.

Law: nothing here connects, and no text that is made here holds a password, a token or a key.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field

from pronghorn.bus.errors import BadBusMessage
from pronghorn.settings.broker_url import BrokerURL, parse

PORT = 4222
OPTIONS = "prefix creds nkey ca cert key".split()
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

    @property
    def secured(self) -> bool:
        """Whether nothing may be said without TLS."""
        return bool(self.tls or self.ca or self.cert)

    def context(self) -> ssl.SSLContext | None:
        """The TLS that the URL asks for; None if it asks for none. Raises OSError, and ssl.SSLError among them."""
        if not self.secured:
            return None
        context = ssl.create_default_context(cafile=self.ca or None)
        if self.cert:
            context.load_cert_chain(self.cert, self.key or None)
        return context


def place_of(url: str) -> Place:
    """What the URL says. Raises BadBusMessage, whose text does not show the URL, since that may hold a password."""
    try:
        parts = parse(url)
        return _place(parts)
    except ValueError as error:
        raise BadBusMessage("The URL of the bus is wrong.", f"{error}.", HINT) from None


def _place(parts: BrokerURL) -> Place:
    if parts.path not in ("", "/"):
        raise ValueError("Behind the hosts of NATS servers stands no path")
    if unknown := [each for each in parts.options if each not in OPTIONS]:
        raise ValueError(f"It sets {unknown[0]!r}; what can be set for NATS is {', '.join(OPTIONS)}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", parts.options.get("prefix", "pronghorn")):
        raise ValueError("A prefix is letters, digits, _ and -, in parts that are divided by dots")
    servers = tuple(f"{f'[{host}]' if ':' in host else host}:{port or PORT}" for host, port in parts.hosts)
    tls = parts.scheme == "tls"
    if parts.password:
        return Place(servers, tls, parts.user, parts.password, **parts.options)
    return Place(servers, tls, token=parts.user or None, **parts.options)
