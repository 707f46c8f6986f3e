"""`pronghorn connect`: the other end of a server, for a pipe or for a person.

Law: this file is the command alone. address.py finds the server; pipe.py copies bytes, untouched; terminal.py shows
lines to a person; tls.py stands between them and a server that speaks TLS.
"""

from __future__ import annotations

import os
import socket

import rich_click as click

from pronghorn.cli.connect.address import CONNECT_TIMEOUT, connect, parse

TLS = "tls://"  # as the server's log writes an address; tcp:// is the other one


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
