"""`pronghorn connect`: the other end of a server, for a pipe or for a person.

Law: this file finds the server and says why when it cannot; what flows afterwards is the business of pipe.py (bytes,
untouched) and terminal.py (lines, for eyes).
"""

from __future__ import annotations

import errno
import os
import socket

import rich_click as click

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
TLS = "tls://"  # as the server's log writes an address; tcp:// is the other one
ABSENT = (errno.ECONNREFUSED, errno.ENOENT)


class CannotConnect(PronghornError):
    """No connection to the server could be made."""


@click.command("connect")
@click.argument(
    "address",
    help="[HOST:]PORT, [IPV6]:PORT, unix:PATH or unix:@NAME; tls:// may stand before. Without a HOST, this machine.",
)
@click.option("--tls", is_flag=True, help="Speak TLS; so do the options below.")
@click.option("--tls-ca", metavar="FILE", default="", help="Authority that signed the server's certificate, as PEM.")
@click.option("--tls-name", metavar="NAME", default="", help="Name that the certificate is for, if not HOST.")
@click.option("--insecure", is_flag=True, help="Take any certificate.")
@click.option("--tls-cert", metavar="FILE", default="", help="Certificate to show, as PEM.")
@click.option("--tls-key", metavar="FILE", default="", help="Its key, if it is not in the same file.")
def command(address: str, tls: bool, insecure: bool, **files: str) -> int:
    """Talk to a server: line by line on a terminal, or as a filter in a pipe.

    In a pipe, standard input goes to the server and its replies to standard output; the end of the input closes
    the sending half, and the command exits when the server has closed its own. On a terminal, Ctrl-D does that.
    """
    tls = tls or address.startswith(TLS)
    address = address.removeprefix("tcp://").removeprefix(TLS)
    peer = parse(address)
    if not (tls or insecure or any(files.values())):
        return talk(connect(peer, address), address)
    from pronghorn.cli.connect.tls import context, secured

    made = context(files["tls_ca"], insecure, files["tls_cert"], files["tls_key"])
    name = files["tls_name"] or (peer[0] if isinstance(peer, tuple) else "localhost")
    relay = secured(connect(peer, address), address, made, name, CONNECT_TIMEOUT)
    status = talk(relay.plain, address)
    relay.finish()
    return status


def talk(connection: socket.socket, address: str) -> int:
    """Hold the conversation, by hand or in a pipe; returns the exit status."""
    with connection:
        if os.isatty(0) and os.isatty(1):
            from pronghorn.cli.connect import terminal

            return terminal.talk(connection, address)
        from pronghorn.cli.connect import pipe

        return pipe.talk(connection)


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
            "For example: pronghorn connect 8000",
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
