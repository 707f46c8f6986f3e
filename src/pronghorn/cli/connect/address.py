"""The address of a server: what was typed, the connection to it, and why there is none."""

from __future__ import annotations

import errno
import os
import socket

from pronghorn.errors import BadSetting, PronghornError

CONNECT_TIMEOUT = 10.0
REASONS = {
    errno.ECONNREFUSED: "Nobody listens there.",
    errno.ENOENT: "There is no such path.",
    errno.ETIMEDOUT: "Nobody answered in time.",
    errno.EHOSTUNREACH: "There is no way to that host.",
    errno.ENETUNREACH: "There is no way to that network.",
    errno.EACCES: "The permissions of that path do not let you in.",
}
ABSENT = (errno.ECONNREFUSED, errno.ENOENT)


class CannotConnect(PronghornError):
    """No connection to the server could be made."""


def parse(address: str) -> tuple[str, int] | str:
    """(host, port), or the path of a unix socket, or @ and its abstract name; raises BadSetting."""
    if address.startswith("unix:") and len(address) > 5:
        return address[5:]
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise BadSetting(f"{address!r} is ambiguous.", hint=f"Write an IPv6 address in brackets: [{host}]:{port}")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise BadSetting(
            f"{address!r} is no address of a server.",
            "It takes [HOST:]PORT, [IPV6]:PORT or unix:PATH; a port is a number from 1 to 65535.",
            "For example: 127.0.0.1:8000",
        )
    return host or "localhost", int(port)


def connect(peer: tuple[str, int] | str, address: str) -> socket.socket:
    """A connection to the first address of `peer` that takes one; raises CannotConnect."""
    try:
        if isinstance(peer, tuple):
            connection = socket.create_connection(peer, CONNECT_TIMEOUT)
        else:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(b"\0" + os.fsencode(peer[1:]) if peer.startswith("@") else peer)
    except OSError as error:
        there = address if address.rpartition(":")[0] else f"127.0.0.1:{address.lstrip(':')}"
        raise CannotConnect(
            f"Cannot connect to {address}.",
            _reason(error),
            f"To serve there: pronghorn serve --bind {there}" if error.errno in ABSENT else "",
        ) from None
    connection.settimeout(None)
    return connection


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"That name cannot be resolved: {error.strerror}."
    if isinstance(error, TimeoutError):
        return REASONS[errno.ETIMEDOUT]
    return REASONS.get(error.errno or 0, f"{error.strerror or error}.")
