"""Settings of the sockets that the server listens on."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pronghorn.settings.fields import NOW, RESTART, Option

DEFAULT_BIND = "127.0.0.1:8000"
UNASKED = (DEFAULT_BIND,)
"""The very object that `bind` is when nobody has set it."""


class Sockets(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the server listens, and how."""

    bind: Annotated[
        tuple[str, ...],
        "Address to listen on: HOST:PORT, [IPV6]:PORT, :PORT or *:PORT (every interface, IPv4 and IPv6), unix:PATH, "
        "unix:@NAME (abstract), or fd://N and fd://NAME, a socket that systemd or another parent hands down. May be "
        "given more than once. Port 0 takes a free port and says which. Settings of its own may follow: "
        "ADDRESS,name=NAME,tls=off,...",
        Option(short="-b", metavar="ADDRESS", unit="address", at=NOW),
    ] = UNASKED
    backlog: Annotated[
        int,
        "Connections that may wait in the kernel's queue to be accepted; 0 is the system's maximum.",
        Option(ge=0, le=2**31 - 1, at=NOW, own=True),
    ] = 0
    reuse_address: Annotated[
        bool,
        "Set SO_REUSEADDR: bind at once after a restart, while old connections are in TIME_WAIT.",
        Option(at=RESTART),
    ] = True
    reuse_port: Annotated[
        bool, "Set SO_REUSEPORT: other servers of the same user may share the port.", Option(at=RESTART)
    ] = False
    keepalive: Annotated[
        float,
        "Silence after which the kernel begins to ask whether the peer is still there: six times, ten seconds apart. "
        "0 never asks.",
        Option(unit="time", ge=0, le=32767, at=NOW, own=True),
    ] = 60.0
    user_timeout: Annotated[
        float,
        "Time that sent bytes may stay unacknowledged before the kernel gives the connection up (TCP_USER_TIMEOUT). 0 "
        "leaves it to the system, which tries for a quarter of an hour.",
        Option(unit="time", ge=0, le=2**31 // 1000, at=NOW, own=True),
    ] = 60.0
    unix_mode: Annotated[
        str,
        "Permissions of unix sockets, as 660: who may write may connect. Without this, what the umask leaves.",
        Option(metavar="MODE", unit="mode", at=RESTART, own=True),
    ] = ""
    unix_owner: Annotated[
        str,
        "Owner of unix sockets, as USER, USER:GROUP or :GROUP. Without this, whoever starts the server.",
        Option(metavar="OWNER", at=RESTART, own=True),
    ] = ""
