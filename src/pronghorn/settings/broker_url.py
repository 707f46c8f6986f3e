"""URLs of brokers: redis://, nats:// and their kin, taken apart, checked, and shown without what is secret in them.

Law: imports no client of a broker. A URL is SCHEME://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...][/PATH][?KEY=VALUE],
or SCHEME:///PATH for a unix socket; what is no letter or digit in a user, a password or a value is written as %XX (RFC
3986, section 2.1). No message has a password in it, not even one about a URL that is wrong. A user of NATS without a
password is a token, and so a secret too.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pronghorn.errors import nearest

REDIS, NATS = "redis", "nats"
EXTRAS = {REDIS: "redis", NATS: "nats"}
"""The package that each carrier imports, by the name of the extra that brings it."""
_REDIS = ["redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel", "redis+unix"]
SCHEMES = dict.fromkeys(_REDIS, REDIS) | dict.fromkeys(("nats", "tls"), NATS)
SECRETS = re.compile(r"([?&][^=&]*(?:password|passwd|secret|token)[^=&]*=)[^&]*", re.IGNORECASE)
HIDDEN = "***"
MOST_LENGTH = 2048


class BrokerURL(NamedTuple):
    """A URL taken apart; user and password are decoded. A port that is not said is 0; a unix socket has no hosts."""

    scheme: str
    user: str
    password: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    options: dict[str, str]

    @property
    def carrier(self) -> str:
        """REDIS or NATS."""
        return SCHEMES[self.scheme]


def parse(url: str) -> BrokerURL:
    """Take a URL apart. Raises ValueError, which says what is wrong without a secret."""
    from urllib.parse import parse_qsl, unquote  # here: every worker imports this file

    scheme, colon, rest = url.partition("://")
    if not colon or scheme not in SCHEMES:
        known = nearest(scheme, SCHEMES) if colon else ""
        raise ValueError(known.rstrip("?.") if "Did" in known else "There is no such carrier")
    if len(url) > MOST_LENGTH or not all(33 <= ord(each) <= 126 for each in url):
        raise ValueError(f"A URL has {MOST_LENGTH:,} printable ASCII characters at most, and others are written as %XX")
    rest, _, query = rest.partition("?")
    user, hosts, path = _parted(rest)
    if "@" in path + query or "#" in rest + query:
        raise ValueError("/, ?, # and @ in a user, a password or a value are written as %2F, %3F, %23 and %40")
    name, _, password = user.partition(":")
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise ValueError("Behind the question mark stands KEY=VALUE, and & between two of them") from None
    found = () if scheme.endswith("unix") else tuple(_host(each) for each in hosts.split(","))
    if scheme.endswith("unix") and (hosts or len(path) < 2):
        raise ValueError(f"The path of a unix socket stands behind three slashes: {scheme}:///run/redis.sock")
    return BrokerURL(scheme, unquote(name), unquote(password), found, path, options)


def _parted(rest: str) -> tuple[str, str, str]:
    """Who, where, and the path."""
    authority, slash, path = rest.partition("/")
    user, _, hosts = authority.rpartition("@")
    return user, hosts, slash + path


def _host(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::([0-9]{1,5}))?", text)
    if match is None or "/" in text:
        raise ValueError("Behind the slashes stands a host, or several with commas between: HOST[:PORT]")
    port = int(match[2] or 0)
    if match[2] and not 0 < port < 65536:
        raise ValueError(f"A port is a number from 1 to 65535, not {port}")
    return match[1].strip("[]"), port


def hidden(url: str) -> str:
    """The URL, whatever stands in it, with *** in the place of each secret."""
    place = url.find("://")
    start, end = place + 3 if place >= 0 else 0, url.rfind("@")
    if end < start:
        return SECRETS.sub(rf"\1{HIDDEN}", url)
    user, colon, password = url[start:end].partition(":")
    if not colon:
        user = user if url.startswith(_REDIS_LIKE) else HIDDEN
    shown = f"{user}:{HIDDEN}" if password else user + colon
    return url[:start] + shown + SECRETS.sub(rf"\1{HIDDEN}", url[end:])


_REDIS_LIKE = tuple(f"{each}://" for each in SCHEMES if SCHEMES[each] == REDIS)


def without_secret(url: str) -> str:
    """The URL as it may stand in a file that everybody reads: each secret is left out."""
    return hidden(url).replace(f":{HIDDEN}@", ":@", 1).replace(f"{HIDDEN}@", "", 1).replace(HIDDEN, "")


def with_password(url: str, password: str) -> str:
    """The URL with this password; without a user it is a token for NATS. Raises ValueError if it has one already."""
    before = url.partition("?")[0]  # sentinels have a login of their own behind that
    if parse(url).password or hidden(before) != before:
        raise ValueError("The URL has a password in it already")
    from urllib.parse import quote

    scheme, _, rest = url.partition("://")
    user, at, hosts = rest.rpartition("@")
    if not at:
        hosts = rest
    user = user.rstrip(":")
    secret = quote(password, safe="")
    colon = "" if not user and SCHEMES[scheme] == NATS else ":"
    return f"{scheme}://{user}{colon}{secret}@{hosts}"
