"""Addresses: what `--bind` means, from text to socket addresses, and back.

Law: names are resolved here and nowhere else, and nothing is opened. A `Bind` is one `--bind` as written; its places
are the socket addresses it stands for, several for a name or for every interface.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
from typing import Any

import msgspec

from pronghorn.errors import BadSetting, CannotBind

FORMS = "Write HOST:PORT, [IPV6]:PORT, :PORT for every interface, unix:PATH, unix:@NAME, or fd://N."
SCHEMES = {"tcp://": False, "tls://": True}  # as the log writes an address
EVERY_INTERFACE = ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))
LONGEST_PATH = 107 if sys.platform == "linux" else 103
WILDCARDS = {host for _, host in EVERY_INTERFACE}

Place = tuple[int, Any]
"""An address family and an address as socket.bind takes it."""


class Bind(msgspec.Struct, frozen=True):
    """One `--bind`: a unix path, a descriptor that is handed down (its number or its name), or a host and a port. An
    empty host is every interface; port 0 is any free one. A path that begins with @ is an abstract name (unix(7)), and
    no file. `tls` is None where no scheme stands before the address."""

    text: str
    host: str = ""
    port: int = 0
    path: str = ""
    fd: str = ""
    tls: bool | None = None


def parse_bind(text: str) -> Bind:
    """Read HOST:PORT, [IPV6]:PORT, :PORT or *:PORT, unix:PATH, unix:@NAME, fd://N or fd://NAME; tcp:// or tls:// may
    stand before a host. Raises BadSetting with what is right."""
    scheme = text[:6]
    if scheme in SCHEMES:
        bind = parse_bind(text[6:])
        if bind.fd or bind.path or bind.tls is not None:
            raise _bad(text, f"{scheme} stands before a host and a port only.", FORMS)
        return msgspec.structs.replace(bind, tls=SCHEMES[scheme])
    if text.startswith("unix:"):
        return Bind(text, path=_checked_path(text))
    if text.startswith("fd:"):
        return Bind(text, fd=_checked_descriptor(text))
    host, colon, digits = text.rpartition(":")
    if colon and host == "*":
        text, host = f":{digits}", ""
    if "://" in text:
        raise _bad(text, "Nothing but tcp:// or tls:// may stand before a host and a port.", _bare(text))
    if not colon:
        raise _bad(text, *_without_port(text))
    if not (digits.isascii() and digits.isdigit() and int(digits) <= 65535):
        raise _bad(text, f"{digits!r} is no port: a number from 0 to 65535.", FORMS)
    if host.startswith("[") and host.endswith("]"):
        return Bind(text, _checked_ipv6(text, host[1:-1]), int(digits))
    if "," in host:
        raise _bad(text, "It has a comma.", "Give --bind once for each address; settings behind one are KEY=VALUE.")
    if ":" in host:
        raise _bad(
            text,
            "An IPv6 address stands in brackets.",
            f"Write [{host.strip('[]')}]:{digits}." if "/" not in host else FORMS,
        )
    if any(character in "/[]@" or character.isspace() or not character.isprintable() for character in host):
        raise _bad(text, f"{host!r} is no host.", FORMS)
    return Bind(text, host, int(digits))


def _without_port(text: str) -> tuple[str, str]:
    """What is wrong with a text without a colon, and what is right: a port alone, a path, or a host."""
    if text.isascii() and text.isdigit():
        if int(text) > 65535:
            return "A port is a number from 0 to 65535.", FORMS
        hint = f"Write :{text} for every interface, or 127.0.0.1:{text} for this host alone."
    elif "/" in text:
        return "A path needs unix: before it.", f"Write unix:{text}."
    else:
        hint = FORMS
    return "It has no port.", hint


def _bare(text: str) -> str:
    """Advice for a URL: its address, if it has a port."""
    address = text.partition("://")[2].partition("/")[0]
    return f"Write {address}." if address.rpartition(":")[2].isdigit() else FORMS


def _bad(text: str, why: str, hint: str) -> BadSetting:
    return BadSetting(f"--bind is {text!r}.", why, hint)


def _checked_path(text: str) -> str:
    path = text.removeprefix("unix:")
    if not path or "\0" in path:
        raise _bad(text, "It has no path." if not path else "A path holds no NUL.", "Write unix:PATH.")
    length = len(os.fsencode(path))
    if length > LONGEST_PATH:
        why = f"The path has {length} bytes, and the system takes {LONGEST_PATH} at most."
        raise _bad(text, why, "Choose a shorter path, or one relative to the working folder.")
    if path.startswith("@") and sys.platform != "linux":
        raise _bad(text, "Abstract names are Linux's.", "For a file of that name, write unix:./@NAME.")
    if path == "@":
        raise _bad(text, "It has no name.", "Write unix:@NAME.")
    return path


def _checked_descriptor(text: str) -> str:
    which = text.removeprefix("fd://")
    if not which or which == text or not which.isprintable() or not which.isascii() or set("/: ") & set(which):
        hint = "Write fd://N with a number, or fd://NAME with a name of LISTEN_FDNAMES."
        raise _bad(text, "It names no descriptor.", hint)
    if which.isdigit() and not 3 <= int(which) < 2**31:
        raise _bad(text, "Descriptors that are handed down begin with 3.", "0, 1 and 2 are the standard streams.")
    return which


def _checked_ipv6(text: str, host: str) -> str:
    try:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):
        raise _bad(text, f"{host!r} is no IPv6 address.", FORMS) from None
    if packed.startswith(b"\0" * 10 + b"\xff\xff"):
        inner = socket.inet_ntoa(packed[12:])
        why = "An IPv6 listener takes IPv6 only, and this is an IPv4 address."
        raise _bad(text, why, f"Write {inner}:{text.rpartition(':')[2]}.")
    return host


def places(bind: Bind) -> list[Place]:
    """The socket addresses that `bind` stands for, each once; none for a descriptor. Raises CannotBind if its name does
    not resolve."""
    if bind.fd:
        return []
    if bind.path:
        return [(socket.AF_UNIX, b"\0" + os.fsencode(bind.path[1:]) if bind.path.startswith("@") else bind.path)]
    if not bind.host:
        return [(family, (host, bind.port)) for family, host in EVERY_INTERFACE]
    try:
        found = socket.getaddrinfo(bind.host, bind.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, ValueError) as error:  # ValueError: what cannot be a name, such as a..b
        why = f"{bind.host!r} does not resolve: {getattr(error, 'strerror', None) or error}."
        hint = "Check the name, or give an address in figures."
        raise CannotBind(f"Cannot listen on {bind.text}.", why, hint, bind.text) from None
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))


def spoken(place: Place) -> str:
    """The address as `--bind` takes it back."""
    family, address = place
    if family == socket.AF_UNIX:
        return f"unix:{'@' + os.fsdecode(address[1:]) if isinstance(address, bytes) else address}"
    if family == socket.AF_INET6:
        return f"[{zoned(address)}]:{address[1]}"
    return f"{address[0]}:{address[1]}"


def zoned(address: tuple[Any, ...]) -> str:
    """The host of an IPv6 socket address, with the zone (`%eth0`) that a link-local one needs (RFC 4007, 11)."""
    host = str(address[0])
    scope = address[3] if len(address) > 3 else 0
    if not scope or "%" in host:
        return host
    try:
        return f"{host}%{socket.if_indextoname(scope)}"
    except OSError:
        return f"{host}%{scope}"


def refuse_overlaps(groups: list[tuple[str, Bind, list[Place]]]) -> None:
    """Raises BadSetting if two of the binds mean the same address, or one covers the other. Each has the title of its
    listener ("Listener 'api'"), which the message gives; none where it is an address of the server's own."""
    claims = [(title, bind, place) for title, bind, group in groups for place in group]
    for (title, first, one), (another, second, other) in itertools.combinations(claims, 2):
        if first is not second and _overlap(one, other):
            what = _both(title, first.text, another, second.text)
            one, other = (other, one) if other[1][0] in WILDCARDS else (one, other)
            why = f"{spoken(one)} covers {spoken(other)}." if one != other else "An address is bound once."
            raise BadSetting(what, why, "Leave one of them out." if not (title or another) else "Change one of them.")


def _both(title: str, text: str, another: str, other: str) -> str:
    """What two binds that overlap have been given as."""
    if not title and not another:
        return f"--bind gives {text} and {other}." if text != other else f"--bind gives {text} twice."
    one, two = title or f"--bind {text}", (another[:1].lower() + another[1:]) or f"--bind {other}"
    if title == another:
        return f"Two listeners are at {text}."
    return f"{one} and {two} are both at {text}." if text == other else f"{one} is at {text}, and {two} at {other}."


def _overlap(one: Place, other: Place) -> bool:
    if one[0] != other[0]:
        return False
    here, there = one[1], other[1]
    if one[0] == socket.AF_UNIX:
        abstract = isinstance(here, bytes) or isinstance(there, bytes)
        return bool(here == there if abstract else os.path.realpath(here) == os.path.realpath(there))
    same_port = here[1] == there[1] != 0
    same_host = (here[0], here[2:]) == (there[0], there[2:]) or not WILDCARDS.isdisjoint((here[0], there[0]))
    return bool(same_port and same_host)
